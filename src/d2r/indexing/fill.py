"""Fill an index: learn visual words when there are none, describe what is new or changed, commit in batches."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from d2r.index import Entry, Index, Listing, PictureRow, PictureState, Writer
from d2r.indexing.codebook import choose_words, died, learn_words, sample_size
from d2r.indexing.entry import NO_FEATURES, Outcome, Progress, Recipe
from d2r.indexing.workers import Describers
from d2r.sources import PictureFile
from d2r.support.processes import WorkerDied

_BATCH_BYTES = 64 << 20  # commit after so much ...
_BATCH_SECONDS = 60.0  # ... or after so long, whichever comes first: what is committed survives anything
_STAGING = "staging"
_STAGED = re.compile(r"[0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.part")  # what we put there


@dataclass
class Report:
    """What a change did to an index.

    Attributes:
        added: pictures that are new in it.
        changed: pictures that were described again because their content changed.
        missing: pictures whose files are gone: they are kept, and not searched.
        returned: pictures that had been missing, and whose files are there again as they were.
        removed: pictures that were dropped because their files are gone.
        vanished: how many of the missing or removed pictures were in which folder.
        unchanged: pictures that were left alone.
        skipped: path and reason of each file that could not be used.
        empty: paths of new or changed pictures that have no features and so cannot be found.
        words_learned: visual words that were learned in this run; 0 when there were some already.
        seconds: wall-clock time.
        stage_seconds: time in each stage: "read", "describe" and "aggregate", of all worker processes together, and
            "write", beside them.
        stage_pictures: pictures that went through it.
    """

    added: int = 0
    changed: int = 0
    missing: int = 0
    returned: int = 0
    removed: int = 0
    vanished: Counter[str] = field(default_factory=Counter)
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    words_learned: int = 0
    seconds: float = 0.0
    stage_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    stage_pictures: Counter[str] = field(default_factory=Counter)


def fill(
    index: Index,
    writer: Writer,
    recipe: Recipe,
    listing: Listing,
    *,
    num_words: int | None,
    bits: int | None,
    workers: Describers,
    max_pixels: int,
    progress: Progress,
    meanwhile: Callable[[], None],
) -> Report:
    """Describe and add the files of a listing that are new or changed; memory does not grow with their number.

    Args:
        index: what to fill.
        writer: its writer.
        recipe: how to describe pictures.
        listing: every file that should be in the index.
        num_words: visual words to learn when there are none, fewer where the features are too few for so many; None
            chooses by the number of files.
        bits: of the codes, when visual words are learned; None is one a dimension of the features.
        workers: what describes the pictures.
        max_pixels: larger pictures are skipped.
        progress: told how far it is.
        meanwhile: called where there is something to describe, which takes a while.
    """
    started = time.perf_counter()
    report = Report()
    staging = index.folder / _STAGING
    report.returned = writer.put_back(listing)
    report.unchanged = listing.files - listing.pending - report.returned
    if listing.pending:
        meanwhile()
    if listing.pending and index.codebook is None:
        num_words = choose_words(listing.pending) if num_words is None else num_words
        sample = listing.sample(sample_size(num_words), seed=0)
        codebook = learn_words(
            recipe, sample, num_words,
            bits=bits, staging=staging, workers=workers, max_pixels=max_pixels, progress=progress,
        )  # fmt: skip
        writer.set_codebook(codebook)
        report.words_learned = codebook.num_words
    batch = _Batch(writer, report)
    if listing.pending:
        progress("index", 0, listing.pending)
    outcomes = workers.entries(recipe, max_pixels, staging, index.codebook_file, listing.pending_files())
    for done, (file, result) in enumerate(outcomes, start=1):
        outcome = Outcome(died(file, result)) if isinstance(result, WorkerDied) else result
        old = index.picture(file.path)
        if outcome.unchanged:
            batch.touched.append(file)
            if old is not None and old.missing_since is not None:
                report.returned += 1
            else:
                report.unchanged += 1
        else:
            _count(report, outcome, old)
            # Of a file that could not be read nobody knows that it has changed: what there is of it stays.
            if outcome.state.digest is not None or old is None or old.segment is None:
                batch.put(outcome.state, outcome.entry)
        batch.commit(force=False)
        progress("index", done, listing.pending)
    batch.commit(force=True)
    _discard(staging)
    report.seconds = time.perf_counter() - started
    return report


def _discard(staging: Path) -> None:
    """Delete the descriptions that were staged, and their folder when nothing else is in it."""
    with suppress(OSError):
        for file in staging.iterdir():
            if _STAGED.fullmatch(file.name):
                file.unlink()
        staging.rmdir()


def _count(report: Report, outcome: Outcome, old: PictureRow | None) -> None:
    for name, seconds in outcome.seconds.items():
        report.stage_seconds[name] += seconds
        report.stage_pictures[name] += 1
    state = outcome.state
    if outcome.entry is None:
        report.skipped.append((state.path, state.problem or ""))
        return
    if old is None or old.segment is None:
        report.added += 1
    else:
        report.changed += 1
    if state.problem == NO_FEATURES:
        report.empty.append(state.path)


class _Batch:
    """Pictures that wait to be committed together."""

    def __init__(self, writer: Writer, report: Report) -> None:
        self._writer = writer
        self._report = report
        self._pictures: list[tuple[PictureState, Entry | None]] = []
        self._bytes = 0
        self._since = time.monotonic()
        self.touched: list[PictureFile] = []

    def put(self, state: PictureState, entry: Entry | None) -> None:
        self._pictures.append((state, entry))
        self._bytes += entry.keypoints.codes.nbytes if entry is not None else 0

    def commit(self, *, force: bool) -> None:
        due = self._bytes >= _BATCH_BYTES or time.monotonic() - self._since >= _BATCH_SECONDS
        if not (force or due):
            return
        started = time.perf_counter()
        if self._pictures:
            self._writer.put(self._pictures)
        if self.touched:
            self._writer.touch(self.touched)
        self._report.stage_seconds["write"] += time.perf_counter() - started
        self._report.stage_pictures["write"] += len(self._pictures) + len(self.touched)
        self._pictures, self.touched, self._bytes, self._since = [], [], 0, time.monotonic()
