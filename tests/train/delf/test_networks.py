from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from d2r.train.course import write_weights
from d2r.train.delf.networks import (
    BACKBONES,
    Field,
    build_local_network,
    freeze_local_network,
    initialise_local_network,
    receptive_field,
)
from d2r.train.detector.architectures import InitError


def linear(network: nn.Module) -> nn.Module:
    """Make every layer of a network linear, with weights above 0, so that a gradient reaches all it depends on."""
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.ReLU | nn.ReLU6 | nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            elif isinstance(layer, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
            elif isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 1.0 / layer.weight[0].numel())
    return network.double()


@pytest.mark.parametrize(
    ("arch", "kind", "expected"),
    [
        ("efficientnet-lite0", "delf", Field(16, 15.5, 339.0)),
        ("efficientnet-lite0", "how", Field(16, 15.5, 371.0)),
        ("resnet18", "delf", Field(16, 0.5, 211.0)),
        ("resnet18-conv5", "how", Field(32, 0.5, 499.0)),
        ("resnet50", "delf", Field(16, 0.5, 267.0)),
    ],
)
def test_a_cell_depends_on_the_pixels_that_its_receptive_field_says(arch, kind, expected) -> None:
    network = build_local_network(arch, kind)
    field = receptive_field(network)
    assert field == expected
    side = 32 * (int(field.field) // 32 + 3)
    body = linear(nn.Sequential(network.body, network.smoothing))
    pixels = torch.zeros(1, 3, side, 32, dtype=torch.float64, requires_grad=True)
    cell = side // field.stride // 2
    body(pixels)[0, :, cell].sum().backward()
    rows = pixels.grad.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0]
    centre = field.offset + cell * field.stride
    assert rows.min() == round(centre - field.field / 2)
    assert rows.max() + 1 == round(centre + field.field / 2)


@pytest.mark.parametrize("arch", ["efficientnet-lite0", "resnet18"])
def test_a_picture_moved_by_the_stride_moves_its_cells_by_one(arch) -> None:
    torch.manual_seed(0)
    network = build_local_network(arch, "delf").eval()
    field = receptive_field(network)
    row = torch.randint(0, 256, (1, 3, 32, 640), dtype=torch.uint8)
    with torch.no_grad():
        here, moved = network.features(row), network.features(row.roll(field.stride, dims=3))
    edge = int(field.field / 2 / field.stride) + 2
    assert torch.allclose(here[..., edge : -edge - 1], moved[..., edge + 1 : -edge], atol=1e-5)


@pytest.mark.parametrize("arch", sorted(BACKBONES))
def test_a_network_has_a_cell_for_each_stride(arch) -> None:
    network = build_local_network(arch, "delf", 16).eval()
    stride = receptive_field(network).stride
    with torch.no_grad():
        projected, attention = network(torch.zeros(2, 3, 3 * stride, 2 * stride, dtype=torch.uint8))
    assert projected.shape == (2, 16, 3, 2)
    assert attention.shape == (2, 3, 2)
    assert (attention >= 0).all()


def test_weights_are_taken_from_a_state_dictionary_of_torchvision_or_from_a_run(tmp_path) -> None:
    whole = resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    network = build_local_network("resnet18", "delf")
    left_out = initialise_local_network(network, str(tmp_path / "resnet18.pth"))
    assert torch.equal(network.body.layer3[1].conv2.weight, whole.layer3[1].conv2.weight)
    assert "body.fc.weight" in left_out
    assert "attention.first.weight" in left_out
    write_weights(tmp_path / "run.safetensors", network, {}, {})
    again = build_local_network("resnet18", "delf")
    assert initialise_local_network(again, str(tmp_path / "run.safetensors")) == []
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(InitError, match="no weight of"):
        initialise_local_network(build_local_network("efficientnet-lite0", "delf"), str(tmp_path / "resnet18.pth"))


def test_weights_that_cannot_be_read_are_named(tmp_path) -> None:
    network = build_local_network("resnet18", "delf")
    (tmp_path / "text.pth").write_text("nothing")
    torch.save({"state": 1}, tmp_path / "other.pth")
    torch.save(resnet18(weights=None), tmp_path / "module.pth")
    for name in ("text.pth", "missing.pth", "other.pth", "module.pth", "missing.safetensors"):
        with pytest.raises(InitError, match=name):
            initialise_local_network(network, str(tmp_path / name))


def test_frozen_blocks_keep_weights_and_statistics() -> None:
    network = build_local_network("resnet18", "delf").train()
    freeze_local_network(network, 2, statistics=False)
    assert not network.body.conv1.weight.requires_grad
    assert not network.body.layer1[0].conv1.weight.requires_grad
    assert not network.body.layer1[0].bn1.training
    assert network.body.layer2[0].conv1.weight.requires_grad
    assert network.body.layer2[0].bn1.training
    freeze_local_network(network, 2, statistics=True)
    assert not network.body.layer2[0].bn1.training
    assert network.body.layer2[0].bn1.weight.requires_grad
    with pytest.raises(ValueError, match="resnet18 has 4 blocks that can be frozen, not 5"):
        freeze_local_network(network, 5, statistics=True)
