"""A few real photographs with boxes, small, and a short run on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch
from PIL import Image

from d2r.compose.bundled import bundled_photos
from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, write_dataset
from d2r.images import read_image, shrink
from d2r.train.detector.loop import train_detector
from d2r.train.detector.settings import DetectorSettings
from d2r.train.log import EpochRow


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small networks are slower with more threads, if other processes need them too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Landmark boxes of twelve pictures for training and four for validation: a photograph laid on another."""
    folder = tmp_path_factory.mktemp("labels")
    bundled = bundled_photos()
    pagoda = shrink(read_image(bundled.instances[0].photos[0]), 128)
    boxes: dict[str, FractionBox] = {}
    for number in range(16):
        scene = cv2.resize(read_image(bundled.backgrounds[number % 12]), (160, 120))
        width, height = 60 + 8 * (number % 6), 50 + 9 * (number % 5)
        left, top = (17 * number) % (160 - width), (23 * number) % (120 - height)
        scene[top : top + height, left : left + width] = cv2.resize(pagoda, (width, height))
        name = f"{number:02d}.png"
        Image.fromarray(scene).save(folder / name)
        boxes[name] = FractionBox(top / 120, left / 160, (top + height) / 120, (left + width) / 160)
    training = {name: box for name, box in boxes.items() if name < "12"}
    validation = {name: box for name, box in boxes.items() if name >= "12"}
    pictures = {name: LandmarkPicture(name, None, "pagoda") for name in boxes}
    write_dataset(folder, LandmarkBoxes(pictures, training, validation))
    return folder


@pytest.fixture(scope="session")
def settings(labels: Path) -> DetectorSettings:
    """A run of four short epochs."""
    return DetectorSettings(
        data=(str(labels),), arch="ssd-mobilenetv2", validation=str(labels), side=96, epochs=4, batch=6, lr=2e-3, seed=3
    )


@pytest.fixture(scope="session")
def trained(settings: DetectorSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EpochRow]]:
    """The folder of that run, not to be changed, and its epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, train_detector(settings, folder, workers=0)
