"""A few real photographs of landmarks, small, and short runs on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2r.compose.bundled import bundled_photos
from d2r.images import read_image
from d2r.train.delf.loop import train_delf
from delf_runs import RECIPES, Runs, settings_of


@pytest.fixture(scope="session")
def landmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five folders of four pictures: parts of one photograph each."""
    folder = tmp_path_factory.mktemp("landmarks")
    random = np.random.default_rng(0)
    for photo in bundled_photos().backgrounds[:5]:
        picture = cv2.resize(read_image(photo), (176, 144), interpolation=cv2.INTER_AREA)
        (folder / photo.stem).mkdir()
        for number in range(4):
            x, y = random.integers(40), random.integers(30)
            Image.fromarray(picture[y : y + 112, x : x + 136]).save(folder / photo.stem / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def runs(landmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """For each recipe the folder of a run, not to be changed, and its epochs."""
    found = {}
    for recipe in RECIPES:
        folder = tmp_path_factory.mktemp(recipe) / "run"
        found[recipe] = folder, train_delf(settings_of(recipe, landmarks), folder, workers=0)
    return found
