"""The command line: parse, call the engine, print. Exit status 2 is for usage, 1 for failure."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
import webbrowser
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from d2r.cli_detector import detector_app
from d2r.cli_groups import duplicates, group
from d2r.cli_look import match_pictures, show_app
from d2r.cli_models import models_app
from d2r.cli_plan import plan
from d2r.cli_serve import serve
from d2r.cli_train import train_app
from d2r.defaults import (
    EXPAND,
    FEATURES,
    FEATURES_PER_WORD,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_WORDS,
    REGIONS,
    TOP,
    VERIFY,
    VERIFY_FEATURES,
)
from d2r.files import (
    check_no_index,
    check_output,
    display_path,
    is_our_json,
    is_our_page,
    is_our_png,
    is_our_safetensors,
    is_our_svg,
    writing,
)
from d2r.terminal import (
    Force,
    IndexArgument,
    MaxPixels,
    Ray,
    RayAddress,
    Workers,
    err,
    out,
    progress_bars,
    say,
)

if TYPE_CHECKING:
    from d2r.build import Report
    from d2r.codebook import Origin
    from d2r.datasets.landmark_sample import Sample
    from d2r.describers import Describers
    from d2r.engine import Answer, Engine
    from d2r.index import IndexSize
    from d2r.ingest import Recipe

# The engine is imported inside the commands: its libraries take a second, which --help should not cost.

app = typer.Typer(
    name="d2r",
    help="Find the same building, monument or object in a large collection of pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LeaveOutRare = Annotated[
    bool, typer.Option("--leave-out-rare", help="Leave out landmarks with fewer than four pictures.")
]


def main() -> None:
    """Run the command line; every expected failure becomes one line that says what to do."""
    try:
        app(prog_name="d2r")
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os._exit(1)
    except KeyboardInterrupt:
        _fail("stopped; what was committed stays, run the same command again to go on", status=130)
    except Exception as error:
        _explain(error)
        raise


def _explain(error: Exception) -> None:
    """Print an expected error and exit; return when it is not one, which makes it a defect to be seen whole."""
    from d2r.annotate.session import AnnotateError
    from d2r.boxes import BoxError
    from d2r.codebook import CodebookError
    from d2r.datasets.bundled import BundledError
    from d2r.datasets.detection import DetectionDataError
    from d2r.datasets.download import DownloadError
    from d2r.datasets.ground_truth import ClutterError
    from d2r.datasets.labelled import LabelledDataError
    from d2r.datasets.landmark_csv import LandmarkBoxesError
    from d2r.datasets.revisited import GroundTruthError
    from d2r.evaluate.benchmark import BenchmarkError
    from d2r.images import ImageError
    from d2r.index import StoreError
    from d2r.onnx_files import ModelError
    from d2r.registry import SpecError
    from d2r.serve.settings import ServeError
    from d2r.walk import SourceError
    from d2r.workers import WorkerStartError

    if isinstance(error, BoxError | SpecError | NotADirectoryError | SourceError):
        _fail(str(error), status=2)
    failures = (
        AnnotateError,
        BenchmarkError,
        BundledError,
        ClutterError,
        CodebookError,
        DetectionDataError,
        DownloadError,
        GroundTruthError,
        ImageError,
        LabelledDataError,
        LandmarkBoxesError,
        ModelError,
        ServeError,
        StoreError,
        WorkerStartError,
    )
    if isinstance(error, failures):
        _fail(str(error))
    if type(error).__module__.startswith(("d2r.train.", "d2r.cluster.")):  # not imported here: that takes torch, or Ray
        _fail(str(error))
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(name, "demo")
        _fail(f"{name} is not installed; install it with: pip install 'detect-to-retrieve[{extra}]'")
    if isinstance(error, OSError | sqlite3.OperationalError):
        if getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error):
            _fail("the disk is full; make room and run the same command again, it goes on where it stopped")
        _fail(str(error))


_EXTRAS = {
    **dict.fromkeys(("matplotlib", "pycocotools", "scipy"), "evaluate"),
    **dict.fromkeys(("torch", "torchvision", "onnx"), "train"),
    **dict.fromkeys(("ray", "pyarrow", "pandas", "fsspec"), "cluster"),
}
"""Module to the extra of this package that brings it."""


def _fail(message: str, *, status: int = 1) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(display_path(message))}", soft_wrap=True, highlight=False)
    raise SystemExit(status)


@app.command("index")
def index_photos(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of pictures, searched to any depth; the URL of one in object storage (s3://..., gs://...);"
            " a picture; or a text file with a path or a URL a line. Pictures are added to what the index has.",
        ),
    ],
    index: Annotated[Path, typer.Option("--out", metavar="INDEX", help="Folder of the index; made when it is new.")],
    regions: Annotated[
        str | None,
        typer.Option(
            help="Where to look beside the whole picture: whole (nowhere else), rmac:levels=1 to 3,"
            " selective-search:top=N, or detector:model=FILE.onnx,threshold=T. Fixed when the index is made.",
            show_default=f"{REGIONS}, the shipped one",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Local features: hardnet, rootsift, delf, or delf:model=FILE.onnx. Fixed when the index is made.",
            show_default=f"{FEATURES}, the shipped one",
        ),
    ] = None,
    codebook: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Visual words to use when the index is made: a codebook (.safetensors, .npy) or another index.",
        ),
    ] = None,
    words: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Visual words to learn when the index is made; fewer where there are not 16 features for each.",
            show_default="by the number of pictures",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bits of the code of a word when the index is made: 64 halve its size, and find somewhat less.",
            show_default="one a dimension of the features, 128 for what is shipped",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop pictures from the index whose files are gone from SOURCE.")
    ] = False,
    workers: Workers = None,
    ray: Ray = False,
    ray_address: RayAddress = None,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Index photos, or bring their index up to date.

    New pictures are added, changed ones described again, and the rest is not touched. Those whose files are gone, as
    when a drive is not mounted, are kept and not searched until the files are there again, which then costs nothing;
    they are dropped with --prune, or when you say so on a terminal.

    It can be stopped at any time: the same command goes on where it was. With --ray the machines of a cluster describe
    the pictures; all of them must see these under the same paths.
    """
    from d2r.engine import Engine, codebook_from
    from d2r.features import pinned_spec as pinned_features
    from d2r.index import Index
    from d2r.regions import pinned_spec
    from d2r.walk import kind_of, listed_paths

    kind = kind_of(source)
    ray = ray or ray_address is not None
    if workers is not None and ray:
        raise typer.BadParameter("--workers: with --ray there are as many as the cluster has processors")
    for option, value in (("--words", words), ("--bits", bits)):
        if codebook is not None and value is not None:
            raise typer.BadParameter(f"--codebook brings its own: give one of --codebook and {option}")
    with ExitStack() as stack:
        describers = stack.enter_context(_cluster_workers(ray_address)) if ray else workers
        if Index.exists(index):
            engine = stack.enter_context(Engine.open(index))
            wanted = {
                "regions": pinned_spec(regions) if regions is not None else None,
                "features": pinned_features(features) if features is not None else None,
            }
            _check_fixed(engine, words=words, bits=bits, codebook=codebook, **wanted)
        else:
            engine = Engine.create(
                index,
                regions=regions or REGIONS,
                features=features or FEATURES,
                words=words,
                bits=bits,
                codebook=codebook_from(codebook) if codebook is not None else None,
            )
            stack.enter_context(engine)
        progress = stack.enter_context(progress_bars())
        paths = listed_paths(Path(source)) if kind == "list" else [source]
        if kind in ("folder", "url"):
            report = engine.sync(source, prune=prune, workers=describers, max_pixels=max_pixels, progress=progress)
        else:
            report = engine.add(paths, prune=prune, workers=describers, max_pixels=max_pixels, progress=progress)
    with Engine.open(index) as engine:
        _print_report(engine, report)
        if report.missing and sys.stdin.isatty() and sys.stdout.isatty() and _confirmed("Drop them from the index?"):
            pruned = engine.prune(listed_paths(Path(source)) if kind == "list" else [source])
            out.print(f"{pruned:,} dropped", highlight=False)


