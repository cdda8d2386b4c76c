"""Fill an index: learn visual words if there are none, describe new and changed pictures, commit in batches."""

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

_BATCH_BYTES = 64 << 20  # commit after this much data ...
_BATCH_SECONDS = 60.0  # ... or this time, whichever comes first: commits survive an interruption
_STAGING = "staging"
_STAGED = re.compile(r"[0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.part")  # names of our files


@dataclass
class Report:
    """What a change did to an index.

    Attributes:
        added: number of new pictures.
        changed: number of pictures that were described again because their content changed.
        missing: number of pictures whose files are gone; they are kept but not searched.
        returned: number of missing pictures whose files are back, unchanged.
        removed: number of pictures that were removed because their files are gone.
        vanished: number of missing or removed pictures per folder.
        unchanged: number of pictures that were left alone.
        skipped: path and reason of each file that could not be used.
        empty: paths of new or changed pictures without features, which cannot be found.
        words_learned: number of visual words learned in this run; 0 if there were some already.
        seconds: wall-clock time.
        stage_seconds: seconds per stage: "read", "describe" and "aggregate", summed over all worker processes, and
            "write", which runs in parallel.
        stage_pictures: number of pictures that went through these stages.
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
    """Describe and add the new and changed files of a listing; memory does not grow with their number.

    Args:
        index: the index to fill.
        writer: its writer.
        recipe: how to describe pictures.
        listing: every file that should be in the index.
        num_words: number of visual words to learn if there are none, fewer if there are too few features; None chooses
            by the number of files.
        bits: number of bits per code, if visual words are learned; None is one per dimension of the features.
        workers: the workers that describe the pictures.
        max_pixels: larger pictures are skipped.
        progress: called with the stage, the number done and the total.
        meanwhile: called if there is something to describe, which takes a while.
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
            # A file that cannot be read may be unchanged: its old entry stays.
            if outcome.state.digest is not None or old is None or old.segment is None:
                batch.put(outcome.state, outcome.entry)
        batch.commit(force=False)
        progress("index", done, listing.pending)
    batch.commit(force=True)
    _discard(staging)
    report.seconds = time.perf_counter() - started
    return report


def _discard(staging: Path) -> None:
    """Delete the staged descriptions, and their folder if nothing else is in it."""
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
    """Pictures that are committed together."""

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
