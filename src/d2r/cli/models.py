"""The commands about networks: ``d2r models``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.terminal import out, progress_bars, say
from d2r.support.files import display_path

if TYPE_CHECKING:
    from d2r.hub.catalogue import Model


def list_networks(as_json: AsJson = False) -> None:
    """List the shipped and added networks, and those that can be fetched.

    A name can be used instead of a file: detector:model=NAME, delf:model=NAME.
    """
    from rich.table import Table

    from d2r.hub.catalogue import list_models
    from d2r.hub.known import KNOWN
    from d2r.models import user_folder

    models = list_models()
    there = {model.name for model in models}
    offered = {name: known for name, known in KNOWN.items() if name not in there}
    if as_json:
        others = [
            {
                "name": name,
                "urls": known.urls,
                "sha256": known.sha256,
                "licence": known.licence,
                "summary": known.summary,
            }
            for name, known in offered.items()
        ]
        record = {"models": [asdict(model) for model in models], "offered": others, "folder": user_folder()}
        print_json("models list", record)
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for head in ("name", "kind", "MB", "sha256", "from", "licence", "summary"):
        table.add_column(head, justify="right" if head == "MB" else "left", overflow="fold")
    for model in models:
        cells = (
            model.name, model.kind, f"{model.bytes / 1e6:.1f}", model.sha256[:16],
            "shipped" if model.shipped else "added", model.licence or "-", model.summary,
        )  # fmt: skip
        table.add_row(*map(escape, cells))
    out.print(table)
    for name, known in offered.items():
        say(f"d2r models pull {name}: {known.summary}; licence: {known.licence}")
    say(f"added networks are in {display_path(user_folder())}")


def add_network(
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="An ONNX file that `d2r train` exported.")],
    name: Annotated[str | None, typer.Option(help="Name of the network.", show_default="the file's name")] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Refuse the file if its SHA-256 is different.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.", show_default="as stated in the file")] = "",
    as_json: AsJson = False,
) -> None:
    """Add a network, to use it by name. An interrupted download continues where it stopped."""
    from d2r.hub.catalogue import add_model
    from d2r.models.onnx import check_sha256

    try:
        check_sha256(sha256 or "")
    except ValueError as error:
        raise typer.BadParameter(f"--{error}") from error
    with progress_bars() as progress:
        model = add_model(
            source,
            name=name,
            sha256=sha256,
            licence=licence,
            progress=lambda file, done, total: progress(file, done, total or done),
        )
    _print_added("models add", model, as_json)


def pull_network(
    name: Annotated[str, typer.Argument(help="A name listed by `d2r models list`.")],
    as_json: AsJson = False,
) -> None:
    """Fetch a published network and convert it; needs the extra `train`."""
    from d2r.hub.catalogue import pull_model

    with progress_bars() as progress:
        model = pull_model(name, progress=lambda file, done, total: progress(file, done, total or done))
    _print_added("models pull", model, as_json)


def _print_added(command: str, model: Model, as_json: bool) -> None:
    from d2r.hub.catalogue import read_record

    record = read_record(model.path)
    if as_json:
        print_json(command, {"model": asdict(model), "record": None if record is None else asdict(record)})
        return
    say(f"{model.name}: {model.kind}, {model.bytes / 1e6:.1f} MB; {model.summary}")
    say(f"file: {display_path(model.path)}")
    say(f"sha256: {model.sha256}")
    if model.licence:
        say(f"licence: {model.licence}")
    if record is not None and not record.verified:
        say(f"not verified: no checksum of {record.source} is known; the download has sha256 {record.source_sha256}")
