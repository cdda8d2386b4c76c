"""Reading pictures with boxes for a detector: three formats, and where errors point."""

import json
import re
from pathlib import Path

import pytest

from d2r.datasets.detection import DetectionDataError, DetectionPicture, read_training, read_validation
from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, write_dataset
from synthetic import texture, write

ANNOTATIONS = Path(__file__).parents[2] / "annotations"


@pytest.fixture
def landmark_boxes(tmp_path):
    """Labels of three pictures, one for training, one for validation, one without a box; the pictures are elsewhere."""
    for name in ("petra/a.jpg", "petra/b.jpg", "petra/c.jpg"):
        write(tmp_path / "pictures" / name, texture(0, 40, 30))
    pictures = {f"petra/{k}.jpg": LandmarkPicture(f"petra/{k}.jpg", None, "petra") for k in "abc"}
    training, validation = {"petra/a.jpg": FractionBox(0.1, 0.2, 0.9, 1.0)}, {"petra/b.jpg": FractionBox(0, 0, 1, 1)}
    write_dataset(tmp_path / "labels", LandmarkBoxes(pictures, training, validation))
    return tmp_path / "labels"


@pytest.fixture
def coco(tmp_path):
    """A COCO document of two pictures, the second without a box, and a function that writes it."""
    document = {
        "images": [
            {"id": 3, "file_name": "jpg/a.jpg", "width": 40, "height": 20},
            {"id": 9, "file_name": "jpg/b.jpg", "width": 40, "height": 20},
        ],
        "annotations": [
            {"image_id": 3, "bbox": [4, 5, 16, 10], "category_id": 1},
            {"image_id": 3, "bbox": [30, 0, 10.5, 20.5], "category_id": 2, "iscrowd": 0},
            {"image_id": 9, "bbox": [0, 0, 40, 20], "category_id": 1, "iscrowd": 1},
        ],
    }
    for name in ("jpg/a.jpg", "jpg/b.jpg"):
        write(tmp_path / name, texture(0, 40, 20))

    def written():
        (tmp_path / "boxes.json").write_text(json.dumps(document))
        return str(tmp_path / "boxes.json")

    return document, written


def test_landmark_boxes_have_a_training_and_a_validation_part_without_pictures_that_have_no_box(landmark_boxes):
    pictures = landmark_boxes.parent / "pictures"
    source = f"{landmark_boxes}={pictures}"
    assert read_training(source) == [DetectionPicture(pictures / "petra/a.jpg", ((0.2, 0.1, 1.0, 0.9),))]
    assert read_validation(source) == [DetectionPicture(pictures / "petra/b.jpg", ((0.0, 0.0, 1.0, 1.0),))]


def test_pictures_lie_beside_the_labels_or_in_the_folder_of_the_downloader(landmark_boxes):
    with pytest.raises(DetectionDataError, match=r"petra/a\.jpg: listed in .*labels but not on disk; give the folder"):
        read_training(str(landmark_boxes))
    write(landmark_boxes / "petra" / "a.jpg", texture(0, 40, 30))
    assert read_training(str(landmark_boxes))[0].path == landmark_boxes / "petra" / "a.jpg"
    write(landmark_boxes / "jpg" / "petra" / "a.jpg", texture(0, 40, 30))
    assert read_training(str(landmark_boxes))[0].path == landmark_boxes / "jpg" / "petra" / "a.jpg"


def test_pictures_that_the_downloader_could_not_fetch_are_left_out(tmp_path):
    pictures = {k: LandmarkPicture(k, None if k == "c" else f"http://x/{k}", "1") for k in "abcd"}
    boxes = {k: FractionBox(0, 0, 1, 1) for k in "abc"}
    write_dataset(tmp_path, LandmarkBoxes(pictures, boxes, {"d": FractionBox(0, 0, 1, 1)}))
    (tmp_path / "failures.csv").write_text("id,url,reason\nb,http://x/b,gone\nd,http://x/d,gone\n")
    write(tmp_path / "jpg" / "a.jpg", texture(0, 40, 30))
    assert [picture.path.name for picture in read_training(str(tmp_path))] == ["a.jpg"]
    with pytest.raises(DetectionDataError, match=r"failures\.csv: no picture with a box in boxes_split2\.csv could be"):
        read_validation(str(tmp_path))


