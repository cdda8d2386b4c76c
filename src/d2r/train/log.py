"""The log of a run: a table and a plot, rewritten after each epoch."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from d2r.support.files import replacing

LOG: Final = "log.csv"
CURVES: Final = "curves.png"


@dataclass(frozen=True)
class EpochRow:
    """One epoch.

    Attributes:
        epoch: its number, from 1.
        lr: learning rate at its end.
        loss: mean over its steps; the sum of ``losses``.
        losses: name to mean over its steps.
        figures: name to a figure in [0, 1] of the averaged weights on the validation pictures; the first decides which
            weights are best. Empty in an epoch without validation.
        seconds: its duration, including validation.
    """

    epoch: int
    lr: float
    loss: float
    losses: dict[str, float]
    figures: dict[str, float]
    seconds: float


def write_log(folder: Path, history: Sequence[EpochRow]) -> None:
    """Write ``log.csv`` and ``curves.png`` into the folder of a run."""
    names = list(history[0].losses)
    figures = next((list(row.figures) for row in history if row.figures), [])
    with replacing(folder / LOG) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["epoch", "lr", "loss", *names, *figures, "seconds"])
        for row in history:
            measured = (f"{row.figures[name]:.4f}" if row.figures else "" for name in figures)
            losses = (f"{value:.5f}" for value in (row.loss, *(row.losses[name] for name in names)))
            table.writerow([row.epoch, f"{row.lr:.3e}", *losses, *measured, f"{row.seconds:.1f}"])
    _plot(folder / CURVES, history)


def _plot(path: Path, history: Sequence[EpochRow]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [row.epoch for row in history]
    for name in history[0].losses:
        left.plot(epochs, [row.losses[name] for row in history], label=name.removeprefix("loss_"))
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    left.legend(frameon=False)
    measured = [row for row in history if row.figures]
    marker = "o" if len(measured) < 2 else None
    for name in measured[0].figures if measured else ():
        right.plot([row.epoch for row in measured], [row.figures[name] for row in measured], marker=marker, label=name)
    right.set(xlabel="epoch", ylabel="on validation pictures", ylim=(0, 1))
    if measured:
        right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def as_rows(stored: Sequence[dict[str, object]]) -> list[EpochRow]:
    """Return rows from their plain form in a checkpoint."""
    return [EpochRow(**row) for row in stored]  # type: ignore[arg-type]


def as_plain(history: Sequence[EpochRow]) -> list[dict[str, object]]:
    """Return rows in their plain form for a checkpoint."""
    return [dataclasses.asdict(row) for row in history]
