"""Fetching pictures from a real server that breaks off, refuses, is late, or sends something else."""

import csv
import time

import pytest
from filelock import FileLock

from d2r.datasets import landmark_pictures
from d2r.datasets.landmark_boxes import LandmarkBoxesError, LandmarkPicture
from d2r.datasets.landmark_pictures import Fetched, get_pictures
from d2r.images import encode_jpeg, read_image
from d2r.support.download import DownloadError
from d2r.support.files import OutputError
from synthetic import texture
from web import Resource

JPEG = encode_jpeg(texture(0, 64, 48), 90)


def pictures(server, *names):
    return [LandmarkPicture(name, f"{server.url}/{name}", "1") for name in names]


def get(wanted, folder, **options):
    return get_pictures(wanted, folder, **({"rate": 1e6, "pause_s": 0.0, "timeout_s": 5.0} | options))


def failures(folder):
    with (folder / "failures.csv").open(newline="") as file:
        return list(csv.reader(file))


def names_in(folder):
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".made-by-d2r"]
    return {path.relative_to(folder).as_posix() for path in found} - {".pictures.lock"}


def test_pictures_are_fetched_under_their_ids_and_not_again(tmp_path, server):
    for name in ("a", "b.png"):
        server.files[f"/{name}"] = Resource(JPEG)
    heard = []
    wanted = [*pictures(server, "a", "b.png"), LandmarkPicture("no-address", None, "1")]
    done = get(wanted, tmp_path, progress=lambda *told: heard.append(told))
    assert done == Fetched(there=0, fetched=2, failed={}, passed_over=0, without_url=1)
    assert names_in(tmp_path) == {"jpg/a.jpg", "jpg/b.png", "failures.csv"}
    assert read_image(tmp_path / "jpg" / "a.jpg").shape == (48, 64, 3)
    assert heard == [("fetch", 1, 2), ("fetch", 2, 2)]
    assert failures(tmp_path) == [["id", "url", "reason"]]
    server.asked.clear()
    assert get(wanted, tmp_path) == Fetched(there=2, fetched=0, failed={}, passed_over=0, without_url=1)
    assert server.asked == []


def test_a_broken_transfer_goes_on_where_it_stopped_also_in_a_later_call(tmp_path, server):
    server.files["/a"] = Resource(JPEG, [("cut", 300), 503])
    wanted = pictures(server, "a")
    assert get(wanted, tmp_path, tries=1).failed["a"].startswith("the transfer broke off after 300 of ")
    assert names_in(tmp_path) == {"failures.csv", "downloads/a.jpg.part", "downloads/a.jpg.part.tag"}
    assert get(wanted, tmp_path, tries=2, retry_failed=True).fetched == 1
    assert server.asked[-1] == ("/a", "bytes=300-", 206)
    assert names_in(tmp_path) == {"failures.csv", "jpg/a.jpg"}
    assert not (tmp_path / "downloads").exists()


def test_failures_are_listed_with_their_reasons_and_tried_again_only_when_asked(tmp_path, server):
    server.files["/good"] = Resource(JPEG)
    server.files["/page"] = Resource(b"<html>gone</html>")
    server.files["/half"] = Resource(JPEG[: len(JPEG) // 2])
    server.files["/empty"] = Resource(b"")
    wanted = pictures(server, "good", "gone", "page", "half", "empty")
    done = get(wanted, tmp_path)
    assert (done.fetched, set(done.failed)) == (1, {"gone", "page", "half", "empty"})
    header, *rows = failures(tmp_path)
    listed = {picture: (url, reason) for picture, url, reason in rows}
    assert header == ["id", "url", "reason"]
    assert listed["gone"] == (f"{server.url}/gone", "the server answers 404 Not Found")
    assert listed["page"][1].startswith("what arrived cannot be used: not a picture")
    assert listed["half"][1].startswith("what arrived cannot be used: damaged or truncated")
    assert listed["empty"][1] == "what arrived cannot be used: the file is empty"
    assert names_in(tmp_path) == {"jpg/good.jpg", "failures.csv"}

    server.asked.clear()
    assert get(wanted, tmp_path) == Fetched(there=1, fetched=0, failed={}, passed_over=4, without_url=0)
    assert server.asked == []
    assert len(failures(tmp_path)) == 5

    server.files["/page"] = Resource(JPEG)
    again = get(wanted, tmp_path, retry_failed=True)
    assert (again.fetched, set(again.failed), again.passed_over) == (1, {"gone", "half", "empty"}, 0)
    assert {row[0] for row in failures(tmp_path)[1:]} == {"gone", "half", "empty"}


def test_late_answers_are_waited_for_up_to_a_limit_and_hold_up_no_others(tmp_path, server):
    server.files["/late"] = Resource(JPEG, [("late", 0.2)])
    server.files["/never"] = Resource(JPEG, [("late", 60.0)])
    server.files["/prompt"] = Resource(JPEG)
    start = time.monotonic()
    done = get(pictures(server, "never", "late", "prompt"), tmp_path, timeout_s=3.0, tries=1)
    assert time.monotonic() - start < 50
    assert done.fetched == 2
    assert done.failed == {"never": "no answer (timed out) (given up after 1 tries)"}


def test_requests_keep_to_the_rate_repeated_ones_too(tmp_path, server):
    server.files["/a"] = Resource(JPEG, [503])
    for name in "bcd":
        server.files[f"/{name}"] = Resource(JPEG)
    start = time.monotonic()
    get(pictures(server, *"abcd"), tmp_path, rate=20.0)
    assert len(server.asked) == 5
    assert time.monotonic() - start > 4 / 20


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://x/y",
        "x.jpg",
        "http://",
        "http://h:port/",
        "http://[x",
        "http://a b/",
        "http://é/",
    ],
)
def test_what_is_not_an_address_of_the_web_is_not_asked_for(tmp_path, url):
    done = get([LandmarkPicture("a", url, "1")], tmp_path)
    assert done.failed == {"a": "not a web address (http://... or https://...)"}


