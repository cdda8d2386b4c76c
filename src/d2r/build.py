"""Fill an index: learn visual words when there are none, describe what is new or changed, commit in batches."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from d2r.codebook import Codebook, train_codebook
from d2r.files import display_path
from d2r.index import Entry, Index, PictureRow, PictureState, StoreError, Writer
from d2r.ingest import NO_FEATURES, Job, Recipe, Unchanged, enter_file, prepare_worker, sample_file
from d2r.workers import WorkerDied, default_workers, map_in_processes

Progress = Callable[[str, int, int], None]
"""Told of progress: the stage ("describe", "words" or "index"), how many are done, and of how many."""

MAX_WORDS = 65536

_SAMPLE_PICTURES = 500  # described before the rest when the visual words are still to be learned
_SAMPLES_PER_WORD = 40  # descriptors that k-means sees
_BATCH_BYTES = 64 << 20  # commit after so much ...
_BATCH_SECONDS = 60.0  # ... or after so long, whichever comes first: what is committed survives anything
_STAGING = "staging"


@dataclass
class Report:
    """What a change did to an index.

    Attributes:
        added: pictures that are new in it.
        changed: pictures that were described again because their content changed.
        removed: pictures that were dropped.
        unchanged: pictures that were left alone.
        skipped: path and reason of each file that could not be used.
        empty: paths of new or changed pictures that have no features and so cannot be found.
        words_learned: visual words that were learned in this run; 0 when there were some already.
        seconds: wall-clock time.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    words_learned: int = 0
    seconds: float = 0.0


def choose_words(pictures: int) -> int:
    """Return how many visual words to learn for a collection of so many pictures: a power of two, at most 65,536.

    It grows with the square root, as vocabularies do: 1,024 for 60 pictures, 4,096 for 1,000, 65,536 from 180,000.
    """
    wanted = 130.0 * math.sqrt(max(1, pictures))
    return min(MAX_WORDS, 1 << round(math.log2(wanted)))


def fill(
    index: Index,
    writer: Writer,
    recipe: Recipe,
    jobs: Sequence[Job],
    *,
    words: int | None,
    workers: int | None,
    max_pixels: int,
    progress: Progress,
) -> Report:
    """Describe and add the pictures of ``jobs`` that are new or changed.

    Args:
        index: what to fill.
        writer: its writer.
        recipe: how to describe pictures.
        jobs: every file that should be in the index.
        words: visual words to learn when there are none; None chooses by the number of jobs.
        workers: worker processes; None is one a processor, 0 does everything in this process.
        max_pixels: larger pictures are skipped.
        progress: told how far it is.
    """
    started = time.perf_counter()
    report = Report()
    workers = default_workers() if workers is None else workers
    staging = index.folder / _STAGING
    known = {row.path: row for row in index.pictures()}
    todo = [job for job in jobs if not _is_current(job, known.get(job.path))]
    report.unchanged = len(jobs) - len(todo)
    if todo and index.codebook is None:
        codebook = learn_codebook(
            recipe, todo, words, staging=staging, workers=workers, max_pixels=max_pixels, progress=progress
        )
        writer.set_codebook(codebook)
        report.words_learned = codebook.words
    # The digest lets a worker see that only the time of a file has changed; a skipped file is always tried again.
    todo = [_with_digest(job, known.get(job.path)) for job in todo]
    function = partial(enter_file, recipe, max_pixels, staging, index.codebook_file)
    batch = _Batch(writer)
    outcomes = map_in_processes(function, todo, workers=workers, prepare=prepare_worker)
    for done, (job, outcome) in enumerate(outcomes, start=1):
        old = known.get(job.path)
        if isinstance(outcome, Unchanged):
            assert old is not None
            batch.touched.append(replace(old, size=job.size, mtime_ns=job.mtime_ns))
            report.unchanged += 1
        else:
            state, entry = _died(job) if isinstance(outcome, WorkerDied) else outcome
            _count(report, state, entry, old)
            batch.put(state, entry)
        batch.commit(force=False)
        progress("index", done, len(todo))
    batch.commit(force=True)
    shutil.rmtree(staging, ignore_errors=True)
    report.seconds = time.perf_counter() - started
    return report


