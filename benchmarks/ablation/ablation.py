"""Variants of the paper's configuration, each alone and the best together, on one data set and in one table."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from benchmarks.ablation.global_descriptors import (
    GlobalDescriptors,
    GlobalSearch,
    Look,
    mixed,
    pool_benchmark,
    without_map,
)
from benchmarks.ablation.variants import (
    Pooled,
    Pooling,
    Weigh,
    alpha_expansion,
    as_regions,
    augment,
    float_scores,
    hamming_expansion,
    learned_thresholds,
    logistic,
    pool,
    power,
    signs,
    unpacked_signs,
    weighed_scores,
)
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook, load_codebook
from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import KERNELS, Aggregated, Assigned, assign, first_regions, local_codes
from d2r.defaults import EXPAND, VERIFY
from d2r.describe import Description, assign_words, describe_query
from d2r.evaluate.benchmark import Benchmark, BenchmarkError, QueryPicture
from d2r.evaluate.extraction import Extraction, extract, map_pictures
from d2r.evaluate.methods import Inverted, invert, sums_by_distance
from d2r.evaluate.metrics import mean_average_precision
from d2r.evaluate.ranker import picture_rows
from d2r.evaluate.run import KS, Row, Setup, codebook_file, ignored_pictures
from d2r.expand import MIN_PARTS_WITH_WORD, inside, join, sign_sums, similarities
from d2r.features import make_extractor, pinned_features, precise_kinds
from d2r.images import decode_image
from d2r.index import PictureRow
from d2r.indexing.entry import Progress, Recipe, prepare_worker, read_description, verified_rows, write_description
from d2r.options import SearchOptions
from d2r.regions import make_selector, pinned_regions
from d2r.search import Candidate, Query, Ranking, Verified, parts_inside, search, verify_keypoints, whole_features
from d2r.support.files import display_path, read_bytes
from d2r.support.processes import WorkerDied, map_in_processes
from d2r.verify.keypoints import Keypoints, make_keypoints
from d2r.verify.verify import NEAREST

_KERNEL = KERNELS["r-asmk*"]
_PLAIN = Pooling()


@dataclass(frozen=True)
class Variant:
    """One row of the ablation; the defaults are R-ASMK* with verification.

    Attributes:
        name: of the row.
        pooling: pooling of the database and of the query.
        regions: whether the query has regions too (symmetric R-AMK).
        floats: whether the query's vectors stay real-valued.
        weigh: the selectivity; None is the cube of positive products.
        deviations: learn a threshold per word, see :func:`benchmarks.ablation.variants.learned_thresholds`.
        between: burstiness between pictures, see :func:`benchmarks.ablation.variants.weighed_scores`.
        verified: whether the best results are ordered by inliers.
        expansion: how confirmed results expand the query for the second search ("none": not at all, so that only
            diffusion acts).
        augmented: number of neighbours joined to each picture of the database.
        diffuse: whether to re-rank by diffusion from the confirmed results.
        look: comparison by global descriptors, instead of R-ASMK* or together with it.
    """

    name: str
    pooling: Pooling = _PLAIN
    regions: bool = False
    floats: bool = False
    weigh: Weigh | None = None
    deviations: float | None = None
    between: float = 0.0
    verified: bool = True
    expansion: Literal["none", "average", "alpha", "whole", "hamming", "regions", "join"] | None = None
    augmented: int = 0
    diffuse: bool = False
    look: Look | None = None

    @property
    def options(self) -> SearchOptions:
        """The search options of this variant; the search returns every picture."""
        expand = EXPAND if self.expansion is not None else 0
        return SearchOptions(verify=VERIFY if self.verified else 0, expand=expand, diffuse=self.diffuse)


_CUBE = power(_KERNEL.alpha)

VARIANTS: tuple[Variant, ...] = (
    Variant("r-asmk*"),
    Variant("r-asmk*, not verified", verified=False),
    Variant("regions weighed by detector score", pooling=Pooling(by_score=True)),
    Variant("query regions (symmetric R-AMK)", regions=True),
    Variant("query regions, weighed by score", regions=True, pooling=Pooling(by_score=True)),
    Variant("burstiness within pictures", pooling=Pooling(burst=0.5)),
    Variant("burstiness between pictures", weigh=_CUBE, between=0.5),
    Variant("threshold of each word, mean + 1 sd", deviations=1.0),
    Variant("threshold of each word, mean + 2 sd", deviations=2.0),
    Variant("float query (asymmetric)", floats=True, weigh=_CUBE),
    Variant("alpha 2", weigh=power(2.0)),
    Variant("alpha 4", weigh=power(4.0)),
    Variant("alpha 3, tau 0.2", weigh=power(3.0, 0.2)),
    Variant("logistic, slope 20 at 0.4", weigh=logistic(20.0, 0.4)),
    Variant("64 bits", pooling=Pooling(bits=64)),
    Variant("128 bits, rotated", pooling=Pooling(bits=128)),
    Variant("256 bits", pooling=Pooling(bits=256)),
    Variant("average query expansion", expansion="average"),
    Variant("alpha query expansion, 0.5", expansion="alpha"),
    Variant("Hamming query expansion", expansion="hamming"),
    Variant("verified features as regions", expansion="regions"),
    Variant("join of whole results", expansion="whole"),
    Variant("database augmentation, 5", augmented=5),
    Variant("diffusion", expansion="none", diffuse=True),
    Variant("join", expansion="join"),
    Variant("join, diffusion", expansion="join", diffuse=True),
    Variant("join, query regions", expansion="join", regions=True),
    Variant("join, float query", expansion="join", floats=True, weigh=_CUBE),
    Variant("join, query regions, diffusion", expansion="join", regions=True, diffuse=True),
)
"""The rows: the paper's configuration, what was tried, each alone, and the winners together."""

