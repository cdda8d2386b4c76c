"""What the commands share: where they print, bars, and options that several have."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from d2r.support.files import display_path

_WIDEST: Final = 1 << 16  # letters: to a file or another program one record a line, however long its path

out: Final = Console(width=None if sys.stdout.isatty() else _WIDEST)
err: Final = Console(stderr=True)

LINE_EVERY_S: Final = 15.0
"""Between two lines about a stage, where the error output is no terminal."""


IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index, made by `d2r index`.")]
MaxPixels = Annotated[
    int, typer.Option(help="Refuse a picture of more pixels than this (width x height); a guard against hostile files.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; 0 does everything in one.", show_default="one a processor")
]

Force = Annotated[
    bool, typer.Option("--force", help="Write over a file that d2r did not write; never over a picture or in an index.")
]
"""Of commands that write a file; see :func:`d2r.support.files.check_output`."""

Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Use the machines of a Ray cluster: the one this machine belongs to, or this machine when it belongs to"
        " none. Needs the cluster extra.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="As --ray, with the cluster that has its head there."),
]


def say(text: str) -> None:
    """Print a line as it is: paths readable, nothing taken for markup, never broken."""
    out.print(escape(display_path(text)), soft_wrap=True, highlight=False)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar with rate and time left for each stage; lines now and then where the error output is no terminal."""
    if not err.is_terminal:
        yield _progress_lines()
        return
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        tasks: dict[str, TaskID] = {}
        started: dict[str, float] = {}

        def update(stage: str, done: int, total: int) -> None:
            now = time.monotonic()
            if stage not in tasks:
                tasks[stage] = bar.add_task(_STAGES.get(stage, stage), total=total, rate="")
                started[stage] = now
            elapsed = now - started[stage]
            rate = f"{done / elapsed:,.1f}/s" if elapsed > 0.5 else ""
            bar.update(tasks[stage], completed=done, total=total, rate=rate)

        yield update


def _progress_lines() -> Callable[[str, int, int], None]:
    """Return what writes a line about a long stage every :data:`LINE_EVERY_S`, as a log wants it."""
    began: dict[str, float] = {}
    last: dict[str, float] = {}

    def update(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start = began.setdefault(stage, now)
        if now - last.setdefault(stage, start) >= LINE_EVERY_S:
            last[stage] = now
            rate = f", {done / (now - start):,.1f}/s" if now > start else ""
            line = f"{_STAGES.get(stage, stage)}: {done:,} of {total:,}{rate}"
            err.print(escape(line), soft_wrap=True, highlight=False)

    return update


_STAGES = {
    "describe": "describing pictures",
    "detect": "looking for landmarks",
    "words": "learning words",
    "index": "indexing",
    "merge": "merging segments",
    "check": "reading segments",
    "pairs": "finding pairs",
    "fetch": "fetching pictures",
    "queries": "describing queries",
    "aggregate": "aggregating",
    "verify": "verifying",
    "instances": "looking at photos",
    "pictures": "composing pictures",
}
