import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2r.asmk.codebook import Codebook
from d2r.asmk.learning import train_codebook
from d2r.cli.terminal import progress_bars
from d2r.engine import Engine
from d2r.options import SearchOptions
from d2r.support.version import package_version
from programs import D2R, run, running
from serving import wait_until


def test_help_explains_every_command(d2r):
    status, out, _ = d2r("--help")
    assert status == 0
    for command in ("index", "search", "info", "remove", "pairs", "group", "duplicates", "demo", "evaluate"):
        assert command in out
        status, text, _ = d2r(command, "--help")
        assert status == 0
        assert "Usage: d2r" in text
        assert len(text) > 400


def test_indexing_with_worker_processes_then_searching_from_the_command_line(d2r, collection, tmp_path):
    (collection / "empty.jpg").touch()
    index = tmp_path / "new.index"
    options = ["--words", "64", "--workers", "2", "--regions", "rmac:levels=1", "--features", "rootsift"]
    done = run(*D2R, "index", collection, "--out", index, *options)
    assert done.returncode == 0, done.stderr
    assert "10  (10 added, 1 skipped)" in done.stdout
    assert "64  (learned now)" in done.stdout
    assert "to search" in done.stdout
    assert "empty.jpg: the file is empty" in done.stdout
    status, out, err = d2r("search", index, collection / "pagoda-1.jpg", "--json", "--top", "3")
    assert status == 0, err
    answer = json.loads(out)
    assert {Path(result["path"]).name for result in answer["results"]} == {f"pagoda-{n}.jpg" for n in range(3)}
    assert all(result["inliers"] >= 8 for result in answer["results"])
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3]


def test_the_number_of_words_that_was_chosen_is_said(d2r, collection, tmp_path):
    options = ["--workers", "0", "--regions", "whole", "--features", "rootsift"]
    status, out, err = d2r("index", collection, "--out", tmp_path / "x.index", *options)
    assert status == 0, err
    assert "256  (learned now, chosen for 10 pictures)" in out


def test_a_search_prints_a_ranked_table(d2r, built_index, photo_folder):
    status, out, _ = d2r("search", built_index, photo_folder / "pagoda-0.jpg", "--top", "2")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["rank", "score", "inliers", "box", "path"]
    rank, score, inliers, box, path = lines[1].split()
    assert (rank, path) == ("1", str(photo_folder / "pagoda-0.jpg"))
    assert 0 < float(score) <= 1
    assert int(inliers) >= 8
    assert len([int(side) for side in box.split(",")]) == 4
    assert lines[2].split()[0] == "2"


def test_what_is_piped_has_one_record_a_line_however_long_its_path(d2r, photo_folder, tmp_path):
    place = tmp_path / ("A rather long folder name of holiday pictures " * 2).strip() / "2019-08 Berlin with friends"
    place.mkdir(parents=True)
    (place / "IMG_0001.jpg").write_bytes((photo_folder / "pagoda-0.jpg").read_bytes())
    (place / "broken.jpg").touch()
    options = ["--out", tmp_path / "x.index", "--words", "16", "--regions", "whole", "--features", "rootsift:top=200"]
    indexed = run(*D2R, "index", tmp_path, *options, "--workers", "0")
    assert indexed.returncode == 0, indexed.stderr
    assert f"{place / 'broken.jpg'}: the file is empty" in indexed.stdout
    found = run(*D2R, "search", tmp_path / "x.index", photo_folder / "pagoda-0.jpg")
    assert found.returncode == 0, found.stderr
    head, record, *rest = found.stdout.splitlines()
    assert head.split() == ["rank", "score", "inliers", "box", "path"]
    assert record.rstrip().endswith(str(place / "IMG_0001.jpg"))
    assert "\x1b" not in found.stdout + indexed.stdout + indexed.stderr
    assert len(rest) == 1


def test_a_log_has_a_line_about_a_long_stage_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("d2r.cli.terminal.time.monotonic", lambda: next(clock))
    with progress_bars() as progress:
        for done in range(5):
            progress("index", done, 1000)
    assert capsys.readouterr().err == "indexing: 2 of 1,000, 0.1/s\nindexing: 4 of 1,000, 0.1/s\n"


def test_a_box_is_searched_in_the_picture_and_reported(d2r, built_index, photo_folder):
    _, out, _ = d2r("search", built_index, photo_folder / "pagoda-0.jpg", "--box", "60,40,300,900", "--json")
    answer = json.loads(out)
    assert answer["query"]["box"] == [60, 40, 300, Image.open(photo_folder / "pagoda-0.jpg").height]