def _confirmed(question: str) -> bool:
    """Ask on the terminal; whoever does not answer has said no."""
    try:
        return typer.confirm(question, default=False)
    except typer.Abort:
        return False


@contextmanager
def _cluster_workers(address: str | None) -> Iterator[Describers]:
    from d2r.cluster.connect import connected

    with connected(address):
        from d2r.cluster.describe import ClusterWorkers

        yield ClusterWorkers()


def _groups(overlapping: list[str] | None) -> list[tuple[str, ...]]:
    return [tuple(group.split(",")) for group in overlapping or []]


def _check_fixed(
    engine: Engine, *, codebook: Path | None, words: int | None, bits: int | None, **recipe: str | None
) -> None:
    """Refuse options that contradict what an index was made with."""
    from d2r.engine import codebook_from

    for option, wanted in recipe.items():
        given = getattr(engine.recipe, option)
        if wanted is not None and wanted != given:
            raise typer.BadParameter(f"--{option}: this index was made with {given}; make another index for {wanted}")
    book = engine.index.codebook
    if book is None:  # the run that made the index ended before it had words
        if (codebook, words, bits) != (None, None, None):
            engine.choose_words(codebook_from(codebook) if codebook is not None else None, words, bits)
        return
    if words is not None and words not in (book.words, engine.index.settings.get("words")):
        raise typer.BadParameter(f"--words: this index has {book.words} words; make another index for {words}")
    if bits is not None and bits != book.bits:
        raise typer.BadParameter(f"--bits: this index has codes of {book.bits} bits; make another index for {bits}")
    if codebook is not None and not codebook_from(codebook).same_as(book):
        raise typer.BadParameter("--codebook: this index has other visual words; make another index for these")


