"""With ``--json``, commands print one document, and docs/json.md lists its fields."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from d2r.cli.app import app
from d2r.datasets import difficulty, download
from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxes, LandmarkPicture, write_dataset
from d2r.engine import Engine
from d2r.hub import catalogue
from d2r.support.version import package_version
from local_features import write_features
from synthetic import SMALL, texture, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "json.md"

QUICK = ("--features", "rootsift:top=200", "--workers", "0")
MEASURED = ("--words", "16", "--cache", "NEW/cache", *QUICK)

COMMANDS = {
    "index": ("PHOTOS", "--out", "NEW/photos.index", "--words", "16", "--regions", "whole", *QUICK),
    "search": ("INDEX", "PHOTOS/pagoda-0.jpg", "--html", "NEW/page.html"),
    "match": ("PHOTOS/pagoda-0.jpg", "PHOTOS/pagoda-1.jpg", "--features", "rootsift", "--out", "NEW/match.png"),
    "info": ("INDEX",),
    "check": ("INDEX",),
    "compact": ("INDEX",),
    "remove": ("INDEX", "AGAIN"),
    "codebook": ("PHOTOS", "--out", "NEW/words.safetensors", "--words", "16", "--regions", "whole", *QUICK),
    "pairs": ("INDEX", "--top", "2", "--out", "NEW/pairs.txt"),
    "group": ("INDEX", "--html", "NEW/page.html"),
    "duplicates": ("INDEX",),
    "evaluate": ("SET", "--regions", "whole", "--method", "asmk*", "--out", "NEW/run.json", *MEASURED),
    "evaluate-detector": (
        "LABELS=PHOTOS", "--regions", "rmac:levels=1", "--out", "NEW/figures.json", "--failures", "NEW/failures.png",
    ),
    "reproduce": ("fig5", "--dataset", "SET", "--out", "NEW/results", *MEASURED),
    "dataset get": ("landmark-boxes", "--out", "DATA"),
    "dataset compose": ("GREY", "--instances", "THINGS", "--difficulty", "easy", "--out", "NEW/set"),
    "dataset stats": ("LABELS",),
    "dataset sample": ("LABELS", "--out", "NEW/sample", "--leave-out-rare"),
    "dataset compose-detection": (
        "LABELS=PHOTOS", "--split", "validation", "--backgrounds", "GREY", "--pictures", "1", "--workers", "0",
        "--out", "NEW/set",
    ),
    "models list": (),
    "models add": ("NEW/toy.onnx",),
    "models pull": ("how-r18",),
    "show features": ("PHOTOS/pagoda-0.jpg", "--features", "rootsift", "--out", "NEW/shown.png"),
    "plan": ("--pictures", "100M"),
}  # fmt: skip

WITHOUT = {"serve", "demo", "dataset annotate", "train detector", "train delf", "train hardnet", "train export"}
WITHOUT |= {"train convert"}


@pytest.fixture(scope="module")
def index(built_index: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the ten photographs and of ``again.jpg``, a copy of one of them beside the index."""
    folder = tmp_path_factory.mktemp("with-a-copy")
    shutil.copy(photo_folder / "pagoda-1.jpg", folder / "again.jpg")
    shutil.copytree(built_index, folder / "photos.index")
    with Engine.open(folder / "photos.index") as engine:
        engine.add([folder / "again.jpg"], workers=0)
    return folder / "photos.index"


