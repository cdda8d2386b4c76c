"""The command line: parse, call the engine, print. Exit status 2 is for usage, 1 for failure."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from d2r.build import Report
    from d2r.engine import Answer, Engine

# The engine is imported inside the commands: its libraries take a second, which --help should not cost.

app = typer.Typer(
    name="d2r",
    help="Find the same building, monument or object in a large collection of pictures.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index, made by `d2r index`.")]
MaxPixels = Annotated[
    int, typer.Option(help="Refuse a picture of more pixels than this (width x height); a guard against hostile files.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; 0 does everything in one.", show_default="one a processor")
]


def main() -> None:
    """Run the command line; every expected failure becomes one line that says what to do."""
    from d2r.boxes import BoxError
    from d2r.codebook import CodebookError
    from d2r.images import ImageError
    from d2r.index.catalogue import StoreError
    from d2r.registry import SpecError

    try:
        app()
    except (BoxError, SpecError) as error:
        _fail(str(error), status=2)
    except (CodebookError, ImageError, StoreError) as error:
        _fail(str(error))
    except NotADirectoryError as error:
        _fail(str(error), status=2)
    except (OSError, sqlite3.OperationalError) as error:
        if isinstance(error, BrokenPipeError):
            os._exit(1)
        full = getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error)
        if full:
            _fail("the disk is full; make room and run the same command again, it goes on where it stopped")
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; what was committed stays, run the same command again to go on", status=130)


def _fail(message: str, *, status: int = 1) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(_printable(message))}", soft_wrap=True, highlight=False)
    raise SystemExit(status)