def _print_report(engine: Engine, report: Report) -> None:
    size = engine.index.size()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    changes = [
        f"{count:,} {what}"
        for count, what in (
            (report.added, "added"),
            (report.changed, "changed"),
            (report.returned, "there again"),
            (report.missing, "missing"),
            (report.removed, "dropped"),
            (report.unchanged, "unchanged"),
            (len(report.skipped), "skipped"),
        )
        if count
    ]
    table.add_row("pictures", f"{size.pictures:,}  ({', '.join(changes)})")
    learned = f"  (learned now, chosen for {size.pictures:,} pictures)" if report.words_learned else ""
    if report.words_learned and (asked := engine.index.settings.get("words")):
        learned = f"  (learned now{_too_many(size.words, asked)})"
    table.add_row("visual words", f"{size.words:,}{learned}")
    _add_sizes(table, size)
    table.add_row("time", f"{report.seconds:.1f} s{_speeds(report)}")
    out.print(table)
    if report.missing:
        out.print(f"\n[bold]{report.missing:,} missing[/]: they are kept and not searched; `--prune` drops them")
    if report.removed:
        out.print(f"\n[bold]{report.removed:,} dropped[/], whose files are gone")
    _print_vanished(report.vanished)
    for title, rows in (
        ("skipped", report.skipped),
        ("without features, so they cannot be found", [(path, "") for path in report.empty]),
    ):
        if rows:
            out.print(f"\n[bold]{len(rows):,} {title}[/]")
        for path, reason in rows:
            shown = f"  {display_path(path)}" + (f": {display_path(reason)}" if reason else "")
            say(shown)


def _print_vanished(folders: Counter[str]) -> None:
    """Say from which folders how many pictures are gone, those with the most first."""
    for folder, count in folders.most_common(_FOLDERS):
        say(f"  {count:,} from {display_path(folder)}")
    if len(folders) > _FOLDERS:
        rest = folders.total() - sum(count for _, count in folders.most_common(_FOLDERS))
        say(f"  {rest:,} from {len(folders) - _FOLDERS:,} other folders")


_FOLDERS = 10  # that are told of one by one


def _too_many(words: int, asked: int) -> str:
    """Say why there are fewer visual words than were asked for; nothing where there are not."""
    if words >= asked:
        return ""
    needed = f"{FEATURES_PER_WORD * asked:,} features, {FEATURES_PER_WORD} for each"
    return f"; {asked:,} would take {needed}, and there are fewer"


def _speeds(report: Report) -> str:
    """Say how many pictures a second each stage did, in one process."""
    speeds = [
        f"{name} {report.stage_pictures[name] / max(seconds, 1e-6):,.1f}"
        for name, seconds in report.stage_seconds.items()
        if report.stage_pictures[name]
    ]
    return f"  (pictures a second and process: {', '.join(speeds)})" if speeds else ""


def _add_sizes(table: Table, size: IndexSize) -> None:
    each = max(1, size.pictures + size.missing + size.dead)
    table.add_row(
        "bytes a picture",
        f"{size.search_bytes / each:,.0f} to search, {size.verify_bytes / each:,.0f} to verify and expand"
        f"  ({size.postings / each:,.0f} words a picture)",
    )


