"""The commands that train and export networks: ``d2r train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2r.cli.terminal import Force, say
from d2r.support.files import check_output, is_our_onnx

if TYPE_CHECKING:
    from d2r.train.course import Listener, Sizes
    from d2r.train.delf.export import ExportedFeatures
    from d2r.train.log import EpochRow

RunFolder = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the run.")]
HeldOut = Annotated[float, typer.Option(help="Share of each --data to hold out for validation.")]
FrozenBlocks = Annotated[
    int,
    typer.Option(min=0, help="First blocks of the backbone to freeze at the weights of --init; faster."),
]
Epochs = Annotated[int, typer.Option(help="Passes over the data.")]
LearningRate = Annotated[float, typer.Option(help="The highest learning rate.")]
EpochsBetween = Annotated[int, typer.Option(help="Epochs between validations.")]
Preparing = Annotated[
    int | None, typer.Option(min=0, help="Processes that prepare pictures.", show_default="1, more with a GPU")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --out, with the same options.")]

OnnxPath = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the .onnx file.")]
Half = Annotated[bool, typer.Option("--half", help="Store the weights in 16 bits; halves the file, not the time.")]


def detector(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="LABELS[=PICTURES]",
            help="Training data: a folder of landmark boxes, a COCO .json, or a composed set; and the folder of its"
            " pictures, if that is a different one. Repeatable.",
        ),
    ],
    folder: RunFolder,
    arch: Annotated[
        str, typer.Option(help="ssd-mobilenetv2, ssd-efficientnet-lite0 or faster-rcnn-resnet50.")
    ] = "ssd-mobilenetv2",
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Mean number of times an epoch uses each picture of a --data; one value per --data.", show_default="1"
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS[=PICTURES]",
            help="Validation data; its validation boxes are used.",
            show_default="held out of --data",
        ),
    ] = None,
    hold_out: Annotated[float, typer.Option(help="Share of each --data to hold out, without --validation.")] = 0.15,
    init: Annotated[
        str, typer.Option(help="Initial weights: none, imagenet, or a .safetensors file of another run.")
    ] = "none",
    freeze: FrozenBlocks = 0,
    side: Annotated[int, typer.Option(help="Resize pictures to a square of this side, in pixels.")] = 320,
    epochs: Epochs = 100,
    batch: Annotated[int, typer.Option(help="Pictures per step.")] = 32,
    lr: LearningRate = 1e-3,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same detector.")] = 0,
    validate_every: EpochsBetween = 1,
    patience: Annotated[int, typer.Option(help="Stop after this many validations without a better AP50.")] = 30,
    workers: Preparing = None,
    resume: Resume = False,
) -> None:
    """Train a landmark detector; you can stop it at any time and resume.

    The folder of the run receives log.csv, curves.png, best.safetensors (the weights that were best on the validation
    pictures) and last.pt (to resume from).
    """
    from d2r.train.course import BEST
    from d2r.train.detector import loop
    from d2r.train.detector.settings import DetectorSettings

    settings = DetectorSettings(
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
    history = loop.train_detector(settings, folder, resume=resume, workers=workers, listener=_printing())
    _print_best(history, folder / BEST)


def delf(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER",
            help="Training photos: a folder of photos, a folder with one sub-folder per landmark, or one with train.csv"
            " of Google Landmarks, LABELS=PICTURES if its pictures are elsewhere. Repeatable.",
        ),
    ],
    folder: RunFolder,
    recipe: Annotated[
        str,
        typer.Option(
            help="self: no labels, warps of each photo; metric: metric learning on pictures of the same landmark;"
            " classify: landmarks as classes, as in DELF."
        ),
    ] = "self",
    arch: Annotated[
        str, typer.Option(help="efficientnet-lite0, resnet18, resnet18-conv5 or resnet50.")
    ] = "efficientnet-lite0",
    hold_out: HeldOut = 0.1,
    init: Annotated[
        str,
        typer.Option(
            help="Initial weights: none, imagenet, the .safetensors file of another run, or a state dictionary of"
            " torchvision's network (.pth)."
        ),
    ] = "imagenet",
    freeze: FrozenBlocks = 0,
    side: Annotated[int, typer.Option(help="Side of the square crops, in pixels.")] = 256,
    dim: Annotated[int, typer.Option(help="Dimensions of a descriptor.")] = 128,
    epochs: Epochs = 20,
    attention_epochs: Annotated[int, typer.Option(help="Passes for the attention, which classify trains last.")] = 5,
    batch: Annotated[int, typer.Option(help="Photos per step; for metric, queries.", show_default="16, metric 4")] = 0,
    hard: Annotated[int, typer.Option(help="Hard negatives per query, for metric.")] = 5,
    lr: Annotated[
        float | None,
        typer.Option(help="The highest learning rate.", show_default="self 5e-4, metric 2e-5, classify 1e-3"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same features.")] = 0,
    validate_every: EpochsBetween = 1,
    patience: Annotated[int, typer.Option(help="Stop after this many validations without improvement.")] = 10,
    workers: Preparing = None,
    resume: Resume = False,
) -> None:
    """Train local features with attention; you can stop it at any time and resume.

    The folder of the run receives log.csv, curves.png, best.safetensors (the weights that were best on the validation
    pictures) and last.pt (to resume from).
    """
    from d2r.train.course import BEST
    from d2r.train.delf import loop
    from d2r.train.delf.settings import RECIPES, DelfSettings

    settings = DelfSettings(
        data=tuple(data),
        recipe=recipe,
        arch=arch,
        hold_out=hold_out,
        init=init,
        freeze=freeze,
        side=side,
        dim=dim,
        epochs=epochs,
        attention_epochs=attention_epochs,
        batch=batch or (4 if recipe == "metric" else 16),
        hard=hard,
        lr=RECIPES.get(recipe, 1e-3) if lr is None else lr,
        seed=seed,
        validate_every=validate_every,
        patience=patience,
    )
    history = loop.train_delf(settings, folder, resume=resume, workers=workers, listener=_printing())
    _print_best(history, folder / BEST)


def hardnet(
    data: Annotated[
        list[str],
        typer.Option(metavar="FOLDER", help="Training photos: a folder, searched recursively. Repeatable."),
    ],
    folder: RunFolder,
    channels: Annotated[
        int,
        typer.Option(
            help="Channels of the first layers; the published network has 32, which takes four times as long."
        ),
    ] = 16,
    hold_out: HeldOut = 0.1,
    epochs: Epochs = 4,
    batch: Annotated[int, typer.Option(help="Photos per step.")] = 24,
    lr: LearningRate = 3e-3,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same descriptors.")] = 0,
    workers: Preparing = None,
    resume: Resume = False,
) -> None:
    """Train a network for patch descriptors at SIFT keypoints, without labels; you can stop it at any time and resume.

    The folder of the run receives log.csv, curves.png, best.safetensors (the weights that were best on the validation
    pictures) and last.pt (to resume from).
    """
    from d2r.train.course import BEST
    from d2r.train.hardnet import loop
    from d2r.train.hardnet.settings import HardNetSettings

    settings = HardNetSettings(
        data=tuple(data), channels=channels, hold_out=hold_out, epochs=epochs, batch=batch, lr=lr, seed=seed
    )
    history = loop.train_hardnet(settings, folder, resume=resume, workers=workers, listener=_printing())
    _print_best(history, folder / BEST)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its .safetensors file.")],
    path: OnnxPath,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="PHOTO", help="Compare with torch on this photo.", show_default="a bundled photo"
        ),
    ] = None,
    half: Half = False,
    scales: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            help="For local features: the scales of the image pyramid.",
            show_default="0.25 to 2 in steps of the square root of 2",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="For local features: the least attention to keep.",
            show_default="the lower quartile over the cells of training photos",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Export the best weights of a run, of a detector or local features, as an ONNX file, which runs without torch.

    The file is written only if ONNX Runtime and torch give the same result on a photo.
    """
    from d2r.compose.bundled import bundled_photos
    from d2r.images import read_image
    from d2r.train.course import BEST
    from d2r.train.delf.export import SCALES, export_features
    from d2r.train.detector.export import export_detector
    from d2r.train.hardnet.export import export_hardnet
    from d2r.train.hardnet.loop import KIND
    from d2r.train.weights import ExportError, read_run

    check_output(path, is_our_onnx, force=force, inputs=[run, run / BEST, picture])
    photo = read_image(picture if picture is not None else bundled_photos().instances[0].photos[0])
    kind = read_run(run)[2].get("kind")
    if kind != KIND and kind is not None:
        levels = SCALES if scales is None else _numbers(scales)
        say(_features(export_features(run, path, photo, half=half, scales=levels, threshold=threshold, force=force)))
        return
    if scales is not None or threshold is not None:
        raise ExportError(f"{run}: --scales and --threshold are for deep local features, which these weights are not")
    if kind == KIND:
        patches = export_hardnet(run, path, photo, half=half, force=force)
        say(
            f"{patches.path}: {patches.arch}, {patches.bytes / 1e6:.1f} MB; its values differ from torch's by at most"
            f" {patches.difference:.2g}"
        )
        return
    made = export_detector(run, path, photo, half=half, force=force)
    say(
        f"{made.path}: {made.arch}, side {made.side}, {made.bytes / 1e6:.1f} MB; its boxes differ from torch's by at"
        f" most {made.box_difference:.2g} pixels, its scores by {made.score_difference:.2g}"
    )


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A torch file with weights.")],
    arch: Annotated[
        str,
        typer.Option(
            help="how-r18 or how-r50: checkpoints of HOW; resnet18, resnet18-conv5 or resnet50: weights of torchvision,"
            " with a projection fitted to a few photos."
        ),
    ],
    path: OnnxPath,
    half: Half = False,
    force: Force = False,
) -> None:
    """Convert published weights to an ONNX file of local features."""
    from d2r.train.delf.convert import convert_checkpoint

    check_output(path, is_our_onnx, force=force, inputs=[checkpoint])
    say(_features(convert_checkpoint(checkpoint, path, arch=arch, half=half, force=force)))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--scales {text!r}: give numbers separated by commas") from error


def _features(made: ExportedFeatures) -> str:
    return (
        f"{made.path}: {made.arch}, {made.dim} dimensions, threshold {made.threshold:.3g}, {made.bytes / 1e6:.1f} MB;"
        f" its values differ from torch's by at most {made.difference:.2g}"
    )


def _printing() -> Listener:
    from d2r.train.course import Listener

    return Listener(started=_print_sizes, finished=_print_epoch)


def _print_sizes(sizes: Sizes) -> None:
    say(
        f"{sizes.training:,} training pictures, {sizes.validation:,} validation pictures; {sizes.steps:,} steps per"
        f" epoch; {sizes.device}"
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


def _print_best(history: list[EpochRow], path: Path) -> None:
    measured = [row for row in history if row.figures]
    if measured:
        name = next(iter(measured[0].figures))
        best = max(measured, key=lambda row: row.figures[name])
        say(f"best: epoch {best.epoch}, {name} {best.figures[name]:.1%}; {path}")
