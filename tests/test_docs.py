"""The code in the documentation runs as it stands."""

import re
import shutil
from pathlib import Path

import pytest

from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, write_dataset

ROOT = Path(__file__).parents[1]


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


@pytest.fixture
def place(tmp_path, photo_folder, monkeypatch):
    shutil.copytree(photo_folder, tmp_path / "Pictures")
    (tmp_path / "Pictures" / "private").mkdir()
    (tmp_path / "new").mkdir()
    for name in ("castle.jpg", "photo.jpg", "new/one.jpg", "new/two.jpg", "Pictures/private/me.jpg"):
        shutil.copy(photo_folder / "pagoda-1.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", ["README.md", "docs/library.md"])
def test_every_python_block_runs(name, capsys):
    for code in blocks(name):
        shutil.rmtree("pictures.index", ignore_errors=True)
        exec(compile(code.replace("120, 80, 640, 520", "60, 40, 300, 220"), name, "exec"), {})
    assert capsys.readouterr().out


def test_the_python_block_about_boxes_of_landmarks_runs(tmp_path, photo_folder, monkeypatch, capsys):
    shutil.copytree(photo_folder, tmp_path / "photos")
    picture = LandmarkPicture("pagoda-0.jpg", None, "pagoda")
    write_dataset(tmp_path / "labels", LandmarkBoxes({picture.id: picture}, {picture.id: FractionBox(0, 0, 1, 1)}, {}))
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/detector.md")
    exec(compile(code, "docs/detector.md", "exec"), {})
    assert capsys.readouterr().out.startswith("pagoda-0.jpg pagoda (0")
