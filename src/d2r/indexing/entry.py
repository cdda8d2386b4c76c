"""From a picture file to its index entry: the work of a worker process."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from d2r.asmk.codebook import Codebook, CodebookError, Origin, load_codebook
from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import KERNELS, Assigned, aggregate, local_codes
from d2r.describe import Description, assign_words, describe
from d2r.features import EXTRACTORS, FeatureExtractor, kinds_of, make_extractor, pinned_features, same_descriptors
from d2r.features.base import Features
from d2r.images import ImageError, decode_image
from d2r.index import Entry, Index, PictureState, StoreError
from d2r.indexing.timing import stage, taken
from d2r.models.onnx import set_threads
from d2r.regions import SELECTORS, RegionSelector, make_selector, pinned_regions
from d2r.sources import PictureFile
from d2r.support import compiling
from d2r.support.files import display_path, read_bytes, replacing
from d2r.support.version import package_version
from d2r.verify.keypoints import Keypoints, make_keypoints

NO_FEATURES = "no features found: the picture has no texture"

_log = logging.getLogger("d2r.asmk.codebook")


@dataclass(frozen=True)
class Recipe:
    """How all pictures of an index are described; stored in its settings.

    Attributes:
        regions: specification of the region selector.
        features: specification of the feature extractor.
        max_side: pictures and crops are scaled down to this longer side, in pixels, before features are extracted.
        verify_features: maximum number of features per picture that are kept for verification.
    """

    regions: str
    features: str
    max_side: int
    verify_features: int

    def __reduce__(self) -> tuple[Callable[..., Recipe], tuple[Any, ...]]:
        # Another process needs the types that were given as objects here: a specification only names them.
        types = SELECTORS.given_for(self.regions), EXTRACTORS.given_for(self.features)
        return _recipe_with_types, (self.regions, self.features, self.max_side, self.verify_features, *types)


def _recipe_with_types(
    regions: str,
    features: str,
    max_side: int,
    verify_features: int,
    selectors: dict[str, type[RegionSelector]],
    extractors: dict[str, type[FeatureExtractor]],
) -> Recipe:
    for name, selector in selectors.items():
        SELECTORS.take(name, selector)
    for name, extractor in extractors.items():
        EXTRACTORS.take(name, extractor)
    return Recipe(regions, features, max_side, verify_features)


@dataclass(frozen=True)
class Outcome:
    """What was done with a file.

    Attributes:
        state: what to record about the file.
        entry: its index entry; None if it cannot be used or has not changed.
        unchanged: whether the index has the same content, and only the file's size, time or place differ.
        seconds: time of each stage: "read", "describe", "aggregate".
    """

    state: PictureState
    entry: Entry | None = None
    unchanged: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


def recipe_of(index: Index) -> Recipe:
    """Return how the pictures of an index are described; raises :class:`StoreError` if its settings lack that."""
    try:
        return Recipe(**index.settings["recipe"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{index.folder}: its settings are incomplete ({error}); index the photos again") from error


def origin_of(recipe: Recipe, pictures: int) -> Origin:
    """Return the origin of visual words that are learned from a number of pictures."""
    features, regions = pinned_features(recipe.features), pinned_regions(recipe.regions)
    return Origin(features, regions, recipe.max_side, pictures, package_version())


def check_codebook(codebook: Codebook, recipe: Recipe) -> None:
    """Make sure that visual words fit the descriptors of a recipe.

    Words that were learned from other regions or another picture size fit. A codebook without an origin is accepted if
    it has the right number of dimensions, and a warning is logged.

    Raises:
        CodebookError: they were learned from other features.
    """
    features, origin = pinned_features(recipe.features), codebook.origin
    if origin is not None and not same_descriptors(origin.features, features):
        raise CodebookError(
            f"the codebook was learned from {origin.features}, but the pictures are described by {features}: its words"
            " do not fit them; give another codebook (`d2r codebook --features ...` learns one), or the features that"
            " it was learned from"
        )
    codebook.check_dim(make_extractor(features).dim)
    if origin is None:
        _log.warning("the codebook does not say which features made it; it is used for %s", features)


def prepare_worker() -> None:
    """Limit the libraries of a worker process to one thread: there is one process per core already."""
    compiling.compile_log.setLevel(logging.ERROR)  # the parent process logs that it compiles
    cv2.setNumThreads(1)
    faiss.omp_set_num_threads(1)
    set_threads(1)


def sample_file(
    recipe: Recipe, max_pixels: int, staging: Path | None, quota: int, file: PictureFile
) -> tuple[PictureState, list[NDArray[np.float32]] | None]:
    """Describe a picture, stage the description on disk, and return a random part of its descriptors.

    Args:
        recipe: how to describe it.
        max_pixels: see :func:`d2r.images.read_image`.
        staging: folder that :func:`enter_file` reads later; None keeps nothing.
        quota: maximum number of descriptors to return per kind of features.
        file: the picture.

    Returns:
        the state, and float32 (at most quota, D) per kind of features; None if the file cannot be used.
    """
    state, description = describe_file(recipe, max_pixels, staging, file, keep=True)
    if description is None:
        return state, None
    rng = np.random.default_rng(int.from_bytes((state.digest or b"")[:8], "little"))
    of_kinds = [one.descriptors for one in description.features.by_kind(len(kinds_of(recipe.features)))]
    return state, [descriptors[rng.permutation(len(descriptors))[:quota]] for descriptors in of_kinds]


def enter_file(
    recipe: Recipe,
    max_pixels: int,
    staging: Path,
    codebook: Path | Codebook,
    file: PictureFile,
    *,
    data: bytes | None = None,
    selector: RegionSelector | None = None,
) -> Outcome:
    """Describe a picture (or take its staged description) and aggregate it.

    Args:
        recipe: see :func:`describe_file`.
        max_pixels: see :func:`d2r.images.read_image`.
        staging: see :func:`describe_file`.
        codebook: the visual words, or their file.
        file: the picture.
        data: see :func:`describe_file`.
        selector: see :func:`describe_file`.
    """
    taken()  # reset the times of earlier calls
    state, description = describe_file(recipe, max_pixels, staging, file, keep=False, data=data, selector=selector)
    if description is None:
        unchanged = file.digest is not None and state.digest == file.digest
        return Outcome(state, unchanged=unchanged, seconds=taken())
    with stage("aggregate"):
        words = codebook if isinstance(codebook, Codebook) else load_codebook(codebook)
        entry = make_entry(description, words, recipe.verify_features)
    return Outcome(state, entry, seconds=taken())


def make_entry(description: Description, codebook: Codebook, verify_features: int) -> Entry:
    """Aggregate a description with R-ASMK*, and make the keypoints for verification."""
    assigned = assign_words(codebook, description)
    aggregated = aggregate(assigned, KERNELS["r-asmk*"])
    keypoints, local = keypoints_of(description, assigned, codebook, verify_features)
    return Entry(aggregated, description.boxes, description.box_scores, keypoints, local)


def keypoints_of(
    description: Description, assigned: Assigned, codebook: Codebook, verify_features: int
) -> tuple[Keypoints, LocalCodes]:
    """Return the keypoints of a description, and the local codes of the same features, for query expansion.

    Args:
        description: of a picture.
        assigned: its visual words.
        codebook: the codebook of these words.
        verify_features: maximum number of keypoints per kind of features.
    """
    kept = verified_rows(description, verify_features)
    keypoints = make_keypoints(description.features.take(kept), codebook)
    return keypoints, local_codes(assigned, kept[keypoints.rows])


def verified_rows(description: Description, limit: int) -> NDArray[np.intp]:
    """Return the rows of the features to keep for verification: the strongest of the whole picture per kind.

    Features are sorted already, strongest first.
    """
    whole = description.regions == 0
    kinds = description.features.kinds
    if kinds is None:
        return np.flatnonzero(whole)[:limit]
    kept = [np.flatnonzero(whole & (kinds == kind))[:limit] for kind in np.unique(kinds[whole])]
    return np.concatenate(kept) if kept else np.zeros(0, np.intp)


def describe_file(
    recipe: Recipe,
    max_pixels: int,
    staging: Path | None,
    file: PictureFile,
    *,
    keep: bool,
    data: bytes | None = None,
    selector: RegionSelector | None = None,
) -> tuple[PictureState, Description | None]:
    """Describe a picture file, or take the description of the same content from ``staging``.

    Args:
        recipe: how to describe it; a staging folder belongs to one recipe.
        max_pixels: see :func:`d2r.images.read_image`.
        staging: folder of descriptions, one safetensors file per picture, named by its digest; None uses none.
        file: the picture. If its digest is given and the file still has it, nothing is described.
        keep: leave the description in ``staging``.
        data: content of the file, if it was read before.
        selector: region selector; None makes that of the recipe.

    Returns:
        what to record about the file, and the description; None if the file cannot be used or has not changed.
    """
    state = PictureState(file.path, file.size, file.mtime_ns, digest=None)
    try:
        with stage("read"):
            data = read_bytes(file.path) if data is None else data
    except OSError as error:
        return replace(state, problem=f"cannot be read: {error.strerror or error}"), None
    digest = hashlib.blake2b(data, digest_size=16).digest()
    state = replace(state, digest=digest)
    if digest == file.digest:
        return state, None
    staged = staging / f"{digest.hex()}.safetensors" if staging is not None else None
    description = _staged(staged)
    if description is None:
        try:
            with stage("read"):
                image = decode_image(data, name=display_path(file.path), max_pixels=max_pixels)
        except ImageError as error:
            return replace(state, problem=error.reason), None
        chosen, extractor = selector or make_selector(recipe.regions), make_extractor(recipe.features)
        with stage("describe"):
            description = describe(image, chosen, extractor, max_side=recipe.max_side)
        if keep and staged is not None:
            write_description(description, staged)
    problem = None if len(description.features) else NO_FEATURES
    return replace(state, width=description.width, height=description.height, problem=problem), description


def write_description(description: Description, path: Path) -> None:
    """Write a description to a file, for :func:`read_description`."""
    features = description.features
    with replacing(path) as part:
        tensors = {
            "size": np.array([description.width, description.height]),
            "boxes": description.boxes,
            "box_scores": description.box_scores,
            "positions": features.positions,
            "scales": features.scales,
            "descriptors": features.descriptors,
            "attention": features.attention,
            "regions": description.regions,
        }
        known = {"angles": features.angles, "kinds": features.kinds}
        tensors |= {name: array for name, array in known.items() if array is not None}
        part.write_bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


def _staged(path: Path | None) -> Description | None:
    try:
        return read_description(path) if path is not None else None
    except (OSError, SafetensorError):  # not there, or cut off by a full disk
        return None


def read_description(path: Path) -> Description:
    """Read the description of :func:`write_description`; raises ``OSError`` or ``SafetensorError`` if there is none."""
    tensors = load_file(path)
    arrays = (tensors[name] for name in ("positions", "scales", "descriptors", "attention"))
    features = replace(Features(*arrays), angles=tensors.get("angles"), kinds=tensors.get("kinds"))
    width, height = (int(value) for value in tensors["size"])
    return Description(width, height, tensors["boxes"], tensors["box_scores"], features, tensors["regions"])


Progress = Callable[[str, int, int], None]
"""Called with the stage ("describe", "words" or "index"), the number done and the total."""
