"""Commands that measure: evaluate, evaluate-detector, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.printing import too_many
from d2r.cli.terminal import Force, MaxPixels, Workers, out, progress_bars, say
from d2r.defaults import (
    EXPAND,
    FEATURES,
    MAX_PIXELS,
    MAX_SIDE,
    REGIONS,
    VERIFY,
    VERIFY_FEATURES,
)
from d2r.support.files import (
    check_no_index,
    check_output,
    display_path,
    is_our_json,
    is_our_png,
    is_our_svg,
)

if TYPE_CHECKING:
    from d2r.evaluate.detector import SourceScores
    from d2r.report import tables

_WORST = 24


def evaluate_detector(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="LABELS[=PICTURES]: a folder of landmark boxes (its validation boxes), a COCO file (.json), or a"
            " composed set; and the folder of its pictures, if that is a different one.",
        ),
    ],
    regions: Annotated[
        str,
        typer.Option(
            help="What to evaluate: detector:model=FILE.onnx, or any other region selector, for example rmac:levels=2."
            " For a detector, threshold=0.01 and top=100 are the defaults: average precision needs boxes of low"
            " confidence too."
        ),
    ] = REGIONS,
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON.")] = None,
    failures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Also write the {_WORST} worst failures as one PNG: true boxes in green, the best detection in red.",
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option(help="Leave out pictures of more pixels than this.")] = MAX_PIXELS,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure how well a detector, or another region selector, finds the annotated boxes of pictures.

    AP50 is average precision at an IoU of 0.5, AP50:95 its mean over 0.5, 0.55, ..., 0.95; recall at k is the share of
    true boxes that the best k boxes of a picture find at 0.5. The time is the median per picture, already in memory.
    """
    from d2r.datasets.detection import read_validation
    from d2r.evaluate import detector
    from d2r.evaluate.run import write_json
    from d2r.regions import make_selector, pinned_regions
    from d2r.report.detections import write_sheet
    from d2r.report.tables import as_text

    for path, ours in ((file, is_our_json), (failures, is_our_png)):
        if path is not None:
            check_output(path, ours, force=force)
    spec = detector.scoring_spec(regions)
    pinned = pinned_regions(spec)
    selector = make_selector(pinned)
    read = [(source, read_validation(source)) for source in sources]
    with progress_bars() as progress:
        judged = [
            detector.judge_source(selector, source, pictures, max_pixels=max_pixels, progress=progress)
            for source, pictures in read
        ]
    figures = {"regions": pinned, "sources": [detector.detector_as_json(one) for one in judged]}
    if as_json:
        print_json("evaluate-detector", figures)
    else:
        say(spec)
        say(as_text(_table(judged)))
        for one in judged:
            for skipped, reason in one.skipped:
                say(f"skipped {skipped}: {display_path(reason)}")
    if file is not None:
        write_json(file, figures, force=force)
        if not as_json:
            say(f"figures: {display_path(file)}")
    if failures is not None:
        worst = detector.worst_failures([picture for one in judged for picture in one.judged], _WORST)
        if worst:
            write_sheet(worst, failures, max_pixels=max_pixels, force=force)
        shown = f"the {len(worst)} worst failures: {display_path(failures)}" if worst else "no failures to show"
        if not as_json:
            say(shown)


def _table(judged: list[SourceScores]) -> tables.Table:
    from d2r.report import tables

    ks = judged[0].scores.ks
    heads = ("source", "AP50", "AP50:95", *(f"recall at {k}" for k in ks), "boxes", "pictures", "skipped", "ms/picture")
    rows = tuple(
        (
            display_path(one.source),
            f"{100 * one.scores.ap50:.1f}",
            f"{100 * one.scores.ap:.1f}",
            *(f"{100 * recall:.1f}" for recall in one.scores.recall50),
            f"{one.scores.boxes:,}",
            f"{one.scores.pictures:,}",
            f"{len(one.skipped):,}",
            f"{one.milliseconds:.1f}",
        )
        for one in judged
    )
    return tables.Table("", heads, rows)