@pytest.fixture
def places(index: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The arguments of the commands, all of them copies."""
    names = ("INDEX", "SET", "LABELS", "DATA", "THINGS", "GREY", "NEW")
    places = {name: tmp_path / name.lower() for name in names}
    places |= {"PHOTOS": collection, "AGAIN": index.parent / "again.jpg"}
    shutil.copytree(index, places["INDEX"])
    places["NEW"].mkdir()
    for thing in ("pagoda", "other"):
        (places["SET"] / thing).mkdir(parents=True)
        for path in sorted(collection.rglob(f"{thing}*"))[:2]:
            (places["SET"] / thing / path.name).symlink_to(path)
    rows = [LandmarkPicture(f"pagoda-{k}.jpg", None, "pagoda") for k in range(3)]
    rows += [LandmarkPicture(f"{k}.jpg", None, "bay") for k in range(8)] + [LandmarkPicture("x.jpg", None, None)]
    boxes = {"pagoda-0.jpg": FractionBox(0.4, 0.4, 0.5, 0.5), "pagoda-1.jpg": FractionBox(0.2, 0.2, 0.9, 0.9)}
    labels = LandmarkBoxes({row.id: row for row in rows}, {}, boxes)
    for folder in (places["LABELS"], places["DATA"] / "landmark-boxes"):
        write_dataset(folder, labels)
    write(places["THINGS"] / "thing.jpg", texture(0))
    for k in range(12):
        write(places["GREY"] / f"{k}.jpg", texture(100 + k))
    write_features(places["NEW"] / "toy.onnx")
    monkeypatch.setenv("D2R_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(difficulty, "DIFFICULTIES", {**difficulty.DIFFICULTIES, "easy": SMALL})
    monkeypatch.setattr(catalogue, "pull_model", lambda name, **_: catalogue.add_model(str(places["NEW"] / "toy.onnx")))
    return places


def command_line(places: dict[str, Path], name: str) -> list[str]:
    given = [re.sub("[A-Z]{3,}", lambda word: str(places.get(word[0], word[0])), part) for part in COMMANDS[name]]
    return [*name.split(), *given, "--json"]


def fields(value: object, *above: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of names to each field of a document; ``[]`` follows the name of a list of objects."""
    if isinstance(value, dict):
        for name, below in value.items():
            listed = isinstance(below, list) and below and isinstance(below[0], dict)
            key = (*above, f"{name}[]" if listed else name)
            inner = [field for one in (below if listed else [below]) for field in fields(one, *key)]
            yield from inner or [key]


def documented(command: str) -> set[tuple[str, ...]]:
    section = DOCUMENT.read_text().split(f"\n## d2r {command}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {tuple(name.split(".")) for cell in first for name in re.findall("`(.+?)`", cell)}


def commands() -> Iterator[tuple[str, object]]:
    for name, one in typer.main.get_command(app).commands.items():
        below = getattr(one, "commands", None)
        yield from [(name, one)] if below is None else [(f"{name} {inner}", each) for inner, each in below.items()]


def test_every_command_but_those_that_serve_or_train_has_json() -> None:
    having = {name for name, one in commands() if any("--json" in option.opts for option in one.params)}
    assert having == set(COMMANDS)
    assert {name for name, _ in commands()} - having == WITHOUT
    assert set(re.findall(r"^## d2r (.*)$", DOCUMENT.read_text(), re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_one_document_whose_fields_are_documented(d2r, places, name):
    status, out, err = d2r(*command_line(places, name))
    assert status == 0, err
    document = json.loads(out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert list(document)[:2] == ["d2r", "kind"]
    assert (document.pop("d2r"), document.pop("kind")) == (package_version(), name)
    known = documented(name)
    for field in fields(document):
        same = [one for one in known if len(one) == len(field)]
        assert any(all(told in (part, "*") for told, part in zip(one, field, strict=True)) for one in same), field


def test_the_document_says_what_the_table_says(d2r, places):
    indexed = json.loads(d2r(*command_line(places, "index"))[1])
    assert (indexed["added"], indexed["size"]["pictures"], indexed["size"]["words"]) == (10, 10, 16)
    (places["PHOTOS"] / "pagoda-0.jpg").unlink()
    (places["PHOTOS"] / "broken.jpg").touch()
    indexed = json.loads(d2r(*command_line(places, "index"))[1])
    assert (indexed["missing"], indexed["vanished"]) == (1, {str(places["PHOTOS"]): 1})
    skipped = [[str(places["PHOTOS"] / "broken.jpg"), "the file is empty"]]
    assert indexed["skipped"] == skipped
    told = json.loads(d2r("info", places["NEW"] / "photos.index", "--json")[1])
    assert (told["skipped"], told["vanished"], told["size"]) == (skipped, indexed["vanished"], indexed["size"])
    assert told["codebook"]["origin"]["pictures"] == 10


def test_pairs_are_those_of_the_file(d2r, places):
    told = json.loads(d2r(*command_line(places, "pairs"))[1])
    assert told["pairs"] == [line.split() for line in (places["NEW"] / "pairs.txt").read_text().splitlines()]
    assert all((Path(told["folder"]) / name).is_file() for pair in told["pairs"] for name in pair)


def test_a_run_is_printed_as_it_is_written(d2r, places):
    for name, file in (("evaluate", "run.json"), ("evaluate-detector", "figures.json")):
        printed = json.loads(d2r(*command_line(places, name))[1])
        written = json.loads((places["NEW"] / file).read_text())
        assert list(printed.items())[2:] == list(written.items())[1:]


def test_damage_is_told_as_json_with_the_status_of_a_failure(d2r, places):
    file = next(places["INDEX"].glob("segments/*/posting_codes.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    status, out, _ = d2r("check", places["INDEX"], "--json")
    told = json.loads(out)
    assert (status, told["segments"], len(told["problems"])) == (1, None, 1)


def test_a_data_set_that_was_fetched_is_told_with_its_folder(d2r, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "get_dataset", lambda name, folder, progress: folder / name)
    status, out, _ = d2r("dataset", "get", "roxford5k", "--out", tmp_path, "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["name"], told["folder"]) == ("roxford5k", str(tmp_path / "roxford5k"))
