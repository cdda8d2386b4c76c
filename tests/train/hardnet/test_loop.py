from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2r.compose.bundled import bundled_photos
from d2r.features import HardNet
from d2r.images import read_image, shrink
from d2r.train.course import Listener
from d2r.train.data import DecodedPictures
from d2r.train.hardnet.export import export_hardnet, load_hardnet
from d2r.train.hardnet.loop import PatchTrainer, PhotoPairs, collate_patch_pairs, train_hardnet
from d2r.train.hardnet.network import build_hardnet
from d2r.train.hardnet.settings import HardNetSettings
from d2r.train.settings import TrainError
from d2r.train.weights import ExportError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for photo in bundled_photos().backgrounds[:6]:
        Image.fromarray(np.array(shrink(read_image(photo), 260))).save(folder / f"{photo.stem}.png")
    return folder


@pytest.fixture(scope="module")
def settings(photos: Path) -> HardNetSettings:
    return HardNetSettings(data=(str(photos),), channels=4, hold_out=0.3, epochs=8, batch=2, lr=1e-2)


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("hardnet") / "run"
    return folder, train_hardnet(settings, folder, workers=0)


def test_training_lowers_the_loss_on_photos_that_were_held_out(run, settings, photos, tmp_path) -> None:
    folder, history = run
    pictures = DecodedPictures(sorted(photos.iterdir()), 260)
    measured = PhotoPairs(pictures, 32, 9)
    pairs = collate_patch_pairs([measured[0, number, number] for number in range(len(pictures))])
    torch.manual_seed(settings.seed)
    losses = []
    for network in (build_hardnet(settings.channels).eval(), load_hardnet(folder)):
        trainer = PatchTrainer(settings, network, pictures, pictures, 0, tmp_path)
        with torch.no_grad():
            losses.append(float(sum(trainer.losses(network, pairs).values())))
    assert losses[1] < 0.8 * losses[0]
    assert history[-1].figures["matched"] > 0.6


def test_a_run_leaves_its_log_and_curves(run) -> None:
    folder, history = run
    with (folder / "log.csv").open(newline="") as file:
        assert [float(row["matched"]) for row in csv.DictReader(file)] == pytest.approx(
            [row.figures["matched"] for row in history], abs=1e-4
        )
    assert Image.open(folder / "curves.png").width > 300


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(run, settings, tmp_path) -> None:
    class StoppedError(Exception):
        pass

    def stop(row) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        train_hardnet(settings, tmp_path, workers=0, listener=Listener(finished=stop))
    train_hardnet(settings, tmp_path, workers=0, resume=True)
    straight, resumed = (torch.load(folder / "last.pt", weights_only=True)["network"] for folder in (run[0], tmp_path))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_what_is_exported_describes_a_picture_and_its_shrunk_copy_alike(run, photos, tmp_path) -> None:
    photo = read_image(next(photos.iterdir()))
    made = export_hardnet(run[0], tmp_path / "x.onnx", photo)
    assert made.arch == "hardnet-4"
    assert made.difference < 1e-4
    half = export_hardnet(run[0], tmp_path / "half.onnx", photo, half=True)
    assert half.bytes < 0.6 * made.bytes
    first, second = HardNet(str(half.path), top=150).extract([photo, np.array(shrink(photo, 200))])
    products = first.descriptors @ second.descriptors.T
    scale = 200 / max(photo.shape)
    near = np.linalg.norm(scale * first.positions[products.argmax(axis=0)] - second.positions, axis=1) < 4
    assert near.mean() > 0.3  # of 150 places; one in a hundred by chance, and half have none


def test_one_command_trains_and_one_exports(d2r, photos, tmp_path) -> None:
    options = "--channels", "2", "--epochs", "1", "--batch", "2", "--hold-out", "0.3", "--workers", "0"
    status, out, _ = d2r("train", "hardnet", "--data", photos, "--out", tmp_path / "run", *options)
    assert status == 0
    assert re.search(r"epoch +1 +loss .*matched +\d", out)
    status, out, _ = d2r("train", "export", tmp_path / "run", "--out", tmp_path / "y.onnx", "--half")
    assert status == 0
    assert "hardnet-2" in out
    spec = f"hardnet:model={tmp_path / 'y.onnx'}"
    status, out, _ = d2r("show", "features", next(photos.iterdir()), "--features", spec, "--out", tmp_path / "z.png")
    assert status == 0
    assert "features of 128 dimensions" in out


@pytest.mark.parametrize(
    ("change", "problem"), [({"batch": 1}, "--batch must be at least 2"), ({"channels": 0}, "--channels must be")]
)
def test_settings_that_cannot_be_are_named(settings, change, problem) -> None:
    with pytest.raises(TrainError, match=problem):
        replace(settings, **change)


def test_photos_of_nothing_cannot_be_trained_on(tmp_path) -> None:
    for number in range(4):
        Image.fromarray(np.full((60, 80, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    with pytest.raises(TrainError, match="no keypoints match in the held-out photos"):
        train_hardnet(HardNetSettings(data=(str(tmp_path),)), tmp_path / "run", workers=0)


def test_weights_of_something_else_are_not_exported(run, tmp_path) -> None:
    with pytest.raises(ExportError, match="there are no weights here"):
        export_hardnet(tmp_path, tmp_path / "x.onnx", np.zeros((80, 80, 3), np.uint8))