@app.command()
def search(
    index: IndexArgument,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="Picture that shows what to look for.")],
    box: Annotated[
        str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Look for what this box on the query shows, in pixels.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Results to give.")] = TOP,
    verify: Annotated[
        int, typer.Option(min=0, help="Check the geometry of this many best and put those that agree first.")
    ] = VERIFY,
    expand: Annotated[
        int,
        typer.Option(
            min=0, help="Search again, with the query joined with what this many confirmed results show of it."
        ),
    ] = EXPAND,
    diffuse: Annotated[
        bool, typer.Option("--diffuse", help="Put first also what is like the confirmed results.")
    ] = False,
    query_regions: Annotated[
        bool, typer.Option("--query-regions", help="Describe the query by regions too, as the pictures are.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with pictures.")] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Find the pictures that show what a picture, or a box on it, shows."""
    from d2r.boxes import parse_box
    from d2r.engine import Engine
    from d2r.images import read_image

    if diffuse and not (verify and expand):
        raise typer.BadParameter("--diffuse starts from the verified results that --expand joins: neither may be 0")
    if html is not None:
        check_output(html, is_our_page, force=force, inputs=[query])
    region = parse_box(box) if box is not None else None
    with Engine.open(index) as engine:
        picture = read_image(query, max_pixels=max_pixels)
        answer = engine.search(
            picture, box=region, top=top, verify=verify, expand=expand, diffuse=diffuse, query_regions=query_regions
        )
        if html is not None:
            from d2r.report.page import search_page, write_page

            page = search_page(
                picture,
                answer,
                query_name=display_path(query.name),
                index_name=display_path(index),
                collection=engine.index.size().pictures,
                box=region,
                max_pixels=max_pixels,
            )
            write_page(html, page, force=force)
    if as_json:
        print(json.dumps(_as_json(answer, query), indent=2))
    else:
        _print_results(answer)
        if html is not None:
            say(f"page: {display_path(html)}")


def _print_results(answer: Answer) -> None:
    if not answer.results:
        hint = "" if len(answer.query.features) else ": the query has no texture to describe"
        out.print(f"nothing found{hint}")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("inliers", justify="right")
    table.add_column("box", justify="right")
    table.add_column("path", overflow="fold")
    for rank, result in enumerate(answer.results, start=1):
        inliers = "-" if result.inliers is None else str(result.inliers)
        found = "-" if result.found is None else ",".join(f"{value:.0f}" for value in result.found)
        table.add_row(str(rank), f"{result.score:.4f}", inliers, found, escape(display_path(result.path)))
    out.print(table)
    seconds = ", ".join(f"{stage} {1000 * value:,.0f} ms" for stage, value in answer.seconds.items())
    out.print(f"[dim]{seconds}[/]", highlight=False)


def _as_json(answer: Answer, query: Path) -> dict[str, object]:
    """Return an answer for machines; a path that is not UTF-8 keeps its bytes as lone surrogates (os.fsencode)."""
    return {
        "query": {"path": os.fspath(query), "box": [round(float(value), 2) for value in answer.query.boxes[0]]},
        "seconds": answer.seconds,
        "results": [
            {
                "rank": rank,
                "score": result.score,
                "inliers": result.inliers,
                "path": result.path,
                "width": result.width,
                "height": result.height,
                "regions": [[round(float(value), 2) for value in region] for region in result.boxes],
                "transform": None if result.transform is None else result.transform.tolist(),
                "found": None if result.found is None else [round(float(value), 2) for value in result.found],
            }
            for rank, result in enumerate(answer.results, start=1)
        ],
    }


@app.command()
def info(index: IndexArgument) -> None:
    """Say what an index holds and how it was made."""
    from d2r.engine import Engine

    with Engine.open(index) as engine:
        size = engine.index.size()
        recipe, book = engine.recipe, engine.index.codebook
        origin = book.origin if book is not None else None
        skipped, missing = [], Counter[str]()
        for row in engine.index.pictures():
            if row.segment is None:
                skipped.append(row)
            elif row.missing_since is not None:
                missing[os.path.dirname(row.path)] += 1
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("pictures", f"{size.pictures:,}")
    if size.missing:
        table.add_row("missing", f"{size.missing:,}, kept and not searched until their files are there again")
    table.add_row("skipped", f"{size.skipped:,}")
    table.add_row("visual words", f"{size.words:,}" if size.words else "none yet")
    if size.words:
        table.add_row("learned from", _told(origin, recipe))
    table.add_row("regions", recipe.regions)
    table.add_row("features", recipe.features)
    table.add_row("longer side", f"{recipe.max_side} pixels at most when described")
    _add_sizes(table, size)
    table.add_row("on disk", f"{(size.search_bytes + size.verify_bytes) / 1e6:,.1f} MB in {size.segments:,} segments")
    if size.dead:
        table.add_row("dead", f"{size.dead:,} descriptors of removed or replaced pictures")
    out.print(table)
    if missing:
        out.print(f"\n[bold]{size.missing:,} missing[/]")
        _print_vanished(missing)
    if skipped:
        out.print(f"\n[bold]{size.skipped:,} skipped[/]")
    for row in skipped:
        say(f"  {display_path(row.path)}: {row.problem}")


def _told(origin: Origin | None, recipe: Recipe) -> str:
    """Say what the visual words of an index were learned from."""
    if origin is None:
        return "not recorded"
    pictures = "pictures" if origin.pictures is None else f"{origin.pictures:,} pictures"
    version = "" if origin.version is None else f", by d2r {origin.version}"
    if (origin.features, origin.regions, origin.max_side) == (recipe.features, recipe.regions, recipe.max_side):
        return f"{pictures}, described as these are{version}"
    return f"{pictures} of at most {origin.max_side} pixels, {origin.features}, {origin.regions}{version}"


@app.command()
def compact(index: IndexArgument) -> None:
    """Merge the segments of an index, and give back the disk space of removed pictures."""
    from d2r.engine import Engine

    with Engine.open(index) as engine:
        before = engine.index.size()
        with progress_bars() as progress:
            engine.compact(progress)
        after = engine.index.size()
    saved = before.search_bytes + before.verify_bytes - after.search_bytes - after.verify_bytes
    out.print(
        f"{before.segments:,} segments became {after.segments:,}; {saved / 1e6:,.1f} MB given back", highlight=False
    )


@app.command()
def check(index: IndexArgument) -> None:
    """Read all of an index and compare it with its checksums; ends with status 1 when something is damaged."""
    from d2r.engine import Engine

    with Engine.open(index) as engine, progress_bars() as progress:
        problems = engine.check(progress)
        segments = engine.index.size().segments if not problems else 0
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    out.print(f"all is well: {segments:,} segments, the visual words and the catalogue are what was written")


@app.command()
def remove(
    index: IndexArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders for all under them.")],
) -> None:
    """Remove pictures from an index; the files themselves are not touched."""
    from d2r.engine import Engine

    with Engine.open(index) as engine:
        count = engine.remove(paths)
    out.print(f"removed {count:,} from the index")


@app.command()
def pairs(
    index: IndexArgument,
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Text file to write, one pair a line.")],
    top: Annotated[int, typer.Option(min=1, help="Most similar pictures to pair each picture with.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write only pairs whose matched points agree on one change of view.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="Write names relative to this folder.", show_default="the folder that holds all pictures"),
    ] = None,
    force: Force = False,
) -> None:
    """Write the pairs of pictures worth matching, as hloc and COLMAP read them: two names a line.

    Each pair appears once. Names are relative to the folder that holds all the pictures, which is what those programs
    call the image folder.
    """
    from d2r.engine import Engine
    from d2r.pairs import is_ours, write_pairs

    check_output(file, is_ours, force=force)
    with Engine.open(index) as engine, progress_bars() as progress:
        count, folder = write_pairs(engine, file, top=top, verify=verify, root=root, progress=progress, force=force)
    out.print(
        escape(f"{count:,} pairs in {display_path(file)}, names relative to {display_path(folder)}"),
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def demo(
    photos: Annotated[
        Path | None,
        typer.Argument(metavar="[PHOTOS]", help="Folder of pictures.", show_default="a small collection of its own"),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the collection, its index and the page.")] = Path(
        "d2r-demo"
    ),
    workers: Workers = None,
    force: Force = False,
) -> None:
    """Do the whole job once, with no network: index pictures, search them, verify, write a page.

    Without a folder it composes a small collection from photographs that installed libraries bring along: six things,
    each planted in five cluttered pictures from five viewpoints. With a folder it takes a query from that.
    """
    from d2r.demo import run_demo
    from d2r.engine import Engine

    if photos is not None and not photos.is_dir():
        raise NotADirectoryError(f"{photos}: not a folder")
    with progress_bars() as progress:
        done = run_demo(photos, folder, workers=workers, progress=progress, force=force)
    with Engine.open(done.index) as engine:
        _print_report(engine, done.report)
    box = "" if done.box is None else " --box " + ",".join(f"{value:g}" for value in done.box)
    query = f"d2r search {done.index} {display_path(done.query)}{box}"
    out.print(f"\n[bold]{escape(query)}[/]", soft_wrap=True, highlight=False)
    _print_results(done.answer)
    if done.right is not None:
        out.print(f"\n{done.right_on_top} of the {len(done.right)} pictures that show it are on top", highlight=False)
    say(f"page: {display_path(done.page)}")


@app.command()
def codebook(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of pictures to learn from.")],
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Codebook to write (.safetensors).")],
    words: Annotated[
        int, typer.Option(min=1, help="How many visual words to learn; fewer where there are not 16 features for each.")
    ] = MAX_WORDS,
    bits: Annotated[
        int | None,
        typer.Option(min=1, help="Bits of the code of a word.", show_default="one a dimension of the features"),
    ] = None,
    regions: Annotated[str, typer.Option(help="Regions to describe beside the whole picture.")] = REGIONS,
    features: Annotated[
        str, typer.Option(help="Local features; the words are for indexes of the same ones.")
    ] = FEATURES,
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Learn visual words from a folder of photos, for `d2r index --codebook` and `d2r evaluate --codebook`."""
    from d2r.engine import learn_codebook

    if not photos.is_dir():
        raise NotADirectoryError(f"{photos}: not a folder")
    check_output(file, is_our_safetensors, force=force)
    with progress_bars() as progress:
        book = learn_codebook(
            photos,
            words,
            bits=bits,
            regions=regions,
            features=features,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    with writing(file, is_our_safetensors, force=force) as part:
        book.save(part)
    say(f"{book.words:,} words in {display_path(file)}{_too_many(book.words, words)}")


@app.command()
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A Revisited data set (gnd_*.json|pkl|mat and jpg/), a composed set (`d2r compose`), or a folder whose"
            " sub-folders are instances: each picture a query to the others, or test/ to train/ where there are both.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods to compare; give it several times. One of bow, vlad, asmk, asmk*, r-vlad, naive-r-asmk,"
            " r-asmk, r-asmk*, or regional search: d2r-vlad|asmk|asmk*(max|avg).",
            show_default="asmk* and r-asmk*",
        ),
    ] = None,
    regions: Annotated[str, typer.Option(help="Where to look beside the whole picture.")] = REGIONS,
    features: Annotated[str, typer.Option(help="Local features.")] = FEATURES,
    words: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Visual words, learned from the database; fewer where it has not 16 features for each.",
            show_default="by the number of pictures, as `d2r index`",
        ),
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use these visual words: a codebook file or an index.")
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Also verify so many of each ranking, and give a row for that; 0 does not.")
    ] = VERIFY,
    distractors: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures that join the database and are nobody's answer.")
    ] = None,
    overlapping: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Instances that show parts of each other: pictures of the one are ignored for queries of the other.",
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the run as JSON.")] = None,
    cache: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Descriptions and codebooks are kept here for the next run.")
    ] = Path("d2r-cache"),
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Measure how well methods find the right pictures, on a data set whose answers are known."""
    from d2r.build import choose_words
    from d2r.engine import codebook_from
    from d2r.evaluate import run
    from d2r.evaluate.benchmark import load_benchmark
    from d2r.evaluate.methods import METHODS
    from d2r.ingest import Recipe
    from d2r.report.tables import accuracy_table, as_text
    from d2r.workers import default_workers

    methods = tuple(method or ("asmk*", "r-asmk*"))
    for name in methods:
        if name not in METHODS:
            raise typer.BadParameter(f"--method {name!r} is not known; there are: {', '.join(METHODS)}")
    if file is not None:
        check_output(file, is_our_json, force=force, inputs=[codebook])
    check_no_index(cache)
    benchmark = load_benchmark(folder, distractors=distractors, overlapping=_groups(overlapping))
    asked = choose_words(len(benchmark.database)) if words is None else words
    setup = run.Setup(Recipe(regions, features, MAX_SIDE, VERIFY_FEATURES), methods, asked, verify)
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
    queries = len(benchmark.queries)
    out.print(f"{benchmark.name}: {queries:,} queries, {len(benchmark.database):,} pictures", highlight=False)
    out.print(as_text(accuracy_table(rows)), highlight=False, soft_wrap=True)
    if words is not None and codebook is None and rows[0].words < words:
        say(f"{rows[0].words:,} visual words{_too_many(rows[0].words, words)}")
    for path, reason in extraction.skipped:
        say(f"skipped {path}: {reason}")
    if file is not None:
        run.write_json(file, run.as_json(benchmark, setup, rows, extraction.skipped), force=force)
        say(f"run: {display_path(file)}")


@app.command()
def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(
            help="table1 (regional search by MAX and AVG against aggregation), table2 (headline, with verification),"
            " fig4a (regional search over regions), fig4b (R-ASMK* over regions), fig5 (kernels), or ablation (what was"
            " tried beyond the paper, on a detector's regions)."
        ),
    ],
    folder: Annotated[Path, typer.Option("--dataset", metavar="DATASET", help="As for `d2r evaluate`.")],
    file: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where to write the table, the figure and the run.")
    ] = Path("results"),
    words: Annotated[
        list[int] | None, typer.Option(min=1, help="Sizes of the codebook.", show_default="those of the paper")
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use these visual words: a codebook file or an index.")
    ] = None,
    features: Annotated[str, typer.Option(help="Local features.")] = FEATURES,
    distractors: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures that join the database and are nobody's answer.")
    ] = None,
    overlapping: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="As for `d2r evaluate`.", show_default=False)
    ] = None,
    cache: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Descriptions and codebooks are kept here for the next run.")
    ] = Path("d2r-cache"),
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Run one of the paper's experiments: a table as text, CSV and LaTeX, a figure, and the run as JSON."""
    from d2r.engine import codebook_from
    from d2r.evaluate import reproduce as paper
    from d2r.evaluate.benchmark import load_benchmark
    from d2r.evaluate.global_descriptors import without_map
    from d2r.evaluate.run import Setup, as_json, write_json
    from d2r.ingest import Recipe
    from d2r.report.figures import accuracy_curves, curve_files
    from d2r.report.tables import accuracy_table, as_text, is_our_table, published_table, table_files, write_tables
    from d2r.workers import default_workers

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
            words=tuple(words) if words else None,
            codebook=codebook_from(codebook) if codebook is not None else None,
            workers=default_workers() if workers is None else workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    counts = f"{len(benchmark.queries):,} queries, {len(benchmark.database):,} pictures"
    table = accuracy_table(rows, f"{chosen.title} ({benchmark.kind} set {benchmark.name}: {counts})")
    out.print(escape(as_text(table)), highlight=False, soft_wrap=True)
    if benchmark.kind == "revisited" and benchmark.name in paper.PUBLISHED:
        published = published_table(paper.PUBLISHED[benchmark.name])
        out.print(escape("\n" + as_text(published)), highlight=False, soft_wrap=True)
    learned = {row.words for row in rows}
    for size in words or chosen.words if codebook is None else ():
        if size not in learned:
            say(f"{max(count for count in learned if count < size):,} visual words{_too_many(0, size)}")
    written = write_tables(table, file / name, force=force)
    if chosen.curve:
        written += accuracy_curves(rows, chosen.title, file / name, force=force)
    reason = without_map(features) if chosen.ablation else None
    if reason is not None:
        say(f"left out, the rows of global descriptors: {reason}")
    setup = Setup(recipe, chosen.methods, rows[0].words, chosen.verify)
    write_json(file / f"{name}.json", as_json(benchmark, setup, rows, ()), force=force)
    for path in (*written, file / f"{name}.json"):
        say(display_path(path))


