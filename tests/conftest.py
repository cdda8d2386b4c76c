"""Fixtures that several tests share: a few real photographs, small, and an index of them."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from d2r.cli.app import main
from d2r.compose.bundled import bundled_photos
from d2r.compose.clutter import compose_set
from d2r.compose.sources import read_backgrounds, read_instances
from d2r.datasets.ground_truth import ClutterSet, Instance
from d2r.engine import Engine
from d2r.images import read_image, shrink
from d2r.indexing import fill as build
from synthetic import SMALL, texture, write
from web import Server, serving

CHROMIUM = Path("/usr/bin/chromium")


def view_of(image: np.ndarray, angle: float, scale: float) -> np.ndarray:
    """Return a picture turned about its centre, as another photographer would have taken it."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small photographs: three of the pagoda from different views, and seven other things, two folders deep."""
    folder = tmp_path_factory.mktemp("collection") / "photos"
    (folder / "deep" / "deeper").mkdir(parents=True)
    bundled = bundled_photos()
    pagoda = shrink(read_image(bundled.instances[0].photos[0]), 360)
    for number, (angle, scale) in enumerate([(0, 1.0), (6, 1.1), (-8, 1.25)]):
        Image.fromarray(view_of(pagoda, angle, scale)).save(folder / f"pagoda-{number}.jpg", quality=92)
    for number, path in enumerate(bundled.backgrounds[:7]):
        place = folder / "deep" / ("deeper" if number % 2 else "")
        Image.fromarray(shrink(read_image(path), 320)).save(place / f"other-{number}.PNG")
    return folder


@pytest.fixture(scope="session")
def built_index(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the ten photographs; not to be changed."""
    folder = tmp_path_factory.mktemp("built") / "photos.index"
    with Engine.create(folder, num_words=128) as engine:
        engine.sync(photo_folder, workers=0)
    return folder


@pytest.fixture
def collection(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the photographs, with the times of the originals, that a test may change."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


@pytest.fixture
def engine(collection: Path, tmp_path: Path) -> Iterator[Engine]:
    """An index of ``collection`` that a test may change."""
    with Engine.create(tmp_path / "photos.index", num_words=128, regions="whole", features="rootsift") as engine:
        engine.sync(collection, workers=0)
        yield engine


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real scenes and ground truth, from D2R_DATA or beside the repository."""
    folder = Path(os.environ.get("D2R_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data: set D2R_DATA (there is no {folder})")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser: there is no {CHROMIUM}")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=os.fspath(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session", autouse=True)
def no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the networks that whoever runs the tests has added out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2R_MODELS", os.fspath(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_commits_by_the_clock() -> Iterator[None]:
    """Commit when a batch is full only: where segments end must not depend on how busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_BATCH_SECONDS", math.inf)
        yield


@pytest.fixture
def d2r(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns exit status, output and error output."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["d2r", *map(os.fspath, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Instance], list[Path]]:
    """Four flat instances and twelve backgrounds."""
    folder = tmp_path_factory.mktemp("sources")
    for k in range(4):
        write(folder / "instances" / f"thing{k}.jpg", texture(k))
    for k in range(12):
        write(folder / "backgrounds" / "nested" / f"{k:02d}.jpg", texture(100 + k))
    return read_instances(folder / "instances"), read_backgrounds(folder / "backgrounds")


@pytest.fixture(scope="session")
def composed(sources: tuple[list[Instance], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> ClutterSet:
    return compose_set(SMALL, *sources, 7, tmp_path_factory.mktemp("set"))


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server on this machine."""
    with serving() as running:
        yield running