def test_a_page_is_written_beside_the_table(d2r, built_index, photo_folder, tmp_path):
    status, out, _ = d2r("search", built_index, photo_folder / "pagoda-0.jpg", "--html", tmp_path / "page.html")
    assert status == 0
    assert "page.html" in out
    page = (tmp_path / "page.html").read_text()
    assert "pagoda-2.jpg" in page
    assert "data:image/jpeg;base64," in page


@pytest.mark.parametrize("box", ["5,5,1,1", "1,2,3", "a,b,c,d", "5,5,5,9", "9000,9000,9100,9100"])
def test_a_bad_box_is_a_usage_error_that_shows_the_box(d2r, built_index, photo_folder, box):
    status, _, err = d2r("search", built_index, photo_folder / "pagoda-0.jpg", "--box", box)
    assert status == 2
    assert err.startswith("error: box")
    assert box in err or box.replace(",", ", ") in err


def test_an_expanded_search_gives_the_views_first(d2r, built_index, photo_folder):
    options = ["--expand", "5", "--diffuse", "--query-regions", "--top", "3", "--json"]
    status, out, err = d2r("search", built_index, photo_folder / "pagoda-0.jpg", *options)
    assert status == 0, err
    answer = json.loads(out)
    assert {Path(result["path"]).name for result in answer["results"]} == {f"pagoda-{n}.jpg" for n in range(3)}
    assert "expand" in answer["seconds"]