@app.command()
def compose(
    backgrounds: Annotated[Path, typer.Argument(metavar="BACKGROUNDS", help="Folder of photographs to plant in.")],
    instances: Annotated[
        list[Path],
        typer.Option(
            "--instances",
            metavar="FOLDER",
            help="Folder of things to plant: each sub-folder of photos, or each photo, is one. May be given again.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write the set.")],
    most: Annotated[
        int | None, typer.Option(min=1, help="Use at most so many things of each folder, drawn by the seed.")
    ] = None,
    difficulty: Annotated[str, typer.Option(help="easy, medium or hard.")] = "medium",
    seed: Annotated[int, typer.Option(min=0, help="The same seed and photos give the same pictures.")] = 0,
) -> None:
    """Compose a clutter benchmark: real things planted small in busy photographs, with known answers."""
    from d2r.datasets.clutter import compose_set
    from d2r.datasets.difficulty import DIFFICULTIES
    from d2r.datasets.sources import draw_instances, read_backgrounds

    if difficulty not in DIFFICULTIES:
        raise typer.BadParameter(f"--difficulty {difficulty!r} is not known; there are: {', '.join(DIFFICULTIES)}")
    chosen = [instance for place in instances for instance in draw_instances(place, most, seed)]
    with progress_bars() as progress:
        made = compose_set(DIFFICULTIES[difficulty], chosen, read_backgrounds(backgrounds), seed, folder, progress)
    counts = f"{len(made.queries):,} queries, {len(made.database):,} pictures in {display_path(folder)}"
    say(counts)
    for one in made.skipped:
        say(f"skipped {one.path}: {one.reason}")


