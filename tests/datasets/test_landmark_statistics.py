from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture
from d2r.datasets.landmark_statistics import landmark_statistics


def test_pictures_landmarks_and_areas_are_counted():
    pictures = {name: LandmarkPicture(name, "http://x" if name == "a" else None, name[0]) for name in ("a", "b1", "b2")}
    pictures["none"] = LandmarkPicture("none", None, None)
    training = {"a": FractionBox(0, 0, 1, 1), "b1": FractionBox(0, 0, 0.5, 0.5)}
    found = landmark_statistics(LandmarkBoxes(pictures, training, {"b2": FractionBox(0.5, 0, 1, 0.1)}))
    assert (found.pictures, found.training, found.validation) == (4, 2, 1)
    assert (found.without_box, found.without_landmark, found.without_url) == (1, 1, 3)
    assert found.pictures_each.tolist() == [2, 1]
    assert found.areas.tolist() == [1.0, 0.25, 0.05]
    assert found.area_histogram.tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_nothing_at_all_has_statistics_too():
    found = landmark_statistics(LandmarkBoxes({}, {}, {}))
    assert found.pictures == 0
    assert found.area_histogram.sum() == 0
