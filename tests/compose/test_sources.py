"""Instances and backgrounds in folders."""

from __future__ import annotations

import pytest

from d2r.compose.sources import read_backgrounds, read_instances
from d2r.datasets.ground_truth import ClutterError, Instance
from synthetic import texture, write


def test_a_folder_without_pictures_or_no_folder_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for read in (read_instances, read_backgrounds):
        with pytest.raises(ClutterError, match=f"{tmp_path.name}: no pictures"):
            read(tmp_path)
        with pytest.raises(ClutterError, match=r"missing: cannot be read: No such file"):
            read(tmp_path / "missing")


def test_sub_folders_are_instances_and_so_are_pictures_beside_them(tmp_path):
    for name in ("castle/2.jpg", "castle/1.JPG", "lamp.jpg"):
        write(tmp_path / name, texture(1, 40, 30))
    (tmp_path / "empty").mkdir()
    assert read_instances(tmp_path) == [
        Instance("castle", (tmp_path / "castle/1.JPG", tmp_path / "castle/2.jpg")),
        Instance("lamp", (tmp_path / "lamp.jpg",)),
    ]
