"""Networks on the command line: listing and adding them."""

import pytest

from local_features import write_features


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("D2R_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_networks_are_added_and_listed(d2r, folder, tmp_path):
    path = write_features(tmp_path / "mine.onnx")
    status, out, _ = d2r("models", "add", path, "--name", "tiny", "--licence", "CC[0]")
    assert status == 0
    assert out.startswith("tiny: local features, 0.1 MB; toy\n")
    assert f"file: {folder}/tiny.onnx" in out
    assert "not verified: no checksum of" in out
    sha256 = next(line.removeprefix("sha256: ") for line in out.splitlines() if line.startswith("sha256: "))
    assert "not verified" not in d2r("models", "add", path, "--name", "tiny", "--sha256", sha256)[1]
    status, out, _ = d2r("models", "list")
    assert status == 0
    *shipped, added = out.splitlines()[1:6]
    more = out.splitlines()[6:]
    assert [line.split()[0] for line in shipped] == [
        "delf-efficientnet-lite0",
        "hardnet",
        "hardnet-int8",
        "ssd-efficientnet-lite0",
    ]
    assert added.split()[:6] == ["tiny", "local", "features", "0.1", sha256[:16], "added"]
    assert more[0].startswith("d2r models pull how-r18: HOW local features")
    assert more[-1] == f"added networks are in {folder}"


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["add", "none.onnx"], 1, "none.onnx: cannot be read: No such file"),
        (["add", "mine.onnx", "--name", "a b"], 1, "mine.onnx: 'a b' is not a valid name"),
        (["add", "mine.onnx", "--sha256", "12"], 2, "--sha256 must be 64 digits"),
        (["pull", "best"], 1, "best: not a known model; there are: how-r18, how-r50"),
    ],
)
def test_what_cannot_be_done_is_one_line(d2r, tmp_path, monkeypatch, arguments, status, problem):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "mine.onnx")
    given, _, err = d2r("models", *arguments)
    assert given == status
    assert problem in err
