"""Detectors on the command line: evaluating one, and indexing with one."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, write_dataset
from d2r.engine import Engine
from detectors import write_detector

LEFT, RIGHT = (0.0, 0.1, 0.5, 0.9), (0.5, 0.1, 1.0, 0.9)


@pytest.fixture
def model(tmp_path):
    return write_detector(tmp_path / "toy.onnx", [LEFT, RIGHT], [0.9, 0.6])


@pytest.fixture
def source(photo_folder, tmp_path):
    """Three photographs with one validation box each: two match the toy's best box, one its second."""
    pictures = {f"pagoda-{k}.jpg": LandmarkPicture(f"pagoda-{k}.jpg", None, "pagoda") for k in range(3)}
    boxes = [FractionBox(0.1, 0.0, 0.9, 0.5), FractionBox(0.1, 0.0, 0.9, 0.5), FractionBox(0.1, 0.5, 0.9, 1.0)]
    write_dataset(tmp_path / "labels", LandmarkBoxes(pictures, {}, dict(zip(pictures, boxes, strict=True))))
    shutil.copytree(photo_folder, tmp_path / "labels" / "jpg")
    return tmp_path / "labels"


def test_a_detector_is_judged_on_several_sources(d2r, model, source, photo_folder, tmp_path):
    (source / "jpg" / "pagoda-1.jpg").write_bytes(b"damaged")
    file, sheet = tmp_path / "figures.json", tmp_path / "failures.png"
    status, out, err = d2r(
        "evaluate-detector", source, f"{source}={photo_folder}", "--regions", f"detector:model={model}",
        "--out", file, "--failures", sheet,
    )  # fmt: skip
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0] == f"detector:model={model},threshold=0.01,top=100"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:5]]
    assert cells[0][:4] == ["source", "AP50", "AP50:95", "recall at 1"]
    assert cells[2][3:9] == ["50.0", "100.0", "100.0", "2", "2", "1"]
    assert cells[3][3:9] == ["66.7", "100.0", "100.0", "3", "3", "0"]
    assert "pagoda-1.jpg: not a picture" in out
    figures = json.loads(file.read_text())
    assert "sha256=" in figures["regions"]
    assert [one["recall50"]["1"] for one in figures["sources"]] == pytest.approx([1 / 2, 2 / 3])
    assert "2 worst failures" in out
    assert np.asarray(Image.open(sheet).convert("RGB")).shape[2] == 3


def test_a_selector_without_a_model_is_judged_and_perfect_boxes_have_no_failures(d2r, source, tmp_path):
    status, out, _ = d2r("evaluate-detector", source, "--regions", "rmac:levels=2")
    assert status == 0
    assert out.startswith("rmac:levels=2\n")
    model = write_detector(tmp_path / "toy.onnx", [(0, 0.1, 1, 0.9)], [0.9])
    status, out, _ = d2r(
        "evaluate-detector", source, "--regions", f"detector:model={model}", "--failures", tmp_path / "none.png"
    )
    assert "no failures to show" in out
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("source", "regions", "status", "problem"),
    [
        ("nowhere", "rmac", 1, "nowhere: there is no such file or folder"),
        ("labels", "detector:model=none.onnx", 1, "none.onnx: cannot be read"),
        ("labels", "detector:model=none", 1, "none: there is no such model"),
        ("labels", "grid", 2, "regions 'grid' is not known"),
    ],
)
@pytest.mark.usefixtures("source")
def test_what_cannot_be_judged_is_one_line(d2r, tmp_path, monkeypatch, source, regions, status, problem):
    monkeypatch.chdir(tmp_path)
    given, _, err = d2r("evaluate-detector", source, "--regions", regions)
    assert given == status
    assert err.startswith("error: ")
    assert problem in err


def test_pictures_are_indexed_in_the_regions_of_a_detector_by_worker_processes(d2r, model, collection, tmp_path):
    index, spec = tmp_path / "photos.index", f"detector:model={model}"
    arguments = ["index", collection, "--out", index, "--regions", spec, "--words", "64", "--workers", "2"]
    arguments += ["--features", "rootsift"]
    status, out, err = d2r(*arguments)
    assert status == 0, err
    assert "10  (10 added)" in out
    with Engine.open(index) as engine:
        (result, *_) = engine.search(collection / "pagoda-0.jpg").results
        assert result.path == str(collection / "pagoda-0.jpg")
        assert result.box_scores.tolist() == pytest.approx([1.0, 0.9, 0.6])
        np.testing.assert_allclose(result.boxes[1, 2], result.width / 2)
    assert d2r(*arguments)[0] == 0
    assert "sha256=" in d2r("info", index)[1].replace("\n", "")


def test_an_index_refuses_another_model_under_the_name_of_its_own(d2r, model, collection, tmp_path):
    index, spec = tmp_path / "photos.index", f"detector:model={model}"
    build = ["index", collection, "--out", index, "--features", "rootsift", "--workers", "0"]
    assert d2r(*build, "--regions", spec, "--words", "64")[0] == 0
    kept = model.read_bytes()
    write_detector(model, [LEFT], [0.7])
    status, _, err = d2r(*build, "--regions", spec)
    assert status == 2
    assert "this index was created with" in err
    Image.open(collection / "pagoda-1.jpg").rotate(90).save(collection / "another.jpg")
    status, _, err = d2r(*build)
    assert status == 1
    assert "toy.onnx: not the expected file" in err
    model.unlink()
    assert d2r("search", index, collection / "pagoda-0.jpg")[0] == 0
    model.write_bytes(kept)
    status, out, _ = d2r(*build)
    assert status == 0
    assert "1 added" in out


def test_a_detector_that_cannot_be_used_makes_no_index_and_opens_no_page(d2r, collection, tmp_path):
    for command in (["index"], ["dataset", "annotate", "--no-browser"]):
        option = "--regions" if command == ["index"] else "--proposals"
        status, _, err = d2r(*command, collection, "--out", tmp_path / "out", option, "detector:model=none.onnx")
        assert status == 1
        assert "none.onnx: cannot be read: No such file" in err
        assert not (tmp_path / "out").exists()


def test_a_detector_is_evaluated_in_retrieval_with_descriptions_of_its_own(d2r, model, photo_folder, tmp_path):
    for name in ("pagoda-0.jpg", "pagoda-1.jpg"):
        (tmp_path / "set" / "pagoda").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo_folder / name, tmp_path / "set" / "pagoda")
    evaluate = ["evaluate", tmp_path / "set", "--words", "16", "--workers", "0", "--cache", tmp_path / "cache"]
    evaluate += ["--features", "rootsift"]
    for scores in ([0.9, 0.6], [0.9, 0.1]):
        write_detector(model, [LEFT, RIGHT], scores)
        assert d2r(*evaluate, "--regions", f"detector:model={model}")[0] == 0
    described = [path for path in (tmp_path / "cache").iterdir() if path.name.startswith("detector")]
    assert len(described) == 2
