"""What the commands share: consoles, progress bars, and options of several commands."""

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

_WIDEST: Final = 1 << 16  # characters: in a file or a pipe each record takes one line, however long its path

out: Final = Console(width=None if sys.stdout.isatty() else _WIDEST)
err: Final = Console(stderr=True)

LINE_EVERY_S: Final = 15.0
"""Seconds between two progress lines of a stage when standard error is not a terminal."""


IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index, made by `d2r index`.")]
MaxPixels = Annotated[
    int, typer.Option(help="Refuse pictures of more pixels (width x height), as a guard against hostile files.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; 0 works without any.", show_default="one per processor")
]

Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite a file that d2r did not write; never a picture or a file of an index."),
]
"""Option of commands that write a file; see :func:`d2r.support.files.check_output`."""

Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Use the machines of the Ray cluster that this machine belongs to, or this machine alone if it belongs to"
        " none. Needs the extra `cluster`.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Like --ray, with the cluster whose head is at this address."),
]


def say(text: str) -> None:
    """Print a line with readable paths, without markup and without wrapping."""
    out.print(escape(display_path(text)), soft_wrap=True, highlight=False)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar with rate and time left for each stage, or periodic lines if standard error is not a terminal."""
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
    """Return a function that writes a line about a long stage every :data:`LINE_EVERY_S`, for logs."""
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
    "detect": "detecting landmarks",
    "words": "learning words",
    "index": "indexing",
    "merge": "merging segments",
    "check": "reading segments",
    "pairs": "finding pairs",
    "fetch": "fetching pictures",
    "queries": "describing queries",
    "aggregate": "aggregating",
    "verify": "verifying",
    "instances": "reading photos",
    "pictures": "composing pictures",
}
