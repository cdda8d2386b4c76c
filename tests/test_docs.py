"""The code in the documentation runs as it stands."""

import re
import shutil
from pathlib import Path

import pytest

from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, write_dataset
from programs import run
from serving import TOKEN, serving

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


@pytest.fixture(scope="module")
def service(built_index, tmp_path_factory):
    """The address of a service that the documentation of it may talk to."""
    index = shutil.copytree(built_index, tmp_path_factory.mktemp("docs") / "photos.index")
    with serving(index, tmp_path_factory.mktemp("uploads")) as client:
        yield str(client.base_url).rstrip("/")


@pytest.mark.usefixtures("place")
def test_the_python_block_about_the_service_runs(service, capsys):
    (code,) = blocks("docs/service.md")
    shutil.copy("photo.jpg", "new.jpg")
    given = {"http://127.0.0.1:8765": service, '"..."': repr(TOKEN), "120, 80, 640, 520": "60, 40, 300, 220"}
    for told, here in given.items():
        assert told in code
        code = code.replace(told, here)
    exec(compile(code, "docs/service.md", "exec"), {})
    *found, added = capsys.readouterr().out.splitlines()
    assert "pagoda-1.jpg" in found[0]
    assert added.startswith("done ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.usefixtures("place")
def test_the_curl_lines_about_the_service_are_answered(service, tmp_path):
    """Each as it stands but for the address, numbers of pictures and the box."""
    text = (ROOT / "docs" / "service.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(lines) == 11
    (tmp_path / "token").write_text(TOKEN)
    shutil.copy("photo.jpg", "new.jpg")
    for line in lines:
        here = line.replace("http://127.0.0.1:8765", service).replace("pictures/17", "pictures/1")
        here = here.replace("120,80,640,520", "60,40,300,220").replace("40,60,320,400", "40,60,200,150")
        command = here.replace("curl ", "curl --silent --show-error --write-out '%{stderr}%{http_code}' ", 1)
        done = run("sh", "-c", command)
        expected = "202" if "name=" in line or "DELETE" in line else "200"
        assert done.stderr == expected, line
