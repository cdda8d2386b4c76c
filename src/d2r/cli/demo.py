"""The demo: index, search and verify a small collection or the user's own folder, from end to end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from d2r.cli.printing import print_report, print_results
from d2r.cli.terminal import Force, Workers, out, progress_bars, say
from d2r.options import SearchOptions
from d2r.support.files import check_no_index, check_output, display_path, is_our_page

if TYPE_CHECKING:
    from d2r.boxes import Box
    from d2r.engine import Engine
    from d2r.indexing.entry import Progress
    from d2r.indexing.fill import Report
    from d2r.results import Answer

_CANDIDATES = 1000  # pictures of a folder that are tried as query


@dataclass(frozen=True)
class Demo:
    """What the demo did.

    Attributes:
        photos: folder of the collection.
        index: folder of its index.
        page: the HTML page that was written.
        query: path of the query picture.
        box: the query box, (x1, y1, x2, y2) in pixels; None for the whole picture.
        report: report of the indexing run.
        answer: answer to the query.
        right: paths of the pictures that are known to show the same object; None for the user's own folder.
    """

    photos: Path
    index: Path
    page: Path
    query: Path
    box: Box | None
    report: Report
    answer: Answer
    right: frozenset[str] | None

    @property
    def right_on_top(self) -> int:
        """The number of right answers among the first ``len(right)`` results."""
        right = self.right or frozenset()
        return sum(result.path in right for result in self.answer.results[: len(right)])


def run_demo(
    photos: Path | None, folder: Path, *, workers: int | None, progress: Progress, force: bool = False
) -> Demo:
    """Index a collection, search it, verify the results, and write the page.

    Args:
        photos: folder of pictures; None composes a small collection from the photographs of installed libraries: six
            objects, each planted in five cluttered pictures from five viewpoints.
        folder: folder for the collection, its index and the page.
        workers: see :meth:`d2r.engine.Engine.sync`.
        progress: called with the progress of each stage.
        force: overwrite a file that is not a page of this program.

    Raises:
        d2r.support.files.OutputError: the page would overwrite such a file, or ``folder`` is inside an index.
        d2r.datasets.ground_truth.ClutterError: ``folder`` holds something other than the collection.
        d2r.compose.bundled.BundledError: the libraries with the photographs are not installed.
        d2r.index.StoreError: ``photos`` holds no pictures.
    """
    from d2r.compose.bundled import demo_collection
    from d2r.engine import Engine
    from d2r.images import read_image
    from d2r.index import Index
    from d2r.report.page import search_page, write_page

    check_no_index(folder)
    page = folder / "results.html"
    if folder.exists():
        check_output(page, is_our_page, force=force)
    box: Box | None = None
    query: Path | None = None
    right: frozenset[str] | None = None
    if photos is None:
        collection = demo_collection(folder, progress=progress)
        photos, query, box = collection.photos, collection.query, collection.box
        right = frozenset(os.path.abspath(path) for path in collection.answers)
    index = folder / "index"
    with Engine.open(index) if Index.exists(index) else Engine.create(index) as engine:
        report = engine.sync(photos, workers=workers, progress=progress)
        if query is None:
            query = _telling_query(engine)
        picture = read_image(query)
        answer = engine.search(picture, SearchOptions(top=12), box=box)
        html = search_page(
            picture,
            answer,
            query_name=query.name,
            index_name=os.fspath(index),
            collection=engine.index.size().pictures,
            box=box,
        )
        write_page(page, html, force=force)
    return Demo(photos, index, page, query, box, report, answer, right)


def _telling_query(engine: Engine) -> Path:
    """Return the picture with the most to find: the one most similar to its third most similar picture."""
    best, query = -1.0, ""
    for tried, (picture, hits) in enumerate(engine.pairs(top=3)):
        if tried == _CANDIDATES:
            break
        score = hits[-1].score if len(hits) == 3 else 0.0
        if score > best:
            best, query = score, picture.path
    return Path(query)


def demo(
    photos: Annotated[
        Path | None,
        typer.Argument(metavar="[PHOTOS]", help="Folder of pictures.", show_default="a small composed collection"),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the collection, its index and the page.")] = Path(
        "d2r-demo"
    ),
    workers: Workers = None,
    force: Force = False,
) -> None:
    """Index pictures, search them, verify the results and write a page, all without network access.

    Without PHOTOS it composes a small collection from the photographs of installed libraries: six objects, each
    planted in five cluttered pictures from five viewpoints. With PHOTOS it picks a query from that folder.
    """
    from d2r.engine import Engine

    if photos is not None and not photos.is_dir():
        raise NotADirectoryError(f"{photos}: not a folder")
    with progress_bars() as progress:
        done = run_demo(photos, folder, workers=workers, progress=progress, force=force)
    with Engine.open(done.index) as engine:
        print_report(engine, done.report)
    box = "" if done.box is None else " --box " + ",".join(f"{value:g}" for value in done.box)
    query = f"d2r search {done.index} {display_path(done.query)}{box}"
    out.print(f"\n[bold]{escape(query)}[/]", soft_wrap=True, highlight=False)
    print_results(done.answer)
    if done.right is not None:
        out.print(f"\n{done.right_on_top} of the {len(done.right)} pictures that show it are on top", highlight=False)
    say(f"page: {display_path(done.page)}")
