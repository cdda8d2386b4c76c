"""Benchmarks: the database, queries and ground truth of three kinds of data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from d2r.boxes import Box
from d2r.datasets.duplicates import near_duplicates
from d2r.datasets.ground_truth import GROUND_TRUTH, load_set
from d2r.datasets.revisited import find_ground_truth, read_ground_truth, revisited_picture_path
from d2r.errors import D2RError
from d2r.evaluate.revisited import PROTOCOLS, Relevance, relevance
from d2r.sources import find_pictures
from d2r.support.files import display_path

Kind = Literal["revisited", "composed", "instances", "split"]


class BenchmarkError(D2RError, ValueError):
    """A folder is not a known kind of data set, or is incomplete; the message says which."""


@dataclass(frozen=True)
class QueryPicture:
    """One query: its picture and query box; a box of None is the whole picture."""

    path: Path
    box: Box | None


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Q queries against N database pictures.

    Attributes:
        name: name of the folder.
        kind: kind of the data set.
        database: N paths, distractors last.
        queries: Q queries.
        relevance: for each protocol ("easy", "medium", "hard", or only "all"), Q relevances.
        junk_pairs: number of near-duplicate pairs, which are ignored.
    """

    name: str
    kind: Kind
    database: tuple[Path, ...]
    queries: tuple[QueryPicture, ...]
    relevance: dict[str, list[Relevance]]
    junk_pairs: int = 0


def load_benchmark(
    folder: Path, *, distractors: Path | None = None, overlapping: Sequence[Collection[str]] = ()
) -> Benchmark:
    """Read a data set, whose kind depends on the content of the folder.

    ``gnd_*.json|pkl|mat``: a Revisited data set, with pictures in ``jpg/``. ``ground_truth.json``: a set composed by
    :mod:`d2r.compose.clutter`. ``train/`` and ``test/``: each has a sub-folder per instance, and the test pictures are
    queries against the training pictures. Otherwise each sub-folder is an instance, and each picture is a query against
    the others.

    Args:
        folder: the data set.
        distractors: folder of pictures that are added to the database and are never right.
        overlapping: groups of instance names that show parts of each other; for a query of one, pictures of the others
            are junk. For folders of instances.

    Raises:
        BenchmarkError: the folder holds none of these, or lacks pictures.
    """
    shown = display_path(folder)
    if not folder.is_dir():
        raise BenchmarkError(f"{shown}: not a folder")
    extra = tuple(Path(file.path) for file in find_pictures(distractors)) if distractors is not None else ()
    if distractors is not None and not extra:
        raise BenchmarkError(f"{display_path(distractors)}: no pictures there")
    if find_ground_truth(folder) is not None:
        return _revisited(folder, extra)
    if (folder / GROUND_TRUTH).is_file():
        return _composed(folder, extra)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _split(folder, extra, overlapping)
    return _instances(folder, extra, overlapping)


def _revisited(folder: Path, extra: tuple[Path, ...]) -> Benchmark:
    file = find_ground_truth(folder)
    assert file is not None
    truth = read_ground_truth(file)
    database = tuple(revisited_picture_path(folder, name) for name in truth.images)
    queries = tuple(
        QueryPicture(revisited_picture_path(folder, name), box)
        for name, box in zip(truth.queries, truth.boxes, strict=True)
    )
    missing = [path for path in (*database, *(query.path for query in queries)) if not path.is_file()]
    if missing:
        raise BenchmarkError(
            f"{display_path(folder)}: {len(missing):,} pictures of {file.name} are missing, for instance"
            f" {display_path(missing[0])}; `d2r dataset get` fetches them"
        )
    judged: dict[str, list[Relevance]] = {
        protocol: [relevance(*one, protocol) for one in zip(truth.easy, truth.hard, truth.junk, strict=True)]
        for protocol in PROTOCOLS
    }
    return Benchmark(folder.name, "revisited", database + extra, queries, judged)


def _composed(folder: Path, extra: tuple[Path, ...]) -> Benchmark:
    composed = load_set(folder)
    database = tuple(folder / picture.path for picture in composed.database)
    row = {picture.path: number for number, picture in enumerate(composed.database)}
    queries = tuple(QueryPicture(folder / query.path, query.box) for query in composed.queries)
    judged = [
        Relevance(
            np.array([row[path] for path in query.positives], np.int64),
            np.array([row[path] for path in query.junk], np.int64),
        )
        for query in composed.queries
    ]
    return Benchmark(folder.name, "composed", database + extra, queries, {"all": judged})


def _labelled(folder: Path) -> tuple[list[Path], list[str]]:
    paths, labels = [], []
    for instance in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = [Path(file.path) for file in find_pictures(instance)]
        paths += found
        labels += [instance.name] * len(found)
    if not paths:
        raise BenchmarkError(
            f"{display_path(folder)}: not a data set; it needs gnd_*.json, ground_truth.json, or a sub-folder of"
            " pictures for each instance"
        )
    return paths, labels


def _instances(folder: Path, extra: tuple[Path, ...], overlapping: Sequence[Collection[str]]) -> Benchmark:
    paths, labels = _labelled(folder)
    itself = [(number, number) for number in range(len(paths))]
    judged = _by_label(labels, labels, itself, overlapping)
    queries = tuple(QueryPicture(path, None) for path in paths)
    return Benchmark(folder.name, "instances", (*paths, *extra), queries, {"all": judged})


def _split(folder: Path, extra: tuple[Path, ...], overlapping: Sequence[Collection[str]]) -> Benchmark:
    database, labels = _labelled(folder / "train")
    asked, asked_labels = _labelled(folder / "test")
    same = near_duplicates(asked, database)
    judged = _by_label(asked_labels, labels, same, overlapping)
    queries = tuple(QueryPicture(path, None) for path in asked)
    return Benchmark(folder.name, "split", (*database, *extra), queries, {"all": judged}, len(same))


def _by_label(
    asked: Sequence[str],
    labels: Sequence[str],
    ignored: Sequence[tuple[int, int]],
    overlapping: Sequence[Collection[str]],
) -> list[Relevance]:
    of_picture = np.array(labels)
    known = {*asked, *labels}
    unknown = [name for group in overlapping for name in group if name not in known]
    if unknown:
        raise BenchmarkError(f"instance {unknown[0]!r} is not in the data set; there are: {', '.join(sorted(known))}")
    judged = []
    for number, label in enumerate(asked):
        others = {name for group in overlapping if label in group for name in group} - {label}
        junk = np.isin(of_picture, sorted(others))
        junk[[row for query, row in ignored if query == number]] = True
        judged.append(Relevance(np.flatnonzero((of_picture == label) & ~junk), np.flatnonzero(junk)))
    return judged
