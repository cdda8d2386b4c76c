from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from d2r.compose.bundled import bundled_photos
from d2r.images import read_image
from d2r.regions.detector import squash
from d2r.train.detector import export
from d2r.train.detector.architectures import build_detector
from d2r.train.detector.export import ExportError, export_detector
from d2r.train.detector.loop import write_best
from d2r.train.detector.settings import DetectorSettings
from programs import run

PHOTO = bundled_photos().instances[0].photos[0]


def run_onnx(path: Path, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    boxes, scores = session.run(["boxes", "scores"], {"pictures": pictures})
    return boxes, scores


def check_contract(path: Path, arch: str, side: int, count: int) -> None:
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (about["d2r"], about["arch"], about["side"]) == ("detector-1", arch, str(side))
    boxes, scores = run_onnx(path, np.repeat(squash(read_image(PHOTO), side)[None], count, axis=0))
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes.shape == (*scores.shape, 4)
    assert scores.shape[0] == count
    assert scores.shape[1] <= 200
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (scores >= 0).all()
    assert (scores <= 1).all()
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    made = export_detector(trained[0], path, read_image(PHOTO))
    assert made.box_difference < 0.1
    assert made.score_difference < 1e-4
    return path


def test_an_ssd_is_exported_for_any_number_of_pictures(exported, settings) -> None:
    for count in (1, 3):
        check_contract(exported, settings.arch, settings.side, count)


def test_weights_in_half_precision_halve_the_file_and_hardly_move_a_score(
    exported, trained, settings, tmp_path
) -> None:
    path = tmp_path / "half.onnx"
    made = export_detector(trained[0], path, read_image(PHOTO), half=True)
    assert made.bytes == path.stat().st_size < 0.6 * exported.stat().st_size
    check_contract(path, settings.arch, settings.side, 2)
    pictures = squash(read_image(PHOTO), settings.side)[None]
    assert run_onnx(path, pictures)[1] == pytest.approx(run_onnx(exported, pictures)[1], abs=0.02)


def test_a_faster_rcnn_is_exported_for_one_picture(tmp_path) -> None:
    torch.manual_seed(0)
    settings = DetectorSettings(data=("x",), arch="faster-rcnn-resnet50", side=64)
    write_best(tmp_path, build_detector(settings.arch, 64), settings, {"epoch": 1, "ap50": 0.0})
    export_detector(tmp_path, tmp_path / "model.onnx", read_image(PHOTO))
    check_contract(tmp_path / "model.onnx", settings.arch, 64, 1)


def test_a_graph_that_does_not_agree_with_torch_is_not_written(trained, tmp_path, monkeypatch) -> None:
    class Wrong(export._SSDGraph):
        def forward(self, pictures):
            boxes, scores = super().forward(pictures)
            return boxes * 0.9, scores

    monkeypatch.setattr(export, "_SSDGraph", Wrong)
    with pytest.raises(ExportError, match="ONNX Runtime does not agree with torch"):
        export_detector(trained[0], tmp_path / "model.onnx", read_image(PHOTO))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_exported_are_named(trained, tmp_path) -> None:
    picture = read_image(PHOTO)
    with pytest.raises(ExportError, match=r"best\.safetensors: there are no weights here"):
        export_detector(tmp_path, tmp_path / "model.onnx", picture)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((trained[0] / "best.safetensors").read_bytes()[:5000])
    with pytest.raises(ExportError, match=r"damaged\.safetensors: damaged, or not a"):
        export_detector(damaged, tmp_path / "model.onnx", picture)
    weights = load_file(trained[0] / "best.safetensors")
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    with pytest.raises(ExportError, match=r"other\.safetensors: not the weights of a detector"):
        export_detector(other, tmp_path / "model.onnx", picture)
    save_file(weights, other, metadata={"arch": "ssd-efficientnet-lite0", "side": "96"})
    with pytest.raises(ExportError, match=r"other\.safetensors: not the weights of ssd-efficientnet-lite0"):
        export_detector(other, tmp_path / "model.onnx", picture)


def test_one_command_trains_one_resumes_and_one_exports(d2r, labels, tmp_path) -> None:
    run, model = tmp_path / "run", tmp_path / "model.onnx"
    train = ["train", "detector", "--data", f"{labels}={labels}", "--out", run, "--side", "96", "--epochs", "2"]
    train += ["--batch", "4", "--hold-out", "0.25", "--workers", "0"]
    status, out, _ = d2r(*train)
    assert status == 0
    assert "9 training pictures, 3 validation pictures; 2 steps per epoch" in out
    assert "best: epoch" in out
    status, _, error = d2r(*train)
    assert (status, "there is a run here; give --resume" in error) == (1, True)
    status, out, _ = d2r(*train, "--resume")
    assert (status, "resumed at epoch 3" in out) == (0, True)
    status, out, _ = d2r("train", "export", run, "--out", model)
    assert (status, "ssd-mobilenetv2, side 96" in out) == (0, True)
    check_contract(model, "ssd-mobilenetv2", 96, 1)
    assert json.loads((run / "settings.json").read_text())["data"] == [f"{labels}={labels}"]


def test_without_torch_the_command_says_what_to_install(labels, tmp_path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from d2r.cli.app import main;"
        f"sys.argv = ['d2r', 'train', 'detector', '--data', {str(labels)!r}, '--out', {str(tmp_path)!r}]; main()"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 1
    assert "pip install 'detect-to-retrieve[train]'" in done.stderr


def test_a_file_of_the_user_is_not_exported_over_and_an_exported_one_is(d2r, trained, tmp_path) -> None:
    model, weights = tmp_path / "model.onnx", trained[0] / "best.safetensors"
    model.write_text("mine")
    before = weights.read_bytes()
    status, _, err = d2r("train", "export", trained[0], "--out", model)
    assert (status, "model.onnx: it exists and was not written by d2r" in err) == (1, True)
    assert model.read_text() == "mine"
    status, _, err = d2r("train", "export", trained[0], "--out", weights, "--force")
    assert (status, "best.safetensors: it is an input of this command and would be lost" in err) == (1, True)
    assert weights.read_bytes() == before
    for force in (["--force"], []):
        assert d2r("train", "export", trained[0], "--out", model, *force)[0] == 0
        check_contract(model, "ssd-mobilenetv2", 96, 1)