GLOBAL_VARIANTS: tuple[Variant, ...] = (
    Variant("GeM, not verified", look=Look("gem"), verified=False),
    Variant("GeM", look=Look("gem")),
    Variant("R-MAC, not verified", look=Look("rmac"), verified=False),
    Variant("R-MAC", look=Look("rmac")),
    Variant("GeM of each region, not verified", look=Look("gem", regions=True), verified=False),
    Variant("GeM of each region", look=Look("gem", regions=True)),
    Variant("hybrid: sum with GeM", look=Look("gem", mix="sum")),
    Variant("hybrid: sum with GeM of each region", look=Look("gem", regions=True, mix="sum")),
    Variant("late fusion with GeM", look=Look("gem", mix="ranks")),
    Variant("late fusion with GeM of each region", look=Look("gem", regions=True, mix="ranks")),
)
"""Rows of global descriptors, of features whose network gives its map."""


@dataclass(frozen=True)
class _Kept:
    """One picture: its signs by pooling, number of regions, keypoints, features for expansion, and longer side."""

    signs: dict[Pooling, Aggregated]
    regions: int
    keypoints: Keypoints
    local: LocalCodes
    side: int


def ablate(
    benchmark: Benchmark,
    recipe: Recipe,
    cache: Path,
    *,
    num_words: int,
    codebook: Codebook | None,
    workers: int,
    max_pixels: int,
    progress: Progress,
) -> list[Row]:
    """Return a row for each of :data:`VARIANTS`; its milliseconds are of search, verification and expansion together.

    Those of :data:`GLOBAL_VARIANTS` follow unless
    :func:`benchmarks.ablation.global_descriptors.without_map` has a reason.

    Args:
        benchmark: the data set.
        recipe: how pictures and queries are described.
        cache: see :func:`d2r.evaluate.run.evaluate`.
        num_words: size of the codebook.
        codebook: visual words; None learns them from the database.
        workers: processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the progress.
    """
    pinned = replace(recipe, regions=pinned_regions(recipe.regions), features=pinned_features(recipe.features))
    extraction = extract(
        replace(benchmark, queries=()), recipe, cache, workers=workers, max_pixels=max_pixels, progress=progress
    )
    known = next(file for file in extraction.files if file is not None)
    queries = describe_queries(
        benchmark, pinned, known.parent / "queries", workers=workers, max_pixels=max_pixels, progress=progress
    )
    file = codebook_file(benchmark, extraction, Setup(recipe, (), num_words, VERIFY), cache, codebook, progress)
    poolings = tuple(dict.fromkeys(variant.pooling for variant in VARIANTS))
    keep = partial(_keep, file, poolings, recipe.verify_features)
    kept: list[_Kept] = []
    for _, one in map_in_processes(keep, extraction.files, workers=workers, prepare=prepare_worker):
        if isinstance(one, WorkerDied):
            raise BenchmarkError(f"the process that aggregated a picture {one}; is there memory left?")
        kept.append(one)
        progress("aggregate", len(kept), len(extraction.files))
    variants, pooled = VARIANTS, None
    if without_map(recipe.features) is None:
        variants += GLOBAL_VARIANTS
        pooled = pool_benchmark(
            benchmark, pinned, extraction.files, queries, known.parent / "pooled", workers=workers,
            max_pixels=max_pixels, progress=progress,
        )  # fmt: skip
    table = _Ablation(benchmark, recipe, extraction, queries, Codebook.load(file), kept, pooled)
    rows = []
    for done, variant in enumerate(variants, start=1):
        rows.append(table.row(variant))
        progress("compare", done, len(variants))
    return rows


