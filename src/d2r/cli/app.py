"""The command line: parse, call the engine, print. Exit status 2 is for usage, 1 for failure."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, NoReturn

from rich.markup import escape

import d2r.cli.collection  # noqa: F401 - for its commands
import d2r.cli.demo  # noqa: F401
import d2r.cli.search  # noqa: F401
from d2r.cli.datasets import dataset_app
from d2r.cli.evaluate import detector_app
from d2r.cli.groups import duplicates, group
from d2r.cli.inspect import match_pictures, show_app
from d2r.cli.models import models_app
from d2r.cli.plan import plan
from d2r.cli.root import app
from d2r.cli.serve import serve
from d2r.cli.terminal import err
from d2r.cli.train import train_app
from d2r.support.files import (
    display_path,
)

if TYPE_CHECKING:
    pass

# The engine is imported inside the commands: its libraries take a second, which --help should not cost.


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
    from d2r.asmk.codebook import CodebookError
    from d2r.boxes import BoxError
    from d2r.compose.bundled import BundledError
    from d2r.compose.ground_truth import ClutterError
    from d2r.datasets.detection import DetectionDataError
    from d2r.datasets.labelled import LabelledDataError
    from d2r.datasets.landmark_csv import LandmarkBoxesError
    from d2r.datasets.revisited import GroundTruthError
    from d2r.evaluate.benchmark import BenchmarkError
    from d2r.images import ImageError
    from d2r.index import StoreError
    from d2r.models.onnx import ModelError
    from d2r.serve.settings import ServeError
    from d2r.sources import SourceError
    from d2r.support.download import DownloadError
    from d2r.support.processes import WorkerStartError
    from d2r.support.registry import SpecError

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


app.command()(serve)
app.command()(group)
app.command()(duplicates)
app.command()(plan)
app.add_typer(train_app, name="train")
app.add_typer(dataset_app, name="dataset")
app.add_typer(detector_app)
app.add_typer(models_app, name="models")
app.add_typer(show_app, name="show")
app.command("match")(match_pictures)
