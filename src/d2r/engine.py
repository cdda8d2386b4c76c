"""The pipeline as one object: create or open an index, add and remove pictures, search.

engine = Engine.create("holiday.index")
engine.sync("holiday/")
for result in engine.search("query.jpg", box=(40, 60, 320, 400)).results:
    print(result.score, result.inliers, result.path)
"""

from __future__ import annotations

import os
import shlex
import time
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from d2r.asmk.codebook import Codebook, Origin, check_bits
from d2r.asmk.kernels import KERNELS, Aggregated, aggregate, assign, first_regions, pool_codes, similarity
from d2r.boxes import Box
from d2r.defaults import EXPAND, FEATURES, MAX_PIXELS, MAX_SIDE, REGIONS, TOP, VERIFY, VERIFY_FEATURES
from d2r.describe import Description, describe_query
from d2r.errors import D2RError
from d2r.expand import DIFFUSED, SURE, by_both, inside, join, similarities, spread
from d2r.features import make_extractor, pinned_features
from d2r.features.base import Features
from d2r.images import SUFFIXES, Picture, read_image
from d2r.index import Hit, Index, Listing, PictureRow, RemovedError, StoreError, Writer
from d2r.index.ready import get_ready
from d2r.indexing import fill as build
from d2r.indexing.codebook import learn_words, sample_size
from d2r.indexing.entry import Progress, Recipe, check_codebook
from d2r.indexing.fill import Report
from d2r.indexing.workers import Describers, LocalWorkers
from d2r.regions import make_selector, pinned_regions
from d2r.results import Answer, Link, Result, make_result
from d2r.sources import PictureFile, find_objects, find_pictures, is_gone, picture_file_at
from d2r.support.files import PathLike, display_path, is_url
from d2r.support.processes import default_workers
from d2r.verify.keypoints import Keypoints, make_keypoints
from d2r.verify.localise import bounding_box
from d2r.verify.verify import NEAREST, Verification, threshold_for, verify


@dataclass(frozen=True)
class Looked:
    """What one search found.

    Attributes:
        results: by score, at most as many as were asked for; the best of them verified.
        missing: see :class:`Answer`.
        ranked_s: seconds until the scores were known.
        verified_s: seconds until the best were verified too.
    """

    results: list[Result]
    missing: int
    ranked_s: float
    verified_s: float


class SearchStopped(D2RError):  # noqa: N818
    """A search that was given up before its end, because nobody waits for it."""