def _keep(codebook: Path, poolings: Sequence[Pooling], verify_features: int, file: Path | None) -> _Kept:
    book = load_codebook(codebook)
    if file is None:
        nothing = assign(book, np.zeros((0, book.dim), np.float32))
        one = np.ones(1, np.float32)
        local = LocalCodes.empty(book.bits)
        return _Kept({key: signs(pool(nothing, one, key)) for key in poolings}, 1, Keypoints.empty(book.dim), local, 1)
    description = read_description(file)
    assigned = _assigned(book, description)
    rows = verified_rows(description, verify_features)
    keypoints = make_keypoints(description.features.take(rows), book)
    return _Kept(
        {key: signs(pool(assigned, description.box_scores, key)) for key in poolings},
        len(description.boxes),
        keypoints,
        local_codes(assigned, rows[keypoints.rows]),
        max(description.width, description.height),
    )


def _assigned(book: Codebook, description: Description) -> Assigned:
    return assign_words(book, description)


class _Ablation:
    """A benchmark's pictures and queries, with the data that several variants share."""

    def __init__(
        self,
        benchmark: Benchmark,
        recipe: Recipe,
        extraction: Extraction,
        queries: Sequence[Description],
        book: Codebook,
        kept: Sequence[_Kept],
        pooled: tuple[list[GlobalDescriptors], list[GlobalDescriptors]] | None,
    ) -> None:
        self._benchmark, self._recipe, self._extraction, self.book = benchmark, recipe, extraction, book
        self._queries, self.kept, self._pooled = queries, kept, pooled
        self.precise = precise_kinds(recipe.features)
        self.rows = picture_rows([str(path) for path in benchmark.database], kept)
        self._assigned = [_assigned(book, query) for query in queries]
        self._keypoints = [make_keypoints(whole_features(query), book, nearest=NEAREST) for query in queries]
        # for each query and verified picture: the verification, and its seconds
        self._verified: list[dict[int, tuple[Verified, float]]] = [{} for _ in queries]
        self._similarity: NDArray[np.float32] | None = None
        self._searches: dict[tuple[str, bool], GlobalSearch] = {}

    def row(self, variant: Variant) -> Row:
        """Rank and score every query with a variant."""
        pictures = [one.signs[variant.pooling] for one in self.kept]
        if variant.augmented:
            pictures = augment(pictures, self._similarities(), variant.augmented, 0.5)
        scorer = _Scorer(variant, invert([[one] for one in pictures], _KERNEL, self.book.num_words))
        look = variant.look
        local = (len(pictures), scorer.database.descriptor_bytes)
        if look is None:
            stored, regional = [local], True
        else:
            seen = self._global(look)  # computed here, so that no query is timed with it
            stored = [(seen.descriptors, seen.descriptor_bytes), *([] if look.alone else [local])]
            regional = look.regions or not look.alone
        rankings, times = [], []
        for query in range(len(self._queries)):
            ranking, seconds = self._search(variant, query, scorer, pictures)
            rankings.append(ranking)
            times.append(seconds)
        scores = {
            protocol: mean_average_precision(rankings, truth, KS)
            for protocol, truth in self._benchmark.relevance.items()
        }
        return Row(
            method=variant.name,
            regions=self._recipe.regions if regional else "whole",
            num_words=self.book.num_words,
            stage="expanded" if variant.expansion else "verified" if variant.verified else "ranked",
            scores=scores,
            regions_per_picture=float(np.mean([one.regions for one in self.kept])) if regional else 1.0,
            descriptors_per_picture=sum(count for count, _ in stored) / len(pictures),
            bytes_per_picture=sum(size for _, size in stored) / len(pictures),
            milliseconds=1000 * float(np.median(times)),
        )

    def _search(
        self, variant: Variant, number: int, scorer: _Scorer, pictures: Sequence[Aggregated]
    ) -> tuple[NDArray[np.int64], float]:
        """Return the ranking of one query, and its seconds."""
        description = self._queries[number]
        assigned = self._assigned[number] if variant.regions else first_regions(self._assigned[number], 1)
        pooled = pool(assigned, description.box_scores[: assigned.region_count], variant.pooling)
        ranker = _VariantRanker(self, variant, number, scorer, pictures, assigned, pooled if variant.floats else None)
        found = search(
            ranker,
            Query(description, signs(pooled), self._keypoints[number]),
            replace(variant.options, top=len(pictures)),
            ignored=ignored_pictures(self._benchmark, number),
        )
        seconds = found.seconds["search"] + found.seconds.get("expand", 0.0) + ranker.verify_s
        return np.array([one.picture.id for one in found.candidates], np.int64), seconds

    def scores(
        self, variant: Variant, query: int, scorer: _Scorer, own: Aggregated, floats: Pooled | None
    ) -> NDArray[np.floating]:
        """Return the similarity of a query to every picture, (N,)."""
        if variant.look is None:
            return scorer.scores(own, floats)
        seen = self._global(variant.look).scores(query)
        if variant.look.alone:
            return seen
        local = scorer.scores(own, floats) * np.float32(max(len(own), 1) ** -0.5)
        return mixed(local, seen, variant.look)

    def verified(self, query: int, picture: int) -> tuple[Verified, float]:
        """Return the verification of a picture for a query, and the seconds it took the first variant."""
        known = self._verified[query]
        if picture not in known:
            one = self.kept[picture]
            started = time.perf_counter()
            found = verify_keypoints(
                self._keypoints[query], one.keypoints, bits=self.book.dim, side=one.side, max_side=self._recipe.max_side
            )
            known[picture] = found, time.perf_counter() - started
        return known[picture]

    def features_inside(self, query: int, picture: int) -> Assigned:
        """Return the features of a confirmed picture and its regions that lie inside the transformed query box."""
        file = self._extraction.files[picture]
        transform = self.verified(query, picture)[0].transform
        assert file is not None
        assert transform is not None
        features = read_description(file).features
        x1, y1, x2, y2 = self._queries[query].boxes[0].tolist()
        return assign(self.book, features.descriptors[inside(features.positions, transform, (x1, y1, x2, y2))])

    def _global(self, look: Look) -> GlobalSearch:
        assert self._pooled is not None
        key = look.pooling, look.regions
        if key not in self._searches:
            self._searches[key] = GlobalSearch(look, *self._pooled)
        return self._searches[key]

    def _similarities(self) -> NDArray[np.float32]:
        if self._similarity is None:
            self._similarity = similarities([one.signs[_PLAIN] for one in self.kept])
        return self._similarity


