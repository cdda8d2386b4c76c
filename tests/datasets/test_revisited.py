import collections
import dataclasses
import datetime
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from d2r.datasets.revisited import (
    GroundTruth,
    GroundTruthError,
    find_ground_truth,
    read_ground_truth,
    revisited_picture_path,
)

LABELS = ("easy", "hard", "junk")
SMALL = {
    "imlist": ["a_000001", "b_000002", "c_000003"],
    "qimlist": ["q_000001", "q_000002"],
    "gnd": [
        {"bbx": [1.5, 2, 30, 40.25], "easy": [0, 2], "hard": [1], "junk": []},
        {"bbx": [0, 0, 5, 5], "easy": [], "hard": [], "junk": [2]},
    ],
}


def write_json(path, fields):
    path.write_text(json.dumps(fields))


def write_pickle(path, fields, protocol=4):
    """The authors' format: names as lists, labels as arrays."""
    gnd = [{key: np.asarray(value) for key, value in entry.items()} for entry in fields["gnd"]]
    path.write_bytes(pickle.dumps({**fields, "gnd": gnd}, protocol=protocol))


def write_mat(path, fields):
    """MATLAB's format: cells of names, a struct array of row vectors of doubles, indices from 1."""
    io = pytest.importorskip("scipy.io")

    def cell(names):
        column = np.empty((len(names), 1), dtype=object)
        column[:, 0] = names
        return column

    gnd = np.empty((1, len(fields["gnd"])), dtype=[(key, object) for key in ("bbx", *LABELS)])
    for number, entry in enumerate(fields["gnd"]):
        rows = [np.array(entry[label], dtype=np.float64).reshape(1, -1) + 1 for label in LABELS]
        gnd[0, number] = (np.array([entry["bbx"]], dtype=np.float64), *rows)
    io.savemat(path, {"imlist": cell(fields["imlist"]), "qimlist": cell(fields["qimlist"]), "gnd": gnd})


WRITERS = {".json": write_json, ".pkl": write_pickle, ".mat": write_mat}


def assert_holds(truth, fields):
    assert truth.images == tuple(fields["imlist"])
    assert truth.queries == tuple(fields["qimlist"])
    assert truth.boxes.dtype == np.float32
    np.testing.assert_array_equal(truth.boxes, np.float32([entry["bbx"] for entry in fields["gnd"]]))
    for label in LABELS:
        for found, entry in zip(getattr(truth, label), fields["gnd"], strict=True):
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, entry[label])


def shared_fields(name):
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("D2R_DATA") or root.parent / "shared" / "data") / "revisited" / f"gnd_{name}.json"
    if not path.is_file():
        pytest.skip(f"needs the shared data: {path}")
    return json.loads(path.read_text())


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_every_format_of_the_real_ground_truth_reads_back_equal(tmp_path, name, suffix):
    fields = shared_fields(name)
    path = tmp_path / f"gnd_{name}{suffix}"
    WRITERS[suffix](path, fields)
    assert_holds(read_ground_truth(path), fields)


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_content_decides_the_format(tmp_path, suffix):
    path = tmp_path / "ground_truth.dat"
    WRITERS[suffix](tmp_path / f"as{suffix}", SMALL)
    (tmp_path / f"as{suffix}").rename(path)
    assert_holds(read_ground_truth(path), SMALL)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_single_query_and_picture(tmp_path, suffix):
    fields = {"imlist": ["only"], "qimlist": ["one"], "gnd": [SMALL["gnd"][1] | {"junk": [0]}]}
    WRITERS[suffix](tmp_path / f"gnd{suffix}", fields)
    assert_holds(read_ground_truth(tmp_path / f"gnd{suffix}"), fields)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(tmp_path, protocol):
    write_pickle(tmp_path / "gnd.pkl", SMALL, protocol)
    assert_holds(read_ground_truth(tmp_path / "gnd.pkl"), SMALL)


def test_a_pickle_of_lists_and_scalars_and_of_older_numpy(tmp_path):
    gnd = [{k: [np.float64(x) if k == "bbx" else np.int64(x) for x in v] for k, v in e.items()} for e in SMALL["gnd"]]
    data = pickle.dumps({**SMALL, "gnd": gnd, "extra": {1, frozenset({2})}}, protocol=2)
    for core in (b"numpy._core.", b"numpy.core."):
        (tmp_path / "gnd.pkl").write_bytes(data.replace(b"numpy._core.", core))
        assert_holds(read_ground_truth(tmp_path / "gnd.pkl"), SMALL)


class Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("refused", "name"),
    [
        (lambda path: Payload(os.mkdir, path), "posix.mkdir"),
        (lambda path: Payload(eval, f"__import__('os').mkdir({path!r})"), "builtins.eval"),
        (lambda path: Payload(getattr, "", "join"), "builtins.getattr"),
        (lambda path: datetime.date(2018, 6, 18), "datetime.date"),
        (lambda path: collections.OrderedDict(), "collections.OrderedDict"),
        (lambda path: Payload(np.load, path), "numpy.load"),
        (lambda path: Path(path), "pathlib"),
        (lambda path: len, "builtins.len"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path, refused, name, protocol):
    made = tmp_path / "made by the pickle"
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps({**SMALL, "extra": refused(str(made))}, protocol=protocol))
    with pytest.raises(GroundTruthError) as caught:
        read_ground_truth(path)
    if protocol == 2 and name.startswith("builtins"):
        name = name.replace("builtins", "__builtin__")
    elif protocol == 0:
        name = name.split(".")[-1]
    assert name in str(caught.value)
    assert str(path) in str(caught.value)
    assert "not run" in str(caught.value)
    assert not made.exists()


