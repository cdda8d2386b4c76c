"""Drawings of features and matches on the command line."""

import re

import numpy as np
import pytest
from PIL import Image

from local_features import write_features


@pytest.fixture
def model(tmp_path):
    return write_features(tmp_path / "toy.onnx", dim=40)


def test_features_are_drawn_and_counted(d2r, photo_folder, model, tmp_path):
    file = tmp_path / "shown.png"
    status, out, _ = d2r("show", "features", photo_folder / "pagoda-0.jpg", "--out", file)
    assert status == 0
    first, *counts, last = out.splitlines()
    assert re.fullmatch(r"[\d,]+ features of 128 dimensions in [\d,]+ ms", first)
    found = int(first.split()[0].replace(",", ""))
    assert sum(int(line.split(": ")[1].replace(",", "")) for line in counts) == found > 300
    assert last == f"picture: {file}"
    assert Image.open(file).size[0] == 360 + 250
    status, out, _ = d2r(
        "show", "features", photo_folder / "pagoda-0.jpg", "--out", file,
        "--features", f"delf:model={model},top=50", "--box", "40,40,200,200",
    )  # fmt: skip
    assert out.startswith("50 features of 40 dimensions")
    colours = np.ptp(np.asarray(Image.open(file).convert("RGB")).astype(int), axis=2)
    assert colours[40, 60:180].min() > 150  # the box


def test_matches_are_drawn_and_counted(d2r, photo_folder, tmp_path):
    file = tmp_path / "match.png"
    pictures = photo_folder / "pagoda-0.jpg", photo_folder / "pagoda-1.jpg"
    counts = []
    for box in ((), ("--box", "60,60,250,200"), ("--box-a", "60,60,250,200")):
        status, out, _ = d2r("match", *pictures, "--out", file, *box)
        assert status == 0
        features, matches, picture = out.splitlines()
        assert re.fullmatch(r"features: [\d,]+ in [\d,]+ ms, and [\d,]+ in [\d,]+ ms", features)
        counts.append([int(text) for text in re.match(r"matches: (\d+); inliers: (\d+); [\d,]+ ms", matches).groups()])
        assert picture == f"picture: {file}"
    assert counts[0][0] >= counts[0][1] > 100
    assert counts[1] == counts[2]
    assert 20 < counts[1][1] < counts[0][1]
    assert Image.open(file).size[0] == 2 * 360 + 16


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["--features", "delf:model=none.onnx"], 1, "none.onnx: cannot be read: No such file"),
        (["--features", "surf"], 2, "features 'surf' is not known; there are: delf, hardnet, rootsift"),
        (["--box", "1,2"], 2, "expected four numbers"),
        (["--box", "9000,1,9100,30"], 2, "outside the picture"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(d2r, photo_folder, tmp_path, monkeypatch, arguments, status, problem):
    monkeypatch.chdir(tmp_path)
    picture = photo_folder / "pagoda-0.jpg"
    for command in (["show", "features", picture], ["match", picture, picture]):
        given, _, err = d2r(*command, "--out", "drawn.png", *arguments)
        assert given == status
        assert problem in err
        assert not (tmp_path / "drawn.png").exists()
