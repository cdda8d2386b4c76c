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
from d2r.features import EXTRACTORS, FeatureExtractor, kind_names, make_extractor, pinned_features
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
        self._kinds = kind_names(self.recipe.features)
        self._threads = ThreadPoolExecutor(default_workers(), thread_name_prefix="verify")
        self._own_ranker = IndexRanker(index, self.recipe, self._threads)
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
            regions: specification of the region selector (:mod:`d2r.regions`), or a selector of your own. Of a detector
                the index remembers the SHA-256 of its model, and describes no picture with another.
            features: specification of the feature extractor (:mod:`d2r.features`), or an extractor of your own. Of a
                network the index remembers the SHA-256 too, and describes no picture and no query with another.
            codebook: visual words to use; None learns them from the first pictures that are added.
            num_words: how many to learn, fewer where there are not 16 features for each; None chooses by the number
                of pictures.
            bits: of the code of a word when words are learned; None is one a dimension of the features. Fewer make a
                smaller and faster index that finds less.
            max_side: pictures and region crops are scaled down to this longer side, in pixels.
            verify_features: at most this many features a picture are kept for verification.

        Raises:
            StoreError: the folder holds something else.
            d2r.support.registry.SpecError: an unknown selector or extractor.
            d2r.regions.DetectorError: the detector's model cannot be used.
            d2r.features.FeatureError: the model of the local features cannot be used.
            d2r.asmk.codebook.CodebookError: see :func:`d2r.indexing.entry.check_codebook`.
        """
        regions, features = pinned_regions(SELECTORS.known(regions)), pinned_features(EXTRACTORS.known(features))
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
        """Say anew how an index without visual words gets them; arguments as of :meth:`create`."""
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
        """Open an index; :class:`StoreError` when there is none, or it is damaged or of another format."""
        return Engine(Index(Path(os.fsdecode(folder))))

    def check_features(self) -> None:
        """Make sure that queries can be described as the pictures were.

        Raises:
            d2r.features.FeatureError: the network that the index was made with is gone, or another has its place.
        """
        _ = self._extractor.dim  # for which a network is loaded

    def prepare(self) -> None:
        """Compile what filling and searching call, which is done once after an installation, or load it.

        Both begin with this in a thread of their own; call it to have it done before.
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
        """Have the index find exactly the pictures under a folder, as they are now.

        New ones are added, changed ones are described again, and the rest is left alone, as is all that the index holds
        from outside the folder. Those whose files are gone are marked as missing: they are kept, so that an unmounted
        drive costs nothing, and not searched, until their files are there again or they are pruned. What is committed
        on the way stays when this is stopped; the next call goes on from there.

        Args:
            folder: walked to any depth; or the URL of one in object storage, such as ``s3://photos/2024``.
            prune: remove pictures whose files are gone from the index.
            workers: worker processes; None is one a processor, 0 does everything in this process. Or what else
                describes pictures, such as a :class:`d2r.cluster.describe.ClusterWorkers`.
            max_pixels: larger pictures are skipped.
            progress: told how far it is.

        Raises:
            NotADirectoryError: there is no such folder.
            StoreError: the folder holds no picture (all is left as it is then), or another process is writing.
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
        """Add picture files, or describe those again that changed; see :meth:`sync` for the arguments.

        The paths, or URLs, are read a few at a time, and may be more than the memory holds. A path without a file is
        reported as skipped; where the index has a picture of it, that is missing from then on, or removed with
        ``prune``.
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
        """Remove pictures that are marked as missing and whose files are still gone, and return how many there were.

        Args:
            paths: of such pictures, or of folders for all from under them.

        Raises:
            StoreError: another process is writing.
        """
        return prune_missing(self.index, paths)

    def compact(self, progress: Progress | None = None) -> None:
        """Merge the segments of the index, and give back the disk space of removed pictures; searches go on.

        Raises:
            StoreError: another process is writing.
            OSError: the disk is too full; the index is as it was.
        """
        tell = progress or _tell_nobody
        with self.index.writing() as writer:
            writer.compact(lambda done, total: tell("merge", done, total))

    def check(self, progress: Progress | None = None) -> list[str]:
        """Read all of the index and return what is damaged, one line each that names the file."""
        tell = progress or _tell_nobody
        return self.index.check(lambda done, total: tell("check", done, total))

    def remove(self, paths: Iterable[PathLike]) -> int:
        """Remove pictures by path; a folder's path removes all that the index holds from under it.

        Returns:
            how many files were removed from the index.

        Raises:
            StoreError: a path that the index does not hold; then nothing is removed.
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
        """Find the pictures that show what a picture, or a box on it, shows.

        Args:
            image: a path, or uint8 (H, W, 3) RGB.
            options: what to do.
            box: x1, y1, x2, y2 in pixels of the upright picture; None is the whole of it.
            max_pixels: limit on the query's pixels.

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
        """Do what :meth:`search` does from a query that was described already, in another process perhaps.

        Args:
            query: of :func:`d2r.describe.describe_query`, with this index's features and ``max_side``.
            options: what to do; of its regions the query has what it has.
            ignored: numbers of pictures that are left out, such as that of the query itself.
            stopped: asked now and then whether anybody still waits for the answer.

        Raises:
            SearchStopped: nobody does.
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
        """Score a picture as if it had been described by its first region only, by its first two, and so on.

        Args:
            query: see :meth:`search_described`.
            picture: of :func:`d2r.describe.describe`, with this index's features and ``max_side``, and any regions.
            stopped: see :meth:`search_described`.

        Returns:
            for each box of the picture its similarity to the query with the boxes up to that one, at most 1.

        Raises:
            SearchStopped: nobody waits for it.
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
            scores.append(float(weights @ similarities) if len(weights) > 1 else similarities[0])
        return scores

    def match(self, query: Features, picture: PictureRow) -> Verified:
        """Verify one picture of the index against a query.

        Raises:
            StoreError: the picture is not in the index any more, or the index is damaged.
        """
        return self._own_ranker.compare(make_keypoints(query, codebook_of(self.index), nearest=NEAREST), picture)

    def pairs(self, top: int) -> Iterator[tuple[PictureRow, list[Hit]]]:
        """Yield every picture with the ``top`` pictures most similar to it, itself left out, unverified."""
        return similar_pictures(self.index, top)

    def links(self, top: int) -> Iterator[tuple[PictureRow, list[Link]]]:
        """Yield every picture with what links it to the ``top`` pictures most similar to it; each link comes once."""
        return confirmed_links(self.index, self._own_ranker, self._threads, top)

    def _result(self, query: Description, candidate: Candidate) -> Result | None:
        with suppress(RemovedError):  # it was found, and is gone before it is told of
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
        create: make an empty one where there is none.
        regions: see :meth:`Engine.create`. An index that was made with an object needs it to be opened again; all else
            changes nothing of an index that is there.
        features: the same.
        settings: how to make it, see :meth:`Engine.create`.

    Raises:
        StoreError: there is no index and ``create`` is not given, or it is damaged or of another format.
    """
    regions, features = SELECTORS.known(regions), EXTRACTORS.known(features)
    if create and not Index.exists(Path(os.fsdecode(folder))):
        return Engine.create(folder, regions=regions, features=features, **settings)
    return Engine.open(folder)


def _tell_nobody(stage: str, done: int, total: int) -> None:
    """Take progress that nobody asked for."""