def test_an_equals_sign_in_a_name_that_exists_is_part_of_it(landmark_boxes):
    odd = landmark_boxes.rename(landmark_boxes.with_name("seed=0"))
    write(odd / "petra" / "a.jpg", texture(0, 40, 30))
    assert len(read_training(str(odd))) == 1


def test_coco_boxes_become_shares_of_their_picture_and_pictures_without_boxes_stay(coco, tmp_path):
    found = read_training(coco[1]())
    assert found == [
        DetectionPicture(tmp_path / "jpg/a.jpg", ((0.1, 0.25, 0.5, 0.75), (0.75, 0.0, 1.0, 1.0))),
        DetectionPicture(tmp_path / "jpg/b.jpg", ()),
    ]
    assert read_validation(coco[1]()) == found


def test_coco_file_names_are_relative_to_the_folder_that_is_given(coco, tmp_path):
    for image in coco[0]["images"]:
        image["file_name"] = image["file_name"].removeprefix("jpg/")
    assert read_training(f"{coco[1]()}={tmp_path / 'jpg'}")[1].path == tmp_path / "jpg" / "b.jpg"


@pytest.mark.parametrize(
    ("part", "number", "change", "message"),
    [
        (
            "annotations",
            1,
            {"image_id": 4},
            r"annotations\[1\]\.image_id: expected the id of a picture in images, .* 4",
        ),
        ("annotations", 1, {"image_id": [3]}, r"annotations\[1\]\.image_id: expected a whole number"),
        ("annotations", 0, {"bbox": [4, 5, 0, 10]}, r"annotations\[0\]\.bbox: box from 4,5 to 4,15 has no area"),
        ("annotations", 0, {"bbox": [4, 5, 6, -1]}, r"annotations\[0\]\.bbox: .* has no area"),
        ("annotations", 0, {"bbox": [4, 5, 37.5, 5]}, r"annotations\[0\]\.bbox: .* outside its picture, .* 40 x 20"),
        ("annotations", 0, {"bbox": [-2, 5, 5, 5]}, r"annotations\[0\]\.bbox: .* lies outside"),
        ("annotations", 0, {"bbox": [40.2, 5, 0.5, 5]}, r"annotations\[0\]\.bbox: .* no area inside its picture"),
        ("annotations", 0, {"bbox": [1, 2, 3]}, r"annotations\[0\]\.bbox: expected a list of 4"),
        ("annotations", 0, {"bbox": [1, 2, 3, 10**400]}, r"annotations\[0\]\.bbox\[3\]: expected a number"),
        ("annotations", 0, {"bbox": None}, r"annotations\[0\]\.bbox: expected a list of 4"),
        ("images", 1, {"id": 3}, r"images\[1\]\.id: expected an id that no other picture has, found 3"),
        ("images", 1, {"file_name": "jpg/a.jpg"}, r"images\[1\]\.file_name: expected a file that no other picture"),
        ("images", 1, {"file_name": "../a.jpg"}, r"images\[1\]\.file_name: expected a path within the folder"),
        ("images", 1, {"width": 0}, r"images\[1\]: expected a width and a height of at least 1 pixel"),
        ("images", 1, {"height": "20"}, r"images\[1\]\.height: expected a whole number"),
    ],
)
def test_a_wrong_coco_file_names_the_row(coco, part, number, change, message):
    document, written = coco
    document[part][number] |= change
    with pytest.raises(DetectionDataError, match=rf"boxes\.json: {message}"):
        read_training(written())


@pytest.mark.parametrize("part", ["images", "annotations"])
def test_a_coco_file_without_one_of_its_lists_is_named(coco, part):
    document, written = coco
    del document[part]
    with pytest.raises(DetectionDataError, match=rf"boxes\.json: {part}: missing"):
        read_training(written())