def test_without_a_network_the_call_ends_and_blames_no_picture(tmp_path, server, monkeypatch):
    monkeypatch.setattr(landmark_pictures, "_MAX_LOST", 3)
    server.files["/a"] = Resource(JPEG)
    server.files["/b"] = Resource(b"no picture")
    get(pictures(server, "a", "b"), tmp_path)
    server.server_close()
    with pytest.raises(DownloadError, match=r"no server answers any longer; .*it continues where it stopped"):
        get(pictures(server, *"abcdefgh"), tmp_path, tries=1)
    assert [row[0] for row in failures(tmp_path)] == ["id", "b"]


def test_dead_servers_among_others_are_failures_like_any(tmp_path, server, monkeypatch):
    monkeypatch.setattr(landmark_pictures, "_MAX_LOST", 3)
    server.files["/a"] = Resource(JPEG)
    get_first = pictures(server, "a")
    dead = [LandmarkPicture(f"dead{k}", f"http://127.0.0.1:9/{k}", "1") for k in range(6)]
    done = get([*get_first, *dead], tmp_path, tries=1, connections=1)
    assert done.fetched == 1
    assert len(done.failed) == 6


def test_a_call_that_is_stopped_loses_nothing(tmp_path, server):
    for name in "abcdef":
        server.files[f"/{name}"] = Resource(JPEG)
    wanted = [*pictures(server, "gone"), *pictures(server, *"abcdef")]

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(wanted, tmp_path, connections=1, progress=stop)
    assert [row[0] for row in failures(tmp_path)] == ["id", "gone"]
    asked = len(server.asked)
    assert asked < 7
    done = get(wanted, tmp_path)
    assert done.there + done.fetched == 6
    assert done.passed_over == 1
    assert len(server.asked) == asked + done.fetched


def test_a_full_disk_ends_the_call(tmp_path, server):
    server.files["/a"] = Resource(JPEG)
    (tmp_path / "jpg").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="jpg"):
        get(pictures(server, "a"), tmp_path)


def test_a_folder_of_another_process_is_left_alone(tmp_path, server):
    with FileLock(tmp_path / ".pictures.lock"), pytest.raises(DownloadError, match="another process"):
        get(pictures(server, "a"), tmp_path)


def test_a_damaged_list_of_failures_is_named(tmp_path, server):
    (tmp_path / "failures.csv").write_text("id,reason\n")
    with pytest.raises(LandmarkBoxesError, match=r"failures.csv: row 1: the columns must be id,url,reason"):
        get(pictures(server, "a"), tmp_path)


def test_a_link_in_the_place_of_a_picture_and_a_folder_of_the_users_stay(tmp_path, server):
    server.files["/a"] = server.files["/b"] = Resource(JPEG)
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg" / "a.jpg").symlink_to("/nowhere/on-a-drive-that-is-away.jpg")
    done = get(pictures(server, "a", "b"), tmp_path)
    assert done.failed == {"a": f"a link or a folder is in its place: {tmp_path / 'jpg' / 'a.jpg'}"}
    assert (tmp_path / "jpg" / "a.jpg").is_symlink()
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "c.jpg").write_bytes(b"mine")
    server.files["/c"] = Resource(JPEG)
    with pytest.raises(OutputError, match="downloads: it holds files that d2r did not put there"):
        get(pictures(server, "c"), tmp_path)
    assert (tmp_path / "downloads" / "c.jpg").read_bytes() == b"mine"
