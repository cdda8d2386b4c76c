"""Learn visual words from pictures, or read existing ones."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook, Origin
from d2r.asmk.learning import SAMPLES_PER_WORD, train_kinds
from d2r.defaults import FEATURES, MAX_PIXELS, MAX_SIDE, MAX_WORDS, REGIONS, VERIFY_FEATURES
from d2r.features import kinds_of, pinned_features
from d2r.index import Index, PictureState, StoreError
from d2r.indexing.entry import Progress, Recipe, origin_of, recipe_of
from d2r.indexing.workers import Describers, describers
from d2r.regions import pinned_regions
from d2r.sources import PictureFile, absolute, find_objects, find_pictures
from d2r.support.files import PathLike, display_path, is_url
from d2r.support.processes import WorkerDied

_SAMPLE_PICTURES = 500  # described first if the visual words must be learned


def choose_words(pictures: int) -> int:
    """Return how many visual words to learn for a number of pictures: a power of two, at most 65,536.

    It grows with the square root, as vocabularies do: 1,024 for 60 pictures, 4,096 for 1,000, 65,536 from 180,000.
    """
    wanted = 130.0 * math.sqrt(max(1, pictures))
    return min(MAX_WORDS, 1 << round(math.log2(wanted)))


def sample_size(num_words: int) -> int:
    """Return how many pictures are needed to learn ``num_words`` visual words."""
    return max(_SAMPLE_PICTURES, num_words * SAMPLES_PER_WORD // 500)


def died(job: PictureFile, how: WorkerDied) -> PictureState:
    """Return the state of a picture that killed the process reading it."""
    return PictureState(job.path, job.size, job.mtime_ns, None, problem=f"the process that read it {how}")


def learn_words(
    recipe: Recipe,
    sample: Sequence[PictureFile],
    num_words: int,
    *,
    bits: int | None,
    staging: Path | None,
    workers: Describers,
    max_pixels: int,
    progress: Progress,
) -> Codebook:
    """Describe pictures, and learn visual words from them.

    Args:
        recipe: how to describe the pictures.
        sample: the pictures, chosen at random, :func:`sample_size` of them.
        num_words: how many to learn for each kind of features; fewer if there are too few features, see
            :func:`d2r.asmk.learning.fitting_words`.
        bits: number of bits per code; None is one per dimension of the features.
        staging: folder that keeps the descriptions for :func:`d2r.indexing.entry.enter_file`; None keeps none.
        workers: the workers that describe the pictures.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the stage, "describe" or "words", the number done and the total.

    Raises:
        StoreError: no picture can be used.
    """
    quota = max(200, math.ceil(num_words * SAMPLES_PER_WORD / len(sample)))
    if staging is not None:
        staging.mkdir(exist_ok=True)
    kinds: list[list[NDArray[np.float32]]] = [[] for _ in kinds_of(recipe.features)]
    pictures, reasons = 0, []
    outcomes = workers.samples(recipe, max_pixels, staging, quota, sample)
    for done, (file, outcome) in enumerate(outcomes, start=1):
        state, samples = (died(file, outcome), None) if isinstance(outcome, WorkerDied) else outcome
        if samples is not None and any(map(len, samples)):
            pictures += 1
            for parts, descriptors in zip(kinds, samples, strict=True):
                parts.append(descriptors)
        else:
            reasons.append(f"{display_path(state.path)}: {state.problem}")
        progress("describe", done, len(sample))
    every = [np.concatenate(parts) if parts else np.zeros((0, 0), np.float32) for parts in kinds]
    if not all(map(len, every)):
        shown = "; ".join(reasons[:3])
        raise StoreError(f"visual words cannot be learned: none of {len(sample):,} pictures can be used ({shown})")
    progress("words", 0, num_words)
    codebook = train_kinds(every, num_words, bits=bits, origin=origin_of(recipe, pictures))
    progress("words", num_words, num_words)
    return codebook


def learn_codebook(
    folder: PathLike,
    num_words: int,
    *,
    bits: int | None = None,
    regions: str = REGIONS,
    features: str = FEATURES,
    max_side: int = MAX_SIDE,
    workers: int | Describers | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Codebook:
    """Learn visual words from a folder of photos, for use in other collections.

    The arguments are those of :meth:`d2r.engine.Engine.create`. There are fewer than ``num_words`` words if the
    pictures have fewer than 16 features per word.

    Raises:
        StoreError: the folder holds no pictures that can be used.
    """
    root = absolute(folder)
    jobs = list(find_objects(root) if is_url(root) else find_pictures(Path(root)))
    if not jobs:
        raise StoreError(f"{display_path(folder)}: no pictures there")
    chosen = np.sort(np.random.default_rng(0).permutation(len(jobs))[: sample_size(num_words)])
    return learn_words(
        Recipe(pinned_regions(regions), pinned_features(features), max_side, VERIFY_FEATURES),
        [jobs[row] for row in chosen],
        num_words,
        bits=bits,
        staging=None,
        workers=describers(workers),
        max_pixels=max_pixels,
        progress=progress or (lambda stage, done, total: None),
    )


def codebook_from(path: PathLike) -> Codebook:
    """Read the visual words of a codebook file or of an index folder.

    Words of an index that have no origin get the recipe of the index as their origin.

    Raises:
        CodebookError: the file is missing, or is not a codebook.
        StoreError: the folder is not an index, or has no words yet.
    """
    source = Path(os.fsdecode(path))
    if not source.is_dir():
        return Codebook.load(source)
    with Index(source) as index:
        if index.codebook is None:
            raise StoreError(f"{source}: this index has no visual words yet")
        book, recipe = index.codebook, recipe_of(index)
        return replace(book, origin=book.origin or Origin(recipe.features, recipe.regions, recipe.max_side, None, None))