@app.command()
def annotate(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of pictures, a sub-folder a landmark.")],
    folder: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Folder for train.csv, boxes_split1.csv and boxes_split2.csv."),
    ],
    proposals: Annotated[
        str | None,
        typer.Option(
            help="Offer these regions on each picture: rmac:levels=1, selective-search:top=3,"
            " detector:model=FILE.onnx.",
            show_default="none",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="SEED",
            help="Show four pictures of each landmark for training and four for validation, drawn by this seed.",
            show_default="show all, for training",
        ),
    ] = None,
    leave_out_rare: LeaveOutRare = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes one that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Draw at most one box on each picture, in a local web page, or mark that no landmark is prominent.

    Every decision is on disk before the page says so. Stop it with Ctrl-C; the same command goes on where it was.
    """
    from d2r.annotate.server import make_app
    from d2r.annotate.session import open_session
    from d2r.regions import make_selector, pinned_spec
    from d2r.webserver import WebServer

    if not photos.is_dir():
        raise NotADirectoryError(f"{photos}: not a folder")
    if leave_out_rare and sample is None:
        raise typer.BadParameter("--leave-out-rare says what --sample draws from; give both")
    selector = make_selector(pinned_spec(proposals)) if proposals is not None else None
    with open_session(photos, folder, sample_seed=sample, leave_out_rare=leave_out_rare) as session:
        for error in session.skipped:
            say(f"skipped {error}")
        if session.sample is not None:
            _print_sample(session.sample)
        propose = None if selector is None else lambda picture: selector.select(picture).boxes
        server = WebServer(make_app(session, propose=propose, max_pixels=max_pixels), port)
        say(f"page: {server.url}  (stop with Ctrl-C)")
        if browser:
            _open_browser(server.url)
        with suppress(KeyboardInterrupt):
            server.run()
        progress = session.progress()
    out.print(
        escape(
            f"{progress.pictures:,} pictures: {progress.boxes:,} with a box, {progress.none:,} without a prominent"
            f" landmark, {progress.open + progress.unreadable:,} not decided; written to {display_path(folder)}"
        ),
        soft_wrap=True,
        highlight=False,
    )


def _open_browser(url: str) -> None:
    """Open a page where there is a screen; a browser for terminals would take this one."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _print_sample(sample: Sample) -> None:
    shown = f"drawn: {len(sample.training):,} pictures for training, {len(sample.validation):,} for validation"
    if sample.rare:
        what = "landmark" if len(sample.rare) == 1 else "landmarks"
        shown += f"; {len(sample.rare):,} {what} with fewer than four pictures left out"
    if sample.unlabelled:
        what = "picture" if sample.unlabelled == 1 else "pictures"
        shown += f"; {sample.unlabelled:,} {what} of no known landmark left out"
    say(shown)


