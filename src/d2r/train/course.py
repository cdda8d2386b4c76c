"""The training loop of all networks: epochs, averaged weights, checkpoints, patience, the log.

A run depends only on its settings: each epoch draws from its own generators, seeded by the seed and the epoch's number,
so that no generator's state outlives an epoch. Checkpoints are written at the end of an epoch. On the same machine and
libraries, a run that was stopped and resumed ends with the same weights as one that was not; a GPU may round
differently.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from d2r.support.files import check_no_index, display_path, is_our_json, is_temporary, replacing
from d2r.train.checkpoint import LAST, read_checkpoint, write_checkpoint
from d2r.train.data import derived_seed
from d2r.train.log import EpochRow, as_plain, as_rows, write_log
from d2r.train.settings import SETTINGS, RunSettings, TrainError, as_document, check_same_settings, write_settings

BEST: Final = "best.safetensors"
DESCRIPTORS: Final = "descriptors"
"""Subfolder of a run with two stages that holds the first stage, as a run of its own."""

_WARM_UP: Final = 0.05  # share of all steps
_LAST_LR: Final = 0.01  # share of the highest learning rate at which the cosine ends
_LARGEST_GRADIENT: Final = 10.0  # norm over all weights
_AVERAGING: Final = 0.998  # share of the averaged weights that a step keeps, after many steps


@dataclass(frozen=True)
class Sizes:
    """Facts of a run: numbers of pictures, steps per epoch, weights not taken from --init, first epoch, and device."""

    training: int
    validation: int
    steps: int
    left_out: Sequence[str]
    first_epoch: int
    device: str


@dataclass
class Run:
    """The state of a run."""

    network: nn.Module
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    best: dict[str, float] | None = None  # "epoch" of the best validation, and its deciding figure by name
    history: list[EpochRow] = field(default_factory=list)

    def parts(self) -> dict[str, Any]:
        """Return the parts that have a state of their own in a checkpoint."""
        return {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }


class Trainer(Protocol):
    """What differs between kinds of networks; ``steps`` is the number of steps per epoch."""

    steps: int

    def batches(self, average: nn.Module, epoch: int) -> Iterable[Any]:
        """Return the batches of an epoch, always ``steps`` of them; ``average`` is the network to choose them with."""

    def train_mode(self, network: nn.Module) -> None:
        """Put a network into training mode, except for its frozen parts."""

    def losses(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch by name."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return figures in [0, 1] by name; the first decides which weights are best."""

    def write_best(self, network: nn.Module, best: dict[str, float]) -> None:
        """Write the best weights so far."""


@dataclass(frozen=True)
class Listener:
    """Callbacks for the progress of a run.

    Attributes:
        started: called once with the facts of the run.
        stepped: called after each step with the epoch from 1, the step from 1, and the steps per epoch.
        finished: called after each epoch, when its checkpoint is on disk.
    """

    started: Callable[[Sizes], None] = lambda sizes: None
    stepped: Callable[[int, int, int], None] = lambda epoch, step, steps: None
    finished: Callable[[EpochRow], None] = lambda row: None


NOBODY: Final = Listener()
"""A listener that does nothing."""