class Engine:
    """An index and everything needed to fill and search it; safe to search from several threads.

    Use it in a ``with`` block, or call :meth:`close`.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        settings = index.settings
        try:
            self.recipe = Recipe(**settings["recipe"])
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{index.folder}: its settings are incomplete ({error}); index the photos again"
            ) from error
        self._extractor = make_extractor(self.recipe.features)
        self._threads = ThreadPoolExecutor(default_workers(), thread_name_prefix="verify")

    @staticmethod
    def create(
        folder: PathLike,
        *,
        regions: str = REGIONS,
        features: str = FEATURES,
        codebook: Codebook | None = None,
        words: int | None = None,
        bits: int | None = None,
        max_side: int = MAX_SIDE,
        verify_features: int = VERIFY_FEATURES,
    ) -> Engine:
        """Make an empty index.

        Args:
            folder: new or empty.
            regions: specification of the region selector (:mod:`d2r.regions`). Of a detector the index remembers the
                SHA-256 of its model, and describes no picture with another.
            features: specification of the feature extractor (:mod:`d2r.features`). Of a network the index remembers the
                SHA-256 too, and describes no picture and no query with another.
            codebook: visual words to use; None learns them from the first pictures that are added.
            words: how many to learn, fewer where there are not 16 features for each; None chooses from the number of
                pictures.
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
        regions, features = pinned_regions(regions), pinned_features(features)
        check_bits(bits, make_extractor(features).dim)
        if max_side < 32:
            raise ValueError("max_side must be 32 pixels or more")
        recipe = Recipe(regions, features, max_side, verify_features)
        if codebook is not None:
            check_codebook(codebook, recipe)
        index = Index.create(Path(os.fsdecode(folder)), {"recipe": asdict(recipe), "words": words, "bits": bits})
        engine = Engine(index)
        if codebook is not None:
            with index.writing() as writer:
                writer.set_codebook(codebook)
        return engine

    def choose_words(self, codebook: Codebook | None, words: int | None, bits: int | None) -> None:
        """Say anew how an index without visual words gets them; arguments as of :meth:`create`."""
        check_bits(bits, self._extractor.dim)
        if codebook is not None:
            check_codebook(codebook, self.recipe)
        with self.index.writing() as writer:
            if codebook is not None:
                writer.set_codebook(codebook)
            writer.put_setting("words", words)
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
        root = _absolute(folder)
        hidden: list[OSError] = []
        if is_url(root):
            root = root.rstrip("/")
            found = find_objects(root, on_error=hidden.append)
        elif Path(root).is_dir():
            found = find_pictures(Path(root), on_error=hidden.append)
        else:
            raise NotADirectoryError(f"{display_path(root)}: not a folder{self._left(root)}")
        with self.index.writing() as writer:
            listing = writer.listing(found)
            if not listing.files:
                endings = ", ".join(sorted(SUFFIXES))
                why = f"{hidden[0].strerror}" if hidden else endings
                raise StoreError(f"{display_path(root)}: no pictures there ({why}){self._left(root)}")
            # What could not be read, or lies under it, may still be there.
            unread = {str(error.filename) for error in hidden if not isinstance(error, FileNotFoundError)}
            under = tuple(os.path.join(path, "") for path in unread)
            gone = [
                row
                for row in listing.gone(root)
                if row.path not in unread and not row.path.startswith(under) and _is_gone(row)
            ]
            _let_go(writer, gone, prune)
            report = self._fill(writer, listing, workers, max_pixels, progress)
        _tell_of(report, gone, prune)
        report.skipped += [_unreadable(error) for error in hidden]
        return report

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
        hidden: list[OSError] = []
        with self.index.writing() as writer:
            listing = writer.listing(_picture_files(pictures, hidden))
            found = {row.id: row for row in map(self._without_file, hidden) if row is not None}
            gone = list(found.values())
            _let_go(writer, gone, prune)
            report = self._fill(writer, listing, workers, max_pixels, progress)
        _tell_of(report, gone, prune)
        report.skipped += [_unreadable(error) for error in hidden]
        return report

    def prune(self, paths: Iterable[PathLike]) -> int:
        """Remove pictures that are marked as missing and whose files are still gone, and return how many there were.

        Args:
            paths: of such pictures, or of folders for all from under them.

        Raises:
            StoreError: another process is writing.
        """
        with self.index.writing() as writer:
            gone = {
                row.id: row
                for path in paths
                for row in self._held(_absolute(path))
                if row.missing_since is not None and _is_gone(row)
            }
            writer.remove(list(gone.values()))
        return len(gone)

    def compact(self, progress: Progress | None = None) -> None:
        """Merge the segments of the index, and give back the disk space of removed pictures; searches go on.

        Raises:
            StoreError: another process is writing.
            OSError: the disk is too full; the index is as it was.
        """
        tell = progress or (lambda stage, done, total: None)
        with self.index.writing() as writer:
            writer.compact(lambda done, total: tell("merge", done, total))

    def check(self, progress: Progress | None = None) -> list[str]:
        """Read all of the index and return what is damaged, one line each that names the file."""
        tell = progress or (lambda stage, done, total: None)
        return self.index.check(lambda done, total: tell("check", done, total))

    def remove(self, paths: Iterable[PathLike]) -> int:
        """Remove pictures by path; a folder's path removes all that the index holds from under it.

        Returns:
            how many files were removed from the index.

        Raises:
            StoreError: a path that the index does not hold; then nothing is removed.
        """
        found: dict[int, PictureRow] = {}
        for path in paths:
            wanted = _absolute(path)
            named = {row.id: row for row in self._held(wanted)}
            if not named:
                raise StoreError(f"{display_path(wanted)}: not in the index; nothing was removed")
            found |= named
        with self.index.writing() as writer:
            writer.remove(list(found.values()))
        return len(found)

    def search(
        self,
        image: PathLike | Picture,
        *,
        box: Box | None = None,
        top: int = TOP,
        verify: int = VERIFY,
        expand: int = EXPAND,
        diffuse: bool = False,
        query_regions: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Answer:
        """Find the pictures that show what a picture, or a box on it, shows.

        Args:
            image: a path, or uint8 (H, W, 3) RGB.
            box: x1, y1, x2, y2 in pixels of the upright picture; None is the whole of it.
            top: at most this many results.
            verify: this many of the most similar are verified spatially and put first, by (inliers, score); 0 ranks by
                score alone.
            expand: search again with the query joined with what at most this many confirmed results show of it
                (:mod:`d2r.expand`), and sort by :func:`d2r.expand.by_both`; 0 does not. Where no result has
                :data:`d2r.expand.SURE` agreeing points, or none is verified, the answer is as without.
            diffuse: spread similarity over the graph of the best results, before that order. It needs ``verify`` and
                ``expand``.
            query_regions: describe the query by the regions of the index's selector too: the symmetric R-AMK.
            max_pixels: limit on the query's pixels.

        Raises:
            ImageError: the picture cannot be read.
            BoxError: the box is malformed, empty or outside the picture.
            StoreError: the index is damaged.
        """
        _check_counts(top, verify, expand, diffuse)
        started = time.perf_counter()
        self._threads.submit(self.prepare)  # while the query is described
        pixels = image if isinstance(image, np.ndarray) else read_image(image, max_pixels=max_pixels)
        selector = make_selector(self.recipe.regions) if query_regions else None
        query = describe_query(pixels, box, self._extractor, max_side=self.recipe.max_side, selector=selector)
        described = time.perf_counter()
        answer = self.search_described(query, top=top, verify=verify, expand=expand, diffuse=diffuse)
        return replace(answer, seconds={"describe": described - started, **answer.seconds})

    def search_described(
        self,
        query: Description,
        *,
        top: int = TOP,
        verify: int = VERIFY,
        expand: int = EXPAND,
        diffuse: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Do what :meth:`search` does from a query that was described already, in another process perhaps.

        Args:
            query: of :func:`d2r.describe.describe_query`, with this index's features and ``max_side``.
            top: see :meth:`search`.
            verify: see :meth:`search`.
            expand: see :meth:`search`.
            diffuse: see :meth:`search`.
            stopped: asked now and then whether anybody still waits for the answer.

        Raises:
            SearchStopped: nobody does.
            StoreError: the index is damaged.
        """
        _check_counts(top, verify, expand, diffuse)
        started = time.perf_counter()
        sought = self._aggregate(query)
        aggregated_s = time.perf_counter() - started
        since = time.perf_counter()
        points = self._points(whole_features(query)) if verify else None
        points_s = time.perf_counter() - since
        first = self._look(query, sought, points, max(top, verify), verify, {}, stopped)
        results = sorted(first.results, key=_by_inliers)
        seconds = {"search": aggregated_s + first.ranked_s, "verify": points_s + first.verified_s}
        sure = [result for result in results if (result.inliers or 0) >= SURE][:expand]
        missing = first.missing
        if sure:
            since = time.perf_counter()
            joined = join(sought, [part for result in sure for part in self._inside(query, result)])
            seconds["expand"] = time.perf_counter() - since
            known = {result.id: result for result in results if result.inliers is not None}
            again = self._look(query, joined, points, max(top, verify, DIFFUSED * diffuse), verify, known, stopped)
            seconds["search"] += again.ranked_s
            seconds["verify"] += again.verified_s
            since = time.perf_counter()
            results = self._ordered(again.results, {result.id for result in sure}, diffuse)
            seconds["expand"] += time.perf_counter() - since
            missing = max(missing, again.missing)
        return Answer(query, results[:top], seconds, missing)

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
        codebook, kernel = self._codebook(), KERNELS["r-asmk*"]
        sought = self._aggregate(query)
        assigned = assign(codebook, picture.features.descriptors, picture.regions, len(picture.boxes))
        scores = []
        for count in range(1, len(picture.boxes) + 1):
            if stopped():
                raise SearchStopped
            scores.append(similarity(sought, aggregate(first_regions(assigned, count), kernel), kernel))
        return scores

    def match(self, query: Features, picture: PictureRow) -> tuple[Verification, Keypoints]:
        """Verify one picture of the index against a query; returns its points too, which the matches refer to.

        Raises:
            StoreError: the picture is not in the index any more, or the index is damaged.
        """
        return self._match(self._points(query), picture)

    def pairs(self, top: int) -> Iterator[tuple[PictureRow, list[Hit]]]:
        """Yield every picture with the ``top`` pictures most similar to it, itself left out, unverified."""
        for picture, aggregated in self.index.aggregated():
            hits = self.index.search(aggregated, top + 1)
            yield picture, [hit for hit in hits if hit.picture.id != picture.id][:top]

    def links(self, top: int) -> Iterator[tuple[PictureRow, list[Link]]]:
        """Yield every picture with what links it to the ``top`` pictures most similar to it; each link comes once.

        Nothing is described again: what verification compares is in the index for both.
        """
        # Of a picture that is still to come, those that looked at it before: each is forgotten when it has come, and
        # arrays are a tenth of what a set of pairs would be of a million pictures.
        before: dict[int, array[int]] = {}
        came: set[int] = set()
        for picture, hits in self.pairs(top):
            known = set(before.pop(picture.id, ()))
            new = [hit for hit in hits if hit.picture.id not in known]
            for hit in new:
                if hit.picture.id not in came:
                    before.setdefault(hit.picture.id, array("q")).append(picture.id)
            came.add(picture.id)
            found = self._threads.map(lambda hit, own=picture: self._link(own, hit), new)
            yield picture, [link for link in found if link is not None]

    def _held(self, path: str) -> Iterator[PictureRow]:
        """Yield the pictures that the index has at a path or from under it."""
        with suppress(UnicodeEncodeError):  # no file has such a name
            yield from self.index.pictures(path)

    def _left(self, root: str) -> str:
        """Say that a folder without pictures changes nothing, and how to have what the index holds from there removed.

        It begins with a semicolon; it is empty where the index holds nothing from there.
        """
        if next(self._held(root), None) is None:
            return ""
        command = shlex.join(["d2r", "remove", display_path(self.index.folder), display_path(root)])
        return f"; the index is as it was, and `{command}` drops what it has from there"

    def _without_file(self, error: OSError) -> PictureRow | None:
        """Return the picture that the index has at the path of an error, if that says that the file is gone."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            return None
        row = self.index.picture(os.fsdecode(error.filename))
        return row if row is not None and row.segment is not None else None

    def _link(self, picture: PictureRow, hit: Hit) -> Link | None:
        first, second = sorted((picture, hit.picture), key=lambda row: row.id)
        own = self.index.points(first)
        verification, its = self._match(own, second)
        if verification.transform is None:
            return None
        rows, columns = verification.matches.T
        boxes = bounding_box(own.positions[rows]), bounding_box(its.positions[columns])
        counts = len(own), len(its)
        return Link(first, second, hit.score, verification.inliers, counts, verification.transform, boxes)

    def _match(self, query: Keypoints, picture: PictureRow) -> tuple[Verification, Keypoints]:
        other = self.index.points(picture)
        side = max(picture.width or 0, picture.height or 0)
        threshold = threshold_for(side, self.recipe.max_side)
        try:
            return verify(query, other, bits=self._codebook().dim, threshold=threshold), other
        except ValueError as error:
            raise StoreError(
                f"{self.index.folder}: what it keeps of {picture.path} does not fit ({error}); `d2r check` says whether"
                " it is damaged"
            ) from error

    def _points(self, query: Features) -> Keypoints:
        return make_keypoints(query, self._codebook(), nearest=NEAREST)

    def _inside(self, query: Description, result: Result) -> list[Aggregated]:
        """Return what a confirmed result has inside the query box, aggregated; nothing of one that was removed."""
        picture = self.index.picture_at(result.id)
        if picture is None or result.transform is None:
            return []
        x1, y1, x2, y2 = query.boxes[0].tolist()
        with suppress(RemovedError):
            positions, local = self.index.points(picture).positions, self.index.local(picture)
            if len(positions) == len(local):  # else it was described again between the two
                return [pool_codes(local.take(inside(positions, result.transform, (x1, y1, x2, y2))))]
        return []

    def _aggregated(self, results: Sequence[Result]) -> list[Aggregated]:
        """Return the aggregated descriptors of results; those that were removed meanwhile have no words."""
        found = [self.index.picture_at(result.id) for result in results]
        return self.index.aggregated_of([picture for picture in found if picture is not None])

    def _ordered(self, results: Sequence[Result], sure: Container[int], diffuse: bool) -> list[Result]:
        """Return the results of an expanded query, best first: those given, which are by score."""
        values = np.array([result.score for result in results], np.float64)
        head = results[:DIFFUSED] if diffuse else []
        if head:
            aggregated = self._aggregated(head)
            if len(aggregated) == len(head):  # none was removed meanwhile
                confirmed = np.array([result.id in sure for result in head])
                values[: len(head)] = spread(values[: len(head)], confirmed, similarities(aggregated))
        keys = by_both(values, np.array([result.inliers or 0 for result in results], np.int64))
        return [results[row] for row in np.argsort(-keys, kind="stable")]

    def _codebook(self) -> Codebook:
        codebook = self.index.codebook
        if codebook is None:
            raise StoreError(f"{self.index.folder}: it holds no pictures yet; add some before searching")
        return codebook

    def _aggregate(self, query: Description) -> Aggregated:
        assigned = assign(self._codebook(), query.features.descriptors, query.regions, len(query.boxes))
        return aggregate(assigned, KERNELS["r-asmk*"])

    def _look(
        self,
        query: Description,
        sought: Aggregated,
        points: Keypoints | None,
        top: int,
        verify: int,
        known: Mapping[int, Result],
        stopped: Callable[[], bool],
    ) -> Looked:
        """Return the pictures most similar to ``sought``, the best of them verified against the query.

        Args:
            query: what was asked for.
            sought: the query's descriptor, or one that others have joined.
            points: of the query, that are verified against; None where ``verify`` is 0.
            top: at most this many results.
            verify: so many are verified.
            known: results that were verified against this query before, by number.
            stopped: see :meth:`search_described`.
        """
        clock = [time.perf_counter()]
        hits = self.index.search(sought, top)
        clock.append(time.perf_counter())
        results = self._verified(query, points, hits, verify, known, stopped)
        clock.append(time.perf_counter())
        return Looked(results, 0, clock[1] - clock[0], clock[2] - clock[1])

    def _verified(
        self,
        query: Description,
        points: Keypoints | None,
        hits: list[Hit],
        most: int,
        known: Mapping[int, Result],
        stopped: Callable[[], bool],
    ) -> list[Result]:
        """Return results of hits, in their order, the first ``most`` of them verified."""

        def result(rank: int, hit: Hit) -> Result | None:
            if stopped():
                raise SearchStopped
            if hit.picture.id in known:
                return replace(known[hit.picture.id], score=hit.score)
            with suppress(RemovedError):  # it was found, and is gone before it is told of
                if points is None or rank >= most:
                    return self._result(hit, None, None, query)
                return self._result(hit, *self._match(points, hit.picture), query)
            return None

        return [one for one in self._threads.map(result, range(len(hits)), hits) if one is not None]

    def _result(
        self, hit: Hit, verification: Verification | None, other: Keypoints | None, query: Description
    ) -> Result:
        boxes, scores = self.index.regions(hit.picture)
        if verification is None or other is None:
            return make_result(query, hit, boxes, scores)
        rows, its = verification.matches.T
        return make_result(query, hit, boxes, scores, verification.transform, rows, other.positions[its])

    def _fill(
        self,
        writer: Writer,
        listing: Listing,
        workers: int | Describers | None,
        max_pixels: int,
        progress: Progress | None,
    ) -> Report:
        if listing.pending:
            self._threads.submit(self.prepare)  # while pictures are described
        return build.fill(
            self.index,
            writer,
            self.recipe,
            listing,
            words=self.index.settings.get("words"),
            bits=self.index.settings.get("bits"),
            workers=_describers(workers),
            max_pixels=max_pixels,
            progress=progress or (lambda stage, done, total: None),
        )


def open_index(folder: PathLike, *, create: bool = False, **settings: Any) -> Engine:
    """Open the index in a folder.

    Args:
        folder: of the index.
        create: make an empty one where there is none.
        settings: how to make it, see :meth:`Engine.create`; of an index that is there they change nothing.

    Raises:
        StoreError: there is no index and ``create`` is not given, or it is damaged or of another format.
    """
    if create and not Index.exists(Path(os.fsdecode(folder))):
        return Engine.create(folder, **settings)
    return Engine.open(folder)


def learn_codebook(
    folder: PathLike,
    words: int,
    *,
    bits: int | None = None,
    regions: str = REGIONS,
    features: str = FEATURES,
    max_side: int = MAX_SIDE,
    workers: int | Describers | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Codebook:
    """Learn visual words from a folder of photos, to use for other collections; arguments as in :class:`Engine`.

    There are fewer than ``words`` where the pictures have not 16 features for each.

    Raises:
        StoreError: the folder holds no pictures that can be used.
    """
    root = _absolute(folder)
    files = list(find_objects(root) if is_url(root) else find_pictures(Path(root)))
    if not files:
        raise StoreError(f"{display_path(folder)}: no pictures there")
    chosen = np.sort(np.random.default_rng(0).permutation(len(files))[: sample_size(words)])
    return learn_words(
        Recipe(pinned_regions(regions), pinned_features(features), max_side, VERIFY_FEATURES),
        [files[row] for row in chosen],
        words,
        bits=bits,
        staging=None,
        workers=_describers(workers),
        max_pixels=max_pixels,
        progress=progress or (lambda stage, done, total: None),
    )


def codebook_from(path: PathLike) -> Codebook:
    """Read the visual words of a codebook file or of an index folder, which has made them unless they say otherwise.

    Raises:
        CodebookError: the file is missing or no codebook.
        StoreError: the folder is no index, or has no words yet.
    """
    source = Path(os.fsdecode(path))
    if not source.is_dir():
        return Codebook.load(source)
    with Engine.open(source) as engine:
        if engine.index.codebook is None:
            raise StoreError(f"{source}: this index has no visual words yet")
        book, recipe = engine.index.codebook, engine.recipe
        return replace(book, origin=book.origin or Origin(recipe.features, recipe.regions, recipe.max_side, None, None))


def whole_features(query: Description) -> Features:
    """Return the features of a query's box, without those of regions inside it."""
    return query.features if len(query.boxes) == 1 else query.features.take(query.regions == 0)


def _by_inliers(result: Result) -> tuple[bool, int, float]:
    """Sort what was verified by (inliers, score), then the others: they have no inliers, and lower scores."""
    return result.inliers is None, -(result.inliers or 0), -result.score


def _check_counts(top: int, verify: int, expand: int, diffuse: bool) -> None:
    if top < 1 or verify < 0 or expand < 0:
        raise ValueError("top must be 1 or more, verify and expand 0 or more")
    if diffuse and not (verify and expand):
        raise ValueError("diffusion starts from verified results that expand a query: both must be 1 or more")


def _absolute(path: PathLike) -> str:
    name = os.fsdecode(path)
    return name if is_url(name) else os.path.abspath(name)


def _picture_files(pictures: Iterable[PathLike], hidden: list[OSError]) -> Iterator[PictureFile]:
    """Yield files with their sizes and times, and note why others cannot be looked at."""
    for picture in pictures:
        try:
            yield picture_file_at(_absolute(picture))
        except OSError as error:
            hidden.append(error)


def _is_gone(row: PictureRow) -> bool:
    """Say whether a picture that was not listed has no file: not every file that is there is listed.

    A storage is believed: it would have to be asked for each.
    """
    return is_url(row.path) or is_gone(row.path)


def _let_go(writer: Writer, gone: Sequence[PictureRow], prune: bool) -> None:
    """Mark pictures without files as missing, or remove them; of a file that was skipped there is nothing to keep."""
    writer.remove(gone if prune else [row for row in gone if row.segment is None])
    if not prune:
        writer.mark_missing([row for row in gone if row.segment is not None])


def _tell_of(report: Report, gone: Sequence[PictureRow], pruned: bool) -> None:
    pictures = [row for row in gone if row.segment is not None]
    report.vanished.update(os.path.dirname(row.path) for row in pictures)
    if pruned:
        report.removed = len(pictures)
    else:
        report.missing = len(pictures)


def _describers(workers: int | Describers | None) -> Describers:
    return LocalWorkers(workers) if workers is None or isinstance(workers, int) else workers


def _unreadable(error: OSError) -> tuple[str, str]:
    return str(error.filename), f"cannot be read: {error.strerror}"