@pytest.mark.parametrize("options", [["--diffuse", "--verify", "0"], ["--diffuse", "--expand", "0"]])
def test_expansion_needs_what_it_starts_from(d2r, built_index, photo_folder, options):
    status, _, err = d2r("search", built_index, photo_folder / "pagoda-0.jpg", *options)
    assert status == 2
    assert "--expand" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "INDEX", "QUERY", "--top", "0"],
        ["search", "INDEX", "QUERY", "--top", "many"],
        ["index", "PHOTOS"],
        ["index", "PHOTOS", "--out", "NEW", "--regions", "nowhere"],
        ["index", "PHOTOS", "--out", "NEW", "--features", "rootsift:top=0"],
        ["index", "PHOTOS", "--out", "NEW", "--words", "0"],
        ["index", "PHOTOS", "--out", "NEW", "--words", "5", "--codebook", "INDEX"],
        ["index", "MISSING", "--out", "NEW"],
        ["index", "PHOTOS", "--out", "INDEX", "--regions", "whole"],
        ["index", "PHOTOS", "--out", "INDEX", "--words", "5"],
        ["demo", "MISSING"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2_and_makes_nothing(d2r, built_index, photo_folder, tmp_path, arguments):
    names = {
        "INDEX": built_index,
        "PHOTOS": photo_folder,
        "QUERY": photo_folder / "pagoda-0.jpg",
        "NEW": tmp_path / "new.index",
        "MISSING": tmp_path / "missing",
    }
    status, out, err = d2r(*(names.get(argument, argument) for argument in arguments))
    assert status == 2
    assert out == ""
    assert len(err) > 10
    assert not (tmp_path / "new.index").exists()


def test_failures_exit_with_1_and_name_what_failed(d2r, built_index, photo_folder, tmp_path):
    note = tmp_path / "note.jpg"
    note.write_text("no picture")
    (tmp_path / "empty").mkdir()
    small = train_codebook(np.random.default_rng(0).normal(size=(99, 64)).astype(np.float32), 8)
    small.save(tmp_path / "small.safetensors")
    cases = [
        (["search", tmp_path, note], "not an index"),
        (["search", built_index, note], "note.jpg: not a picture"),
        (["search", built_index, tmp_path / "gone.jpg"], "gone.jpg: cannot be read"),
        (["info", tmp_path], "not an index"),
        (["remove", built_index, tmp_path / "gone.jpg"], "gone.jpg: not in the index"),
        (["index", tmp_path / "empty", "--out", tmp_path / "a.index"], "no pictures there"),
        (["index", photo_folder, "--out", photo_folder], "it exists and is not an index"),
        (["index", photo_folder, "--out", tmp_path / "b.index", "--codebook", note], "note.jpg: cannot be read as"),
        (
            ["index", photo_folder, "--out", tmp_path / "c.index", "--codebook", tmp_path / "small.safetensors"],
            "64 dimensions, but the features have 128",
        ),
        (["pairs", built_index, "--out", tmp_path / "p.txt", "--root", tmp_path / "empty"], "outside"),
    ]
    for arguments, message in cases:
        status, _, err = d2r(*arguments)
        assert status == 1, arguments
        assert message in err.replace("\n", " "), arguments
        assert "Traceback" not in err


def test_an_index_of_a_newer_format_says_to_upgrade(d2r, built_index, photo_folder, tmp_path):
    index = shutil.copytree(built_index, tmp_path / "newer.index")
    with sqlite3.connect(index / "catalogue.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    status, _, err = d2r("search", index, photo_folder / "pagoda-0.jpg")
    assert status == 1
    assert "upgrade d2r" in err


def test_info_tells_what_is_there_and_how_it_was_made(d2r, built_index):
    status, out, _ = d2r("info", built_index)
    assert status == 0
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["pictures"].strip() == "10"
    assert facts["regions"].strip().startswith("detector:sha256=")
    assert facts["features"].strip().startswith("hardnet:model=hardnet-int8,sha256=")
    assert f"learned from 10 pictures, described as in this index, by d2r {package_version()}" in " ".join(out.split())


def test_compacting_and_checking_from_the_command_line(d2r, engine, collection):
    index = engine.index.folder
    for picture in sorted(collection.glob("*.jpg"))[:2]:
        picture.write_bytes(picture.read_bytes() + b" ")  # other bytes, same picture
        engine.add([picture], workers=0)
    status, out, _ = d2r("compact", index)
    assert status == 0
    assert "3 segments became 1;" in out
    status, out, _ = d2r("check", index)
    assert status == 0
    assert "no damage: 1 segments" in out
    file = next(index.glob("segments/*/posting_codes.npy"))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    status, out, _ = d2r("check", index)
    assert status == 1
    assert out.replace("\n", "").endswith(f"{file}: its content is not what was written")


def test_codes_of_fewer_bits_make_a_smaller_index_that_still_finds(d2r, engine, collection, tmp_path):
    half = tmp_path / "half.index"
    options = ["--words", "128", "--regions", "whole", "--features", "rootsift", "--workers", "0"]
    status, _, _ = d2r("index", collection, "--out", half, "--bits", "64", *options)
    assert status == 0
    with Engine.open(half) as other:
        assert (engine.index.codebook.bits, other.index.codebook.bits) == (128, 64)
        sizes = [each.index.size().search_bytes / each.index.size().postings for each in (engine, other)]
        assert 7 < sizes[0] - sizes[1] < 9
        query = collection / "pagoda-1.jpg"
        for each in (engine, other):
            answer = each.search(query, SearchOptions(verify=0, top=3))
            assert {Path(result.path).stem for result in answer} == {"pagoda-0", "pagoda-1", "pagoda-2"}
    status, _, err = d2r("index", collection, "--out", half, "--bits", "128")
    assert status == 2
    assert "codes of 64 bits" in " ".join(err.split())


def test_an_index_whose_first_run_failed_takes_other_words_the_next_time(d2r, photo_folder, tmp_path):
    index = tmp_path / "x.index"
    options = ["--out", index, "--regions", "whole", "--features", "rootsift", "--workers", "0"]
    (tmp_path / "blank").mkdir()
    Image.new("RGB", (80, 60), (120, 130, 140)).save(tmp_path / "blank" / "a.png")
    status, _, err = d2r("index", tmp_path / "blank", *options, "--words", "9")
    assert status == 1
    assert "visual words cannot be learned" in " ".join(err.split())
    status, _, err = d2r("index", photo_folder, *options, "--bits", "999")
    assert status == 1
    assert "from 1 to 128 bits" in " ".join(err.split())
    status, _, _ = d2r("index", photo_folder, *options, "--words", "64", "--bits", "96")
    assert status == 0
    with Engine.open(index) as engine:
        assert (engine.index.codebook.num_words, engine.index.codebook.bits) == (64, 96)
    status, _, err = d2r("index", photo_folder, *options, "--codebook", index)
    assert status == 0


def test_removing_from_the_command_line(d2r, engine, collection, tmp_path):
    index = tmp_path / "photos.index"
    status, out, _ = d2r("remove", index, collection / "deep")
    assert (status, out) == (0, "removed 7 from the index\n")
    assert engine.index.size().pictures == 3
    assert (collection / "deep").exists()


def test_pairs_are_two_names_a_line_relative_to_the_image_folder(d2r, built_index, photo_folder, tmp_path):
    status, out, _ = d2r("pairs", built_index, "--top", "2", "--out", tmp_path / "pairs.txt")
    assert status == 0
    lines = [line.split() for line in (tmp_path / "pairs.txt").read_text().splitlines()]
    assert f"{len(lines)} pairs" in out
    assert all(len(line) == 2 and line[0] < line[1] for line in lines)
    assert ["pagoda-0.jpg", "pagoda-1.jpg"] in lines
    assert len({tuple(line) for line in lines}) == len(lines)
    assert all((photo_folder / name).is_file() for line in lines for name in line)


def test_verified_pairs_are_only_those_that_show_the_same(d2r, built_index, tmp_path):
    status, out, _ = d2r("pairs", built_index, "--top", "9", "--verify", "--out", tmp_path / "pairs.txt")
    assert status == 0
    views = ["pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg"]
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    assert lines == [f"{a} {b}" for row, a in enumerate(views) for b in views[row + 1 :]]
    assert out.startswith("3 pairs")


def test_a_name_with_white_space_cannot_go_into_a_pairs_file(d2r, engine, collection, tmp_path):
    (collection / "pagoda-0.jpg").rename(collection / "my pagoda.jpg")
    engine.sync(collection, workers=0)
    status, _, err = d2r("pairs", tmp_path / "photos.index", "--out", tmp_path / "pairs.txt")
    assert status == 1
    assert "my pagoda.jpg" in err
    assert not (tmp_path / "pairs.txt").exists()


def test_odd_file_names_are_printed_and_survive_json(d2r, engine, collection, tmp_path):
    odd = os.fsdecode(os.fsencode(collection) + b"/[bold]\xff.jpg")
    shutil.copy(collection / "pagoda-1.jpg", odd)
    engine.sync(collection, workers=0)
    _, out, _ = d2r("search", tmp_path / "photos.index", odd, "--top", "2")
    assert r"[bold]\xff.jpg" in out
    _, out, _ = d2r("search", tmp_path / "photos.index", odd, "--top", "2", "--json")
    assert odd in [result["path"] for result in json.loads(out)["results"]]
    assert Path(json.loads(out)["results"][0]["path"]).exists()


# The command, with worker processes that describe two pictures and then block.
_HELD = """
import threading
from d2r.cli import app as cli
from d2r.indexing import workers as describers
from d2r.indexing.entry import sample_file

def sample(recipe, max_pixels, staging, quota, file):
    if len(list(staging.glob("*.safetensors"))) == 2:
        threading.Event().wait()
    return sample_file(recipe, max_pixels, staging, quota, file)

describers.sample_file = sample
cli.main()
"""


def test_a_run_that_is_interrupted_goes_on_where_it_was(collection, tmp_path):
    index, staging = tmp_path / "x.index", tmp_path / "x.index" / "staging"
    options = ("--words", "64", "--regions", "whole", "--features", "rootsift", "--workers", "1")
    command = (sys.executable, "-c", _HELD, "index", collection, "--out", index, *options)
    with running(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list(staging.glob("*.safetensors"))) == 2 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C: signals the workers too
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert len(list(staging.glob("*.safetensors"))) == 2
    with Engine.open(index) as engine:
        report = engine.sync(collection, workers=0)
        assert report.added == 10
        assert set(engine.index.folder.iterdir()) >= {index / "catalogue.sqlite", index / "segments"}
    assert not staging.exists()


def test_a_disk_that_fills_while_indexing_is_said_and_the_next_run_goes_on(collection, tmp_path):
    index = tmp_path / "x.index"
    with Engine.create(index, num_words=64, regions="whole", features="rootsift") as engine:
        engine.add([collection / "pagoda-0.jpg"], workers=0)

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = run(*D2R, "index", collection, "--out", index, "--workers", "0", preexec_fn=limit_files)
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
    with Engine.open(index) as engine:
        assert engine.index.size().pictures == 1
        assert engine.sync(collection, workers=0).added == 9


@pytest.fixture
def views(photo_folder, tmp_path):
    """A folder with only the three photographs of the pagoda."""
    (tmp_path / "views").mkdir()
    for photo in photo_folder.glob("pagoda-*.jpg"):
        shutil.copy(photo, tmp_path / "views")
    return tmp_path / "views"


def test_a_folder_of_ones_own_can_be_shown_as_the_demo(d2r, views, photo_folder, tmp_path):
    shutil.copy(photo_folder / "deep" / "other-0.PNG", views)
    status, out, err = d2r("demo", views, "--out", tmp_path / "demo", "--workers", "0")
    assert status == 0, err
    assert "d2r search" in out
    assert "pagoda" in (tmp_path / "demo" / "results.html").read_text()
    assert not (tmp_path / "demo" / "photos").exists()


def test_the_demo_composes_a_collection_and_finds_what_it_planted(tmp_path):
    done = run(*D2R, "demo", "--out", tmp_path / "demo", env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    right, of = done.stdout.split(" pictures that show it are on top")[0].splitlines()[-1].split(" of the ")
    assert (int(right), int(of)) == (5, 5)
    page = (tmp_path / "demo" / "results.html").read_text()
    assert page.startswith("<!DOCTYPE html>") or page.startswith("<!doctype html>")


def test_composing_a_set_and_evaluating_on_it(d2r, photo_folder, tmp_path, monkeypatch):
    from d2r.datasets import difficulty

    small = replace(difficulty.DIFFICULTIES["easy"], views=1, decoy_pictures=1, distractors=3, side=240)
    monkeypatch.setattr(difficulty, "DIFFICULTIES", {"easy": small})
    things = tmp_path / "things"
    things.mkdir()
    shutil.copy(photo_folder / "pagoda-0.jpg", things)
    options = ["--instances", things, "--most", "1", "--difficulty", "easy", "--out", tmp_path / "set"]
    status, out, err = d2r("dataset", "compose", photo_folder / "deep", *options)
    assert status == 0, err
    assert "1 queries, 5 pictures" in out
    options = ["--cache", tmp_path / "cache", "--words", "32", "--workers", "0"]
    options += ["--regions", "rmac:levels=1", "--features", "rootsift"]
    status, out, err = d2r("evaluate", tmp_path / "set", *options)
    assert status == 0, err
    assert "set: 1 queries, 5 pictures" in out
    status, _, err = d2r(
        "dataset", "compose", photo_folder, "--instances", things, "--difficulty", "easier", "--out", tmp_path
    )
    assert status == 2
    assert "easier" in err


def test_a_learned_codebook_serves_another_index(d2r, views, tmp_path):
    book = tmp_path / "words.safetensors"
    status, out, err = d2r("codebook", views, "--words", "50", "--out", book, "--workers", "0")
    assert status == 0, err
    assert "100 words" in out  # 50 of each kind of features
    assert Codebook.load(book).origin.features.startswith("hardnet:model=hardnet-int8,sha256=")
    assert Codebook.load(book).origin.regions.startswith("detector:sha256=")
    index = tmp_path / "other.index"
    options = ["--codebook", book, "--regions", "whole", "--workers", "0"]
    status, out, err = d2r("index", views, "--out", index, *options)
    assert status == 0, err
    assert "learned" not in out
    with Engine.open(index) as engine:
        assert engine.index.size().num_words == 100
        assert engine.index.codebook.origin == Codebook.load(book).origin
    assert "learned from 3 pictures of at most 1024 pixels, hardnet:" in " ".join(d2r("info", index)[1].split())
    assert d2r("index", views, "--out", index, *options)[0] == 0
    status, _, err = d2r("index", views, "--out", tmp_path / "no.index", "--features", "rootsift", *options)
    assert status == 1
    for told in ("learned from hardnet:model=hardnet-int8,sha256=", "described by rootsift", "d2r codebook --features"):
        assert told in err
    assert not (tmp_path / "no.index").exists()


def test_words_of_which_nobody_knows_what_made_them_are_taken_and_it_is_said(d2r, collection, tmp_path):
    np.save(tmp_path / "words.npy", np.random.default_rng(0).normal(size=(40, 128)).astype(np.float32))
    options = ["--codebook", tmp_path / "words.npy", "--regions", "whole", "--features", "rootsift", "--workers", "0"]
    indexed = run(*D2R, "index", collection, "--out", tmp_path / "x.index", *options)
    assert indexed.returncode == 0, indexed.stderr
    assert "the codebook does not say which features made it; it is used for rootsift" in indexed.stderr
    assert "not recorded" in d2r("info", tmp_path / "x.index")[1]


def test_more_words_than_the_features_are_enough_for_are_capped_and_the_same_command_goes_on(d2r, collection, tmp_path):
    options = ["--words", "65536", "--regions", "whole", "--features", "rootsift:top=100", "--workers", "0"]
    for added in ("10 added", "10 unchanged"):
        status, out, err = d2r("index", collection, "--out", tmp_path / "x.index", *options)
        assert status == 0, err
        assert added in out
        told = "(learned now; 65,536 need 1,048,576 features, 16 per word)"
        assert (told in " ".join(out.split())) == (added == "10 added")
    status, out, err = d2r("codebook", collection, "--out", tmp_path / "words.safetensors", *options)
    assert status == 0, err
    with Engine.open(tmp_path / "x.index") as engine:
        num_words = engine.index.codebook.num_words
    assert num_words in (16, 32)
    assert f"{num_words} words in" in out
    assert "; 65,536 need 1,048,576 features, 16 per word" in out
