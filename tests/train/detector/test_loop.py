from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from d2r.evaluate.detection import evaluate_boxes
from d2r.train.course import Listener, begin
from d2r.train.detector import loop
from d2r.train.detector.architectures import InitError
from d2r.train.detector.loop import train_detector
from d2r.train.detector.settings import DetectorSettings
from d2r.train.log import EpochRow
from d2r.train.settings import TrainError, write_settings


class StoppedError(Exception):
    pass


def stop_after(epoch: int):
    def finished(row: EpochRow) -> None:
        if row.epoch == epoch:
            raise StoppedError

    return finished


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "last.pt", weights_only=True)
    return {**state["network"], **{f"average.{name}": value for name, value in state["average"].items()}}


def test_a_run_leaves_checkpoint_best_weights_settings_log_and_curves(trained, settings) -> None:
    folder, history = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "curves.png",
        "last.pt",
        "log.csv",
        "settings.json",
    ]
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["ap50"]) for row in rows] == pytest.approx([row.figures["ap50"] for row in history], abs=1e-4)
    assert all(
        float(row["bbox_regression"]) + float(row["classification"]) == pytest.approx(float(row["loss"]), abs=1e-4)
        for row in rows
    )
    assert json.loads((folder / "settings.json").read_text())["side"] == settings.side
    assert Image.open(folder / "curves.png").width > 300


