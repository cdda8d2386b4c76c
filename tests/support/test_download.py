import gzip
import hashlib
import io
import json
import tarfile

import pytest
from filelock import FileLock

from d2r.datasets import download
from d2r.datasets.download import BASE_URLS, NAMES, get_dataset
from d2r.datasets.revisited import read_ground_truth
from d2r.support.download import DownloadError, DownloadLimits, NoAnswerError, fetch
from d2r.support.files import OutputError
from web import Resource


def get(name, folder, server, **options):
    bases = {
        "oxford": [f"{server.url}/ox"],
        "paris": [f"{server.url}/paris"],
        "ground truth": [f"{server.url}/gnd"],
        "distractors": [f"{server.url}/r1m"],
    }
    return get_dataset(name, folder, **({"base_urls": bases, "pause_s": 0.0} | options))


def archive(files, add=None):
    """A .tgz of name -> content; ``add`` may add strange members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if add:
            add(tar)
    return buffer.getvalue()


def ground_truth(images, queries):
    query = {"bbx": [0, 0, 9, 9], "easy": [0], "hard": [], "junk": []}
    return json.dumps({"imlist": images, "qimlist": queries, "gnd": [query] * len(queries)}).encode()


def noise(seed, size=5000):
    """Incompressible bytes, so that a cut or a changed byte falls into them."""
    return b"".join(hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(size // 32))


@pytest.fixture
def oxford(server):
    """A server with a small Oxford: three pictures, and one that is not in the ground truth."""
    pictures = {f"{name}.jpg": noise(name) for name in ("all_souls_000001", "oxford_000002", "oxford_000003")}
    server.files["/gnd/roxford5k/gnd_roxford5k.pkl"] = Resource(
        ground_truth(["all_souls_000001", "oxford_000002"], ["oxford_000003"])
    )
    packed = archive({f"./{name}": content for name, content in pictures.items()} | {"broken.jpg": b"<html>"})
    server.files["/ox/oxbuild_images-v1.tgz"] = Resource(packed)
    return pictures


def files_in(folder):
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".made-by-d2r")}


def assert_is_oxford(root, pictures):
    found = files_in(root)
    assert "gnd_roxford5k.pkl" in found
    del found["gnd_roxford5k.pkl"]
    assert found == {f"jpg/{name}": content for name, content in pictures.items()}


# fetching one file


def test_fetch_tells_how_far_it_is(tmp_path, server):
    server.files["/file"] = Resource(b"x" * 3000)
    heard = []
    fetch([f"{server.url}/file"], tmp_path / "new" / "file.bin", progress=lambda *told: heard.append(told))
    assert files_in(tmp_path) == {"new/file.bin": b"x" * 3000}
    assert heard[-1] == ("file.bin", 3000, 3000)


def test_fetch_does_nothing_when_the_file_is_there(tmp_path, server):
    (tmp_path / "file").write_bytes(b"here")
    fetch([f"{server.url}/file"], tmp_path / "file")
    fetch([f"{server.url}/file"], tmp_path / "file", sha256=hashlib.sha256(b"here").hexdigest())
    assert server.asked == []


def test_a_cut_transfer_goes_on_where_it_stopped(tmp_path, server):
    content = noise("cut", 9000)
    server.files["/file"] = Resource(content, [("cut", 4000), ("cut", 3000), ("cut", 1)])
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0, tries=2)
    assert files_in(tmp_path) == {"file": content}
    assert server.asked_for("/file") == [
        (None, 200),
        ("bytes=4000-", 206),
        ("bytes=7000-", 206),
        ("bytes=7001-", 206),
    ]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(tmp_path, server):
    content = noise("later")
    server.files["/file"] = Resource(content, [("cut", 1000), 503])
    with pytest.raises(DownloadError, match=r"broke off after 1,000 of 4,992 bytes \(given up after 1 tries\)"):
        fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0, tries=1)
    with pytest.raises(DownloadError, match="503"):
        fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0, tries=1)
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "file.part").read_bytes() == content[:1000]
    fetch([f"{server.url}/file"], tmp_path / "file")
    assert server.asked[-1] == ("/file", "bytes=1000-", 206)
    assert files_in(tmp_path) == {"file": content}


def test_a_server_without_ranges_sends_all_again(tmp_path, server):
    content = noise("no ranges")
    server.files["/file"] = Resource(content, [("cut", 2000)], ranges=False)
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0)
    assert server.asked_for("/file") == [(None, 200), ("bytes=2000-", 200)]
    assert (tmp_path / "file").read_bytes() == content


def test_a_server_that_names_no_version_sends_all_again(tmp_path, server):
    content = noise("no version")
    server.files["/file"] = Resource(content, [("cut", 2000)], etag=None)
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0)
    assert server.asked_for("/file") == [(None, 200), (None, 200)]
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_not_spliced(tmp_path, server, heeds_if_range):
    server.files["/file"] = Resource(noise("old"), [("cut", 2000), 503])
    with pytest.raises(DownloadError):
        fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0, tries=1)
    server.files["/file"] = Resource(noise("new"), etag='"v2"', heeds_if_range=heeds_if_range)
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0)
    assert (tmp_path / "file").read_bytes() == noise("new")


def test_all_bytes_had_arrived_before_the_name_was_given(tmp_path, server):
    content = noise("whole")
    server.files["/file"] = Resource(content)
    (tmp_path / "file.part").write_bytes(content)
    (tmp_path / "file.part.tag").write_text('"v1"')
    fetch([f"{server.url}/file"], tmp_path / "file")
    assert server.asked_for("/file") == [(f"bytes={len(content)}-", 416)]
    assert files_in(tmp_path) == {"file": content}


def test_more_had_arrived_than_the_file_has(tmp_path, server):
    server.files["/file"] = Resource(b"short")
    (tmp_path / "file.part").write_bytes(b"much too long")
    (tmp_path / "file.part.tag").write_text('"v1"')
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0)
    assert files_in(tmp_path) == {"file": b"short"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(tmp_path, server, status):
    server.files["/file"] = Resource(b"content", [status, status])
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0)
    assert [answer for _, answer in server.asked_for("/file")] == [status, status, 200]


def test_pauses_double(tmp_path, server, monkeypatch):
    server.files["/file"] = Resource(b"content", [503] * 9)
    pauses = []
    monkeypatch.setattr("d2r.support.download.time.sleep", pauses.append)
    fetch([f"{server.url}/file"], tmp_path / "file", pause_s=1.0, tries=10)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_lasting_failure_is_not_tried_again(tmp_path, server):
    with pytest.raises(DownloadError, match=r"/absent: the server answers 404 Not Found"):
        fetch([f"{server.url}/absent"], tmp_path / "file")
    assert len(server.asked) == 1
    assert files_in(tmp_path) == {}


def test_nobody_answers(tmp_path, server):
    server.server_close()
    with pytest.raises(DownloadError, match=r"no answer .* \(given up after 2 tries"):
        fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0, tries=2)


def test_the_next_address_is_tried(tmp_path, server):
    server.files["/b/file"] = Resource(b"content")
    fetch([f"{server.url}/a/file", f"{server.url}/b/file"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"
    with pytest.raises(DownloadError, match=r"other: no address gives it: .*/a/x: .*404.*; .*/b/x: .*404"):
        fetch([f"{server.url}/a/x", f"{server.url}/b/x"], tmp_path / "other")


def test_silence_is_told_from_other_failures(tmp_path, server):
    server.files["/file"] = Resource(b"content", [("late", 30.0), 503])
    with pytest.raises(NoAnswerError, match=r"no answer \(timed out\) \(given up after 1 tries\)"):
        fetch([f"{server.url}/file"], tmp_path / "file", tries=1, limits=DownloadLimits(timeout_s=0.1))
    with pytest.raises(DownloadError) as failure:
        fetch([f"{server.url}/file"], tmp_path / "file", tries=1)
    assert not isinstance(failure.value, NoAnswerError)


def test_a_late_or_slow_answer_is_waited_for(tmp_path, server):
    server.files["/file"] = Resource(b"content", [("late", 0.1)])
    fetch([f"{server.url}/file"], tmp_path / "file", tries=1)
    server.files["/other"] = Resource(b"content", [("trickle", 0.02)])
    fetch([f"{server.url}/other"], tmp_path / "other", tries=1)
    assert files_in(tmp_path) == {"file": b"content", "other": b"content"}


def test_an_answer_that_trickles_is_given_up_for_good_and_can_go_on_later(tmp_path, server):
    server.files["/file"] = Resource(b"c" * 500, [("trickle", 0.02)])
    with pytest.raises(DownloadError, match=r"/file: it takes longer than 0.1 s"):
        fetch([f"{server.url}/file"], tmp_path / "file", pause_s=0.0, limits=DownloadLimits(max_seconds=0.1))
    assert len(server.asked) == 1
    fetch([f"{server.url}/file"], tmp_path / "file")
    assert server.asked[-1][1].startswith("bytes=")
    assert files_in(tmp_path) == {"file": b"c" * 500}


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_large_is_refused(tmp_path, server, length):
    server.files["/file"] = Resource(b"c" * 5_000_000, length=length)
    with pytest.raises(DownloadError, match=r"/file: it is larger than 2,000 bytes"):
        fetch([f"{server.url}/file"], tmp_path / "file", limits=DownloadLimits(max_bytes=2000))
    assert [name for name in files_in(tmp_path) if not name.endswith(".tag")] == []


def test_every_request_waits_its_turn(tmp_path, server):
    server.files["/file"] = Resource(b"content", [503, 503])
    turns = []
    fetch(
        [f"{server.url}/file"],
        tmp_path / "file",
        pause_s=0.0,
        limits=DownloadLimits(lambda: turns.append(len(server.asked))),
    )
    assert turns == [0, 1, 2]


def test_a_wrong_checksum_is_refused(tmp_path, server):
    server.files["/file"] = Resource(b"content")
    good = hashlib.sha256(b"content").hexdigest()
    with pytest.raises(DownloadError, match=f"its sha256 is {good}, but should be 00"):
        fetch([f"{server.url}/file"], tmp_path / "file", sha256="0" * 64)
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "file.part").exists()
    fetch([f"{server.url}/file"], tmp_path / "file", sha256=good)
    (tmp_path / "file").write_bytes(b"changed since")
    fetch([f"{server.url}/file"], tmp_path / "file", sha256=good)
    assert (tmp_path / "file").read_bytes() == b"content"


# fetching data sets


def test_oxford_is_laid_out(tmp_path, server, oxford):
    root = get("roxford5k", tmp_path, server)
    assert root == tmp_path / "roxford5k"
    assert_is_oxford(root, oxford)
    assert read_ground_truth(root / "gnd_roxford5k.pkl").queries == ("oxford_000003",)


def test_running_again_does_nothing(tmp_path, server, oxford):
    root = get("roxford5k", tmp_path, server)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    server.asked.clear()
    assert get("roxford5k", tmp_path, server) == root
    assert server.asked == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_removed_picture_is_fetched_again(tmp_path, server, oxford):
    root = get("roxford5k", tmp_path, server)
    (root / "jpg" / "oxford_000002.jpg").unlink()
    get("roxford5k", tmp_path, server)
    assert_is_oxford(root, oxford)


def test_a_ground_truth_that_is_there_is_used(tmp_path, server, oxford):
    root = tmp_path / "roxford5k"
    root.mkdir()
    (root / "gnd_roxford5k.json").write_bytes(ground_truth(["oxford_000002"], ["oxford_000003"]))
    get("roxford5k", tmp_path, server)
    assert sorted(p.name for p in (root / "jpg").iterdir()) == ["oxford_000002.jpg", "oxford_000003.jpg"]
    assert server.asked_for(".pkl") == []


def test_paris_comes_in_two_archives_with_folders_and_without_its_broken_pictures(tmp_path, server):
    names = ["paris_louvre_000001", "paris_louvre_000002", "paris_eiffel_000003"]
    server.files["/gnd/rparis6k/gnd_rparis6k.pkl"] = Resource(ground_truth(names[:2], names[2:]))
    one = {"paris/louvre/paris_louvre_000001.jpg": b"1", "paris/louvre/paris_louvre_000136.jpg": b"<html>"}
    two = {"paris/louvre/paris_louvre_000002.jpg": b"2", "paris/eiffel/paris_eiffel_000003.jpg": b"3"}
    server.files["/paris/paris_1-v1.tgz"] = Resource(archive(one))
    server.files["/paris/paris_2-v1.tgz"] = Resource(archive(two), [404])
    with pytest.raises(DownloadError, match=r"paris_2-v1.tgz: the server answers 404"):
        get("rparis6k", tmp_path, server)
    assert sorted(p.name for p in (tmp_path / "rparis6k" / "jpg").iterdir()) == ["paris_louvre_000001.jpg"]
    root = get("rparis6k", tmp_path, server)
    assert {p.stem for p in (root / "jpg").iterdir()} == set(names)
    assert len(server.asked_for("paris_1-v1.tgz")) == 1
    assert not (root / "downloads").exists()


def test_distractors_keep_their_folders(tmp_path, server, monkeypatch):
    monkeypatch.setitem(
        download._DATASETS,
        "r1m",
        download._Dataset(download._DATASETS["r1m"].listing, download._DATASETS["r1m"].archives[:2]),
    )
    server.files["/r1m/revisitop1m.txt"] = Resource(b"0/a.jpg\n0/b.jpg\r\n1/a.JPG\n")
    server.files["/r1m/jpg/revisitop1m.1.tar.gz"] = Resource(archive({"./0/a.jpg": b"0a", "0/b.jpg": b"0b"}))
    server.files["/r1m/jpg/revisitop1m.2.tar.gz"] = Resource(archive({"1/a.JPG": b"1a", "2/c.jpg": b"2c"}))
    found = files_in(get("r1m", tmp_path, server))
    del found["revisitop1m.txt"]
    assert found == {"jpg/0/a.jpg": b"0a", "jpg/0/b.jpg": b"0b", "jpg/1/a.JPG": b"1a"}


def test_an_archive_cut_in_the_middle_goes_on(tmp_path, server, oxford):
    server.files["/ox/oxbuild_images-v1.tgz"].mishaps = [("cut", 5000), 503, ("cut", 2000)]
    assert_is_oxford(get("roxford5k", tmp_path, server), oxford)
    assert [given for given, _ in server.asked_for(".tgz")] == [None, "bytes=5000-", "bytes=5000-", "bytes=7000-"]


def test_an_archive_of_unknown_length_that_is_cut_is_damaged(tmp_path, server, oxford):
    resource = server.files["/ox/oxbuild_images-v1.tgz"]
    resource.length, resource.mishaps = False, [("cut", 5000)]
    with pytest.raises(DownloadError, match=r"oxbuild_images-v1.tgz: damaged"):
        get("roxford5k", tmp_path, server)
    assert_is_oxford(get("roxford5k", tmp_path, server), oxford)


def test_nothing_half_written_has_a_final_name(tmp_path, server, oxford):
    server.files["/ox/oxbuild_images-v1.tgz"].mishaps = [("cut", 5000), *[503] * 9]
    with pytest.raises(DownloadError, match="503"):
        get("roxford5k", tmp_path, server, tries=2)
    left = files_in(tmp_path / "roxford5k")
    assert set(left) == {
        "gnd_roxford5k.pkl",
        "downloads/oxbuild_images-v1.tgz.part",
        "downloads/oxbuild_images-v1.tgz.part.tag",
    }


def damaged(packed, where):
    return packed[:where] + bytes([packed[where] ^ 0xFF]) + packed[where + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: damaged(packed, len(packed) // 2),
        lambda packed: damaged(packed, len(packed) - 6),  # its final checksum
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-4],
        lambda packed: b"<html>moved</html>",
        lambda packed: gzip.compress(b"no archive" * 100),
        lambda packed: gzip.compress(gzip.decompress(packed)[:9000]),
        lambda packed: b"",
    ],
)
def test_a_damaged_archive_is_refused_and_fetched_anew(tmp_path, server, oxford, damage):
    resource = server.files["/ox/oxbuild_images-v1.tgz"]
    packed, resource.content = resource.content, damage(resource.content)
    with pytest.raises(DownloadError, match=r"oxbuild_images-v1.tgz: damaged"):
        get("roxford5k", tmp_path, server)
    assert not (tmp_path / "roxford5k" / "jpg").exists()
    resource.content = packed
    assert_is_oxford(get("roxford5k", tmp_path, server), oxford)


def link(name, target, kind):
    def add(tar):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)

    return add


@pytest.mark.parametrize(
    "packed",
    [
        archive({"../../oxford_000002.jpg": b"out"}),
        archive({}, link("oxford_000002.jpg", "../../../outside", tarfile.SYMTYPE)),
        archive({}, link("oxford_000002.jpg", "/etc/passwd", tarfile.SYMTYPE)),
        archive({}, link("oxford_000002.jpg", "/dev/null", tarfile.CHRTYPE)),
    ],
)
def test_an_archive_that_reaches_outside_is_refused(tmp_path, server, oxford, packed):
    server.files["/ox/oxbuild_images-v1.tgz"].content = packed
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(DownloadError, match="unsafe"):
        get("roxford5k", folder, server)
    assert set(files_in(tmp_path)) - {"deep/folder/.roxford5k.lock"} == {"deep/folder/roxford5k/gnd_roxford5k.pkl"}


def test_links_and_pipes_within_an_archive_are_left_out(tmp_path, server, oxford):
    packed = archive(
        {f"{name}": content for name, content in oxford.items() if name != "oxford_000002.jpg"},
        link("oxford_000002.jpg", "all_souls_000001.jpg", tarfile.SYMTYPE),
    )
    server.files["/ox/oxbuild_images-v1.tgz"].content = packed
    with pytest.raises(DownloadError, match=r"lack 1 of 3 pictures, for example oxford_000002.jpg"):
        get("roxford5k", tmp_path, server)


def test_archives_that_lack_pictures_are_fetched_again_next_time(tmp_path, server, oxford):
    resource = server.files["/ox/oxbuild_images-v1.tgz"]
    packed, resource.content = resource.content, archive({"oxford_000002.jpg": oxford["oxford_000002.jpg"]})
    with pytest.raises(DownloadError, match=r"2 of 3 pictures, for example all_souls_000001.jpg"):
        get("roxford5k", tmp_path, server)
    resource.content = packed
    assert_is_oxford(get("roxford5k", tmp_path, server), oxford)


def test_a_page_instead_of_the_ground_truth_is_refused_and_not_kept(tmp_path, server, oxford):
    resource = server.files["/gnd/roxford5k/gnd_roxford5k.pkl"]
    right, resource.content = resource.content, b"<html>moved</html>"
    with pytest.raises(DownloadError, match=r"gnd_roxford5k.pkl: damaged pickle"):
        get("roxford5k", tmp_path, server)
    assert not (tmp_path / "roxford5k" / "gnd_roxford5k.pkl").exists()
    resource.content = right
    assert_is_oxford(get("roxford5k", tmp_path, server), oxford)


@pytest.mark.parametrize("listing", [b"<html>\n", b"../../a.jpg\n", b"/a.jpg\n", b"a\0.jpg\n", b"\n \n"])
def test_a_list_of_distractors_that_is_none_is_refused(tmp_path, server, listing):
    server.files["/r1m/revisitop1m.txt"] = Resource(listing)
    with pytest.raises(DownloadError, match=r"revisitop1m.txt: .*(not the name of a picture|names no picture)"):
        get("r1m", tmp_path, server)


def test_a_folder_of_another_process_is_left_alone(tmp_path, server, oxford):
    with FileLock(tmp_path / ".roxford5k.lock"), pytest.raises(DownloadError, match="another process"):
        get("roxford5k", tmp_path, server)
    assert server.asked == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, server, oxford):
    (tmp_path / "roxford5k").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="roxford5k: cannot be read or written"):
        get("roxford5k", tmp_path, server)


def test_an_unknown_data_set(tmp_path):
    with pytest.raises(DownloadError, match="oxford6k: no such data set; there are roxford5k, rparis6k, r1m"):
        get_dataset("oxford6k", tmp_path)
    assert NAMES == ("roxford5k", "rparis6k", "r1m")


def test_every_source_has_an_address():
    sources = {key for dataset in download._DATASETS.values() for key, _ in (dataset.listing, *dataset.archives)}
    assert sources == set(BASE_URLS)
    assert all(url.startswith("http") and not url.endswith("/") for urls in BASE_URLS.values() for url in urls)
    assert len(download._DATASETS["r1m"].archives) == 100


def test_pictures_that_are_there_are_not_written_over_by_those_of_an_archive(tmp_path, server, oxford):
    mine = tmp_path / "roxford5k" / "jpg" / "oxford_000002.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"the photograph before faces were blurred")
    root = get("roxford5k", tmp_path, server)
    assert mine.read_bytes() == b"the photograph before faces were blurred"
    assert {path.name for path in (root / "jpg").iterdir()} == set(oxford)


def test_a_folder_of_the_users_with_the_name_of_ours_stays(tmp_path, server, oxford):
    mine = tmp_path / "roxford5k" / "downloads" / "oxbuild_images-v1.tgz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(OutputError, match="downloads: it holds files that d2r did not put there; move it"):
        get("roxford5k", tmp_path, server)
    mine.parent.rename(tmp_path / "roxford5k" / "kept")
    root = get("roxford5k", tmp_path, server)
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    get("roxford5k", tmp_path, server)  # everything is there, and nothing is removed
    assert mine.read_bytes() == (root / "kept" / mine.name).read_bytes() == b"mine"
