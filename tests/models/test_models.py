import hashlib
import json
import sys
import types
from pathlib import Path

import pytest
from filelock import FileLock

from d2r import models
from d2r.features import Delf
from d2r.hub import catalogue
from d2r.hub.catalogue import add_model, list_models, pull_model, read_record
from d2r.hub.known import KnownModel
from d2r.models import DETECTOR, LOCAL_FEATURES, PATCH_DESCRIPTORS, find_model, model_names, user_folder
from d2r.models.onnx import ModelError
from d2r.regions import Detector
from d2r.support.download import DownloadError
from d2r.support.files import OutputError
from detectors import write_detector
from local_features import METADATA, write_features
from web import Resource, serving

SHA256 = "0" * 64

SHIPPED = [LOCAL_FEATURES, PATCH_DESCRIPTORS, f"{PATCH_DESCRIPTORS}-int8", DETECTOR]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of added networks, which does not exist yet."""
    monkeypatch.setenv("D2R_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def server():
    with serving() as running:
        yield running


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


# names


def test_the_folder_is_the_one_that_is_named_or_that_of_the_users_data(folder, tmp_path, monkeypatch):
    assert user_folder() == folder
    monkeypatch.delenv("D2R_MODELS")
    monkeypatch.setattr(models.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert user_folder() == tmp_path / "data" / "d2r" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder() == tmp_path / ".local" / "share" / "d2r" / "models"
    monkeypatch.setattr(models.sys, "platform", "darwin")
    assert user_folder() == tmp_path / "Library" / "Application Support" / "d2r" / "models"


def test_a_network_is_found_by_name_or_by_path(folder):
    assert model_names(folder) == []
    assert find_model(DETECTOR) == models.MODELS_FOLDER / f"{DETECTOR}.onnx"
    assert find_model("elsewhere/other.onnx") == Path("elsewhere/other.onnx")
    folder.mkdir()
    path = write_detector(folder / "tiny.onnx")
    write_detector(folder / f"{DETECTOR}.onnx")
    assert find_model("tiny") == path
    assert find_model(DETECTOR).parent == models.MODELS_FOLDER
    with pytest.raises(FileNotFoundError, match=rf"\(there are: {', '.join(SHIPPED)}, tiny\), and the name"):
        find_model("../tiny")
    with pytest.raises(FileNotFoundError, match="fetched with: d2r models pull how-r50"):
        find_model("how-r50")


def test_networks_are_listed_with_what_is_known_of_them(folder, tmp_path):
    add_model(str(write_features(tmp_path / "mine.onnx")), licence="CC BY 4.0")
    write_detector(folder / "copied.onnx")
    (folder / "copied.md").write_text("\n# Finds the middle\n\nIt has learned nothing.\n")
    (folder / "broken.onnx").write_bytes(b"nothing")
    found = {model.name: model for model in list_models()}
    assert list(found) == [*SHIPPED, "broken", "copied", "mine"]
    kinds = [
        "local features",
        "patch descriptors",
        "patch descriptors",
        "detector",
        "unknown",
        "detector",
        "local features",
    ]
    assert [model.kind for model in found.values()] == kinds
    assert [model.shipped for model in found.values()] == [True] * 4 + [False] * 3
    assert found["copied"].summary == "Finds the middle"
    assert (found["mine"].licence, found["mine"].summary) == ("CC BY 4.0", "toy")
    assert found["mine"].bytes == (tmp_path / "mine.onnx").stat().st_size
    assert found["mine"].sha256 == Delf(str(tmp_path / "mine.onnx")).network().sha256
    write_features(folder / "mine.onnx", metadata={**METADATA, "arch": "another", "licence": "CC0"})
    replaced = list_models()[-1]  # the record is of another file
    assert (replaced.summary, replaced.licence) == ("another", "CC0")


# adding


def test_added_networks_are_used_by_their_names(folder, tmp_path):
    add_model(str(write_detector(tmp_path / "boxes.onnx")))
    add_model(str(write_features(tmp_path / "local.onnx", dim=9)), name="cells")
    assert Detector("boxes").network().arch == "toy"
    assert Detector("boxes").pinned().model == "boxes"
    pinned = Delf("cells").pinned()
    assert (pinned.dim, pinned.model, len(pinned.sha256)) == (9, "cells", 64)
    assert files_in(folder) == ["boxes.json", "boxes.onnx", "cells.json", "cells.onnx"]


def test_a_record_says_where_a_network_came_from(folder, tmp_path):
    path = write_features(tmp_path / "mine.onnx", metadata={**METADATA, "licence": "CC0"})
    sha256 = Delf(str(path)).network().sha256
    model = add_model(str(path), sha256=sha256)
    record = read_record(model.path)
    assert record == catalogue.Record("local features", sha256, str(path), sha256, True, "CC0", "toy")
    assert json.loads((folder / "mine.json").read_text())["sha256"] == sha256
    assert add_model(str(path)) == model  # again, which changes only the record
    assert not read_record(model.path).verified


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "../up"}, r"'\.\./up' is not a valid name"),
        ({"name": "a,b"}, "is not a valid name"),
        ({"name": "x.onnx"}, "is not a valid name"),
        ({"name": DETECTOR}, f"a shipped model has the name {DETECTOR}"),
        ({"sha256": SHA256}, f"its SHA-256 is [0-9a-f]*, but should be {SHA256}"),
    ],
)
def test_what_cannot_be_added_leaves_nothing(folder, tmp_path, options, problem):
    path = write_features(tmp_path / "mine.onnx")
    with pytest.raises(ModelError, match=rf"mine\.onnx: .*{problem}"):
        add_model(str(path), **options)
    assert files_in(folder) == []


def test_files_that_are_not_ours_are_not_added(folder, tmp_path):
    (tmp_path / "text.onnx").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"text\.onnx: not an ONNX file that can be run"):
        add_model(str(tmp_path / "text.onnx"))
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read: No such file"):
        add_model(str(tmp_path / "none.onnx"))
    foreign = write_features(tmp_path / "foreign.onnx", metadata={"arch": "toy"})
    with pytest.raises(ModelError, match=r"foreign\.onnx: not a model of this project: .* detector-1 \(detector\) or"):
        add_model(str(foreign))
    wrong = write_features(tmp_path / "wrong.onnx", metadata={**METADATA, "stride": "none"})
    with pytest.raises(ModelError, match=r"wrong\.onnx: its metadata must give stride"):
        add_model(str(wrong))
    assert files_in(folder) == []


def test_a_name_stays_with_its_network(folder, tmp_path):
    add_model(str(write_features(tmp_path / "mine.onnx")))
    kept = (folder / "mine.onnx").read_bytes()
    write_features(tmp_path / "mine.onnx", seed=1)
    with pytest.raises(
        ModelError, match=r"mine: another model with this name was added before; .* remove .*mine\.onnx"
    ):
        add_model(str(tmp_path / "mine.onnx"))
    assert (folder / "mine.onnx").read_bytes() == kept


def test_one_process_adds_at_a_time(folder, tmp_path):
    path = write_features(tmp_path / "mine.onnx")
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(ModelError, match="another process is adding a model"):
        add_model(str(path))


def test_a_network_is_added_from_an_address_and_a_transfer_goes_on_where_it_broke_off(folder, tmp_path, server):
    content = write_features(tmp_path / "toy.onnx").read_bytes()
    resource = Resource(content, mishaps=[("cut", 100), 404])
    server.files["/models/far%20away.onnx?v=2"] = resource
    url = f"{server.url}/models/far%20away.onnx?v=2"
    with pytest.raises(DownloadError, match="404"):
        add_model(url, name="far", pause_s=0.0)
    assert [len(path.read_bytes()) for path in (folder / "downloads").glob("*.part")] == [100]
    heard = []
    model = add_model(url, name="far", pause_s=0.0, progress=lambda *told: heard.append(told))
    assert (model.path.read_bytes(), model.name) == (content, "far")
    assert server.asked[-1][1:] == ("bytes=100-", 206)
    assert heard[-1][1:] == (len(content), len(content))
    assert read_record(model.path).source == url
    assert files_in(folder) == ["far.json", "far.onnx"]


def test_an_address_that_gives_something_else_is_named(folder, tmp_path, server):
    server.files["/toy.onnx"] = Resource(b"<html>not found</html>")
    with pytest.raises(ModelError, match=rf"{server.url}/toy\.onnx: not an ONNX file"):
        add_model(f"{server.url}/toy.onnx", pause_s=0.0)
    server.files["/toy.onnx"] = Resource(write_features(tmp_path / "toy.onnx").read_bytes(), etag='"v2"')
    with pytest.raises(DownloadError, match=r"its sha256 is .*, but should be 000"):
        add_model(f"{server.url}/toy.onnx", sha256=SHA256, pause_s=0.0)
    assert files_in(folder) == []
    assert add_model(f"{server.url}/toy.onnx", pause_s=0.0).kind == "local features"


# fetching known networks


@pytest.fixture
def known(server, monkeypatch):
    """A network that can be fetched, whose checkpoint is what its converter claims."""
    server.files["/tiny.pth"] = Resource(b"checkpoint")
    entry = KnownModel("a tiny one", (f"{server.url}/gone.pth", f"{server.url}/tiny.pth"), None, "MIT", "toynet")
    monkeypatch.setattr(catalogue, "KNOWN", {"tiny": entry})
    converter = types.ModuleType("d2r.train.delf.convert")

    def convert_checkpoint(checkpoint, path, *, arch):
        assert checkpoint.read_bytes() == b"checkpoint"
        write_features(path, metadata={**METADATA, "arch": arch})

    converter.convert_checkpoint = convert_checkpoint
    monkeypatch.setitem(sys.modules, "d2r.train.delf.convert", converter)
    return entry


@pytest.mark.usefixtures("known")
def test_a_known_network_is_fetched_and_converted_once(folder, server):
    model = pull_model("tiny", pause_s=0.0)
    assert (model.kind, model.licence, model.summary) == ("local features", "MIT", "a tiny one")
    record = read_record(model.path)
    assert not record.verified
    assert record.source_sha256 == hashlib.sha256(b"checkpoint").hexdigest()
    assert record.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert Delf("tiny").network().arch == "toynet"
    assert files_in(folder) == ["tiny.json", "tiny.onnx"]
    asked = len(server.asked)
    assert pull_model("tiny") == model
    assert len(server.asked) == asked


def test_a_checkpoint_with_another_checksum_is_not_converted(folder, known, monkeypatch):
    strict = KnownModel(known.summary, known.urls[1:], SHA256, known.licence, known.arch)
    monkeypatch.setattr(catalogue, "KNOWN", {"tiny": strict})
    with pytest.raises(DownloadError, match=r"its sha256 is .*, but should be 000"):
        pull_model("tiny", pause_s=0.0)
    assert files_in(folder) == []


@pytest.mark.usefixtures("known")
def test_without_torch_nothing_is_fetched(folder, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "d2r.train.delf.convert", None)
    with pytest.raises(ModelError, match=r"tiny: .* is not installed; .* 'detect-to-retrieve\[train\]'"):
        pull_model("tiny")
    assert server.asked == []
    with pytest.raises(ModelError, match="other: not a known model; there are: tiny"):
        pull_model("other")


@pytest.mark.parametrize("name", ["mine.onnx", "mine.json"])
def test_a_file_of_the_users_in_the_folder_of_networks_is_not_written_over(folder, tmp_path, name):
    path = write_features(tmp_path / "mine.onnx")
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(ModelError, match=r"mine: .*give another --name"):
        add_model(str(path))
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"mine: .*give another --name"):
        add_model(str(path))
    assert (folder / name).is_symlink()
    (folder / name).unlink()
    assert add_model(str(path)) == add_model(str(path))


def test_a_folder_of_downloads_of_the_users_stays(folder, server):
    (folder / "downloads").mkdir(parents=True)
    (folder / "downloads" / "toy.onnx").write_text("mine")
    with pytest.raises(OutputError, match="downloads: it holds files that d2r did not put there"):
        add_model(f"{server.url}/toy.onnx", pause_s=0.0)
    assert (folder / "downloads" / "toy.onnx").read_text() == "mine"