app.command()(serve)
app.command()(group)
app.command()(duplicates)
app.command()(plan)
app.add_typer(train_app, name="train")
dataset_app = typer.Typer(help="Fetch public data sets; look at boxes of landmarks.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")
app.add_typer(detector_app)
app.add_typer(models_app, name="models")
app.add_typer(show_app, name="show")
app.command("match")(match_pictures)


@dataset_app.command("get")
def dataset_get(
    name: Annotated[str, typer.Argument(help="roxford5k, rparis6k, r1m or landmark-boxes.")],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder that holds data sets.")] = Path(
        "data"
    ),
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, help="landmark-boxes: at most so many requests a second.", show_default="10"),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="landmark-boxes: try again what failed before.")
    ] = False,
    without_box: Annotated[bool, typer.Option("--all", help="landmark-boxes: also pictures without a box.")] = False,
) -> None:
    """Fetch the pictures and the ground truth of a data set; run it again to go on where it stopped.

    For landmark-boxes, put train.csv, boxes_split1.csv and boxes_split2.csv into FOLDER/landmark-boxes yourself: they
    are given out to people with an account only. The pictures are fetched from the addresses in them, to
    FOLDER/landmark-boxes/jpg; those that cannot be are listed in failures.csv there.
    """
    from d2r.datasets.download import NAMES, get_dataset

    if name == "landmark-boxes":
        _get_landmark_pictures(folder / name, 10.0 if rate is None else rate, retry_failed, without_box)
        return
    if name not in NAMES:
        known = ", ".join((*NAMES, "landmark-boxes"))
        raise typer.BadParameter(f"data set {name!r} is not known; there are: {known}")
    if rate is not None or retry_failed or without_box:
        raise typer.BadParameter("--rate, --retry-failed and --all are for landmark-boxes")
    with progress_bars() as progress:

        def update(file: str, done: int, total: int | None) -> None:
            progress(file, done, total or done)

        place = get_dataset(name, folder, progress=update)
    say(f"{name}: {display_path(place)}")


