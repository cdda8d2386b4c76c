"""The commands that group the pictures of an index: `d2r group` and `d2r duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.terminal import Force, IndexArgument, MaxPixels, out, progress_bars, say
from d2r.defaults import GROUP_INLIERS, MAX_PIXELS
from d2r.support.files import check_output, display_path, is_our_page

if TYPE_CHECKING:
    from d2r.mining.groups import Group

Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page with the pictures.")]
Top = Annotated[int, typer.Option(min=1, help="Compare each picture with this many of the most similar pictures.")]


def group(
    index: IndexArgument,
    top: Top = 20,
    least: Annotated[int, typer.Option(min=8, help="Inliers that two pictures need to be grouped.")] = GROUP_INLIERS,
    as_json: AsJson = False,
    html: Html = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Group the pictures of an index by what they show.

    Each picture is compared with those most similar to it, and pairs that pass spatial verification are joined. Two
    groups are merged only if two pairs of different pictures join them. No picture file is read.
    """
    from d2r.engine import Engine
    from d2r.mining.groups import find_links, instances

    if html is not None:
        check_output(html, is_our_page, force=force)
    with Engine.open(index) as engine:
        with progress_bars() as progress:
            groups = instances(find_links(engine, top=top, progress=progress), min_inliers=least)
        collection = engine.index.size().pictures
    explanation = f"The pictures of a group show the same object: each has at least {least} inliers with another."
    if html is not None:
        _write_page(html, groups, "Groups", explanation, index, collection, max_pixels, boxed=True, force=force)
    _print_groups("group", groups, collection, as_json, html)


def duplicates(
    index: IndexArgument,
    top: Top = 10,
    as_json: AsJson = False,
    html: Html = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Find near-duplicates in an index: the same photograph, rescaled or recompressed.

    Each picture is compared with those most similar to it. No picture file is read, and none is removed. A crop of a
    photograph is not its duplicate; shots of one burst may be duplicates.
    """
    from d2r.engine import Engine
    from d2r.mining.groups import duplicate_groups, find_links

    if html is not None:
        check_output(html, is_our_page, force=force)
    with Engine.open(index) as engine:
        with progress_bars() as progress:
            groups = duplicate_groups(find_links(engine, top=top, progress=progress))
        collection = engine.index.size().pictures
    explanation = "The pictures of a group are the same photograph, rescaled or recompressed, or shots of one burst."
    if html is not None:
        title = "Near-duplicates"
        _write_page(html, groups, title, explanation, index, collection, max_pixels, boxed=False, force=force)
    _print_groups("duplicates", groups, collection, as_json, html)


def _write_page(
    html: Path,
    groups: list[Group],
    title: str,
    explanation: str,
    index: Path,
    collection: int,
    max_pixels: int,
    *,
    boxed: bool,
    force: bool,
) -> None:
    from d2r.report.groups import groups_page
    from d2r.report.page import write_page

    page = groups_page(
        groups,
        title=title,
        explanation=explanation,
        index_name=display_path(index),
        collection=collection,
        boxed=boxed,
        max_pixels=max_pixels,
    )
    write_page(html, page, force=force)


def _print_groups(command: str, groups: list[Group], collection: int, as_json: bool, html: Path | None) -> None:
    if as_json:
        print_json(command, {"pictures": collection, "groups": [_as_json(one) for one in groups]})
        return
    for number, one in enumerate(groups, start=1):
        out.print(f"[bold]{number}[/]  {len(one.pictures):,} pictures", highlight=False)
        for picture in one.pictures:
            say(f"  {display_path(picture.path)}")
    grouped = sum(len(one.pictures) for one in groups)
    what = "group" if len(groups) == 1 else "groups"
    out.print(f"{grouped:,} of {collection:,} pictures in {len(groups):,} {what}", highlight=False)
    if html is not None:
        say(f"page: {display_path(html)}")


def _as_json(group: Group) -> dict[str, object]:
    """Return a group as JSON values."""
    return {
        "pictures": [picture.path for picture in group.pictures],
        "links": [
            {
                "pictures": [link.first.path, link.second.path],
                "inliers": link.inliers,
                "score": link.score,
                "transform": link.transform.tolist(),
                "boxes": [[round(value, 2) for value in box] for box in link.boxes],
            }
            for link in group.links
        ],
    }
