"""Commands overwrite their own files but no others: each command runs twice, and over a user's file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2r.annotate.session import open_session
from d2r.asmk.codebook import Codebook
from d2r.datasets.landmark_boxes import (
    FractionBox,
    LandmarkBoxes,
    LandmarkPicture,
    write_boxes,
    write_dataset,
)
from d2r.mining.pairs import is_ours
from d2r.report.drawing import write_png
from d2r.support.files import OutputError, is_our_json, is_our_page, is_our_png, is_our_safetensors

D2R = Callable[..., tuple[int, str, str]]

NOTES = b"what somebody wrote down over a year\n"

COMMANDS = {
    "search": ["search", "INDEX", "QUERY", "--top", "2", "--html"],
    "group": ["group", "INDEX", "--top", "2", "--html"],
    "duplicates": ["duplicates", "INDEX", "--top", "2", "--html"],
    "pairs": ["pairs", "INDEX", "--top", "2", "--out"],
    "show": ["show", "features", "QUERY", "--features", "rootsift", "--out"],
    "match": ["match", "QUERY", "OTHER", "--features", "rootsift", "--out"],
    "codebook": ["codebook", "PHOTOS", "--words", "8", "--features", "rootsift", "--workers", "0", "--out"],
    "evaluate": [
        "evaluate", "SET", "--words", "16", "--regions", "whole", "--features", "rootsift:top=200", "--method", "asmk*",
        "--workers", "0", "--cache", "CACHE", "--out",
    ],
    "figures": ["evaluate-detector", "LABELS", "--regions", "rmac:levels=1", "--out"],
    "failures": ["evaluate-detector", "LABELS", "--regions", "rmac:levels=1", "--failures"],
}  # fmt: skip


@pytest.fixture
def command(built_index: Path, photo_folder: Path, tmp_path: Path) -> Callable[[str, Path], list[str | Path]]:
    places: dict[str, Path] = {
        "INDEX": built_index,
        "QUERY": photo_folder / "pagoda-0.jpg",
        "OTHER": photo_folder / "pagoda-1.jpg",
        "PHOTOS": photo_folder,
        "SET": tmp_path / "set",
        "CACHE": tmp_path / "cache",
        "LABELS": tmp_path / "labels",
    }
    for thing in ("pagoda", "other"):
        (tmp_path / "set" / thing).mkdir(parents=True)
        for number, path in enumerate(sorted(photo_folder.rglob(f"{thing}*"))[:2]):
            (tmp_path / "set" / thing / f"{number}{path.suffix}").symlink_to(path)
    row = LandmarkPicture("pagoda-0.jpg", None, "pagoda")
    labels = LandmarkBoxes({row.id: row}, {}, {row.id: FractionBox(0.4, 0.4, 0.5, 0.5)})
    write_dataset(tmp_path / "labels", labels)
    (tmp_path / "labels" / "jpg").symlink_to(photo_folder)
    return lambda name, file: [places.get(word, word) for word in COMMANDS[name]] + [file]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_of_the_user_survives_and_with_force_is_written_over_and_then_again(
    d2r: D2R, command: Callable[[str, Path], list[str | Path]], tmp_path: Path, name: str
) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(NOTES)
    status, _, err = d2r(*command(name, file))
    assert status == 1
    assert f"error: {file}: it exists and was not written by d2r; give another name, or --force" in err
    assert file.read_bytes() == NOTES
    for force in (["--force"], []):  # the second run overwrites our own file
        status, _, err = d2r(*command(name, file), *force)
        assert status == 0, err
        assert file.read_bytes() != NOTES
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_picture_a_link_a_pipe_and_an_index_are_not_written_over_even_with_force(
    d2r: D2R, command: Callable[[str, Path], list[str | Path]], tmp_path: Path, name: str
) -> None:
    photo, link, pipe = tmp_path / "photo.jpg", tmp_path / "link.txt", tmp_path / "pipe"
    Image.new("RGB", (40, 30)).save(photo)
    (tmp_path / "notes.txt").write_bytes(NOTES)
    link.symlink_to(tmp_path / "notes.txt")
    os.mkfifo(pipe)
    inside = command("search", photo)[1] / "report.html"
    before = photo.read_bytes()
    for file, why in (
        (photo, "photo.jpg: it is a picture, which is not overwritten even with --force; give another name"),
        (link, f"link.txt: it is a link to {tmp_path / 'notes.txt'}; give the name of the file itself"),
        (pipe, "pipe: it is a device or a pipe"),
        (inside, f"it belongs to the index {inside.parent}; give another place"),
        (tmp_path, f"{tmp_path}: it is a folder; give the name of a file"),
        (tmp_path / "none" / "file", f"there is no folder {tmp_path / 'none'}; make it, or give another name"),
    ):
        status, _, err = d2r(*command(name, file), "--force")
        assert status == 1
        assert why in err
    assert photo.read_bytes() == before
    assert link.is_symlink()
    assert link.read_bytes() == NOTES
    assert pipe.is_fifo()
    assert not inside.exists()


@pytest.mark.parametrize(
    "arguments", [["show", "features", "DRAWN"], ["match", "DRAWN", "PHOTO"], ["match", "PHOTO", "DRAWN"]]
)
def test_a_picture_that_is_read_is_not_written_over_though_d2r_drew_it(
    d2r: D2R, photo_folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    drawn = tmp_path / "drawn.png"
    write_png(np.asarray(Image.open(photo_folder / "pagoda-0.jpg")), drawn)
    before = drawn.read_bytes()
    places = {"DRAWN": drawn, "PHOTO": photo_folder / "pagoda-1.jpg"}
    status, _, err = d2r(*[places.get(word, word) for word in arguments], "--out", drawn, "--force")
    assert (status, "drawn.png: it is an input of this command and would be lost" in err) == (1, True)
    assert drawn.read_bytes() == before


def test_an_empty_file_can_be_written_and_keeps_who_may_read_it(
    d2r: D2R, command: Callable[[str, Path], list[str | Path]], tmp_path: Path
) -> None:
    file = tmp_path / "as-mktemp-makes-it"
    file.touch(0o600)
    assert d2r(*command("search", file))[0] == 0
    assert (file.stat().st_mode & 0o777, is_our_page(file)) == (0o600, True)


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b'{"generator": "d2r", "rows": []}', is_our_json),
        (b'{\n "generator": "d2r",\n "rows": []\n}', is_our_json),
        (b'<!doctype html><head><meta name="generator" content="d2r">', is_our_page),
        (b"a.jpg b.jpg\na.jpg c.jpg\r\n", is_ours),
    ],
)
def test_a_file_is_ours_as_one_of_its_kind_alone(tmp_path: Path, content: bytes, ours: Callable[[Path], bool]) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    checks = (is_our_json, is_our_page, is_our_png, is_our_safetensors, is_ours)
    assert [check(file) for check in checks] == [check is ours for check in checks]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\r\n", b"a b\n", b"a b\na c\n", b"a b\na c", b"a b\r\na c\r\n", b"b c\na b\r\n", b"a b\na b\r\n",
        b"a b c\r\n", b"a  b\r\n", b"a b\r\n\n", b"a b\na c\r\na d\n", b"\xff\xd8\xff\xe0",
    ],
)  # fmt: skip
def test_pairs_that_somebody_else_wrote_or_changed_are_not_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pairs.txt").write_bytes(content)
    assert not is_ours(tmp_path / "pairs.txt")


def test_pairs_are_read_by_hloc_by_colmap_and_line_by_line_as_without_their_mark(
    d2r: D2R, built_index: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.txt"
    assert d2r("pairs", built_index, "--top", "2", "--out", file)[0] == 0
    assert is_ours(file)
    pairs = [tuple(line.split(b" ")) for line in file.read_bytes().replace(b"\r", b"").splitlines()]
    text = file.read_text()
    assert [tuple(line.split()) for line in text.rstrip("\n").split("\n")] == [  # like hloc's parse_retrieval
        (first.decode(), second.decode()) for first, second in pairs
    ]
    lines = file.read_bytes().split(b"\n")
    assert [tuple(line.strip().split(b" ")) for line in lines if line.strip()] == pairs  # like COLMAP, which trims
    assert text.splitlines() == [f"{first.decode()} {second.decode()}" for first, second in pairs]


def test_weights_and_words_of_others_are_not_taken_for_our_codebook(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    file = tmp_path / "best.safetensors"
    for about in (None, {"arch": "ssd", "best": "{}"}):
        save_file({"centroids": np.zeros((2, 3), np.float32)}, file, metadata=about)
        assert not is_our_safetensors(file)
    Codebook(np.zeros((2, 3), np.float32)).save(file)
    assert is_our_safetensors(file)


# folders


@pytest.mark.parametrize("name", ["fig4a-set.png", "fig4a-set.svg", "fig4a-set.md", "fig4a-set.csv", "fig4a-set.json"])
def test_reproduce_says_before_the_work_which_file_is_not_its_own(
    d2r: D2R, command: Callable[[str, Path], list[str | Path]], tmp_path: Path, name: str
) -> None:
    folder = command("evaluate", tmp_path / "x")[1]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / name).write_bytes(NOTES)
    cache = ["--cache", tmp_path / "cache"]
    status, _, err = d2r("reproduce", "fig4a", "--dataset", folder, "--out", tmp_path / "results", *cache)
    assert status == 1
    assert f"{name}: it " in err
    assert (tmp_path / "results" / name).read_bytes() == NOTES
    assert not (tmp_path / "cache").exists()


def test_a_sample_is_not_written_over_what_somebody_annotated(d2r: D2R, tmp_path: Path) -> None:
    rows = {f"{k}.jpg": LandmarkPicture(f"{k}.jpg", None, "pagoda") for k in range(12)}
    labels = LandmarkBoxes(rows, {f"{k}.jpg": FractionBox(0, 0, 1, 1) for k in range(12)}, {})
    write_dataset(tmp_path / "labels", labels)
    write_dataset(tmp_path / "other", LandmarkBoxes({**rows, "z": LandmarkPicture("z", None, None)}, {}, {}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    for out in ("labels", "other"):
        status, _, err = d2r("dataset", "sample", tmp_path / "labels", "--out", tmp_path / out)
        assert (status, "boxes_split1.csv: it " in err) == (1, True)
    status, _, err = d2r("dataset", "sample", tmp_path / "labels", "--out", tmp_path / "labels", "--force")
    assert (status, "it is an input of this command and would be lost" in err) == (1, True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == before
    for _ in range(2):
        assert d2r("dataset", "sample", tmp_path / "labels", "--out", tmp_path / "new", "--seed", "1")[0] == 0
    status, _, err = d2r("dataset", "sample", tmp_path / "labels", "--out", tmp_path / "new", "--seed", "2")
    assert (status, "give another name, or --force" in err) == (1, True)
    assert d2r("dataset", "sample", tmp_path / "labels", "--out", tmp_path / "new", "--seed", "2", "--force")[0] == 0


def test_boxes_without_a_list_of_pictures_stay_until_their_pictures_are_decided_about(
    photo_folder: Path, tmp_path: Path
) -> None:
    box, other = FractionBox(0, 0, 0.5, 0.5), FractionBox(0, 0, 1, 1)
    elsewhere = {"elsewhere/1.jpg": box, "pagoda-1.jpg": box}
    (tmp_path / "out").mkdir()
    write_boxes(tmp_path / "out" / "boxes_split1.csv", elsewhere)
    with open_session(photo_folder, tmp_path / "out") as session:
        numbers = {item.picture.id: number for number, item in enumerate(session.items)}
        session.decide(numbers["pagoda-0.jpg"], other)
        boxes = (tmp_path / "out" / "boxes_split1.csv").read_text()
        assert all(name in boxes for name in ("elsewhere/1.jpg", "pagoda-0.jpg", "pagoda-1.jpg"))
        session.decide(numbers["pagoda-1.jpg"], None)
        assert "pagoda-1.jpg" not in (tmp_path / "out" / "boxes_split1.csv").read_text()
        session.undo()
        assert (tmp_path / "out" / "boxes_split1.csv").read_text() == boxes


def test_annotations_are_not_written_through_a_link_or_into_an_index(
    photo_folder: Path, built_index: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "boxes.csv").write_bytes(NOTES)
    (tmp_path / "out" / "boxes_split2.csv").symlink_to(tmp_path / "boxes.csv")
    with pytest.raises(OutputError, match="it is a link to"), open_session(photo_folder, tmp_path / "out"):
        pass
    with pytest.raises(OutputError, match="belongs to the index"), open_session(photo_folder, built_index / "boxes"):
        pass
    assert (tmp_path / "boxes.csv").read_bytes() == NOTES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["boxes_split2.csv"]


def test_the_demo_leaves_a_folder_of_its_name_that_is_the_users(d2r: D2R, photo_folder: Path, tmp_path: Path) -> None:
    demo = tmp_path / "d2r-demo"
    for name in ("notes.txt", "photos/00000.jpg", "query/000-mine.jpg", "ground_truth.json"):
        (demo / name).parent.mkdir(parents=True, exist_ok=True)
        (demo / name).write_bytes(NOTES)
        status, _, err = d2r("demo", "--out", demo, "--workers", "0")
        assert status == 1
        assert str(demo / "ground_truth.json" if name == "ground_truth.json" else demo / "notes.txt") in err
        assert (demo / name).read_bytes() == NOTES
        assert not (demo / "index").exists()
    (demo / "results.html").write_bytes(NOTES)
    status, _, err = d2r("demo", photo_folder, "--out", demo, "--workers", "0")
    assert (status, "results.html: it exists and was not written by d2r" in err) == (1, True)
    assert {path.read_bytes() for path in demo.rglob("*") if path.is_file()} == {NOTES}


def test_what_is_written_as_json_says_its_generator_first_and_is_read_as_before(
    d2r: D2R, command: Callable[[str, Path], list[str | Path]], tmp_path: Path
) -> None:
    assert d2r(*command("figures", tmp_path / "figures.json"))[0] == 0
    document = json.loads((tmp_path / "figures.json").read_text())
    assert list(document) == ["generator", "regions", "sources"]
