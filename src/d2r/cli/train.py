"""The commands of training: ``d2r train``."""

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
HeldOut = Annotated[float, typer.Option(help="Share of each --data to validate on.")]
FrozenBlocks = Annotated[
    int,
    typer.Option(min=0, help="Blocks of the backbone, from the picture on, that keep the weights of --init; faster."),
]
Epochs = Annotated[int, typer.Option(help="Passes over the data.")]
LearningRate = Annotated[float, typer.Option(help="The highest learning rate.")]
EpochsBetween = Annotated[int, typer.Option(help="Epochs between two validations.")]
Preparing = Annotated[
    int | None, typer.Option(min=0, help="Processes that prepare pictures.", show_default="1, more with a GPU")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, with the same options.")]

OnnxPath = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the .onnx file.")]
Half = Annotated[
    bool, typer.Option("--half", help="Store the weights in 16 bits; the file is half as large, the time the same.")
]


def detector(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="LABELS[=PICTURES]",
            help="What to train on: a folder of landmark boxes, a COCO .json, or a composed set; and the folder that"
            " its pictures are in, where that is another. May be given again.",
        ),
    ],
    folder: RunFolder,
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
    freeze: FrozenBlocks = 0,
    side: Annotated[int, typer.Option(help="Pictures are squashed to a square of so many pixels a side.")] = 320,
    epochs: Epochs = 100,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = 32,
    lr: LearningRate = 1e-3,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same detector.")] = 0,
    validate_every: EpochsBetween = 1,
    patience: Annotated[int, typer.Option(help="Stop after so many validations without a better AP50.")] = 30,
    workers: Preparing = None,
    resume: Resume = False,
) -> None:
    """Train a detector of landmarks; it can be stopped at any time and resumed.

    The folder of the run gets log.csv and curves.png, the weights that were best on the validation pictures as
    best.safetensors, and last.pt to resume from.
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
            help="Photos to train on: a folder of photos, a folder with a sub-folder for each landmark, or one with"
            " train.csv of Google Landmarks, LABELS=PICTURES where its pictures are elsewhere. May be given again.",
        ),
    ],
    folder: RunFolder,
    recipe: Annotated[
        str,
        typer.Option(
            help="self: no labels, warps of each photo; metric: pictures of one landmark are alike; classify: landmarks"
            " are classes, as in DELF."
        ),
    ] = "self",
    arch: Annotated[
        str, typer.Option(help="efficientnet-lite0, resnet18, resnet18-conv5 or resnet50.")
    ] = "efficientnet-lite0",
    hold_out: HeldOut = 0.1,
    init: Annotated[
        str,
        typer.Option(
            help="Weights to begin with: none, imagenet, the .safetensors file of another run, or a state dictionary of"
            " torchvision's network (.pth)."
        ),
    ] = "imagenet",
    freeze: FrozenBlocks = 0,
    side: Annotated[int, typer.Option(help="Squares of so many pixels a side are cut from the photos.")] = 256,
    dim: Annotated[int, typer.Option(help="Values of a descriptor.")] = 128,
    epochs: Epochs = 20,
    attention_epochs: Annotated[int, typer.Option(help="Passes for attention, which classify learns last.")] = 5,
    batch: Annotated[int, typer.Option(help="Photos a step; of metric, queries.", show_default="16, of metric 4")] = 0,
    hard: Annotated[int, typer.Option(help="Negatives of a query in metric.")] = 5,
    lr: Annotated[
        float | None,
        typer.Option(help="The highest learning rate.", show_default="self 5e-4, metric 2e-5, classify 1e-3"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same features.")] = 0,
    validate_every: EpochsBetween = 1,
    patience: Annotated[int, typer.Option(help="Stop after so many validations without a better one.")] = 10,
    workers: Preparing = None,
    resume: Resume = False,
) -> None:
    """Train local features with attention; it can be stopped at any time and resumed.

    The folder of the run gets log.csv and curves.png, the weights that were best on the validation pictures as
    best.safetensors, and last.pt to resume from.
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
        typer.Option(metavar="FOLDER", help="Photos to train on, a folder searched to any depth. May be given again."),
    ],
    folder: RunFolder,
    channels: Annotated[
        int, typer.Option(help="Of the first layers; the published network has 32, and takes four times as long as 16.")
    ] = 16,
    hold_out: HeldOut = 0.1,
    epochs: Epochs = 4,
    batch: Annotated[int, typer.Option(help="Photos a step.")] = 24,
    lr: LearningRate = 3e-3,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same descriptors.")] = 0,
    workers: Preparing = None,
    resume: Resume = False,
) -> None:
    """Train a network that describes the patches at SIFT's key points, without labels; it can be stopped and resumed.

    The folder of the run gets log.csv and curves.png, the weights that were best on the validation pictures as
    best.safetensors, and last.pt to resume from.
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
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a .safetensors file of one.")],
    path: OnnxPath,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="PHOTO", help="Compare with torch on this photo.", show_default="one that comes along"
        ),
    ] = None,
    half: Half = False,
    scales: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            help="Of local features: the pyramid they are looked for in.",
            show_default="0.25 to 2 by the square root of 2",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of local features: least attention worth keeping.",
            show_default="what a quarter of the cells of training photos stay below",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write the best weights of a run, of a detector or of features, as an ONNX file, which is run without torch.

    The file is written only when ONNX Runtime finds the same in a photo as torch does.
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
        raise ExportError(f"{run}: --scales and --threshold are of deep local features, and these are no such weights")
    if kind == KIND:
        patches = export_hardnet(run, path, photo, half=half, force=force)
        say(
            f"{patches.path}: {patches.arch}, {patches.bytes / 1e6:.1f} MB; from torch its values differ by at most"
            f" {patches.difference:.2g}"
        )
        return
    made = export_detector(run, path, photo, half=half, force=force)
    say(
        f"{made.path}: {made.arch}, side {made.side}, {made.bytes / 1e6:.1f} MB; from torch its boxes differ by at most"
        f" {made.box_difference:.2g} pixels, its scores by {made.score_difference:.2g}"
    )


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file of torch with weights.")],
    arch: Annotated[
        str,
        typer.Option(
            help="how-r18 or how-r50: checkpoints of HOW; resnet18, resnet18-conv5 or resnet50: weights of torchvision,"
            " whose projection is then fitted to a few photos."
        ),
    ],
    path: OnnxPath,
    half: Half = False,
    force: Force = False,
) -> None:
    """Write weights that others have published as an ONNX file of local features."""
    from d2r.train.delf.convert import convert_checkpoint

    check_output(path, is_our_onnx, force=force, inputs=[checkpoint])
    say(_features(convert_checkpoint(checkpoint, path, arch=arch, half=half, force=force)))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--scales {text!r}: write numbers with commas between them") from error


def _features(made: ExportedFeatures) -> str:
    return (
        f"{made.path}: {made.arch}, {made.dim} values, threshold {made.threshold:.3g}, {made.bytes / 1e6:.1f} MB; from"
        f" torch its values differ by at most {made.difference:.2g}"
    )


def _printing() -> Listener:
    from d2r.train.course import Listener

    return Listener(started=_print_sizes, finished=_print_epoch)


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


def _print_best(history: list[EpochRow], path: Path) -> None:
    measured = [row for row in history if row.figures]
    if measured:
        name = next(iter(measured[0].figures))
        best = max(measured, key=lambda row: row.figures[name])
        say(f"best: epoch {best.epoch}, {name} {best.figures[name]:.1%}; {path}")