def _get_landmark_pictures(folder: Path, rate: float, retry_failed: bool, without_box: bool) -> None:
    from d2r.datasets.landmark_boxes import read_dataset
    from d2r.datasets.landmark_pictures import FAILURES, get_pictures

    dataset = read_dataset(folder)
    wanted = [row for row in dataset.pictures.values() if without_box or dataset.box(row.id) is not None]
    with progress_bars() as progress:
        done = get_pictures(wanted, folder, rate=rate, retry_failed=retry_failed, progress=progress)
    counts = [
        f"{count:,} {what}"
        for count, what in (
            (done.fetched, "fetched"),
            (done.there, "there before"),
            (done.without_url, "without an address"),
            (len(done.failed), "failed"),
            (done.passed_over, "failed before and not tried again (--retry-failed)"),
        )
        if count
    ]
    out.print(
        escape(f"{len(wanted):,} pictures{': ' if counts else ''}{', '.join(counts)}; {display_path(folder)}"),
        soft_wrap=True,
        highlight=False,
    )
    if done.failed or done.passed_over:
        say(f"failures: {display_path(folder / FAILURES)}")


@dataset_app.command("stats")
def dataset_stats(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of train.csv and its two files of boxes.")],
) -> None:
    """Say how many pictures and boxes a set of landmark boxes has, and how large the boxes are."""
    import numpy as np

    from d2r.datasets.landmark_boxes import read_dataset
    from d2r.datasets.landmark_statistics import landmark_statistics

    found = landmark_statistics(read_dataset(folder))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("pictures", f"{found.pictures:,}")
    table.add_row("boxes", f"{found.training:,} for training, {found.validation:,} for validation")
    table.add_row("without a box", f"{found.without_box:,}")
    table.add_row("without an address", f"{found.without_url:,}")
    table.add_row("landmarks", f"{len(found.pictures_each):,}; {found.without_landmark:,} pictures of no known one")
    if len(found.pictures_each):
        low, middle, high = np.quantile(found.pictures_each, (0, 0.5, 1))
        table.add_row("pictures a landmark", f"{low:,.0f} to {high:,.0f}, median {middle:,.0f}")
    if len(found.areas):
        low, first, middle, third, high = np.quantile(found.areas, (0, 0.25, 0.5, 0.75, 1))
        table.add_row(
            "area of the boxes",
            f"{low:.0%} to {high:.0%}, median {middle:.0%}, half of them {first:.0%} to {third:.0%}",
        )
        counts = found.area_histogram
        for k, count in enumerate(counts):
            shown = f"  {k / len(counts):.0%} to {(k + 1) / len(counts):.0%}"
            table.add_row(shown, f"{count:>7,}  {'█' * round(40 * count / counts.max())}")
    out.print(table)


@dataset_app.command("sample")
def dataset_sample(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of train.csv and its two files of boxes.")],
    folder: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where to write the same files of the sample.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
    leave_out_rare: LeaveOutRare = False,
    force: Force = False,
) -> None:
    """Draw four pictures of each landmark for training and four for validation, and leave out those without a box."""
    from d2r.datasets.landmark_boxes import FILES, PICTURES, read_dataset, write_dataset
    from d2r.datasets.landmark_sample import sample_dataset

    name = display_path(source / PICTURES)
    sampled = sample_dataset(read_dataset(source), seed, leave_out_rare=leave_out_rare, name=name)
    write_dataset(folder, sampled.dataset, force=force, inputs=[source / file for file in FILES])
    _print_sample(sampled.sample)
    training, validation = len(sampled.dataset.training), len(sampled.dataset.validation)
    out.print(
        escape(
            f"{len(sampled.without_box):,} of them left out because they have no box; {training:,} boxes for training"
            f" and {validation:,} for validation in {display_path(folder)}"
        ),
        soft_wrap=True,
        highlight=False,
    )


@dataset_app.command("compose-detection")
def dataset_compose_detection(
    source: Annotated[
        str,
        typer.Argument(
            metavar="LABELS[=PICTURES]",
            help="Boxed landmarks to plant: a folder of landmark boxes or a COCO file, and the folder of the pictures.",
        ),
    ],
    backgrounds: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Ordinary photographs, to plant in and to cut decoys from."),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder to write the set to.")],
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures to compose.")] = 4000,
    split: Annotated[
        str,
        typer.Option(
            help="training or validation: boxes of that split, and backgrounds (four fifths or one fifth of them) that"
            " the other does not use."
        ),
    ] = "training",
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN,...",
            help="Do not use backgrounds that show landmarks: *castle*,*church*. May be given again.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and photos give the same pictures.")] = 0,
    workers: Workers = None,
) -> None:
    """Compose pictures to train or to judge a detector with: landmarks with boxes, and decoys planted the same way."""
    from d2r.datasets.detection import read_training, read_validation
    from d2r.datasets.detection_scenes import BOXES, compose_scenes, plan_scenes, split_backgrounds
    from d2r.workers import default_workers

    if split not in ("training", "validation"):
        raise typer.BadParameter(f"--split {split!r} is not known; there are: training, validation")
    patterns = [pattern for one in leave_out or () for pattern in one.split(",")]
    validation = split == "validation"
    boxed = read_validation(source) if validation else read_training(source)
    plan = plan_scenes(boxed, split_backgrounds(backgrounds, patterns, validation=validation), seed)
    with progress_bars() as progress:
        skipped = compose_scenes(
            plan, pictures, folder, workers=default_workers() if workers is None else workers, progress=progress
        )
    for one in skipped:
        say(f"skipped {one.path}: {one.reason}")
    counts = f"{pictures:,} pictures from {len(plan.landmarks):,} boxes and {len(plan.backgrounds):,} backgrounds"
    say(f"{counts}; {display_path(folder / BOXES)}")
