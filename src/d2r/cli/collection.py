"""Commands that build and maintain an index: index, info, compact, check, remove, codebook."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from d2r.cli.json_output import AsJson, print_json, size_record
from d2r.cli.printing import add_sizes, print_report, print_vanished, too_many
from d2r.cli.terminal import Force, IndexArgument, MaxPixels, Ray, RayAddress, Workers, out, progress_bars, say
from d2r.defaults import (
    FEATURES,
    MAX_PIXELS,
    MAX_WORDS,
    REGIONS,
)
from d2r.support.files import (
    check_output,
    display_path,
    is_our_safetensors,
    writing,
)

if TYPE_CHECKING:
    from d2r.asmk.codebook import Origin
    from d2r.engine import Engine
    from d2r.indexing.entry import Recipe
    from d2r.indexing.fill import Report
    from d2r.indexing.workers import Describers


def index_photos(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of pictures, searched recursively; the URL of one in object storage (s3://..., gs://...);"
            " a picture; or a text file with one path or URL per line. Pictures are added to those in the index.",
        ),
    ],
    index: Annotated[
        Path, typer.Option("--out", metavar="INDEX", help="Folder of the index; created if it does not exist.")
    ],
    regions: Annotated[
        str | None,
        typer.Option(
            help="Regions to describe besides the whole picture: whole (none), rmac:levels=1 to 3,"
            " selective-search:top=N, or detector:model=FILE.onnx,threshold=T. Fixed when the index is created.",
            show_default=f"{REGIONS}, shipped with d2r",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Local features: hardnet, rootsift, delf, or delf:model=FILE.onnx. Fixed when the index is created.",
            show_default=f"{FEATURES}, shipped with d2r",
        ),
    ] = None,
    codebook: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Codebook for a new index: a codebook file (.safetensors, .npy) or another index.",
        ),
    ] = None,
    num_words: Annotated[
        int | None,
        typer.Option(
            "--words",
            min=1,
            help="Visual words to learn for a new index; fewer if there are fewer than 16 features per word.",
            show_default="depends on the number of pictures",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bits of the binary code of each word in a new index: 64 halve its size and lower accuracy somewhat.",
            show_default="one per dimension of the features, 128 for the shipped ones",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove pictures from the index whose files are gone from SOURCE.")
    ] = False,
    workers: Workers = None,
    ray: Ray = False,
    ray_address: RayAddress = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
) -> None:
    """Index photos, or update their index.

    New pictures are added, changed pictures are described again, and unchanged ones are left alone. Pictures whose
    files are gone, for example because a drive is not mounted, stay in the index but are not searched; once the files
    are back, they are searched again at no cost. They are removed with --prune, or if you confirm it on a terminal.

    You can stop at any time: the same command continues from there. With --ray the machines of a cluster describe the
    pictures; all of them must see the pictures under the same paths.
    """
    from d2r.engine import Engine
    from d2r.features import pinned_features
    from d2r.index import Index
    from d2r.indexing.codebook import codebook_from
    from d2r.regions import pinned_regions
    from d2r.sources import kind_of, listed_paths

    kind = kind_of(source)
    ray = ray or ray_address is not None
    if workers is not None and ray:
        raise typer.BadParameter("--workers cannot be given with --ray, which uses all processors of the cluster")
    for option, value in (("--words", num_words), ("--bits", bits)):
        if codebook is not None and value is not None:
            raise typer.BadParameter(f"--codebook sets {option} already: give only one of them")
    with ExitStack() as stack:
        describers = stack.enter_context(_cluster_workers(ray_address)) if ray else workers
        if Index.exists(index):
            engine = stack.enter_context(Engine.open(index))
            wanted = {
                "regions": pinned_regions(regions) if regions is not None else None,
                "features": pinned_features(features) if features is not None else None,
            }
            _check_fixed(engine, num_words=num_words, bits=bits, codebook=codebook, **wanted)
        else:
            engine = Engine.create(
                index,
                regions=regions or REGIONS,
                features=features or FEATURES,
                num_words=num_words,
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
        if as_json:
            record = {
                "index": os.path.abspath(index),
                "size": size_record(engine.index.size()),
                **_report_record(report),
            }
            print_json("index", record)
            return
        print_report(engine, report)
        if report.missing and sys.stdin.isatty() and sys.stdout.isatty() and _confirmed("Remove them from the index?"):
            pruned = engine.prune(listed_paths(Path(source)) if kind == "list" else [source])
            out.print(f"{pruned:,} removed", highlight=False)


def _report_record(report: Report) -> dict[str, Any]:
    """Return the report of an indexing run as JSON values."""
    counts = ("added", "changed", "returned", "missing", "removed", "unchanged", "words_learned")
    return {
        **{name: getattr(report, name) for name in counts},
        "vanished": report.vanished,
        "skipped": report.skipped,
        "empty": report.empty,
        "seconds": round(report.seconds, 3),
        "stages": {
            name: {"pictures": report.stage_pictures[name], "seconds": round(seconds, 3)}
            for name, seconds in report.stage_seconds.items()
        },
    }


def _confirmed(question: str) -> bool:
    """Ask on the terminal; no answer means no."""
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


def _check_fixed(
    engine: Engine, *, codebook: Path | None, num_words: int | None, bits: int | None, **recipe: str | None
) -> None:
    """Refuse options that contradict those the index was created with."""
    from d2r.indexing.codebook import codebook_from

    for option, wanted in recipe.items():
        given = getattr(engine.recipe, option)
        if wanted is not None and wanted != given:
            raise typer.BadParameter(
                f"--{option}: this index was created with {given}; create another index for {wanted}"
            )
    book = engine.index.codebook
    if book is None:  # the run that created the index ended before it learned words
        if (codebook, num_words, bits) != (None, None, None):
            engine.choose_words(codebook_from(codebook) if codebook is not None else None, num_words, bits)
        return
    if num_words is not None and num_words not in (book.num_words, engine.index.settings.get("words")):
        raise typer.BadParameter(
            f"--words: this index has {book.num_words} words; create another index for {num_words}"
        )
    if bits is not None and bits != book.bits:
        raise typer.BadParameter(f"--bits: this index has codes of {book.bits} bits; create another index for {bits}")
    if codebook is not None and not codebook_from(codebook).same_as(book):
        raise typer.BadParameter("--codebook: this index has different visual words; create another index for these")


def info(index: IndexArgument, as_json: AsJson = False) -> None:
    """Print the contents of an index and how it was created."""
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
    if as_json:
        words = (
            None
            if book is None
            else {
                "words": book.num_words,
                "dimensions": book.dim,
                "bits": book.bits,
                "origin": None if origin is None else asdict(origin),
            }
        )
        record = {
            "index": os.path.abspath(index),
            "size": size_record(size),
            "recipe": asdict(recipe),
            "codebook": words,
        }
        print_json("info", {**record, "vanished": missing, "skipped": [(row.path, row.problem) for row in skipped]})
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("pictures", f"{size.pictures:,}")
    if size.missing:
        table.add_row("missing", f"{size.missing:,}, kept but not searched until their files are back")
    table.add_row("skipped", f"{size.skipped:,}")
    table.add_row("visual words", f"{size.num_words:,}" if size.num_words else "none yet")
    if size.num_words:
        table.add_row("learned from", _origin_text(origin, recipe))
    table.add_row("regions", recipe.regions)
    table.add_row("features", recipe.features)
    table.add_row("longer side", f"at most {recipe.max_side} pixels")
    add_sizes(table, size)
    table.add_row("on disk", f"{(size.search_bytes + size.verify_bytes) / 1e6:,.1f} MB in {size.segments:,} segments")
    if size.dead:
        table.add_row("dead", f"{size.dead:,} descriptors of removed or replaced pictures")
    out.print(table)
    if missing:
        out.print(f"\n[bold]{size.missing:,} missing[/]")
        print_vanished(missing)
    if skipped:
        out.print(f"\n[bold]{size.skipped:,} skipped[/]")
    for row in skipped:
        say(f"  {display_path(row.path)}: {row.problem}")


def _origin_text(origin: Origin | None, recipe: Recipe) -> str:
    """Return a description of the pictures that the visual words of an index were learned from."""
    if origin is None:
        return "not recorded"
    pictures = "pictures" if origin.pictures is None else f"{origin.pictures:,} pictures"
    version = "" if origin.version is None else f", by d2r {origin.version}"
    if (origin.features, origin.regions, origin.max_side) == (recipe.features, recipe.regions, recipe.max_side):
        return f"{pictures}, described as in this index{version}"
    return f"{pictures} of at most {origin.max_side} pixels, {origin.features}, {origin.regions}{version}"


def compact_index(index: IndexArgument, as_json: AsJson = False) -> None:
    """Merge the segments of an index and free the disk space of removed pictures."""
    from d2r.engine import Engine

    with Engine.open(index) as engine:
        before = engine.index.size()
        with progress_bars() as progress:
            engine.compact(progress)
        after = engine.index.size()
    if as_json:
        print_json(
            "compact", {"index": os.path.abspath(index), "before": size_record(before), "after": size_record(after)}
        )
        return
    saved = before.search_bytes + before.verify_bytes - after.search_bytes - after.verify_bytes
    out.print(f"{before.segments:,} segments became {after.segments:,}; {saved / 1e6:,.1f} MB freed", highlight=False)


def check_index(index: IndexArgument, as_json: AsJson = False) -> None:
    """Check all files of an index against their checksums; the exit status is 1 if any is damaged."""
    from d2r.engine import Engine

    with Engine.open(index) as engine, progress_bars() as progress:
        problems = engine.check(progress)
        segments = engine.index.size().segments if not problems else None
    if as_json:
        print_json("check", {"index": os.path.abspath(index), "segments": segments, "problems": problems})
    elif segments is not None:
        out.print(f"no damage: {segments:,} segments, the visual words and the catalogue match their checksums")
    else:
        for problem in problems:
            say(problem)
    if problems:
        raise typer.Exit(1)


def remove(
    index: IndexArgument,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders to remove all pictures below them.")
    ],
    as_json: AsJson = False,
) -> None:
    """Remove pictures from an index; their files are not touched."""
    from d2r.engine import Engine

    with Engine.open(index) as engine:
        count = engine.remove(paths)
    if as_json:
        print_json("remove", {"index": os.path.abspath(index), "removed": count})
    else:
        out.print(f"removed {count:,} from the index")


def codebook(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of pictures to learn from.")],
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Codebook to write (.safetensors).")],
    num_words: Annotated[
        int,
        typer.Option(
            "--words", min=1, help="Visual words to learn; fewer if there are fewer than 16 features per word."
        ),
    ] = MAX_WORDS,
    bits: Annotated[
        int | None,
        typer.Option(
            min=1, help="Bits of the binary code of each word.", show_default="one per dimension of the features"
        ),
    ] = None,
    regions: Annotated[str, typer.Option(help="Regions to describe besides the whole picture.")] = REGIONS,
    features: Annotated[
        str, typer.Option(help="Local features; the codebook fits indexes of the same features.")
    ] = FEATURES,
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Learn visual words from a folder of photos, for `d2r index --codebook` and `d2r evaluate --codebook`."""
    from d2r.indexing.codebook import learn_codebook

    if not photos.is_dir():
        raise NotADirectoryError(f"{photos}: not a folder")
    check_output(file, is_our_safetensors, force=force)
    with progress_bars() as progress:
        book = learn_codebook(
            photos,
            num_words,
            bits=bits,
            regions=regions,
            features=features,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    with writing(file, is_our_safetensors, force=force) as part:
        book.save(part)
    if as_json:
        sizes = {"words": book.num_words, "asked": num_words, "dimensions": book.dim, "bits": book.bits}
        print_json("codebook", {"file": os.path.abspath(file), **sizes})
        return
    say(f"{book.num_words:,} words in {display_path(file)}{too_many(book.num_words, num_words)}")