class _VariantRanker:
    """The database of a variant, for one query (:class:`d2r.search.Ranker`).

    Attributes:
        verify_s: seconds that verification takes.
    """

    def __init__(
        self,
        table: _Ablation,
        variant: Variant,
        number: int,
        scorer: _Scorer,
        pictures: Sequence[Aggregated],
        assigned: Assigned,
        floats: Pooled | None,
    ) -> None:
        self._table, self._variant, self._number, self._scorer = table, variant, number, scorer
        self._pictures, self._assigned, self._floats = pictures, assigned, floats
        self.verify_s = 0.0
        self.precise = table.precise

    def rank(self, query: Query, top: int) -> Ranking:
        scores = self._table.scores(self._variant, self._number, self._scorer, query.descriptor, self._floats)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] != 0][:top]
        return Ranking([Candidate(self._table.rows[row], float(scores[row])) for row in order])

    def verify(
        self, query: Query, pictures: Sequence[PictureRow], stopped: Callable[[], bool]
    ) -> Sequence[Verified | None]:
        found = [self._table.verified(self._number, picture.id) for picture in pictures]
        self.verify_s += sum(seconds for _, seconds in found)
        return [one for one, _ in found]

    def expand(self, query: Query, confirmed: Sequence[Candidate]) -> Query:
        if self._variant.expansion == "none":
            return query
        own, variant = query.descriptor, self._variant
        numbers = [one.picture.id for one in confirmed]
        results = [self._pictures[number] for number in numbers]
        if variant.expansion == "average":
            return replace(query, descriptor=join(own, results, min_parts=1))
        if variant.expansion == "whole":
            return replace(query, descriptor=join(own, results))
        if variant.expansion == "alpha":
            joined = alpha_expansion(own, results, [one.score for one in confirmed], 0.5)
            self._floats = joined
            return replace(query, descriptor=signs(joined))
        if variant.expansion == "join":
            kept = [self._table.kept[number] for number in numbers]
            parts = parts_inside(
                query, [(a, b.keypoints.positions, b.local) for a, b in zip(confirmed, kept, strict=True)]
            )
            if variant.floats:
                self._floats = sign_sums([own, *parts], [1.0] * (1 + len(parts)), MIN_PARTS_WITH_WORD)
            return replace(query, descriptor=join(own, parts))
        found = [self._table.features_inside(self._number, number) for number in numbers]
        if variant.expansion == "hamming":
            return replace(query, descriptor=hamming_expansion(self._assigned, found))
        every = as_regions(self._assigned, found)
        return replace(query, descriptor=signs(pool(every, np.ones(every.region_count, np.float32), variant.pooling)))

    def similarities(self, pictures: Sequence[PictureRow]) -> NDArray[np.float32]:
        return similarities([self._pictures[picture.id] for picture in pictures])


