"""Landmark boxes on the command line: annotating, fetching, statistics and sampling."""

import http.client
import json
import re
import signal
import subprocess

import pytest

from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, read_dataset, write_dataset
from d2r.images import encode_jpeg
from detectors import write_detector
from programs import D2R, LIMIT_S, running
from synthetic import texture, write
from web import Resource, serving


@pytest.fixture
def photos(tmp_path):
    for name in ("petra/a.jpg", "petra/b.jpg"):
        write(tmp_path / "photos" / name, texture(0, 40, 30))
    return tmp_path / "photos"


@pytest.fixture
def labels(tmp_path):
    """Twelve pictures of two landmarks, every third without a box."""
    pictures = {f"{k:x}": LandmarkPicture(f"{k:x}", None, "petra" if k < 8 else "bay") for k in range(12)}
    boxes = {name: FractionBox(0, 0, 0.5, 0.5) for k, name in enumerate(pictures) if k % 3}
    write_dataset(tmp_path / "labels", LandmarkBoxes(pictures, boxes, {}))
    return tmp_path / "labels"


@pytest.mark.parametrize(("proposals", "count"), [("rmac:levels=2", 8), ("detector:model={}", 1)])
def test_annotate_serves_a_page_until_it_is_interrupted(photos, tmp_path, proposals, count):
    out = tmp_path / "labels"
    regions = proposals.format(write_detector(tmp_path / "toy.onnx"))
    command = ["dataset", "annotate", photos, "--out", out, "--no-browser", "--proposals", regions]
    with running(*D2R, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        port = int(re.search(r"page: http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        connection.request("GET", "/api/pictures/0/proposals")
        assert len(json.load(connection.getresponse())["boxes"]) == count
        body = json.dumps({"box": [0, 0, 20, 15]})
        connection.request("PUT", "/api/pictures/0/decision", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors == ""
    assert f"2 pictures: 1 with a box, 0 without a prominent landmark, 1 undecided; written to {out}" in told
    assert read_dataset(out).training == {"petra/a.jpg": FractionBox(0, 0, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("options", "status", "problem"),
    [
        (["--proposals", "nothing"], 2, "regions 'nothing' is not known"),
        (["--leave-out-rare"], 2, "--leave-out-rare needs --sample"),
        (["--sample", "0"], 1, "landmark 'petra' has 2 pictures, but 4 are drawn per landmark"),
        (["--sample", "0", "--leave-out-rare"], 1, "no pictures"),
    ],
)
def test_annotate_says_what_is_wrong(d2r, photos, tmp_path, options, status, problem):
    found, _, err = d2r("dataset", "annotate", photos, "--out", tmp_path / "labels", "--no-browser", *options)
    assert found == status
    assert problem in " ".join(err.replace("│", " ").split())


def test_annotate_needs_a_folder(d2r, tmp_path):
    status, _, err = d2r("dataset", "annotate", tmp_path / "absent", "--out", tmp_path / "labels")
    assert (status, "absent: not a folder" in err) == (2, True)


def test_statistics_are_printed(d2r, labels):
    status, out, err = d2r("dataset", "stats", labels)
    assert status == 0, err
    assert re.search(r"pictures +12 *\n", out)
    assert re.search(r"boxes +8 for training, 0 for validation", out)
    assert re.search(r"without a box +4 *\n", out)
    assert re.search(r"pictures per landmark +4 to 8, median 6", out)
    assert re.search(r"area of the boxes +25% to 25%, median 25%", out)
    assert re.search(r"20% to 30% +8 +█{40}", out)


def test_a_sample_is_written_in_the_same_format(d2r, labels, tmp_path):
    status, out, err = d2r("dataset", "sample", labels, "--out", tmp_path / "sample", "--seed", "3")
    assert status == 0, err
    assert "drawn: 8 pictures for training, 4 for validation" in out
    assert "4 of them left out because they have no box" in out
    sampled = read_dataset(tmp_path / "sample")
    assert len(sampled.training) + len(sampled.validation) == len(sampled.pictures) == 8


def test_a_rare_landmark_is_named_with_its_row(d2r, labels, tmp_path):
    with (labels / "train.csv").open("a") as file:
        file.write("x,None,rare\n")
    status, _, err = d2r("dataset", "sample", labels, "--out", tmp_path / "sample")
    assert status == 1
    assert f"{labels}/train.csv: row 14: landmark 'rare' has 1 picture, but 4 are drawn per landmark" in err
    status, out, _ = d2r("dataset", "sample", labels, "--out", tmp_path / "sample", "--leave-out-rare")
    assert status == 0
    assert "1 landmark with fewer than four pictures left out" in out


def test_pictures_with_a_box_are_fetched_and_failures_counted(d2r, tmp_path):
    folder = tmp_path / "data" / "landmark-boxes"
    with serving() as server:
        server.files["/a"] = Resource(encode_jpeg(texture(0, 40, 30)))
        server.files["/d"] = Resource(encode_jpeg(texture(0, 40, 30)))
        pictures = {name: LandmarkPicture(name, f"{server.url}/{name}", "1") for name in "abd"}
        pictures["c"] = LandmarkPicture("c", None, "1")
        box = FractionBox(0, 0, 1, 1)
        write_dataset(folder, LandmarkBoxes(pictures, {"a": box, "b": box}, {"c": box}))
        get = ["dataset", "get", "landmark-boxes", "--out", tmp_path / "data", "--rate", "1000"]
        status, out, err = d2r(*get)
        assert status == 0, err
        assert f"3 pictures: 1 fetched, 1 without a URL, 1 failed; {folder}" in out
        assert f"failures: {folder}/failures.csv" in out
        status, out, _ = d2r(*get, "--all")
        assert "4 pictures: 1 fetched, 1 already there, 1 without a URL, 1 failed before and not retried" in out
        server.files["/b"] = server.files["/a"]
        status, out, _ = d2r(*get, "--retry-failed")
        assert "1 fetched, 1 already there, 1 without a URL; " in out
    assert {path.name for path in (folder / "jpg").iterdir()} == {"a.jpg", "b.jpg", "d.jpg"}


def test_without_the_lists_of_pictures_the_file_is_named(d2r, tmp_path):
    status, _, err = d2r("dataset", "get", "landmark-boxes", "--out", tmp_path)
    assert status == 1
    assert f"{tmp_path}/landmark-boxes/train.csv: cannot be read: No such file" in err


@pytest.mark.parametrize("option", [["--rate", "3"], ["--retry-failed"], ["--all"]])
def test_options_of_landmark_boxes_are_refused_for_other_data_sets(d2r, tmp_path, option):
    status, _, err = d2r("dataset", "get", "roxford5k", "--out", tmp_path, *option)
    assert status == 2
    assert "are for landmark-boxes" in err


def test_scenes_for_a_detector_are_composed_from_boxes_and_photographs(d2r, photos, tmp_path):
    rows = {name: LandmarkPicture(name, None, "petra") for name in ("petra/a.jpg", "petra/b.jpg")}
    box = FractionBox(0.1, 0.1, 0.9, 0.9)
    write_dataset(tmp_path / "labels", LandmarkBoxes(rows, {"petra/a.jpg": box}, {"petra/b.jpg": box}))
    for k in range(12):
        write(tmp_path / "ordinary" / f"{k}.jpg", texture(k))
    source = f"{tmp_path / 'labels'}={photos}"
    command = ["dataset", "compose-detection", source, "--backgrounds", tmp_path / "ordinary"]
    command += ["--pictures", "3", "--workers", "0", "--out", tmp_path / "set"]
    status, told, errors = d2r(*command, "--split", "validation", "--leave-out", "10.jpg,11.jpg")
    assert (status, errors.strip()) == (0, "")
    assert re.search(r"3 pictures from 1 boxes and \d backgrounds; .*set/boxes\.json", told)
    assert len(list((tmp_path / "set" / "photos").iterdir())) == 3
    status, _, errors = d2r(*command)
    assert status == 1
    assert "set: not empty; compose into a new folder" in errors
    status, _, errors = d2r(*command, "--split", "test")
    assert status == 2
    assert "there are: training, validation" in errors
    (photos / "petra" / "a.jpg").unlink()
    status, _, errors = d2r(*command)
    assert status == 1
    assert "petra/a.jpg: listed in" in errors