def test_a_pickle_with_arrays_of_objects_or_strange_codecs(tmp_path):
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps({**SMALL, "extra": Payload(np.ndarray, (1,))}))
    with pytest.raises(GroundTruthError, match="damaged pickle"):
        read_ground_truth(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(GroundTruthError, match="'rot13'"):
        read_ground_truth(path)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_cut_of_a_file_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"gnd{suffix}"
    WRITERS[suffix](path, SMALL)
    data = path.read_bytes()
    # everything after the last significant byte is padding
    for length in range(0, len(data) * 3 // 4, max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        with pytest.raises(GroundTruthError, match="gnd"):
            read_ground_truth(path)


@pytest.mark.parametrize("suffix", [".json", ".pkl", ".mat"])
def test_noise_is_an_error(tmp_path, suffix):
    path = tmp_path / f"gnd{suffix}"
    rng = np.random.default_rng(0)
    for start in (b"", b"{", b"\x80\x04", b"MATLAB 5.0 MAT-file", b"\x89HDF\r\n"):
        path.write_bytes(start + rng.bytes(300))
        with pytest.raises(GroundTruthError):
            read_ground_truth(path)


def change(field, value):
    changed = json.loads(json.dumps(SMALL))
    place = changed
    *steps, last = field
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (["imlist"], None, "imlist: it is missing"),
        (["imlist"], 7, "imlist: not a list"),
        (["imlist"], [], "imlist: not a list of picture names, or an empty one"),
        (["imlist", 1], 7, "imlist[1]: 7 is not the name"),
        (["imlist", 1], "../../etc/passwd", "imlist[1]: '../../etc/passwd' is not the name"),
        (["imlist", 1], "a_000001", "imlist: it names a picture twice"),
        (["qimlist", 0], "", "qimlist[0]: '' is not the name"),
        (["qimlist"], ["q"], "gnd: 2 entries, where qimlist has 1"),
        (["gnd"], 3, "gnd: not a list"),
        (["gnd", 1], [1], "gnd[1]: a list, not fields"),
        (["gnd", 1, "bbx"], None, "gnd[1].bbx: it is missing"),
        (["gnd", 1, "bbx"], [1, 2, 3], "gnd[1].bbx: [1, 2, 3] is not x1, y1, x2, y2"),
        (["gnd", 1, "bbx"], [5, 0, 5, 5], "gnd[1].bbx"),
        (["gnd", 1, "bbx"], [0, 0, 5, "5"], "gnd[1].bbx"),
        (["gnd", 1, "bbx"], [0, 0, 5, float("nan")], "gnd[1].bbx"),
        (["gnd", 0, "hard"], None, "gnd[0].hard: it is missing"),
        (["gnd", 0, "hard"], [3], "gnd[0].hard: index 3 is outside 0 to 2"),
        (["gnd", 0, "hard"], [-1], "gnd[0].hard: index -1 is outside 0 to 2"),
        (["gnd", 0, "hard"], [1.5], "gnd[0].hard: not a list of whole numbers"),
        (["gnd", 0, "hard"], ["1"], "gnd[0].hard: not a list of whole numbers"),
        (["gnd", 0, "hard"], [[1]], "gnd[0].hard: not a list of whole numbers"),
        (["gnd", 0, "hard"], [[1], [1, 2]], "gnd[0].hard: not a list of whole numbers"),
        (["gnd", 0, "hard"], [True], "gnd[0].hard: not a list of whole numbers"),
        (["gnd", 0, "hard"], {"1": 1}, "gnd[0].hard: not a list of whole numbers"),
        (["gnd", 0, "hard"], [2], "gnd[0]: a picture is in two of easy, hard and junk"),
    ],
)
def test_a_malformed_field_is_named(tmp_path, field, value, message):
    path = tmp_path / "gnd_small.json"
    write_json(path, change(field, value))
    with pytest.raises(GroundTruthError) as caught:
        read_ground_truth(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_indices_of_a_mat_file_start_at_1(tmp_path):
    path = tmp_path / "gnd.mat"
    write_mat(path, change(["gnd", 0, "hard"], [-1]))
    with pytest.raises(GroundTruthError, match=r"gnd\[0\].hard: index 0 is outside 1 to 3"):
        read_ground_truth(path)


def test_a_file_of_no_known_format_or_none_at_all(tmp_path):
    (tmp_path / "gnd.txt").write_text("imlist")
    with pytest.raises(GroundTruthError, match="neither JSON"):
        read_ground_truth(tmp_path / "gnd.txt")
    with pytest.raises(GroundTruthError, match="No such file"):
        read_ground_truth(tmp_path / "absent.json")
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(GroundTruthError, match="holds a list, not the fields imlist, qimlist, gnd"):
        read_ground_truth(tmp_path / "gnd.pkl")


def test_the_layout_of_a_folder(tmp_path):
    assert find_ground_truth(tmp_path / "absent") is None
    for suffix in (".mat", ".pkl", ".json"):
        (tmp_path / f"gnd_roxford5k{suffix}").touch()
        assert find_ground_truth(tmp_path) == tmp_path / f"gnd_roxford5k{suffix}"
    assert revisited_picture_path(tmp_path, "a_000001") == tmp_path / "jpg" / "a_000001.jpg"


def test_ground_truth_cannot_be_changed(tmp_path):
    write_json(tmp_path / "gnd.json", SMALL)
    truth = read_ground_truth(tmp_path / "gnd.json")
    assert isinstance(truth, GroundTruth)
    with pytest.raises(dataclasses.FrozenInstanceError):
        truth.images = ()
