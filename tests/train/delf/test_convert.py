from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18, resnet50

from d2r.compose.bundled import bundled_photos
from d2r.hub.known import KNOWN
from d2r.images import read_image
from d2r.train.delf import projection
from d2r.train.delf.convert import CONVERTIBLE, ConvertError, convert_checkpoint

PHOTO = read_image(bundled_photos().instances[0].photos[0])


class HowNet(nn.Module):
    """HOW's network as published: names of weights, and computation."""

    def __init__(self, whole: nn.Module, skipped: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*list(whole.children())[: -2 - skipped])
        self.dim_reduction = nn.Conv2d(channels, 128, 1)

    def forward(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        features = self.features((torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255.0 - mean) / std)
        smooth = functional.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
        descriptors = functional.normalize(self.dim_reduction(smooth), dim=1)
        return descriptors.permute(0, 2, 3, 1).numpy(), features.norm(dim=1).numpy()


def how_checkpoint(path: Path, arch: str) -> HowNet:
    """Write a checkpoint of HOW's structure, with random weights."""
    torch.manual_seed(0)
    small = arch == "resnet18"
    network = HowNet(
        resnet18(weights=None) if small else resnet50(weights=None), 0 if small else 1, 512 if small else 1024
    )
    scores: defaultdict[str, object] = defaultdict(list)
    scores["train_loss"] = [(1, 0.5)]
    scores["local_descriptor"] = defaultdict(list, {"val_eccv20": [(5, np.float64(0.9))]})
    state = {
        "epoch": 5,
        "meta": {"architecture": arch, "backbone_dim": 512, "outputdim": 128, "corercf_size": 32},
        "state_dict": network.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "best_score": np.float64(0.9),
        "scores": scores,
        "net_params": {"architecture": arch, "pretrained": True, "smoothing": {"kernel_size": 3}},
        "_version": "how/2020",
    }
    torch.save(state, path)
    return network.eval()


@pytest.mark.parametrize(("arch", "name", "stride"), [("resnet18", "how-r18", 32), ("resnet50", "how-r50", 16)])
def test_a_checkpoint_of_how_gives_what_how_computes(tmp_path, arch, name, stride) -> None:
    network = how_checkpoint(tmp_path / "how.pth", arch)
    made = convert_checkpoint(tmp_path / "how.pth", tmp_path / "model.onnx", arch=name)
    assert (made.arch, made.dim, made.threshold) == (name, 128, 0.0)
    about = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert (about["arch"], about["stride"], about["offset"]) == (name, str(stride), "0.5")
    session = onnxruntime.InferenceSession(os.fspath(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    pictures = np.ascontiguousarray(PHOTO[None, :96, :128])
    descriptors, attention = session.run(["descriptors", "attention"], {"pictures": pictures})
    with torch.no_grad():
        expected, norms = network(pictures)
    assert descriptors == pytest.approx(expected, abs=1e-4)
    assert attention == pytest.approx(norms, rel=1e-3)


def test_every_known_network_can_be_converted() -> None:
    assert {model.arch for model in KNOWN.values()} <= set(CONVERTIBLE)


def test_weights_of_torchvision_get_a_projection(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(projection, "_SCALES", (0.35,))
    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    made = convert_checkpoint(tmp_path / "resnet18.pth", tmp_path / "model.onnx", arch="resnet18", half=True)
    assert made.threshold > 0
    assert made.bytes == (tmp_path / "model.onnx").stat().st_size < 7e6
    session = onnxruntime.InferenceSession(os.fspath(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    pictures = np.ascontiguousarray(PHOTO[None, :96, :128])
    descriptors, attention = session.run(["descriptors", "attention"], {"pictures": pictures})
    assert np.linalg.norm(descriptors, axis=3) == pytest.approx(1.0, abs=1e-4)
    assert attention.shape == (1, 6, 8)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path) -> None:
    how_checkpoint(tmp_path / "how.pth", "resnet18")
    out = tmp_path / "model.onnx"
    with pytest.raises(ConvertError, match=r"how\.pth: it is of resnet18, not of resnet50; give --arch how-r18"):
        convert_checkpoint(tmp_path / "how.pth", out, arch="how-r50")
    with pytest.raises(ConvertError, match="--arch 'how-r101' is not known; there are: how-r18, how-r50, resnet18"):
        convert_checkpoint(tmp_path / "how.pth", out, arch="how-r101")
    with pytest.raises(ConvertError, match=r"how\.pth: (not a dictionary of weights|damaged, or not only weights)"):
        convert_checkpoint(tmp_path / "how.pth", out, arch="resnet18")
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ConvertError, match=r"bare\.pth: not a checkpoint of HOW: it has no state_dict"):
        convert_checkpoint(tmp_path / "bare.pth", out, arch="how-r18")
    stored = torch.load(tmp_path / "how.pth", weights_only=False)
    weights = stored["state_dict"]
    for name, change, message in (
        ("reduction", {"dim_reduction.weight": None}, "no dim_reduction"),
        ("other", {"whiten.weight": torch.zeros(2)}, "it has weights 'whiten.weight', which how-r18 does not have"),
        ("lacking", {"features.0.weight": None}, "it lacks 1 weight of how-r18, for example body.conv1.weight"),
        ("shape", {"features.0.weight": torch.zeros(1, 3, 7, 7)}, "not of how-r18"),
    ):
        changed = {key: value for key, value in {**weights, **change}.items() if value is not None}
        torch.save({**stored, "state_dict": changed}, tmp_path / f"{name}.pth")
        with pytest.raises(ConvertError, match=rf"{name}\.pth: .*{message}"):
            convert_checkpoint(tmp_path / f"{name}.pth", out, arch="how-r18")
    for name in ("text", "missing"):
        if name == "text":
            (tmp_path / "text.pth").write_text("nothing")
        with pytest.raises(ConvertError, match=rf"{name}\.pth: "):
            convert_checkpoint(tmp_path / f"{name}.pth", out, arch="how-r18")
    assert not out.exists()


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "meta": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ConvertError, match=r"evil\.pth: damaged, or not a checkpoint"):
        convert_checkpoint(tmp_path / "evil.pth", tmp_path / "model.onnx", arch="how-r18")
    assert not (tmp_path / "executed").exists()


def test_one_command_converts(d2r, tmp_path) -> None:
    how_checkpoint(tmp_path / "how.pth", "resnet18")
    status, out, _ = d2r("train", "convert", tmp_path / "how.pth", "--arch", "how-r18", "--out", tmp_path / "m.onnx")
    assert (status, "how-r18, 128 dimensions, threshold 0" in out) == (0, True)
    status, _, err = d2r("train", "convert", tmp_path / "how.pth", "--arch", "how-r50", "--out", tmp_path / "n.onnx")
    assert (status, "give --arch how-r18" in err) == (1, True)
