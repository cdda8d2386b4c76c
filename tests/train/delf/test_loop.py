from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from d2r.train.course import Listener
from d2r.train.delf.loop import train_delf
from d2r.train.delf.settings import DelfSettings
from d2r.train.log import EpochRow
from d2r.train.settings import TrainError
from delf_runs import RECIPES, settings_of


class StoppedError(Exception):
    pass


def stop_after(epochs: int, seen: list[EpochRow] | None = None):
    """Return a listener that adds epochs, of both stages, to ``seen`` and stops the run after some of them."""
    seen = [] if seen is None else seen

    def finished(row) -> None:
        seen.append(row)
        if len(seen) == epochs:
            raise StoppedError

    return finished


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "last.pt", weights_only=True)
    return {**state["network"], **{f"average.{name}": value for name, value in state["average"].items()}}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_leaves_all_that_there_is_to_know_about_it(runs, recipe) -> None:
    folder, history = runs[recipe]
    files = {"best.safetensors", "curves.png", "last.pt", "log.csv", "settings.json"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == files
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    name = {"self": "attended", "metric": "map", "classify": "accuracy"}[recipe]
    assert [float(row[name]) for row in rows] == pytest.approx([row.figures[name] for row in history], abs=1e-4)
    assert json.loads((folder / "settings.json").read_text())["recipe"] == recipe
    assert Image.open(folder / "curves.png").width > 300
    with safe_open(folder / "best.safetensors", framework="pt") as file:
        about = file.metadata()
    assert (about["arch"], about["dim"]) == ("efficientnet-lite0", "32")
    assert about["kind"] == ("how" if recipe == "metric" else "delf")
    assert float(about["threshold"]) > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(runs, landmarks, tmp_path, recipe) -> None:
    straight, history = runs[recipe]
    settings = settings_of(recipe, landmarks)
    with pytest.raises(StoppedError):
        train_delf(
            settings, tmp_path, workers=0, listener=Listener(finished=stop_after(3 if recipe == "classify" else 1))
        )
    resumed = train_delf(settings, tmp_path, workers=0, resume=True)
    expected, found = weights(straight), weights(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [(row.loss, row.figures) for row in resumed] == [(row.loss, row.figures) for row in history]
    best = load_file(straight / "best.safetensors")
    assert all(torch.equal(best[name], value) for name, value in load_file(tmp_path / "best.safetensors").items())


def test_a_run_stopped_while_it_learns_descriptors_goes_on_there(runs, landmarks, tmp_path) -> None:
    settings = settings_of("classify", landmarks)
    with pytest.raises(StoppedError):
        train_delf(settings, tmp_path, workers=0, listener=Listener(finished=stop_after(1)))
    assert not (tmp_path / "last.pt").exists()
    with pytest.raises(TrainError, match="there is a run here"):
        train_delf(settings, tmp_path, workers=0)
    seen = []
    train_delf(settings, tmp_path, workers=0, resume=True, listener=Listener(finished=seen.append))
    assert [row.epoch for row in seen] == [2, 1, 2]
    expected, found = weights(runs["classify"][0]), weights(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_loss_falls_on_a_few_pictures_seen_often(landmarks, tmp_path, recipe) -> None:
    side = 96 if recipe == "metric" else 64
    settings = dataclasses.replace(settings_of(recipe, landmarks), epochs=5, validate_every=6, freeze=4, side=side)
    seen = []
    with pytest.raises(StoppedError):
        train_delf(settings, tmp_path, workers=0, listener=Listener(finished=stop_after(5, seen)))
    first, last = seen[0], seen[-1]
    assert last.loss < 0.9 * first.loss
    assert all(last.losses[name] < first.losses[name] for name in last.losses if name != "negative")


def test_another_run_in_the_folder_is_not_written_over(runs, landmarks) -> None:
    for recipe in RECIPES:
        with pytest.raises(TrainError, match="there is a run here; give --resume"):
            train_delf(settings_of(recipe, landmarks), runs[recipe][0])


def test_a_run_is_not_resumed_with_another_setting_which_is_named(runs, landmarks) -> None:
    settings = dataclasses.replace(settings_of("self", landmarks), dim=64)
    with pytest.raises(TrainError, match="--dim 32, not 64"):
        train_delf(settings, runs["self"][0], resume=True)


def test_a_run_begins_with_the_weights_of_another(runs, landmarks, tmp_path) -> None:
    settings = dataclasses.replace(
        settings_of("classify", landmarks), init=str(runs["self"][0] / "best.safetensors"), epochs=1
    )
    sizes = []
    with pytest.raises(StoppedError):
        train_delf(settings, tmp_path, workers=0, listener=Listener(started=sizes.append, finished=stop_after(1)))
    assert sizes[0].left_out == []


@pytest.mark.parametrize("recipe", ["metric", "classify"])
def test_photos_without_labels_are_for_the_recipe_self(landmarks, tmp_path, recipe) -> None:
    shutil.copytree(next(path for path in landmarks.iterdir()), tmp_path / "photos")
    with pytest.raises(TrainError, match="--recipe self"):
        train_delf(settings_of(recipe, tmp_path / "photos"), tmp_path / "run")


def test_too_few_photos_for_a_projection_are_refused(landmarks, tmp_path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number, path in enumerate(sorted(landmarks.rglob("0.png"))[:3]):
        Image.open(path).resize((64, 64)).save(folder / f"{number}.png")
    settings = dataclasses.replace(settings_of("self", folder), side=64, dim=256)
    with pytest.raises(TrainError, match=r"--data: there are too few photos: 56 features to fit 256 components to"):
        train_delf(settings, tmp_path / "run", workers=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "magic"}, "--recipe 'magic' is not known; there are: self, metric, classify"),
        ({"arch": "vgg"}, "--arch 'vgg' is not known; there are: efficientnet-lite0"),
        ({"side": 100}, "--side must be a multiple of 32"),
        ({"dim": 4}, "--dim must be 8 to 256"),
        ({"batch": 1}, "--batch must be at least 2"),
        ({"hard": 0}, "--hard must be at least 1"),
        ({"attention_epochs": 0}, "--attention-epochs must be at least 1"),
        ({"freeze": 1, "init": "none"}, "--freeze keeps the weights of --init"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, change, message) -> None:
    settings: DelfSettings = settings_of("self", tmp_path)
    with pytest.raises(TrainError, match=message):
        dataclasses.replace(settings, **change)


def test_more_blocks_than_there_are_cannot_be_frozen(landmarks, tmp_path) -> None:
    with pytest.raises(TrainError, match="--freeze: efficientnet-lite0 has 13 blocks"):
        train_delf(dataclasses.replace(settings_of("self", landmarks), freeze=14), tmp_path / "run", workers=0)
