"""The pipeline as one object: create or open an index, add and remove pictures, search.

engine = Engine.create("holiday.index")
engine.sync("holiday/")
for result in engine.search("query.jpg", box=(40, 60, 320, 400)):
    print(result.score, result.inliers, result.path)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import KERNELS, aggregate, by_kind, first_regions, similarity
from d2r.asmk.learning import check_bits
from d2r.boxes import Box
from d2r.defaults import FEATURES, MAX_PIXELS, MAX_SIDE, REGIONS, VERIFY_FEATURES
from d2r.describe import Description, assign_words, describe_query
from d2r.features import FeatureExtractor, features_spec, kind_names, make_extractor, pinned_features
from d2r.features.base import Features
from d2r.images import Picture, read_image
from d2r.index import Hit, Index, PictureRow, RemovedError
from d2r.index.ready import get_ready
from d2r.index_ranker import IndexRanker, codebook_of
from d2r.indexing.collection import add_files, prune_missing, remove_pictures, sync_folder
from d2r.indexing.entry import Progress, Recipe, check_codebook, recipe_of
from d2r.indexing.fill import Report
from d2r.indexing.workers import Describers, describers
from d2r.links import confirmed_links, similar_pictures
from d2r.options import DEFAULT_OPTIONS, SearchOptions
from d2r.regions import SELECTORS, RegionSelector, make_selector, pinned_regions
from d2r.results import Answer, Link, Result, make_result
from d2r.search import Candidate, Ranker, SearchStopped, Verified, make_query, search
from d2r.support.files import PathLike
from d2r.support.processes import default_workers
from d2r.verify.keypoints import make_keypoints
from d2r.verify.verify import NEAREST


class Engine:
    """An index and everything needed to fill and search it; safe to search from several threads.

    Use it in a ``with`` block, or call :meth:`close`.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.recipe = recipe_of(index)
        self._extractor = make_extractor(self.recipe.features)
        self._threads = ThreadPoolExecutor(default_workers(), thread_name_prefix="verify")
        self._own_ranker = IndexRanker(index, self.recipe, self._threads)
        self._kinds = dict(zip(kind_names(self.recipe.features), self._own_ranker.precise, strict=True))
        self.ranker: Ranker = self._own_ranker

    @staticmethod
    def create(
        folder: PathLike,
        *,
        regions: str | RegionSelector = REGIONS,
        features: str | FeatureExtractor = FEATURES,
        codebook: Codebook | None = None,
        num_words: int | None = None,
        bits: int | None = None,
        max_side: int = MAX_SIDE,
        verify_features: int = VERIFY_FEATURES,
    ) -> Engine:
        """Make an empty index.

        Args:
            folder: new or empty.
            regions: specification of the region selector (:mod:`d2r.regions`), or your own selector. For a detector the
                index stores the SHA-256 of its model, and never uses another.
            features: specification of the feature extractor (:mod:`d2r.features`), or your own extractor. For a network
                the index stores its SHA-256, and never uses another, for pictures or queries.
            codebook: visual words to use; None learns them from the first pictures that are added.
            num_words: how many to learn, fewer if there are fewer than 16 features per word; None chooses by the number
                of pictures.
            bits: number of bits per code, if words are learned; None is one per dimension of the features. Fewer bits
                make a smaller and faster index that finds less.
            max_side: pictures and region crops are scaled down to this longer side, in pixels.
            verify_features: maximum number of features per picture that are kept for verification.

        Raises:
            StoreError: the folder holds something else.
            d2r.support.registry.SpecError: an unknown selector or extractor.
            d2r.regions.DetectorError: the detector's model cannot be used.
            d2r.features.FeatureError: the model of the local features cannot be used.
            d2r.asmk.codebook.CodebookError: see :func:`d2r.indexing.entry.check_codebook`.
        """
        regions, features = pinned_regions(SELECTORS.known(regions)), pinned_features(features_spec(features))
        check_bits(bits, make_extractor(features).dim)
        if max_side < 32:
            raise ValueError("max_side must be 32 pixels or more")
        recipe = Recipe(regions, features, max_side, verify_features)
        if codebook is not None:
            check_codebook(codebook, recipe)
        index = Index.create(Path(os.fsdecode(folder)), {"recipe": asdict(recipe), "words": num_words, "bits": bits})
        engine = Engine(index)
        if codebook is not None:
            with index.writing() as writer:
                writer.set_codebook(codebook)
        return engine

    def choose_words(self, codebook: Codebook | None, num_words: int | None, bits: int | None) -> None:
        """Change how an index without visual words gets them; see :meth:`create` for the arguments."""
        check_bits(bits, self._extractor.dim)
        if codebook is not None:
            check_codebook(codebook, self.recipe)
        with self.index.writing() as writer:
            if codebook is not None:
                writer.set_codebook(codebook)
            writer.put_setting("words", num_words)
            writer.put_setting("bits", bits)

    @staticmethod
    def open(folder: PathLike) -> Engine:
        """Open an index; raises :class:`StoreError` if there is none, or it is damaged or has another format."""
        return Engine(Index(Path(os.fsdecode(folder))))

    def check_features(self) -> None:
        """Make sure that queries can be described like the pictures.

        Raises:
            d2r.features.FeatureError: the network that the index was made with is missing or was replaced.
        """
        _ = self._extractor.dim  # this loads the network

    def prepare(self) -> None:
        """Compile what filling and searching call (only once per installation), or load it.

        Both do this in a thread when they begin; call it to have it done earlier.
        """
        codebook = self.index.codebook
        get_ready(self.index.settings.get("bits") or self._extractor.dim if codebook is None else codebook.bits)

    def close(self) -> None:
        """Release the files."""
        self._threads.shutdown()
        self.index.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sync(
        self,
        folder: PathLike,
        *,
        prune: bool = False,
        workers: int | Describers | None = None,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> Report:
        """Update the index to the pictures that are now under a folder.

        New pictures are added, changed ones are described again, and all others are left alone, including those outside
        the folder. Pictures whose files are gone are marked as missing: they are not searched, but kept until their
        files are back or they are pruned, so that an unmounted drive costs nothing. Work is committed in batches; if
        this is stopped, the next call continues from there.

        Args:
            folder: walked to any depth; or the URL of one in object storage, such as ``s3://photos/2024``.
            prune: remove pictures from the index whose files are gone.
            workers: number of worker processes; None is one per processor, 0 does everything in this process. Or other
                workers, such as :class:`d2r.cluster.describe.ClusterWorkers`.
            max_pixels: larger pictures are skipped.
            progress: called with the stage, the number done and the total.

        Raises:
            NotADirectoryError: there is no such folder.
            StoreError: the folder holds no picture (then nothing is changed), or another process is writing.
        """
        return sync_folder(
            self.index,
            folder,
            prune=prune,
            workers=describers(workers),
            max_pixels=max_pixels,
            progress=progress or _tell_nobody,
            meanwhile=self._prepare_soon,
        )

    def add(
        self,
        pictures: Iterable[PathLike],
        *,
        prune: bool = False,
        workers: int | Describers | None = None,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> Report:
        """Add picture files, or describe changed ones again; see :meth:`sync` for the arguments.

        The paths or URLs are read a few at a time, so they need not fit in memory. A path without a file is reported as
        skipped; if the index has a picture of it, that is marked as missing, or removed with ``prune``.
        """
        return add_files(
            self.index,
            pictures,
            prune=prune,
            workers=describers(workers),
            max_pixels=max_pixels,
            progress=progress or _tell_nobody,
            meanwhile=self._prepare_soon,
        )

    def prune(self, paths: Iterable[PathLike]) -> int:
        """Remove pictures that are marked as missing and whose files are still gone, and return their number.

        Args:
            paths: of such pictures, or of folders for all pictures under them.

        Raises:
            StoreError: another process is writing.
        """
        return prune_missing(self.index, paths)

    def compact(self, progress: Progress | None = None) -> None:
        """Merge the segments of the index, and free the disk space of removed pictures; searches can continue.

        Raises:
            StoreError: another process is writing.
            OSError: the disk is too full; the index is unchanged.
        """
        tell = progress or _tell_nobody
        with self.index.writing() as writer:
            writer.compact(lambda done, total: tell("merge", done, total))

    def check(self, progress: Progress | None = None) -> list[str]:
        """Read all of the index and return what is damaged, one line per file, which names it."""
        tell = progress or _tell_nobody
        return self.index.check(lambda done, total: tell("check", done, total))

    def remove(self, paths: Iterable[PathLike]) -> int:
        """Remove pictures by path; a folder's path removes all pictures under it.

        Returns:
            the number of files that were removed from the index.

        Raises:
            StoreError: a path is not in the index; then nothing is removed.
        """
        return remove_pictures(self.index, paths)

    def search(
        self,
        image: PathLike | Picture,
        options: SearchOptions = DEFAULT_OPTIONS,
        *,
        box: Box | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Answer:
        """Find the pictures that show the same object as a picture, or a box in it.

        Args:
            image: a path, or uint8 (H, W, 3) RGB.
            options: the options of the search.
            box: the query box, (x1, y1, x2, y2) in pixels of the upright picture; None for the whole picture.
            max_pixels: maximum number of pixels of the query.

        Raises:
            ImageError: the picture cannot be read.
            BoxError: the box is malformed, empty or outside the picture.
            StoreError: the index is damaged.
        """
        started = time.perf_counter()
        self._prepare_soon()  # while the query is described
        pixels = image if isinstance(image, np.ndarray) else read_image(image, max_pixels=max_pixels)
        selector = make_selector(self.recipe.regions) if options.query_regions else None
        query = describe_query(pixels, box, self._extractor, max_side=self.recipe.max_side, selector=selector)
        described = time.perf_counter()
        answer = self.search_described(query, options)
        return replace(answer, seconds={"describe": described - started, **answer.seconds})

    def search_described(
        self,
        query: Description,
        options: SearchOptions = DEFAULT_OPTIONS,
        *,
        ignored: Collection[int] = (),
        stopped: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Search with a query that was described already, perhaps in another process; see :meth:`search`.

        Args:
            query: from :func:`d2r.describe.describe_query`, with this index's features and ``max_side``.
            options: the options of the search; those about query regions have no effect.
            ignored: numbers of pictures to leave out, for example the query itself.
            stopped: called now and then; returns True if nobody waits for the answer any more.

        Raises:
            SearchStopped: ``stopped`` returned True.
            StoreError: the index is damaged.
        """
        started = time.perf_counter()
        prepared = make_query(query, codebook_of(self.index), verify=options.verify > 0)
        made_s = time.perf_counter() - started
        found = search(self.ranker, prepared, options, ignored=ignored, stopped=stopped)
        results = [one for one in (self._result(query, one) for one in found.candidates) if one is not None]
        return Answer(query, results, found.seconds | {"search": made_s + found.seconds["search"]}, found.missing)

    def scores_by_regions(
        self, query: Description, picture: Description, *, stopped: Callable[[], bool] = lambda: False
    ) -> list[float]:
        """Score a picture as if described by its first region only, by its first two, and so on.

        Args:
            query: see :meth:`search_described`.
            picture: from :func:`d2r.describe.describe`, with this index's features and ``max_side``, and any regions.
            stopped: see :meth:`search_described`.

        Returns:
            for each box of the picture the similarity to the query with the boxes up to it, at most 1.

        Raises:
            SearchStopped: ``stopped`` returned True.
        """
        codebook, kernel = codebook_of(self.index), KERNELS["r-asmk*"]
        query_descriptor = make_query(query, codebook, verify=False).descriptor
        weights = self.index.kind_weights(query_descriptor)
        own, assigned = by_kind(query_descriptor, codebook.starts), assign_words(codebook, picture)
        scores = []
        for count in range(1, len(picture.boxes) + 1):
            if stopped():
                raise SearchStopped
            its = by_kind(aggregate(first_regions(assigned, count), kernel), codebook.starts)
            similarities = [similarity(one, other, kernel) for one, other in zip(own, its, strict=True)]
            scores.append(float(weights @ similarities))
        return scores

    def match(self, query: Features, picture: PictureRow) -> Verified:
        """Verify one picture of the index against a query.

        Raises:
            StoreError: the picture is not in the index any more, or the index is damaged.
        """
        return self._own_ranker.compare(make_keypoints(query, codebook_of(self.index), nearest=NEAREST), picture)

    def pairs(self, top: int) -> Iterator[tuple[PictureRow, list[Hit]]]:
        """Yield every picture with the ``top`` other pictures most similar to it, unverified."""
        return similar_pictures(self.index, top)

    def links(self, top: int) -> Iterator[tuple[PictureRow, list[Link]]]:
        """Yield every picture with its links to the ``top`` pictures most similar to it; each link is yielded once."""
        return confirmed_links(self.index, self._own_ranker, self._threads, top)

    def _result(self, query: Description, candidate: Candidate) -> Result | None:
        with suppress(RemovedError):  # it was removed after it was found
            return make_result(query, candidate, *self.index.regions(candidate.picture), self._kinds)
        return None

    def _prepare_soon(self) -> None:
        self._threads.submit(self.prepare)


def open_index(
    folder: PathLike,
    *,
    create: bool = False,
    regions: str | RegionSelector = REGIONS,
    features: str | FeatureExtractor = FEATURES,
    **settings: Any,
) -> Engine:
    """Open the index in a folder.

    Args:
        folder: of the index.
        create: make an empty index if there is none.
        regions: see :meth:`Engine.create`. An index that was made with an object needs it again to be opened; otherwise
            this is ignored if there is an index.
        features: the same.
        settings: how to make the index, see :meth:`Engine.create`.

    Raises:
        StoreError: there is no index and ``create`` is False, or it is damaged or has another format.
    """
    regions, features = SELECTORS.known(regions), features_spec(features)
    if create and not Index.exists(Path(os.fsdecode(folder))):
        return Engine.create(folder, regions=regions, features=features, **settings)
    return Engine.open(folder)


def _tell_nobody(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
