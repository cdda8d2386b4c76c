"""The commands of training: ``d2r train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2r.terminal import say

if TYPE_CHECKING:
    from d2r.train.course import Sizes
    from d2r.train.log import EpochRow

train_app = typer.Typer(help="Train a detector of landmarks, and export it.", no_args_is_help=True)


@train_app.command("detector")
def train_detector(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="LABELS[=PICTURES]",
            help="What to train on: a folder of landmark boxes, a COCO .json, or a composed set; and the folder that"
            " its pictures are in, where that is another. May be given again.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the run.")],
    arch: Annotated[
        str, typer.Option(help="ssd-mobilenetv2, ssd-efficientnet-lite0 or faster-rcnn-resnet50.")
    ] = "ssd-mobilenetv2",
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="How often an epoch takes each picture of a --data on average, one for each.", show_default="1"
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS[=PICTURES]",
            help="What to validate on; its boxes for validation are used.",
            show_default="held out of --data",
        ),
    ] = None,
    hold_out: Annotated[float, typer.Option(help="Share of each --data to validate on, without --validation.")] = 0.15,
    init: Annotated[
        str, typer.Option(help="Weights to begin with: none, imagenet, or a .safetensors file of another run.")
    ] = "none",
    freeze: Annotated[
        int,
        typer.Option(
            min=0, help="Blocks of the backbone, from the picture on, that keep the weights of --init; faster."
        ),
    ] = 0,
    side: Annotated[int, typer.Option(help="Pictures are squashed to a square of so many pixels a side.")] = 320,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = 32,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same detector.")] = 0,
    validate_every: Annotated[int, typer.Option(help="Epochs between two validations.")] = 1,
    patience: Annotated[int, typer.Option(help="Stop after so many validations without a better AP50.")] = 30,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that prepare pictures.", show_default="1, more with a GPU"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with the same options.")
    ] = False,
) -> None:
    """Train a detector of landmarks; it can be stopped at any time and resumed.

    The folder of the run gets log.csv and curves.png, the weights that were best on the validation pictures as
    best.safetensors, and last.pt to resume from.
    """
    from d2r.train import loop
    from d2r.train.settings import Settings

    settings = Settings(
        data=tuple(data),
        arch=arch,
        shares=tuple(share or ()),
        validation=validation,
        hold_out=hold_out,
        init=init,
        freeze=freeze,
        side=side,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        validate_every=validate_every,
        patience=patience,
    )
    history = loop.train_detector(
        settings, folder, resume=resume, workers=workers, started=_print_sizes, finished=_print_epoch
    )
    best = max((row for row in history if row.figures), key=lambda row: row.figures["ap50"], default=None)
    if best is not None:
        say(f"best: epoch {best.epoch}, AP50 {best.figures['ap50']:.1%}; {folder / loop.BEST}")


@train_app.command("export")
def train_export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a .safetensors file of one.")],
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the .onnx file.")],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="PHOTO", help="Compare with torch on this photo.", show_default="one that comes along"
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights in 16 bits; the file is half as large, the time the same.")
    ] = False,
) -> None:
    """Write the best weights of a run as an ONNX file, which is run without torch.

    The file is written only when ONNX Runtime finds the same boxes in a photo as torch does.
    """
    from d2r.datasets.bundled import bundled_photos
    from d2r.images import read_image
    from d2r.train.export import export_detector

    photo = picture if picture is not None else bundled_photos().instances[0].photos[0]
    made = export_detector(run, path, read_image(photo), half=half)
    say(
        f"{made.path}: {made.arch}, side {made.side}, {made.bytes / 1e6:.1f} MB; from torch its boxes differ by at most"
        f" {made.box_difference:.2g} pixels, its scores by {made.score_difference:.2g}"
    )


def _print_sizes(sizes: Sizes) -> None:
    say(
        f"{sizes.training:,} pictures to train on, {sizes.validation:,} to validate on; {sizes.steps:,} steps an epoch;"
        f" {sizes.device}"
    )
    if sizes.first_epoch > 1:
        say(f"resumed at epoch {sizes.first_epoch}")
    if sizes.left_out:
        shown = ", ".join(sizes.left_out[:5]) + (", ..." if len(sizes.left_out) > 5 else "")
        say(f"{len(sizes.left_out):,} weights not taken from --init: {shown}")


def _print_epoch(row: EpochRow) -> None:
    measured = "".join(f"  {name} {value:6.1%}" for name, value in row.figures.items())
    losses = ", ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in row.losses.items())
    say(f"epoch {row.epoch:>3}  loss {row.loss:.3f} ({losses}){measured}  {row.seconds:.0f} s")
