"""The paper's draw: four and four pictures per landmark, the same for the same seed; those without a box left out."""

import random
from collections import Counter

import pytest

from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkBoxesError, LandmarkPicture
from d2r.datasets.landmark_sample import draw_sample, sample_dataset


def collection(**counts):
    """Pictures of each landmark, with ids ``landmark/number``."""
    return [
        LandmarkPicture(f"{name}/{k}", None, name, row)
        for row, (name, k) in enumerate(((name, k) for name, count in counts.items() for k in range(count)), start=2)
    ]


def counted(ids):
    return Counter(picture.split("/")[0] for picture in ids)


def test_four_and_four_pictures_of_each_landmark_are_drawn_and_none_is_in_both_parts():
    sample = draw_sample(collection(petra=20, colosseum=8, bay=300), 0, name="c")
    assert counted(sample.training) == counted(sample.validation) == {"petra": 4, "colosseum": 4, "bay": 4}
    assert not set(sample.training) & set(sample.validation)
    assert sample.rare == ()


def test_training_comes_first_where_there_are_fewer_than_eight():
    sample = draw_sample(collection(four=4, six=6), 0, name="c")
    assert counted(sample.training) == {"four": 4, "six": 4}
    assert counted(sample.validation) == {"six": 2}


def test_the_seed_decides_and_the_order_of_the_pictures_does_not():
    pictures = collection(petra=50, bay=50)
    shuffled = random.Random(1).sample(pictures, len(pictures))
    drawn = [set(draw_sample(given, 3, name="c").training) for given in (pictures, shuffled)]
    assert drawn[0] == drawn[1]
    assert set(draw_sample(pictures, 4, name="c").training) != drawn[0]


def test_every_picture_is_as_likely_as_any_other():
    pictures = collection(petra=10)
    times = Counter(picture for seed in range(500) for picture in draw_sample(pictures, seed, name="c").training)
    assert len(times) == 10
    assert all(150 < count < 250 for count in times.values())


def test_pictures_that_join_displace_at_most_as_many():
    before = draw_sample(collection(petra=50, bay=50), 0, name="c")
    after = draw_sample(collection(petra=51, bay=50), 0, name="c")
    assert len(set(before.training) - set(after.training)) <= 1


def test_a_landmark_with_too_few_pictures_is_refused_with_its_row():
    with pytest.raises(LandmarkBoxesError, match=r"^train.csv: row 6: landmark 'rare' has 3 pictures, but 4 are drawn"):
        draw_sample(collection(petra=4, rare=3), 0, name="train.csv")
    folder = [LandmarkPicture("rare/1", None, "rare")]
    with pytest.raises(LandmarkBoxesError, match=r"^photos: landmark 'rare' has 1 picture, but 4 are drawn"):
        draw_sample(folder, 0, name="photos")


def test_landmarks_with_too_few_pictures_can_be_left_out():
    sample = draw_sample(collection(petra=4, rare=3), 0, leave_out_rare=True, name="c")
    assert sample.rare == ("rare",)
    assert counted(sample.training) == {"petra": 4}
    assert draw_sample(collection(petra=4, rare=3), 0, each=3, name="c").rare == ()


def test_pictures_of_no_known_landmark_are_counted_and_not_drawn():
    sample = draw_sample([LandmarkPicture("x", None, None), *collection(petra=4)], 0, name="c")
    assert sample.unlabelled == 1
    assert "x" not in sample.training + sample.validation


def test_pictures_without_a_prominent_landmark_are_left_out_after_the_draw_and_counted():
    pictures = {picture.id: picture for picture in collection(petra=8, bay=40)}
    boxed = [picture for picture in pictures if picture not in ("petra/0", "petra/5", "petra/6")]
    training = {picture: FractionBox(0, 0, 1, 0.5) for picture in boxed[::2]}
    validation = {picture: FractionBox(0, 0, 0.5, 1) for picture in boxed[1::2]}
    sampled = sample_dataset(LandmarkBoxes(pictures, training, validation), 0, name="c")
    assert set(sampled.without_box) == {"petra/0", "petra/5", "petra/6"}
    parts = (sampled.dataset.training, sampled.dataset.validation)
    assert sum((counted(part) for part in parts), Counter()) == {"petra": 5, "bay": 8}
    assert set(sampled.dataset.pictures) == {*parts[0], *parts[1]}
    for part, drawn in zip(parts, (sampled.sample.training, sampled.sample.validation), strict=True):
        assert set(part) <= set(drawn)
        assert all(box == {**training, **validation}[picture] for picture, box in part.items())
