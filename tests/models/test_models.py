import hashlib
from pathlib import Path

import pytest

from d2r import models
from d2r.models import find_model, list_models
from d2r.regions import Detector
from detectors import write_detector


def test_networks_in_a_folder_are_listed_by_name_with_the_headings_of_their_cards(tmp_path):
    path = write_detector(tmp_path / "tiny.onnx")
    (tmp_path / "tiny.md").write_text("\n# Finds the middle\n\nIt has learned nothing.\n")
    write_detector(tmp_path / "bare.onnx")
    (tmp_path / "notes.txt").touch()
    bare, tiny = list_models(tmp_path)
    assert (bare.name, bare.summary) == ("bare", "")
    assert (tiny.name, tiny.path, tiny.summary) == ("tiny", path, "Finds the middle")
    assert tiny.bytes == path.stat().st_size
    assert tiny.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_network_is_found_by_name_or_by_path(tmp_path):
    path = write_detector(tmp_path / "tiny.onnx")
    assert find_model("tiny", tmp_path) == path
    assert find_model("elsewhere/other.onnx", tmp_path) == Path("elsewhere/other.onnx")
    with pytest.raises(FileNotFoundError, match=r"no such model is shipped \(there are: tiny\)"):
        find_model("../tiny", tmp_path)


def test_a_detector_runs_a_shipped_network_by_its_name(tmp_path, monkeypatch):
    write_detector(tmp_path / "tiny.onnx")
    monkeypatch.setattr(models.find_model, "__defaults__", (tmp_path,))
    detector = Detector("tiny")
    assert detector.network().arch == "toy"
    assert detector.pinned().model == "tiny"
    assert detector.pinned().sha256 == detector.network().sha256
