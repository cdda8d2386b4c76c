from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from d2r.compose.bundled import bundled_photos
from d2r.images import read_image
from d2r.train.delf import export
from d2r.train.delf.export import export_features, load_features
from d2r.train.weights import ExportError
from delf_runs import RECIPES

PHOTO = read_image(bundled_photos().instances[0].photos[0])


def run_onnx(path: Path, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    descriptors, attention, features = session.run(["descriptors", "attention", "features"], {"pictures": pictures})
    return descriptors, attention, features


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_exported_keeps_the_contract_and_agrees_with_torch(runs, tmp_path, recipe) -> None:
    path = tmp_path / "model.onnx"
    made = export_features(runs[recipe][0], path, PHOTO)
    assert made.difference < 1e-4
    assert made.bytes == path.stat().st_size < 10e6
    about = metadata(path)
    assert about["d2r"] == "local-features-1"
    assert about["arch"] == "efficientnet-lite0"
    assert (about["stride"], about["offset"]) == ("16", "15.5")
    assert about["field"] == ("371" if recipe == "metric" else "339")
    assert about["scales"] == "0.25,0.3536,0.5,0.7071,1,1.4142,2"
    assert float(about["threshold"]) == pytest.approx(made.threshold, rel=1e-4)
    network, _ = load_features(runs[recipe][0])
    for count, height, width in ((1, 64, 96), (2, 112, 80), (1, 16, 16)):
        pictures = np.stack([PHOTO[:height, 50 * k : 50 * k + width] for k in range(count)])
        descriptors, attention, features = run_onnx(path, pictures)
        assert descriptors.shape == (count, height // 16, width // 16, 32)
        assert attention.shape == descriptors.shape[:3]
        assert features.shape == (count, 672, height // 16, width // 16)
        assert descriptors.dtype == attention.dtype == features.dtype == np.float32
        assert (features >= 0).all()
        assert np.linalg.norm(descriptors, axis=3) == pytest.approx(1.0, abs=1e-5)
        assert (attention >= 0).all()
        with torch.no_grad():
            planes = torch.from_numpy(pictures).permute(0, 3, 1, 2)
            projected, expected = network(planes)
            backbone = network.features(planes)
        values = projected / projected.norm(dim=1, keepdim=True)
        assert np.abs(descriptors - values.permute(0, 2, 3, 1).numpy()).max() < 1e-4
        assert attention == pytest.approx(expected.numpy(), rel=1e-4)
        assert np.abs(features - backbone.numpy()).max() < 1e-4


def test_the_shapes_of_a_descriptor_and_of_the_map_stand_in_the_file(runs, tmp_path) -> None:
    export_features(runs["self"][0], tmp_path / "model.onnx", PHOTO)
    session = onnxruntime.InferenceSession(os.fspath(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["N", "H", "W", 3]
    assert [node.shape for node in session.get_outputs()] == [
        ["N", "h", "w", 32],
        ["N", "h", "w"],
        ["N", 672, "h", "w"],
    ]


def test_weights_in_half_precision_halve_the_file_and_hardly_turn_a_descriptor(runs, tmp_path) -> None:
    whole = export_features(runs["self"][0], tmp_path / "whole.onnx", PHOTO)
    half = export_features(runs["self"][0], tmp_path / "half.onnx", PHOTO, half=True)
    assert half.bytes < 0.6 * whole.bytes
    pictures = np.ascontiguousarray(PHOTO[None, :96, :128])
    expected, found = (run_onnx(made.path, pictures)[0] for made in (whole, half))
    assert (expected * found).sum(axis=3).min() > 0.999


def test_scales_and_threshold_can_be_others(runs, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    export_features(runs["self"][0], path, PHOTO, scales=[0.25, 0.5, 1], threshold=0.75)
    about = metadata(path)
    assert (about["scales"], about["threshold"]) == ("0.25,0.5,1", "0.75")
    for change, message in (
        ({"scales": []}, "--scales"),
        ({"scales": [0.0]}, "--scales"),
        ({"threshold": -1}, "--thr"),
    ):
        with pytest.raises(ExportError, match=message):
            export_features(runs["self"][0], path, PHOTO, **change)


def test_a_graph_that_does_not_agree_with_torch_is_not_written(runs, tmp_path, monkeypatch) -> None:
    to_onnx = export.to_onnx

    def wrong(graph, *rest):
        graph.network.projection.bias.data += 0.1
        made = to_onnx(graph, *rest)
        graph.network.projection.bias.data -= 0.1
        return made

    monkeypatch.setattr(export, "to_onnx", wrong)
    with pytest.raises(ExportError, match="ONNX Runtime does not agree with torch"):
        export_features(runs["self"][0], tmp_path / "model.onnx", PHOTO)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_exported_are_named(runs, tmp_path) -> None:
    weights = load_file(runs["self"][0] / "best.safetensors")
    other = tmp_path / "other.safetensors"
    about = {"arch": "resnet18", "kind": "delf", "dim": "32", "threshold": "0.1"}
    for wrong in ({"kind": "sift"}, {"dim": "many"}, {"threshold": "-1"}, {"arch": "vgg"}):
        save_file(weights, other, metadata={**about, **wrong})
        with pytest.raises(ExportError, match=r"other\.safetensors: not the weights of local features"):
            export_features(other, tmp_path / "model.onnx", PHOTO)
    save_file(weights, other, metadata=about)
    with pytest.raises(ExportError, match=r"other\.safetensors: not the weights of resnet18"):
        export_features(other, tmp_path / "model.onnx", PHOTO)


def test_one_command_trains_and_one_exports_either_kind(d2r, landmarks, runs, tmp_path) -> None:
    run, model = tmp_path / "run", tmp_path / "model.onnx"
    train = ["train", "delf", "--data", landmarks, "--out", run, "--side", "64", "--dim", "16", "--epochs", "1"]
    train += ["--batch", "8", "--hold-out", "0.2", "--workers", "0"]
    status, out, err = d2r(*train)
    assert (status, err) == (0, "")
    assert "16 training pictures, 4 validation pictures; 2 steps per epoch" in out
    assert "best: epoch 1, attended" in out
    status, out, _ = d2r(*train, "--resume")
    assert (status, "resumed at epoch 2" in out) == (0, True)
    status, out, _ = d2r(
        "train", "export", run, "--out", model, "--half", "--scales", "0.25,0.5,1", "--threshold", "0.2"
    )
    assert (status, "efficientnet-lite0, 16 dimensions, threshold 0.2" in out) == (0, True)
    assert metadata(model)["scales"] == "0.25,0.5,1"
