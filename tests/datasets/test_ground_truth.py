"""The ground truth of a clutter set: it is read back as written, and errors name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from d2r.datasets.ground_truth import ClutterError, load_set


def test_ground_truth_is_read_back_as_it_was_written(composed):
    assert load_set(composed.folder) == composed


def _set(document: dict[str, Any], path: tuple[str | int, ...], value: object) -> None:
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("queries", 1, "box"), [1, 2, 3], r"queries\[1\]\.box: expected a list of 4"),
        (("queries", 1, "box"), [9, 2, 3, 4], r"queries\[1\]\.box: expected a box"),
        (("queries", 0, "box", 2), "wide", r"queries\[0\]\.box\[2\]: expected a number, found 'wide'"),
        (("queries", 0, "path"), "../../secret.jpg", r"queries\[0\]\.path: expected a path within the folder"),
        (("queries", 0, "positives"), {}, r"queries\[0\]\.positives: expected a list"),
        (("database", 2), 5, r"database\[2\]: expected an object"),
        (("database", 2), {}, r"database\[2\]\.path: missing"),
        (("database", 0, "width"), 1.5, r"database\[0\]\.width: expected a whole number"),
        (("database", 0, "planted"), [{"kind": "ghost"}], r"database\[0\]\.planted\[0\]\.kind: expected 'instance'"),
        (("config", "share"), [0.5, 0.1], r"config\.share: .* out of range"),
        (("config", "tilt"), True, r"config\.tilt: expected a number"),
        (("seed",), None, r"seed: expected a whole number"),
        (("format",), "d2r-clutter-99", r"format: .* another version"),
    ],
)
def test_a_wrong_ground_truth_names_the_file_and_the_field(composed, tmp_path, path, value, message):
    document = json.loads((composed.folder / "ground_truth.json").read_text())
    _set(document, path, value)
    (tmp_path / "ground_truth.json").write_text(json.dumps(document))
    with pytest.raises(ClutterError, match=rf"ground_truth\.json: {message}"):
        load_set(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("", "not JSON"), ("[]", "the document: expected an object"), ("\udcff", "not JSON")],
)
def test_a_ground_truth_that_is_no_json_document_is_named(tmp_path, text, message):
    (tmp_path / "ground_truth.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ClutterError, match=rf"ground_truth\.json: {message}"):
        load_set(tmp_path)


def test_a_missing_ground_truth_is_named(tmp_path):
    with pytest.raises(ClutterError, match=r"ground_truth\.json: cannot be read: No such file"):
        load_set(tmp_path)
