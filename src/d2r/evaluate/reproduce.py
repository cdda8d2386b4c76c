"""The paper's experiments by name: what each compares, and how it is run.

An experiment sets regions, words and the number of verified pictures as in the paper, instead of :mod:`d2r.defaults`.
Everything else, such as the local features, which cannot be the paper's, has the defaults of an index unless it is
given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2r.asmk.codebook import Codebook
from d2r.evaluate.benchmark import Benchmark
from d2r.evaluate.extraction import extract
from d2r.evaluate.run import Row, Setup, codebook_file, compare
from d2r.indexing.entry import Progress, Recipe, check_codebook
from d2r.search import Verified


@dataclass(frozen=True)
class Sweep:
    """Region selectors that differ in how many regions they choose.

    Attributes:
        described: specification that pictures are described with, once.
        used: specifications to compare, each selecting from those regions.
    """

    described: str
    used: tuple[str, ...]


RMAC_SWEEP = Sweep("rmac:levels=3", tuple(f"rmac:levels={levels}" for levels in (1, 2, 3)))
SELECTIVE_SEARCH_SWEEP = Sweep("selective-search:top=10", tuple(f"selective-search:top={top}" for top in (1, 2, 5, 10)))
_ONE = Sweep("rmac:levels=3", ("rmac:levels=2",))


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        title: title of the experiment.
        methods: the methods to compare; the first is the baseline.
        sweeps: the regions to compare.
        num_words: sizes of the codebook.
        verify: number of pictures of each ranking to verify in addition; 0 for none.
        curve: whether to plot accuracy over the number of regions.
    """

    title: str
    methods: tuple[str, ...]
    sweeps: tuple[Sweep, ...]
    num_words: tuple[int, ...] = (1024,)
    verify: int = 0
    curve: bool = False


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "Regional search pooled by MAX and AVG, against aggregation",
        ("asmk*", "d2r-asmk*(max)", "d2r-asmk*(avg)", "r-asmk*", "vlad", "d2r-vlad(max)", "d2r-vlad(avg)", "r-vlad"),
        (_ONE,),
    ),
    "table2": Experiment(
        "The headline configuration, with and without verification",
        ("asmk*", "r-asmk*"),
        (_ONE,),
        num_words=(1024, 65536),
        verify=100,
    ),
    "fig4a": Experiment(
        "Regional search: each region stored separately, similarity MAX over regions",
        ("asmk*", "d2r-asmk*(max)"),
        (RMAC_SWEEP, SELECTIVE_SEARCH_SWEEP),
        curve=True,
    ),
    "fig4b": Experiment(
        "Regional aggregation: one R-ASMK* descriptor per picture",
        ("asmk*", "r-asmk*"),
        (RMAC_SWEEP, SELECTIVE_SEARCH_SWEEP),
        curve=True,
    ),
    "fig5": Experiment(
        "Aggregation kernels on the same regions",
        ("asmk*", "r-asmk*", "asmk", "r-asmk", "naive-r-asmk", "vlad", "r-vlad", "bow"),
        (_ONE,),
    ),
}
"""The experiments by name. A trained detector is added to the sweeps of regions if there is one."""

PUBLISHED = {
    "roxford5k": {
        "DELF-ASMK* + verification": {"medium": 67.8, "hard": 43.1},
        "DELF-R-ASMK* + verification": {"medium": 76.0, "hard": 52.4},
    },
    "rparis6k": {
        "DELF-ASMK* + verification": {"medium": 76.9, "hard": 55.4},
        "DELF-R-ASMK* + verification": {"medium": 80.2, "hard": 58.6},
    },
}
"""mAP that the paper reports with 65,536 words, DELF features and its trained detector, for comparison."""


def reproduce(
    benchmark: Benchmark,
    experiment: Experiment,
    recipe: Recipe,
    cache: Path,
    *,
    num_words: tuple[int, ...] | None,
    codebook: Codebook | None,
    workers: int,
    max_pixels: int,
    progress: Progress,
) -> list[Row]:
    """Run an experiment and return its rows without repeats, such as those of a baseline without regions.

    Args:
        benchmark: the data set.
        experiment: one of :data:`EXPERIMENTS`.
        recipe: how pictures are described; its regions are replaced by those of the sweeps.
        cache: see :func:`d2r.evaluate.run.evaluate`.
        num_words: sizes of the codebook; None takes those of the experiment.
        codebook: visual words to use; None learns them from the database.
        workers: number of processes.
        max_pixels: see :func:`d2r.images.read_image`.
        progress: called with the stage, the number done and the total.

    Raises:
        BenchmarkError: a query cannot be used.
        d2r.asmk.codebook.CodebookError: the codebook was learned from other features.
    """
    if codebook is not None:
        check_codebook(codebook, recipe)
    rows: list[Row] = []
    sizes = num_words or experiment.num_words if codebook is None else (codebook.num_words,)
    verified: dict[int, list[dict[int, Verified]]] = {size: [{} for _ in benchmark.queries] for size in sizes}
    books: dict[int, Path] = {}
    for sweep in experiment.sweeps:
        recipe = Recipe(sweep.described, recipe.features, recipe.max_side, recipe.verify_features)
        extraction = extract(benchmark, recipe, cache, workers=workers, max_pixels=max_pixels, progress=progress)
        for size in sizes:
            setup = Setup(recipe, experiment.methods, size, experiment.verify)
            if size not in books:  # one codebook for all sweeps, so that only the regions differ
                books[size] = codebook_file(benchmark, extraction, setup, cache, codebook, progress)
            for used in sweep.used:
                rows += compare(
                    benchmark,
                    extraction,
                    setup,
                    books[size],
                    verified[size],
                    regions=used,
                    workers=workers,
                    progress=progress,
                )
    return _without_repeats(rows)


def _without_repeats(rows: list[Row]) -> list[Row]:
    first: dict[tuple[str, str, int, str], Row] = {}
    for row in rows:
        first.setdefault((row.method, row.regions, row.num_words, row.stage), row)
    return list(first.values())