def test_pictures_that_are_not_on_disk_are_counted(coco, tmp_path):
    source = coco[1]()
    (tmp_path / "jpg" / "a.jpg").unlink()
    with pytest.raises(DetectionDataError, match=r"jpg/a\.jpg: listed in .*boxes\.json but not on disk; give"):
        read_training(source)
    (tmp_path / "jpg" / "b.jpg").unlink()
    with pytest.raises(DetectionDataError, match=r"jpg/a\.jpg: listed in .* not on disk, like 1 other; give"):
        read_training(source)


def test_labels_that_are_nothing_known_are_named(coco, tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DetectionDataError, match=r"bad\.json: not JSON"):
        read_training(str(tmp_path / "bad.json"))
    with pytest.raises(DetectionDataError, match=r"gone\.json: cannot be read: No such file"):
        read_training(str(tmp_path / "gone.json"))
    with pytest.raises(DetectionDataError, match=r"gone: there is no such file or folder; labels are a COCO file"):
        read_training(str(tmp_path / "gone"))
    with pytest.raises(DetectionDataError, match="jpg: not labels, which are a COCO file"):
        read_training(str(tmp_path / "jpg"))
    with pytest.raises(DetectionDataError, match="nowhere: not a folder of pictures"):
        read_training(f"{coco[1]()}={tmp_path / 'nowhere'}")
    for source in ("", "=jpg", "labels="):
        with pytest.raises(DetectionDataError, match="write LABELS or LABELS=PICTURES"):
            read_training(source)


def test_labels_without_pictures_or_boxes_are_named(coco, landmark_boxes):
    document, written = coco
    document["images"], document["annotations"] = [], []
    with pytest.raises(DetectionDataError, match=r"boxes\.json: it lists no pictures"):
        read_training(written())
    (landmark_boxes / "boxes_split1.csv").write_text("id,box\n")
    with pytest.raises(DetectionDataError, match=r"boxes_split1\.csv: it has no boxes"):
        read_training(str(landmark_boxes))


def test_a_wrong_row_of_landmark_boxes_is_told_with_its_file(landmark_boxes):
    (landmark_boxes / "boxes_split1.csv").write_text("id,box\npetra/a.jpg,0 0 1 1.5\n")
    with pytest.raises(DetectionDataError, match=r"boxes_split1\.csv: row 2: box 0 0 1 1\.5"):
        read_training(str(landmark_boxes))


def test_instances_of_a_composed_set_are_found_and_its_decoys_are_not(composed):
    pictures = read_training(str(composed.folder))
    assert pictures == read_validation(str(composed.folder))
    assert len(pictures) == len(composed.database)
    for picture, truth in zip(pictures, composed.database, strict=True):
        assert picture.path == composed.folder / truth.path
        wanted = [planted.box for planted in truth.planted if planted.kind == "instance"]
        sizes = (truth.width, truth.height) * 2
        assert [tuple(round(s * n) for s, n in zip(box, sizes, strict=True)) for box in picture.boxes] == wanted
    assert any(not picture.boxes for picture in pictures)


def test_a_damaged_composed_set_is_named(tmp_path):
    (tmp_path / "ground_truth.json").write_text("[]")
    with pytest.raises(DetectionDataError, match=r"ground_truth\.json: the document: expected an object"):
        read_training(str(tmp_path))


def test_the_boxes_drawn_for_this_project_are_read(shared_data):
    landmarks = f"{ANNOTATIONS / 'landmarks'}={shared_data}"
    assert (len(read_training(landmarks)), len(read_validation(landmarks))) == (511, 109)
    scenes = f"{ANNOTATIONS / 'scenes'}={shared_data}"
    assert len(read_validation(scenes)) == 103
    with pytest.raises(DetectionDataError, match=re.escape("boxes_split1.csv: it has no boxes")):
        read_training(scenes)
