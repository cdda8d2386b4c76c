"""The content of a composed clutter set, and its ground-truth file.

Boxes are x1, y1, x2, y2 in pixels, half-open; a homography maps such coordinates (not pixel indices) of the source
photograph to those of the composed picture.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from d2r.boxes import PixelBox
from d2r.datasets.difficulty import ClutterConfig
from d2r.datasets.json_node import Node, read_json
from d2r.errors import D2RError
from d2r.support.files import replacing

Homography: TypeAlias = tuple[tuple[float, ...], ...]

GROUND_TRUTH = "ground_truth.json"
_FORMAT = "d2r-clutter-1"


class ClutterError(D2RError):
    """A set that cannot be composed or read; the message names the file or folder, and the field."""


@dataclass(frozen=True)
class Instance:
    """One object to search for: its name, and its photographs (one, or several from different viewpoints)."""

    name: str
    photos: tuple[Path, ...]


@dataclass(frozen=True)
class Planted:
    """An object in a database picture.

    Attributes:
        kind: "instance", or "decoy", which is no query's answer.
        instance: the instance's name; None for a decoy.
        source: the photograph it was taken from.
        box: tight box of its visible part, in the composed picture.
        homography: 3 x 3, from coordinates of ``source`` to those of the composed picture.
    """

    kind: str
    instance: str | None
    source: Path
    box: PixelBox
    homography: Homography


@dataclass(frozen=True)
class DatabasePicture:
    """A picture of the database: its path in the set, its size, the background photograph, and the planted objects."""

    path: str
    width: int
    height: int
    background: Path
    planted: tuple[Planted, ...]


@dataclass(frozen=True)
class GroundTruthQuery:
    """A query and its answers.

    Attributes:
        path: path of the query picture in the set.
        instance: name of the instance.
        source: the photograph it is a copy of.
        box: the instance in the query picture.
        positives: database pictures that show it.
        junk: database pictures that also show it, planted for another instance that overlaps with this one (for
            example a castle and its entry): neither right nor wrong, to be left out of the ranking.
    """

    path: str
    instance: str
    source: Path
    box: PixelBox
    positives: tuple[str, ...]
    junk: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A source that was not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ClutterSet:
    """A composed set, as in ``folder/ground_truth.json``; paths of pictures are relative to ``folder``."""

    folder: Path
    seed: int
    config: ClutterConfig
    queries: tuple[GroundTruthQuery, ...]
    database: tuple[DatabasePicture, ...]
    skipped: tuple[Skipped, ...]
    instances: tuple[Instance, ...]
    backgrounds: tuple[Path, ...]


def write_ground_truth(whole: ClutterSet) -> None:
    """Write ``ground_truth.json`` into the folder of a set, atomically."""
    document = {"format": _FORMAT, **dataclasses.asdict(whole)}
    del document["folder"]
    with replacing(whole.folder / GROUND_TRUTH) as part:
        part.write_text(json.dumps(document, default=os.fspath, indent=1), encoding="utf-8")


def load_set(folder: Path) -> ClutterSet:
    """Read the ground truth of a composed set.

    Raises:
        ClutterError: the file is missing, is not JSON, or a field is missing or wrong; the message names the file and
            the field, for instance ``queries[3].box``.
    """
    root = read_json(folder / GROUND_TRUTH, ClutterError)
    if root["format"].text() != _FORMAT:
        raise root["format"].wrong(f"{_FORMAT!r}; the set was composed by another version")
    return ClutterSet(
        folder=folder,
        seed=root["seed"].whole(),
        config=_load_config(root["config"]),
        queries=tuple(
            GroundTruthQuery(
                path=node["path"].inside(),
                instance=node["instance"].text(),
                source=Path(node["source"].text()),
                box=node["box"].box(),
                positives=tuple(path.inside() for path in node["positives"]),
                junk=tuple(path.inside() for path in node["junk"]),
            )
            for node in root["queries"]
        ),
        database=tuple(
            DatabasePicture(
                path=node["path"].inside(),
                width=node["width"].whole(),
                height=node["height"].whole(),
                background=Path(node["background"].text()),
                planted=tuple(_load_planted(planted) for planted in node["planted"]),
            )
            for node in root["database"]
        ),
        skipped=tuple(Skipped(node["path"].text(), node["reason"].text()) for node in root["skipped"]),
        instances=tuple(
            Instance(node["name"].text(), tuple(Path(photo.text()) for photo in node["photos"]))
            for node in root["instances"]
        ),
        backgrounds=tuple(Path(node.text()) for node in root["backgrounds"]),
    )


def _load_planted(node: Node) -> Planted:
    if node["kind"].text() not in ("instance", "decoy"):
        raise node["kind"].wrong("'instance' or 'decoy'")
    decoy = node["kind"].text() == "decoy"
    return Planted(
        kind=node["kind"].text(),
        instance=None if decoy else node["instance"].text(),
        source=Path(node["source"].text()),
        box=node["box"].box(),
        homography=tuple(row.numbers(3) for row in node["homography"].items(3)),
    )


def _load_config(node: Node) -> ClutterConfig:
    hints = get_type_hints(ClutterConfig)
    values = {field.name: _SETTINGS[hints[field.name]](node[field.name]) for field in dataclasses.fields(ClutterConfig)}
    try:
        return ClutterConfig(**values)
    except ValueError as error:
        raise ClutterError(f"{node.file}: {node.field}.{error}") from error


_SETTINGS: Mapping[object, Callable[[Node], Any]] = {
    str: Node.text,
    int: Node.whole,
    float: Node.number,
    tuple[float, float]: lambda node: node.numbers(2),
    tuple[int, int]: lambda node: tuple(item.whole() for item in node.items(2)),
}