def begin(settings: RunSettings, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint to resume from, or None for a new run, whose folder is created.

    Raises:
        TrainError: there is nothing to resume, or its settings differ; or see :func:`check_new`.
        d2r.support.files.OutputError: the folder is in an index.
    """
    last = folder / LAST
    if resume:
        stored = read_checkpoint(last)
        check_same_settings(stored["settings"], settings, folder)
        return stored
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return None


def check_new(folder: Path) -> None:
    """Check that a run can begin in a folder: it is missing or empty, or has a run without a checkpoint.

    Raises:
        TrainError: the folder has a run with a checkpoint, or files that are not of a run.
        d2r.support.files.OutputError: the folder is in an index.
    """
    check_no_index(folder)
    if not folder.exists():
        return
    if (folder / LAST).exists():
        raise TrainError(
            f"{display_path(folder)}: there is a run here; give --resume to continue it, or another folder"
        )
    names = {path.name for path in folder.iterdir() if not is_temporary(path)} - {DESCRIPTORS}
    begun = (folder / SETTINGS).is_file() and is_our_json(folder / SETTINGS)
    if other := sorted(names - {SETTINGS, BEST} if begun else names):
        raise TrainError(f"{display_path(folder / other[0])}: it is not of a run; give a new folder, or an empty one")


def _assemble(network: nn.Module, groups: Sequence[dict[str, Any]], lr: float, decay: float, steps: int) -> Run:
    """Return a run at its beginning.

    Args:
        network: the network, on its device.
        groups: parameter groups for AdamW: ``params`` and, if it is not ``lr``, the highest learning rate of each;
            frozen weights may be among them.
        lr: the highest learning rate.
        decay: weight decay; gains and biases have none.
        steps: steps of the whole run.
    """
    split: list[dict[str, Any]] = []
    for group in groups:
        trained = [weight for weight in group["params"] if weight.requires_grad]
        for several, rate in ((True, decay), (False, 0.0)):
            weights = [weight for weight in trained if (weight.dim() > 1) is several]
            split.append({**group, "params": weights, "weight_decay": rate})
    optimiser = torch.optim.AdamW(split, lr=lr)
    return Run(
        network=network,
        average=AveragedModel(network, avg_fn=_average, use_buffers=True),
        optimiser=optimiser,
        schedule=LambdaLR(optimiser, partial(_share_of_lr, total=steps)),
        scaler=torch.amp.GradScaler("cuda", enabled=_half(network) is torch.float16),
    )


def _start(run: Run, settings: RunSettings, folder: Path, stored: dict[str, Any] | None) -> None:
    """Write the settings of a new run, or restore a run from a checkpoint.

    Raises:
        TrainError: the checkpoint does not fit.
    """
    if stored is None:
        write_settings(settings, folder)
        return
    try:
        for name, part in run.parts().items():
            part.load_state_dict(stored[name])
        run.best = stored["best"]
        run.history = as_rows(stored["history"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        path = display_path(folder / LAST)
        raise TrainError(f"{path}: the checkpoint does not fit its settings ({error})") from error


def train_network(
    network: nn.Module,
    trainer: Trainer,
    groups: Sequence[dict[str, Any]],
    settings: RunSettings,
    folder: Path,
    stored: dict[str, Any] | None,
    *,
    decay: float,
    epochs: int,
    pictures: tuple[int, int],
    left_out: Sequence[str],
    listener: Listener,
) -> list[EpochRow]:
    """Train a network from the beginning or from a checkpoint; return all epochs of the run.

    Args:
        network: the network, on its device.
        trainer: the trainer of its kind.
        groups: parameter groups for AdamW: ``params`` and, if it is not that of the settings, the highest learning rate
            of each; frozen weights may be among them.
        settings: settings of the run.
        folder: folder of the run.
        stored: the checkpoint, see :func:`begin`.
        decay: weight decay; gains and biases have none.
        epochs: total epochs of the run.
        pictures: numbers of pictures to train on and to validate on.
        left_out: names of weights that were not taken from --init.
        listener: callbacks for the progress.

    Raises:
        TrainError: the checkpoint does not fit, or the loss is not finite.
    """
    run = _assemble(network, groups, settings.lr, decay, trainer.steps * epochs)
    _start(run, settings, folder, stored)
    device = next(network.parameters()).device
    listener.started(Sizes(*pictures, trainer.steps, left_out, len(run.history) + 1, device.type))
    return _train_epochs(run, trainer, settings, folder, epochs, listener)


def _train_epochs(
    run: Run, trainer: Trainer, settings: RunSettings, folder: Path, epochs: int, listener: Listener
) -> list[EpochRow]:
    """Train the remaining epochs of a run; return all its epochs.

    Args:
        run: the run to continue.
        trainer: the trainer of its kind of network.
        settings: settings of the run.
        folder: folder of the run.
        epochs: total epochs of the run.
        listener: callbacks for the progress.

    Raises:
        TrainError: the loss is not finite.
    """
    while len(run.history) < epochs and not _out_of_patience(run, settings.patience):
        epoch = len(run.history) + 1
        torch.manual_seed(derived_seed(settings.seed, epoch))
        started = time.monotonic()
        losses = _train_epoch(run, trainer, epoch, partial(listener.stepped, epoch))
        figures: dict[str, float] = {}
        if epoch % settings.validate_every == 0 or epoch == epochs:
            figures = trainer.validate(run.average.module)
            name, value = next(iter(figures.items()))
            if run.best is None or value > run.best[name]:
                run.best = {"epoch": epoch, name: value}
                trainer.write_best(run.average.module, run.best)
        row = EpochRow(
            epoch=epoch,
            lr=max(map(float, run.schedule.get_last_lr())),
            loss=sum(losses.values()),
            losses=losses,
            figures=figures,
            seconds=time.monotonic() - started,
        )
        run.history.append(row)
        state = {name: part.state_dict() for name, part in run.parts().items()}
        rest = {"settings": as_document(settings), "epoch": epoch, "best": run.best, "history": as_plain(run.history)}
        write_checkpoint(folder / LAST, {**state, **rest})
        write_log(folder, run.history)
        listener.finished(row)
    return run.history


def autocast(network: nn.Module, *, processor: bool) -> AbstractContextManager[None]:
    """Return the context that computes convolutions in 16 bits, on a CPU only if ``processor``."""
    device = next(network.parameters()).device
    return torch.autocast(device.type, dtype=_half(network), enabled=processor or device.type == "cuda")


def write_weights(path: Path, network: nn.Module, about: dict[str, str], best: dict[str, float]) -> None:
    """Write weights as a .safetensors file, with their description in its metadata."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(path) as part:
        save_file(weights, part, metadata={**about, "best": json.dumps(best)})


def _share_of_lr(step: int, total: int) -> float:
    """Return the share of the highest learning rate at a step of ``total``: linear up, then half a cosine down."""
    warm_up = max(1, round(_WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return _LAST_LR + (1.0 - _LAST_LR) * 0.5 * (1.0 + math.cos(math.pi * done))


def _average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Return the exponential moving average; it forgets faster in the first steps, or the first would dominate."""
    if not averaged.is_floating_point():
        return current
    keep = min(_AVERAGING, (1.0 + float(count)) / (10.0 + float(count)))
    return torch.lerp(current, averaged, keep)


def _half(network: nn.Module) -> torch.dtype:
    """Return the 16-bit type of convolutions on the network's device."""
    if next(network.parameters()).is_cuda and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def _train_epoch(run: Run, trainer: Trainer, epoch: int, stepped: Callable[[int, int], None]) -> dict[str, float]:
    """Train for one epoch; return the mean of each loss."""
    totals: dict[str, Tensor] = {}
    batches = trainer.batches(run.average.module, epoch)
    run.network.train()
    trainer.train_mode(run.network)
    for step, batch in enumerate(batches, start=1):
        losses = trainer.losses(run.network, batch)
        loss: Any = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise TrainError(f"the loss is not finite in step {step} of epoch {epoch}; lower --lr")
        run.optimiser.zero_grad()
        run.scaler.scale(loss).backward()
        run.scaler.unscale_(run.optimiser)
        nn.utils.clip_grad_norm_(run.network.parameters(), _LARGEST_GRADIENT)
        run.scaler.step(run.optimiser)
        run.scaler.update()
        run.schedule.step()
        run.average.update_parameters(run.network)
        for name, value in losses.items():
            totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value.detach()
        stepped(step, trainer.steps)
    return {name: float(value) / trainer.steps for name, value in totals.items()}


def _out_of_patience(run: Run, patience: int) -> bool:
    if run.best is None:
        return False
    since = [row for row in run.history if row.figures and row.epoch > run.best["epoch"]]
    return len(since) >= patience