def _is_current(job: Job, row: PictureRow | None) -> bool:
    """Say whether the index has a file as it is; one that was skipped is worth another try."""
    return row is not None and row.segment is not None and (row.size, row.mtime_ns) == (job.size, job.mtime_ns)


def _with_digest(job: Job, row: PictureRow | None) -> Job:
    return replace(job, digest=row.digest) if row is not None and row.segment is not None else job


def _died(job: Job) -> tuple[PictureState, None]:
    problem = "the process that read it died: the file makes a decoder crash, or memory ran out"
    return PictureState(job.path, job.size, job.mtime_ns, None, problem=problem), None


def _count(report: Report, state: PictureState, entry: Entry | None, old: PictureRow | None) -> None:
    if entry is None:
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

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pictures: list[tuple[PictureState, Entry | None]] = []
        self._bytes = 0
        self._since = time.monotonic()
        self.touched: list[PictureRow] = []

    def put(self, state: PictureState, entry: Entry | None) -> None:
        self._pictures.append((state, entry))
        self._bytes += entry.features.descriptors.nbytes if entry is not None else 0

    def commit(self, *, force: bool) -> None:
        due = self._bytes >= _BATCH_BYTES or time.monotonic() - self._since >= _BATCH_SECONDS
        if not (force or due):
            return
        if self._pictures:
            self._writer.put(self._pictures)
        if self.touched:
            self._writer.touch(self.touched)
        self._pictures, self.touched, self._bytes, self._since = [], [], 0, time.monotonic()


def learn_codebook(
    recipe: Recipe,
    jobs: Sequence[Job],
    words: int | None,
    *,
    staging: Path | None,
    workers: int,
    max_pixels: int,
    progress: Progress,
) -> Codebook:
    """Describe a random part of the pictures, and learn visual words from them.

    Args:
        recipe: how to describe.
        jobs: the pictures to choose from.
        words: how many to learn; None chooses by the number of pictures and of their features.
        staging: folder to keep the descriptions in, for :func:`d2r.ingest.enter_file`; None keeps none.
        workers: processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: told how far it is: "describe" and "words".

    Raises:
        StoreError: no picture can be used.
        d2r.codebook.CodebookError: there are fewer features than ``words``.
    """
    wanted = choose_words(len(jobs)) if words is None else words
    pictures = max(_SAMPLE_PICTURES, wanted * _SAMPLES_PER_WORD // 500)
    sample = [jobs[row] for row in np.sort(np.random.default_rng(0).permutation(len(jobs))[:pictures])]
    quota = max(200, math.ceil(wanted * _SAMPLES_PER_WORD / len(sample)))
    if staging is not None:
        staging.mkdir(exist_ok=True)
    function = partial(sample_file, recipe, max_pixels, staging, quota)
    parts = []
    reasons = []
    outcomes = map_in_processes(function, sample, workers=workers, prepare=prepare_worker)
    for done, (job, outcome) in enumerate(outcomes, start=1):
        state, descriptors = _died(job) if isinstance(outcome, WorkerDied) else outcome
        if descriptors is not None and len(descriptors):
            parts.append(descriptors)
        else:
            reasons.append(f"{display_path(state.path)}: {state.problem}")
        progress("describe", done, len(sample))
    total = sum(len(part) for part in parts)
    if total == 0:
        shown = "; ".join(reasons[:3])
        raise StoreError(f"visual words cannot be learned: none of {len(sample):,} pictures can be used ({shown})")
    if words is None:
        while wanted > 1 and wanted * 16 > total:
            wanted //= 2
    progress("words", 0, wanted)
    every = np.concatenate(parts)
    descriptors = every[np.random.default_rng(0).permutation(total)[: wanted * _SAMPLES_PER_WORD]]
    codebook = train_codebook(descriptors, wanted)
    progress("words", wanted, wanted)
    return codebook