class _Scorer:
    """How a variant scores a database."""

    def __init__(self, variant: Variant, database: Inverted) -> None:
        self.database = database
        self._unpacked = unpacked_signs(database) if variant.floats or variant.expansion == "alpha" else None
        self._between = variant.between
        self._weigh = variant.weigh or _CUBE
        if variant.deviations is not None:
            self._weigh = learned_thresholds(database, variant.deviations)
        self._table = None
        if (
            variant.deviations is None and not variant.between
        ):  # equal for all words: computed by distance, as in the index
            blocks = database.vectors.shape[1]
            products = np.asarray(1.0 - 2.0 * np.arange(blocks * 64 + 1) / database.dim, np.float32)
            self._table = self._weigh(products, 0)

    def scores(self, query: Aggregated, floats: Pooled | None) -> NDArray[np.float32]:
        """Return the similarity of a query to every picture, up to a factor per query, float32 (N,).

        ``floats`` are the query's real values; None compares the signs.
        """
        if floats is not None and self._unpacked is not None:
            return float_scores(floats, self.database, self._unpacked, self._weigh)
        if self._table is not None:
            return sums_by_distance(query, self.database, self._table) * self.database.g
        return weighed_scores(query, self.database, self._weigh, self._between)


def describe_queries(
    benchmark: Benchmark, recipe: Recipe, folder: Path, *, workers: int, max_pixels: int, progress: Progress
) -> list[Description]:
    """Describe the queries with the regions selected inside their boxes.

    Args:
        benchmark: the data set.
        recipe: how to describe, with pinned models.
        folder: cache of descriptions, by the content of the picture and the box.
        workers: processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the progress; the stage is "queries".

    Raises:
        BenchmarkError: the process that read a query died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ask = partial(_describe_query, recipe, max_pixels, folder)
    return map_pictures(ask, benchmark.queries, lambda query: query.path, "queries", workers=workers, progress=progress)


def _describe_query(recipe: Recipe, max_pixels: int, folder: Path, query: QueryPicture) -> Description:
    data = read_bytes(str(query.path))
    file = folder / f"{hashlib.blake2b(data + repr(query.box).encode(), digest_size=16).hexdigest()}.safetensors"
    if file.exists():
        return read_description(file)
    image = decode_image(data, name=display_path(query.path), max_pixels=max_pixels)
    selector, extractor = make_selector(recipe.regions), make_extractor(recipe.features)
    made = describe_query(image, query.box, extractor, max_side=recipe.max_side, selector=selector)
    write_description(made, file)
    return made
