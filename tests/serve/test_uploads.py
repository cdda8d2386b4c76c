"""The folder of uploads: no file of a user is deleted or overwritten, and no acknowledged picture is lost."""

import hashlib
import shutil
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from d2r.engine import Engine
from d2r.images import encode_jpeg
from d2r.index import BusyError
from d2r.serve.jobs import Jobs
from d2r.serve.journal import Journal
from d2r.serve.settings import ServeError
from d2r.serve.uploads import Uploads
from serving import wait_until
from synthetic import texture

FORMER = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, state TEXT NOT NULL,
    file TEXT, name TEXT, picture INTEGER, problem TEXT, created REAL NOT NULL, finished REAL
);
"""
OF_USERS = (
    "Holiday in Rome with my Grandma1.jpg",
    "d41d8cd98f00b204e9800998ecf8427e.jpg",
    "film.part",
    ".0123456789abcdef0123456789abcdef.part",
    "a folder of thirty-two characters/mine.txt",
    "jobs.sqlite",
)


def picture(number):
    return encode_jpeg(texture(number, 200, 160), 90)


def digest(data):
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def place(folder, name, data=b"of a user"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def claim(folder, *, index="nowhere.index", adopt=False):
    """Lock a folder like a starting service, and release it."""
    uploads = Uploads(folder, index=folder.parent / index, adopt=adopt)
    uploads.close()
    return uploads


def found(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def working(engine, folder, *, start=True):
    jobs = Jobs(engine, folder, workers=0, max_pixels=1_000_000)
    if start:
        jobs.start()
    try:
        yield jobs
    finally:
        jobs.stop(60)


def ended(jobs, job):
    wait_until(lambda: jobs.get(job.id).state in ("done", "failed"))
    return jobs.get(job.id)


def lose_journal(folder):
    files = list(folder.glob("jobs.sqlite*"))
    assert files
    for file in files:
        file.unlink()


@pytest.mark.parametrize("name", OF_USERS)
def test_a_folder_that_holds_anything_of_a_user_is_refused_and_left_as_it_is(tmp_path, name):
    folder = tmp_path / "folder"
    place(folder, name)
    folder.chmod(0o755)
    before = found(folder)
    with pytest.raises(ServeError, match="not from d2r serve"):
        claim(folder, adopt=Journal.is_in(folder))
    assert found(folder) == before
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_of_the_former_version_is_adopted_and_everything_in_it_stays(engine, tmp_path):
    folder = tmp_path / "uploads"
    upload = place(folder, f"{digest(picture(1))}.jpg", picture(1))
    of_users = [place(folder, name) for name in OF_USERS if name != "jobs.sqlite"]
    with sqlite3.connect(folder / "jobs.sqlite") as connection:
        connection.executescript(FORMER)
        connection.execute(
            "INSERT INTO jobs VALUES (1, 'f', 'add', 'queued', ?, 'castle.jpg', NULL, NULL, 1, 2)", [upload.name]
        )
    connection.close()
    folder.chmod(0o755)
    for _ in range(2):
        with working(engine, folder) as jobs:
            wait_until(lambda jobs=jobs: jobs.get("f").state == "done")
            assert jobs.journal.name_of(upload.name) == "castle.jpg"
    assert upload.read_bytes() == picture(1)
    assert [path.read_bytes() for path in of_users] == [b"of a user"] * len(of_users)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_uploads_are_private_to_the_user(tmp_path):
    uploads = Uploads(tmp_path / "new" / "uploads", index=tmp_path, adopt=False)
    file, _ = uploads.keep(picture(1), ".jpg")
    uploads.close()
    assert uploads.folder.stat().st_mode & 0o077 == 0
    assert (uploads.folder / file).stat().st_mode & 0o077 == 0
    uploads.folder.chmod(0o777)
    claim(uploads.folder)
    assert uploads.folder.stat().st_mode & 0o777 == 0o700


def test_of_what_is_half_received_only_the_services_own_is_swept(tmp_path):
    uploads = claim(tmp_path / "uploads")
    own = next(path for path in uploads.folder.iterdir() if path.is_dir())
    left = place(own, f".{'0a' * 16}.part")
    for name in ("film.part", "0123456789abcdef0123456789abcdef.part", ".notes.part", f".{'1b' * 16}.part.jpg"):
        place(own, name)
    for name in OF_USERS:
        place(uploads.folder, name)
    before = found(uploads.folder)
    claim(uploads.folder)
    assert not left.exists()
    assert found(uploads.folder) == {name: data for name, data in before.items() if not name.endswith(left.name)}


def test_a_link_in_place_of_the_services_own_folder_is_refused_and_not_followed(tmp_path):
    uploads = claim(tmp_path / "uploads")
    own = next(path for path in uploads.folder.iterdir() if path.is_dir())
    elsewhere = tmp_path / "elsewhere"
    own.rename(elsewhere)
    own.symlink_to(elsewhere)
    mine = place(elsewhere, f".{'0a' * 16}.part")
    with pytest.raises(ServeError, match="link"):
        claim(uploads.folder)
    assert mine.exists()


def test_a_start_that_was_killed_anywhere_is_gone_on_with(tmp_path):
    for step in range(3):
        folder = tmp_path / str(step)
        folder.mkdir()
        place(folder, ".service.lock", b"")
        if step > 0:
            (folder / ".d2r-uploads").mkdir()
        if step > 1:
            place(folder / ".d2r-uploads", f".{'0a' * 16}.part", b"half a tag")
        claim(folder)
        assert [path.name for path in (folder / ".d2r-uploads").iterdir()] == ["UPLOADS.TAG"]


def test_a_folder_is_of_one_service_and_of_one_index(tmp_path):
    first = tmp_path / "first.index"
    for index in (first, tmp_path / "second.index"):
        Engine.create(index, regions="whole", features="rootsift").close()
    folder = tmp_path / "uploads"
    uploads = Uploads(folder, index=first, adopt=False)
    with pytest.raises(ServeError, match="another d2r serve"):
        claim(folder, index="first.index")
    uploads.close()
    with pytest.raises(ServeError, match=r"first\.index"):
        claim(folder, index="second.index")
    first.rename(tmp_path / "moved.index")
    claim(folder, index="moved.index")
    with pytest.raises(ServeError, match=r"moved\.index"):
        claim(folder, index="second.index")


@pytest.mark.parametrize("kind", ["file", "dangling link", "folder"])
def test_what_has_the_name_of_an_upload_and_is_not_one_is_neither_written_over_nor_deleted(tmp_path, kind):
    uploads = claim(tmp_path / "uploads")
    path = uploads.folder / f"{digest(picture(1))}.jpg"
    if kind == "file":
        path.write_bytes(b"of a user")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "not mounted.jpg")
    before = path.lstat()
    with pytest.raises(FileExistsError):
        uploads.keep(picture(1), ".jpg")
    assert not uploads.discard(path.name)
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert not list(uploads.folder.rglob("*.part"))


def test_a_name_that_was_taken_by_a_process_that_died_is_free(tmp_path):
    uploads = claim(tmp_path / "uploads")
    place(uploads.folder, f"{digest(picture(1))}.jpg", b"")
    assert uploads.keep(picture(1), ".jpg") == (f"{digest(picture(1))}.jpg", True)
    assert uploads.keep(picture(1), ".jpg") == (f"{digest(picture(1))}.jpg", False)
    assert uploads.discard(f"{digest(picture(1))}.jpg")


@pytest.mark.parametrize("tag", ["kept", "gone"])
def test_with_the_journal_gone_every_acknowledged_picture_stays_and_what_was_not_indexed_is(engine, tmp_path, tag):
    folder = tmp_path / "uploads"
    with working(engine, folder) as jobs:
        indexed = ended(jobs, jobs.add(picture(1), ".jpg", "one.jpg"))
    with working(engine, folder, start=False) as jobs:
        queued = jobs.add(picture(2), ".jpg", "two.jpg")
    lose_journal(folder)
    if tag == "gone":
        shutil.rmtree(folder / ".d2r-uploads")
    with working(engine, folder) as jobs:
        wait_until(lambda: jobs.counts()["done"] == 1)
    for job, number in ((indexed, 1), (queued, 2)):
        assert (folder / job.file).read_bytes() == picture(number)
        assert engine.index.picture(str(folder / job.file)).segment is not None
    assert engine.index.picture(str(folder / indexed.file)).id == indexed.picture


def test_the_log_of_a_journal_that_is_gone_is_kept(engine, tmp_path):
    folder = tmp_path / "uploads"
    claim(folder)
    place(folder, "jobs.sqlite-wal", b"jobs")
    with working(engine, folder, start=False):
        pass
    assert [path.read_bytes() for path in folder.glob("jobs.sqlite-wal.*.kept")] == [b"jobs"]


def test_a_damaged_journal_is_named_and_nothing_is_lost(engine, tmp_path):
    folder = tmp_path / "uploads"
    with working(engine, folder) as jobs:
        job = ended(jobs, jobs.add(picture(1), ".jpg", "one.jpg"))
    place(folder, "jobs.sqlite", b"no database" * 1000)
    before = found(folder)
    with pytest.raises(ServeError, match=r"jobs\.sqlite: .* move it away"):
        Jobs(engine, folder, workers=1, max_pixels=1)
    assert found(folder) == before
    lose_journal(folder)
    with working(engine, folder):
        assert (folder / job.file).read_bytes() == picture(1)


def test_a_service_that_only_reads_passes_over_a_journal_that_is_not_its_own(tmp_path):
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("CREATE TABLE jobs (id, salary)")
    connection.close()
    before = found(tmp_path)
    journal = Journal(tmp_path, write=False)
    assert journal.name_of("x.jpg") is None
    journal.close()
    assert found(tmp_path) == before


def test_removing_deletes_an_upload_and_nothing_else(engine, collection, tmp_path):
    folder = tmp_path / "uploads"
    with working(engine, folder) as jobs:
        added = ended(jobs, jobs.add(picture(1), ".jpg", "one.jpg"))
        upload = folder / added.file
        mine = [place(folder, "holiday.jpg", picture(2)), place(folder, f"{'0a' * 16}.jpg", picture(3))]
        engine.add(mine, workers=0)
        photo = next(collection.glob("*.jpg"))
        for path in (upload, *mine, photo):
            row = engine.index.picture(str(path))
            assert ended(jobs, jobs.remove(row, path.name)).state == "done"
            assert engine.index.picture(str(path)) is None
    assert not upload.exists()
    assert photo.exists()
    assert [path.read_bytes() for path in mine] == [picture(2), picture(3)]


def test_an_upload_keeps_its_file_until_the_removal_is_committed(engine, tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    with working(engine, folder) as jobs:
        added = ended(jobs, jobs.add(picture(1), ".jpg", "one.jpg"))
        seen, real = [], Path.unlink

        def unlink(path, **options):
            if path.name == added.file:
                with Engine.open(engine.index.folder) as other, other.index.writing():  # none holds it
                    seen.append(other.index.picture(str(path)))
            real(path, **options)

        monkeypatch.setattr(Path, "unlink", unlink)
        removed = ended(jobs, jobs.remove(engine.index.picture(str(folder / added.file)), "one.jpg"))
    assert (removed.state, seen) == ("done", [None])


def test_a_removal_left_from_an_index_that_was_made_anew_takes_no_other_picture(engine, tmp_path):
    folder = tmp_path / "uploads"
    row = engine.index.picture_at(1)
    with working(engine, folder, start=False) as jobs:
        job = jobs.remove(row._replace(path="/of the old index/castle.jpg"), "castle.jpg")
    with working(engine, folder) as jobs:
        assert ended(jobs, job).state == "done"
    assert engine.index.picture_at(1) == row


def test_a_picture_that_could_not_be_put_into_the_journal_leaves_no_file(engine, tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    with working(engine, folder, start=False) as jobs:
        before = set(found(folder))

        def full(*_, **__):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(jobs.journal, "put", full)
        with pytest.raises(sqlite3.OperationalError):
            jobs.add(picture(1), ".jpg", "one.jpg")
        assert set(found(folder)) == before


def test_an_add_that_waits_for_another_writer_says_so_and_begins_when_that_ends(engine, tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    refused, writing = [], engine.index.writing

    @contextmanager
    def counted():
        try:
            with writing() as writer:
                yield writer
        except BusyError:
            refused.append(time.monotonic())
            raise

    with working(engine, folder) as jobs:
        with writing():
            monkeypatch.setattr(engine.index, "writing", counted)
            first = jobs.add(picture(1), ".jpg", "one.jpg")
            wait_until(lambda: len(refused) >= 6)
            second = jobs.add(picture(2), ".jpg", "two.jpg")
            for job in (jobs.get(first.id), jobs.get(second.id)):
                assert (job.state, job.problem) == ("queued", "waiting: another process is changing the index")
        released = time.monotonic()
        wait_until(lambda: jobs.get(first.id).problem is None, seconds=60)
        began = time.monotonic()
        assert ended(jobs, second).state == "done"
        assert ended(jobs, first).problem is None
    assert began - released < 5  # half a second, more on a busy machine; the seventh wait took 30 seconds


def test_an_error_of_the_program_fails_the_one_picture_it_is_about_and_the_work_goes_on(engine, tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    add = engine.add
    cursed = f"{digest(picture(2))}.jpg"

    def adding(paths, **options):
        paths = list(paths)
        if any(path.name == cursed for path in paths):
            raise RuntimeError("of this program")
        return add(paths, **options)

    monkeypatch.setattr(engine, "add", adding)
    with working(engine, folder, start=False) as jobs:
        taken = [jobs.add(picture(number), ".jpg", f"{number}.jpg") for number in (1, 2, 3)]
    with working(engine, folder) as jobs:
        assert [ended(jobs, job).state for job in taken] == ["done", "failed", "done"]
        assert jobs.counts() == {"queued": 0, "running": 0, "done": 2, "failed": 1}
    assert (folder / cursed).exists()


def test_an_error_while_the_service_ends_fails_no_job(engine, tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    with working(engine, folder) as jobs:
        with monkeypatch.context() as patch:

            def closed(*_, **__):
                jobs._stopping = True
                raise RuntimeError("it was closed")

            patch.setattr(engine, "add", closed)
            job = jobs.add(picture(1), ".jpg", "one.jpg")
            jobs._thread.join(60)
        assert jobs.get(job.id).state == "queued"
    with working(engine, folder) as jobs:
        assert ended(jobs, job).state == "done"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), sqlite3.OperationalError("disk is full"), OSError(28, "full")])
@pytest.mark.parametrize("when", ["add", "finish", "queued"])
def test_the_work_goes_on_after_what_passes_wherever_it_happens(engine, tmp_path, monkeypatch, error, when):
    folder = tmp_path / "uploads"
    with working(engine, folder, start=False) as jobs:
        whole = engine if when == "add" else jobs.journal
        real, failed = getattr(whole, when), []

        def failing(*arguments, **options):
            if not failed:
                failed.append(when)
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(whole, when, failing)
        job = jobs.add(picture(1), ".jpg", "one.jpg")
        jobs.start()
        assert ended(jobs, job).state == "done"
        assert failed == [when]


def test_a_picture_whose_file_is_gone_fails_with_the_reason(engine, tmp_path):
    folder = tmp_path / "uploads"
    with working(engine, folder) as jobs:
        job = ended(jobs, jobs.add(picture(1), ".jpg", "one.jpg"))
    with working(engine, folder, start=False) as jobs:
        again = jobs.add(picture(1), ".jpg", "one.jpg")
    (folder / job.file).unlink()
    with working(engine, folder) as jobs:
        outcome = ended(jobs, again)
    assert (outcome.state, outcome.problem) == ("failed", "cannot be read: No such file or directory")