def test_the_learning_rate_rises_and_then_falls_to_a_hundredth(settings, trained) -> None:
    _, history = trained
    assert max(row.lr for row in history) <= settings.lr
    assert history[-1].lr == pytest.approx(settings.lr / 100, rel=0.01)


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(settings, trained, tmp_path) -> None:
    straight, history = trained
    with pytest.raises(StoppedError):
        train_detector(settings, tmp_path, workers=0, listener=Listener(finished=stop_after(2)))
    resumed = train_detector(settings, tmp_path, workers=1, resume=True)
    expected, found = weights(straight), weights(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [(row.lr, row.loss, row.figures) for row in resumed] == [(row.lr, row.loss, row.figures) for row in history]
    best = load_file(straight / "best.safetensors")
    assert all(torch.equal(best[name], value) for name, value in load_file(tmp_path / "best.safetensors").items())


def test_the_loss_falls_on_a_few_pictures_seen_often(settings, tmp_path) -> None:
    often = dataclasses.replace(settings, shares=(4.0,), epochs=5, validate_every=5, lr=4e-3)
    history = train_detector(often, tmp_path, workers=0)
    assert history[-1].loss < 0.7 * history[0].loss
    assert [not row.figures for row in history] == [True, True, True, True, False]


def test_pictures_are_held_out_where_there_is_no_validation_set(settings, tmp_path) -> None:
    sizes = []
    with pytest.raises(StoppedError):
        train_detector(
            dataclasses.replace(settings, validation=None, hold_out=0.25, batch=4),
            tmp_path,
            workers=0,
            listener=Listener(started=sizes.append, finished=stop_after(1)),
        )
    assert (sizes[0].training, sizes[0].validation, sizes[0].steps) == (9, 3, 2)


def test_training_stops_when_validation_does_not_get_better(settings, tmp_path, monkeypatch) -> None:
    truth = [np.array([[0.0, 0.0, 10.0, 10.0]])]
    scores = evaluate_boxes(truth, [np.ones(1)], truth)
    course = iter((0.2, 0.5, 0.5, 0.4))
    monkeypatch.setattr(loop, "validate", lambda *_: dataclasses.replace(scores, ap50=next(course)))
    patient = dataclasses.replace(settings, epochs=10, batch=12, patience=2)
    history = train_detector(patient, tmp_path, workers=0)
    assert [row.figures["ap50"] for row in history] == [0.2, 0.5, 0.5, 0.4]
    with safe_open(tmp_path / "best.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["best"]) == {"epoch": 2, "ap50": 0.5}
    assert train_detector(patient, tmp_path, workers=0, resume=True) == history


def test_a_run_begins_with_the_weights_of_another_and_tells_what_was_not_taken(settings, trained, tmp_path) -> None:
    folder, _ = trained
    init = dataclasses.replace(settings, init=os.fspath(folder / "best.safetensors"), freeze=15, epochs=1)
    sizes = []
    train_detector(init, tmp_path / "same", workers=0, listener=Listener(started=sizes.append))
    assert sizes[0].left_out == []
    old, new = load_file(folder / "best.safetensors"), load_file(tmp_path / "same" / "best.safetensors")
    frozen = [name for name in old if name.startswith("backbone.body.0.")]
    assert all(torch.equal(old[name], new[name]) for name in frozen)
    assert not torch.equal(old["backbone.extra.0.0.0.weight"], new["backbone.extra.0.0.0.weight"])

    other = dataclasses.replace(init, arch="ssd-efficientnet-lite0", freeze=0)
    with pytest.raises(StoppedError):
        train_detector(
            other, tmp_path / "other", workers=0, listener=Listener(started=sizes.append, finished=stop_after(1))
        )
    assert any(name.startswith("backbone.body.0.") for name in sizes[1].left_out)
    assert not any(name.startswith("backbone.extra.1.") for name in sizes[1].left_out)


def test_a_run_is_not_resumed_with_another_setting_which_is_named(settings, trained) -> None:
    folder, _ = trained
    for change, flag in (({"lr": 1e-4}, "--lr 0.002, not 0.0001"), ({"epochs": 5}, "--epochs 4, not 5")):
        with pytest.raises(TrainError, match=flag):
            train_detector(dataclasses.replace(settings, **change), folder, resume=True)


def test_a_folder_with_a_run_is_not_written_over(settings, trained) -> None:
    with pytest.raises(TrainError, match="there is a run here; give --resume"):
        train_detector(settings, trained[0])


@pytest.mark.parametrize("damage", ["short", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_named(settings, trained, tmp_path, damage) -> None:
    last = tmp_path / "last.pt"
    shutil.copy(trained[0] / "last.pt", last)
    if damage == "short":
        last.write_bytes(last.read_bytes()[:100_000])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "text":
        last.write_text("not a checkpoint")
    else:
        torch.save({"epoch": 1}, last)
    with pytest.raises(TrainError, match=r"last\.pt: (the checkpoint is damaged or not one|not a checkpoint)"):
        train_detector(settings, tmp_path, resume=True)


def test_a_run_that_was_never_started_cannot_be_resumed(settings, tmp_path) -> None:
    with pytest.raises(TrainError, match=r"last\.pt: there is no checkpoint to resume from"):
        train_detector(settings, tmp_path, resume=True)


def test_weights_to_begin_with_that_cannot_be_read_are_named(settings, tmp_path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    for init in (damaged, tmp_path / "missing.safetensors"):
        with pytest.raises(InitError, match=init.name):
            train_detector(dataclasses.replace(settings, init=os.fspath(init)), tmp_path / "run")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_loss_that_is_not_finite_stops_the_run(settings, tmp_path) -> None:
    with pytest.raises(TrainError, match=r"the loss is not finite in step \d+ of epoch \d+; lower --lr"):
        train_detector(dataclasses.replace(settings, lr=1e30), tmp_path, workers=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "yolo"}, "--arch 'yolo' is not known; there are: ssd-mobilenetv2"),
        ({"side": 100}, "--side must be a multiple of 32"),
        ({"batch": 1}, "--batch must be at least 2"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"hold_out": 1.0}, "--hold-out must be between 0 and 1"),
        ({"shares": (1.0, 2.0)}, "--share is given 2 times and --data 1 times"),
        ({"shares": (0.0,)}, "--share must be above 0"),
        ({"freeze": 2}, "--freeze keeps the weights of --init"),
        ({"data": ()}, "--data: there is nothing"),
    ],
)
def test_a_wrong_setting_is_named(settings: DetectorSettings, change, message) -> None:
    with pytest.raises(TrainError, match=message):
        dataclasses.replace(settings, **{"shares": (), **change})


@pytest.mark.parametrize("name", ["settings.json", "log.csv", "best.safetensors", "photo.jpg"])
def test_a_run_is_not_begun_in_a_folder_with_something_else(
    settings: DetectorSettings, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(TrainError, match=rf"{name}: it is not of a run; give a new folder, or an empty one"):
        train_detector(settings, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_run_that_ended_before_its_first_checkpoint_is_begun_again(
    settings: DetectorSettings, tmp_path: Path
) -> None:
    write_settings(settings, tmp_path)
    (tmp_path / "best.safetensors").touch()
    assert begin(settings, tmp_path, resume=False) is None