def _groups(overlapping: list[str] | None) -> list[tuple[str, ...]]:
    return [tuple(group.split(",")) for group in overlapping or []]


def evaluate_methods(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A Revisited data set (gnd_*.json|pkl|mat and jpg/), a composed set (`d2r dataset compose`), or a"
            " folder with one sub-folder per instance: each picture is a query against all others, or those of test/"
            " against train/ if both exist.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method to compare; repeatable. One of bow, vlad, asmk, asmk*, r-vlad, naive-r-asmk, r-asmk, r-asmk*,"
            " or regional search: d2r-vlad|asmk|asmk*(max|avg).",
            show_default="asmk* and r-asmk*",
        ),
    ] = None,
    regions: Annotated[str, typer.Option(help="Regions to describe besides the whole picture.")] = REGIONS,
    features: Annotated[str, typer.Option(help="Local features.")] = FEATURES,
    num_words: Annotated[
        int | None,
        typer.Option(
            "--words",
            min=1,
            help="Visual words to learn from the database; fewer if it has fewer than 16 features per word.",
            show_default="depends on the number of pictures, as in `d2r index`",
        ),
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use this codebook: a codebook file or an index.")
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Also verify this many results of each ranking, as another row; 0 turns it off.")
    ] = VERIFY,
    expand: Annotated[
        int,
        typer.Option(
            min=0, help="Also expand each query by up to this many verified results, as another row; 0 turns it off."
        ),
    ] = EXPAND,
    distractors: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures to add to the database that answer no query.")
    ] = None,
    overlapping: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Instances that show parts of each other: queries of one ignore pictures of the other.",
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the run as JSON.")] = None,
    cache: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Cache of descriptions and codebooks for the next run.")
    ] = Path("d2r-cache"),
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure the retrieval accuracy of methods on a data set with known answers."""
    from d2r.evaluate import run
    from d2r.evaluate.benchmark import load_benchmark
    from d2r.evaluate.methods import METHODS
    from d2r.indexing.codebook import choose_words, codebook_from
    from d2r.indexing.entry import Recipe
    from d2r.report.tables import accuracy_table, as_text
    from d2r.support.processes import default_workers

    methods = tuple(method or ("asmk*", "r-asmk*"))
    for name in methods:
        if name not in METHODS:
            raise typer.BadParameter(f"--method {name!r} is not known; there are: {', '.join(METHODS)}")
    if file is not None:
        check_output(file, is_our_json, force=force, inputs=[codebook])
    check_no_index(cache)
    benchmark = load_benchmark(folder, distractors=distractors, overlapping=_groups(overlapping))
    asked = choose_words(len(benchmark.database)) if num_words is None else num_words
    setup = run.Setup(Recipe(regions, features, MAX_SIDE, VERIFY_FEATURES), methods, asked, verify, expand)
    with progress_bars() as progress:
        rows, extraction = run.evaluate(
            benchmark,
            setup,
            cache,
            codebook=codebook_from(codebook) if codebook is not None else None,
            workers=default_workers() if workers is None else workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    measured = run.run_as_json(benchmark, setup, rows, extraction.skipped)
    if as_json:
        print_json("evaluate", measured)
    else:
        queries = len(benchmark.queries)
        out.print(f"{benchmark.name}: {queries:,} queries, {len(benchmark.database):,} pictures", highlight=False)
        out.print(as_text(accuracy_table(rows)), highlight=False, soft_wrap=True)
        if num_words is not None and codebook is None and rows[0].num_words < num_words:
            say(f"{rows[0].num_words:,} visual words{too_many(rows[0].num_words, num_words)}")
        for path, reason in extraction.skipped:
            say(f"skipped {path}: {reason}")
    if file is not None:
        run.write_json(file, measured, force=force)
        if not as_json:
            say(f"run: {display_path(file)}")


def reproduce_experiment(
    experiment: Annotated[
        str,
        typer.Argument(
            help="table1 (regional search by MAX and AVG against aggregation), table2 (main results, with"
            " verification), fig4a (regional search over regions), fig4b (R-ASMK* over regions) or fig5 (kernels)."
        ),
    ],
    folder: Annotated[Path, typer.Option("--dataset", metavar="DATASET", help="As in `d2r evaluate`.")],
    file: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder for the table, the figure and the run.")
    ] = Path("results"),
    num_words: Annotated[
        list[int] | None,
        typer.Option("--words", min=1, help="Sizes of the codebook.", show_default="as in the paper"),
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use this codebook: a codebook file or an index.")
    ] = None,
    features: Annotated[str, typer.Option(help="Local features.")] = FEATURES,
    distractors: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures to add to the database that answer no query.")
    ] = None,
    overlapping: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="As in `d2r evaluate`.", show_default=False)
    ] = None,
    cache: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Cache of descriptions and codebooks for the next run.")
    ] = Path("d2r-cache"),
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Run one of the paper's experiments; write a table as text, CSV and LaTeX, a figure, and the run as JSON."""
    from d2r.evaluate import reproduce as paper
    from d2r.evaluate import run
    from d2r.evaluate.benchmark import load_benchmark
    from d2r.indexing.codebook import codebook_from
    from d2r.indexing.entry import Recipe
    from d2r.report.figures import accuracy_curves, curve_files
    from d2r.report.tables import accuracy_table, as_text, is_our_table, published_table, table_files, write_tables
    from d2r.support.processes import default_workers

    if experiment not in paper.EXPERIMENTS:
        known = ", ".join(paper.EXPERIMENTS)
        raise typer.BadParameter(f"experiment {experiment!r} is not known; there are: {known}")
    chosen = paper.EXPERIMENTS[experiment]
    benchmark = load_benchmark(folder, distractors=distractors, overlapping=_groups(overlapping))
    for place in (file, cache):
        check_no_index(place)
    file.mkdir(parents=True, exist_ok=True)
    name = f"{experiment}-{benchmark.name}"
    png, svg = curve_files(file / name)
    outputs = {png: is_our_png, svg: is_our_svg} if chosen.curve else {}
    outputs |= {**dict.fromkeys(table_files(file / name), is_our_table), file / f"{name}.json": is_our_json}
    for path, ours in outputs.items():
        check_output(path, ours, force=force)
    recipe = Recipe(chosen.sweeps[0].described, features, MAX_SIDE, VERIFY_FEATURES)
    with progress_bars() as progress:
        rows = paper.reproduce(
            benchmark,
            chosen,
            recipe,
            cache,
            num_words=tuple(num_words) if num_words else None,
            codebook=codebook_from(codebook) if codebook is not None else None,
            workers=default_workers() if workers is None else workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    setup = run.Setup(recipe, chosen.methods, rows[0].num_words, chosen.verify)
    measured = run.run_as_json(benchmark, setup, rows, ())
    counts = f"{len(benchmark.queries):,} queries, {len(benchmark.database):,} pictures"
    table = accuracy_table(rows, f"{chosen.title} ({benchmark.kind} set {benchmark.name}: {counts})")
    if as_json:
        print_json("reproduce", measured)
    else:
        out.print(escape(as_text(table)), highlight=False, soft_wrap=True)
        if benchmark.kind == "revisited" and benchmark.name in paper.PUBLISHED:
            published = published_table(paper.PUBLISHED[benchmark.name])
            out.print(escape("\n" + as_text(published)), highlight=False, soft_wrap=True)
        learned = {row.num_words for row in rows}
        for size in num_words or chosen.num_words if codebook is None else ():
            if size not in learned:
                say(f"{max(count for count in learned if count < size):,} visual words{too_many(0, size)}")
    written = write_tables(table, file / name, force=force)
    if chosen.curve:
        written += accuracy_curves(rows, chosen.title, file / name, force=force)
    run.write_json(file / f"{name}.json", measured, force=force)
    if not as_json:
        for path in (*written, file / f"{name}.json"):
            say(display_path(path))
