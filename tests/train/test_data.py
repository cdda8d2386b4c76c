from __future__ import annotations

import numpy as np
import pytest
import torch

from d2r.datasets.detection import DetectionPicture, read_training
from d2r.regions.detector import squash
from d2r.train import data
from d2r.train.data import EpochBatches, TrainingPictures, ValidationPictures, training_loader
from d2r.train.holdout import hold_out


def test_an_epoch_takes_each_picture_of_a_source_as_often_as_its_share_says() -> None:
    batches = EpochBatches([6, 10], [2.0, 0.5], batch=3, seed=0)
    order = batches.order()
    assert np.bincount(order)[:6].tolist() == [2] * 6
    assert np.bincount(order, minlength=16)[6:].sum() == 5
    assert len(batches) == 5
    first = [key[2] for keys in batches for key in keys]
    batches.epoch = 1
    assert [key[2] for keys in batches for key in keys] != first


def test_samples_do_not_depend_on_workers_or_on_what_was_drawn_before(labels) -> None:
    pictures = TrainingPictures(read_training(str(labels)), side=96, seed=5)
    batches = EpochBatches([12], [1.0], batch=4, seed=5)
    batches.epoch = 3
    alone = list(training_loader(pictures, batches, 0, pin_memory=False))
    torch.rand(10)
    for (images, targets), (others, again) in zip(
        alone, training_loader(pictures, batches, 2, pin_memory=False), strict=True
    ):
        assert torch.equal(images, others)
        assert all(torch.equal(one["boxes"], other["boxes"]) for one, other in zip(targets, again, strict=True))


def test_samples_are_square_and_their_boxes_inside(labels) -> None:
    pictures = TrainingPictures(read_training(str(labels)), side=96, seed=1)
    for epoch in range(3):
        for number in range(len(pictures)):
            image, target = pictures[epoch, number, number]
            assert image.shape == (3, 96, 96)
            assert image.dtype == torch.uint8
            boxes = target["boxes"]
            assert len(boxes) == len(target["labels"])
            assert bool(((boxes >= 0) & (boxes <= 96)).all())
            assert bool((boxes[:, 2:] > boxes[:, :2]).all())


def test_a_box_stays_on_its_thing(tmp_path) -> None:
    # a white rectangle on black: after every change the box must still be its edge
    from PIL import Image

    scene = np.zeros((150, 200, 3), np.uint8)
    scene[30:120, 50:170] = 255
    Image.fromarray(scene).save(tmp_path / "white.png")
    picture = DetectionPicture(tmp_path / "white.png", ((50 / 200, 30 / 150, 170 / 200, 120 / 150),))
    pictures = TrainingPictures([picture], side=128, seed=0)
    for draw in range(20):
        image, target = pictures[0, draw, 0]
        bright = image.float().amin(dim=0) > 0.75 * image.max()
        rows, columns = bright.any(dim=1).nonzero().flatten(), bright.any(dim=0).nonzero().flatten()
        edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (edges - target["boxes"][0]).abs().max() <= 2.5


def test_pictures_that_do_not_fit_in_memory_are_decoded_each_time(labels, monkeypatch) -> None:
    chosen = read_training(str(labels))
    kept = TrainingPictures(chosen, side=96, seed=0)
    monkeypatch.setattr(data, "CACHE_BYTES", 0)
    decoded = TrainingPictures(chosen, side=96, seed=0)
    assert torch.equal(kept[0, 0, 3][0], decoded[0, 0, 3][0])


def test_a_picture_without_boxes_is_all_background(labels) -> None:
    empty = DetectionPicture(read_training(str(labels))[0].path, ())
    _, target = TrainingPictures([empty], side=96, seed=0)[0, 0, 0]
    assert target["boxes"].shape == (0, 4)


def test_validation_pictures_are_squashed_as_the_detector_squashes_them(labels) -> None:
    from d2r.images import read_image

    chosen = read_training(str(labels))[:2]
    pictures = ValidationPictures(chosen, 96)
    assert np.array_equal(pictures.pixels[1], squash(read_image(chosen[1].path), 96))
    assert pictures.boxes[1][0] == pytest.approx(96 * np.array(chosen[1].boxes[0]))


def test_near_duplicates_are_not_divided_and_every_folder_is_held_out(tmp_path, labels) -> None:
    import shutil

    chosen = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for picture in read_training(str(labels))[:: 2 if folder == "a" else -2]:
            for copy in range(2):
                path = tmp_path / folder / f"{copy}-{picture.path.name}"
                shutil.copy(picture.path, path)
                chosen.append(DetectionPicture(path, picture.boxes))
    training, held = hold_out(chosen, 0.3, seed=0)
    assert len(training) + len(held) == len(chosen)
    assert {picture.path.parent.name for picture in held} == {"a", "b"}
    names = [{picture.path.name[2:] for picture in part} for part in (training, held)]
    assert not names[0] & names[1]
    assert hold_out(chosen, 0.3, seed=0) == (training, held)
