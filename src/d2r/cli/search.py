"""Commands that search: search, pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.printing import print_results
from d2r.cli.terminal import Force, IndexArgument, MaxPixels, out, progress_bars, say
from d2r.defaults import EXPAND, MAX_PIXELS, TOP, VERIFY
from d2r.options import SearchOptions
from d2r.support.files import check_output, display_path, is_our_page


def search_index(
    index: IndexArgument,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="Query picture.")],
    box: Annotated[
        str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Search for this box of the query, in pixels.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of results.")] = TOP,
    verify: Annotated[
        int,
        typer.Option(min=0, help="Verify this many of the best results spatially and rank the verified ones first."),
    ] = VERIFY,
    expand: Annotated[
        int,
        typer.Option(min=0, help="Query expansion: search again with the query and up to this many verified results."),
    ] = EXPAND,
    diffuse: Annotated[bool, typer.Option("--diffuse", help="Re-rank by diffusion from the verified results.")] = False,
    query_regions: Annotated[
        bool, typer.Option("--query-regions", help="Describe the query by regions too, like the indexed pictures.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page with the pictures.")
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Find the pictures that show the same object as a picture, or as a box on it."""
    from d2r.boxes import parse_box
    from d2r.engine import Engine
    from d2r.images import read_image

    if diffuse and not (verify and expand):
        raise typer.BadParameter(
            "--diffuse starts from the verified results that --expand uses: neither --verify nor --expand may be 0"
        )
    options = SearchOptions(top, verify, expand, diffuse, query_regions)
    if html is not None:
        check_output(html, is_our_page, force=force, inputs=[query])
    region = parse_box(box) if box is not None else None
    with Engine.open(index) as engine:
        picture = read_image(query, max_pixels=max_pixels)
        answer = engine.search(picture, options, box=region)
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
        print_json("search", answer.to_json())
    else:
        print_results(answer)
        if html is not None:
            say(f"page: {display_path(html)}")


def pairs(
    index: IndexArgument,
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Text file to write, one pair per line.")],
    top: Annotated[
        int, typer.Option(min=1, help="Pair each picture with this many of the most similar pictures.")
    ] = 20,
    verify: Annotated[bool, typer.Option("--verify", help="Write only pairs that pass spatial verification.")] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Write names relative to this folder.", show_default="the deepest folder that holds all pictures"
        ),
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write the pairs of pictures worth matching in the format of hloc and COLMAP: two names per line.

    Each pair appears once. Names are relative to the folder that holds all the pictures, which those programs call the
    image folder.
    """
    from d2r.engine import Engine
    from d2r.mining.pairs import is_ours, write_pairs

    check_output(file, is_ours, force=force)
    with Engine.open(index) as engine, progress_bars() as progress:
        found, folder = write_pairs(engine, file, top=top, verify=verify, root=root, progress=progress, force=force)
    if as_json:
        print_json("pairs", {"file": file, "folder": folder, "pairs": found})
        return
    out.print(
        escape(f"{len(found):,} pairs in {display_path(file)}, names relative to {display_path(folder)}"),
        soft_wrap=True,
        highlight=False,
    )
