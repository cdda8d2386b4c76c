"""The command line: the tree of commands and the handling of errors. Exit status 2 is a usage error, 1 a failure."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from typing import Any, Final, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperGroup

from d2r.cli import collection, datasets, demo, evaluate, groups, inspect, models, plan, search, serve, train
from d2r.cli.terminal import err
from d2r.errors import D2RError, UsageError
from d2r.support.files import display_path

# Each command imports what it needs when it runs: loading the engine takes a second, too long for --help.

DAILY: Final = "Find pictures"
CARE: Final = "Maintain an index"
MINE: Final = "Compare the pictures of an index"
MEASURE: Final = "Measure"
DATA: Final = "Data sets"
NETWORKS: Final = "Networks"
LOOK: Final = "Inspect and plan"

_Commands = tuple[tuple[str, Callable[..., Any]], ...]

_PANELS: Final[tuple[tuple[str, _Commands], ...]] = (
    (
        DAILY,
        (
            ("index", collection.index_photos),
            ("search", search.search_index),
            ("match", inspect.match_two),
            ("serve", serve.serve),
            ("demo", demo.demo),
        ),
    ),
    (
        CARE,
        (
            ("info", collection.info),
            ("check", collection.check_index),
            ("compact", collection.compact_index),
            ("remove", collection.remove),
            ("codebook", collection.codebook),
        ),
    ),
    (MINE, (("pairs", search.pairs), ("group", groups.group), ("duplicates", groups.duplicates))),
    (
        MEASURE,
        (
            ("evaluate", evaluate.evaluate_methods),
            ("evaluate-detector", evaluate.evaluate_detector),
            ("reproduce", evaluate.reproduce_experiment),
        ),
    ),
)

_GROUPS: Final[tuple[tuple[str, str, str, _Commands], ...]] = (
    (
        DATA,
        "dataset",
        "Fetch public data sets, compose benchmarks, and annotate or inspect landmark boxes.",
        (
            ("get", datasets.dataset_get),
            ("compose", datasets.compose),
            ("annotate", datasets.annotate),
            ("stats", datasets.dataset_stats),
            ("sample", datasets.dataset_sample),
            ("compose-detection", datasets.dataset_compose_detection),
        ),
    ),
    (
        NETWORKS,
        "models",
        "List the available networks, add your own, or fetch published ones.",
        (("list", models.list_networks), ("add", models.add_network), ("pull", models.pull_network)),
    ),
    (
        NETWORKS,
        "train",
        "Train a landmark detector or local features, and export them.",
        (
            ("detector", train.detector),
            ("delf", train.delf),
            ("hardnet", train.hardnet),
            ("export", train.export),
            ("convert", train.convert),
        ),
    ),
    (LOOK, "show", "Draw the features of a picture.", (("features", inspect.show_features),)),
)


class _InOrder(TyperGroup):
    """Lists commands and groups of commands in the order of this module; Typer would list all groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = [name for _, commands in _PANELS for name, _ in commands] + [group for _, group, _, _ in _GROUPS]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))


def _make_app() -> typer.Typer:
    app = typer.Typer(
        name="d2r",
        cls=_InOrder,
        help="Find the same building, monument or object in a large collection of pictures.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for panel, commands in _PANELS:
        for name, command in commands:
            app.command(name, rich_help_panel=panel)(command)
    for panel, group, about, commands in _GROUPS:
        below = typer.Typer(help=about, no_args_is_help=True)
        for name, command in commands:
            below.command(name)(command)
        app.add_typer(below, name=group, rich_help_panel=panel)
    app.command("plan", rich_help_panel=LOOK)(plan.plan)
    return app


app = _make_app()


def main() -> None:
    """Run the command line; print every expected failure as one line that says what to do."""
    try:
        app(prog_name="d2r")
    except BrokenPipeError:  # the reader of our output, for example `head`, has closed the pipe
        os._exit(1)
    except KeyboardInterrupt:
        _fail("stopped; committed work is kept, run the same command again to continue", status=130)
    except Exception as error:
        _explain(error)
        raise


def _explain(error: Exception) -> None:
    """Print an expected error and exit; return if the error is unexpected, so that its traceback is shown."""
    if isinstance(error, UsageError | NotADirectoryError):
        _fail(str(error), status=2)
    if isinstance(error, D2RError):
        _fail(str(error))
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(name, "demo")
        _fail(f"{name} is not installed; install it with: pip install 'detect-to-retrieve[{extra}]'")
    if isinstance(error, OSError | sqlite3.OperationalError):
        if getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error):
            _fail("the disk is full; free some space and run the same command again to continue")
        _fail(str(error))


_EXTRAS: Final = {
    **dict.fromkeys(("matplotlib", "pycocotools", "scipy"), "evaluate"),
    **dict.fromkeys(("torch", "torchvision", "onnx"), "train"),
    **dict.fromkeys(("ray", "pyarrow", "pandas", "fsspec"), "cluster"),
}
"""Module to the extra of this package that installs it."""


def _fail(message: str, *, status: int = 1) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(display_path(message))}", soft_wrap=True, highlight=False)
    raise SystemExit(status)
