import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2r.asmk.codebook import Codebook
from d2r.asmk.codes import LocalCodes, pack_signs
from d2r.asmk.kernels import KERNELS, Aggregated, similarity
from d2r.index import BusyError, Entry, Index, PictureState, RemovedError, StoreError
from d2r.index.schema import FORMAT, create_catalogue
from d2r.index.segment import Segment
from d2r.sources import PictureFile
from d2r.verify.keypoints import Keypoints
from programs import LIMIT_S, join, run, running

WORDS, DIM = 50, 128


def entry(seed, num_words=20):
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(WORDS, num_words, replace=False)).astype(np.int32)
    codes = pack_signs(rng.normal(size=(num_words, DIM)))
    keypoints = Keypoints(
        np.full((3, 2), seed, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32),
        chosen[:3].astype(np.uint8), codes[:3], np.arange(3, dtype=np.int32),
    )  # fmt: skip
    local = LocalCodes(chosen[:3], codes[:3], DIM)
    box, score = np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32)
    return Entry(Aggregated(chosen, codes, DIM), box, score, keypoints, local)


def state(name):
    return PictureState(f"/photos/{name}.jpg", 1, 1, b"digest", 9, 9)


def put(index, seeds):
    with index.writing() as writer:
        writer.put([(state(seed), entry(seed)) for seed in seeds])


def found(index):
    return {Path(row.path).stem for row in index.pictures() if row.segment is not None}


def created(folder):
    index = Index.create(folder, {"made": "for tests"})
    with index.writing() as writer:
        writer.set_codebook(Codebook(np.random.default_rng(0).normal(size=(WORDS, DIM)).astype(np.float32)))
    return index


@pytest.fixture
def index(tmp_path):
    with created(tmp_path / "x.index") as index:
        yield index


@pytest.fixture
def quick_index(tmp_path):
    """In memory where available: syncing then costs nothing, and more happens before a kill."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder,
        created(Path(folder, "x.index")) as index,
    ):
        yield index


def test_search_equals_brute_force_over_several_segments_and_removals(index):
    for start in (0, 10, 20):
        put(index, range(start, start + 10))
    with index.writing() as writer:
        writer.remove([index.picture(f"/photos/{seed}.jpg") for seed in (3, 12, 29)])
        writer.put([(state(5), entry(500))])
    kernel = KERNELS["r-asmk*"]
    stored = {str(seed): entry(500 if seed == 5 else seed) for seed in range(30) if seed not in (3, 12, 29)}
    query = entry(7, num_words=30).aggregated
    expected = {name: similarity(query, one.aggregated, kernel) for name, one in stored.items()}
    hits = index.search(query, top=100)
    scores = {Path(hit.picture.path).stem: hit.score for hit in hits}
    assert scores.keys() == {name for name, score in expected.items() if score > 0}
    assert scores == pytest.approx({name: expected[name] for name in scores}, rel=1e-5, abs=1e-7)
    assert [hit.score for hit in hits] == sorted(scores.values(), reverse=True)
    assert [hit.picture.path for hit in index.search(query, top=5)] == [hit.picture.path for hit in hits[:5]]


def test_points_and_regions_come_back(index):
    put(index, range(5))
    row = index.picture("/photos/3.jpg")
    keypoints = index.keypoints(row)
    np.testing.assert_array_equal(keypoints.positions, entry(3).keypoints.positions)
    np.testing.assert_array_equal(keypoints.codes, entry(3).keypoints.codes)
    boxes, scores = index.regions(row)
    assert boxes.tolist() == [[0, 0, 9, 9]]
    assert scores.tolist() == [1]


def test_descriptors_of_some_pictures_come_back_in_order_from_several_segments(index):
    for start in (0, 10, 20):
        put(index, range(start, start + 10))
    seeds = [25, 3, 11, 4]
    rows = [index.picture(f"/photos/{seed}.jpg") for seed in seeds]
    with index.writing() as writer:
        writer.remove([rows[2]])
        writer.compact()  # now the others are in another segment than the rows say
    found = index.aggregated_of(rows)
    for seed, aggregated in zip(seeds, found, strict=True):
        expected = entry(seed).aggregated if seed != 11 else Aggregated(np.zeros(0), np.zeros((0, 2)), DIM)
        np.testing.assert_array_equal(aggregated.words, expected.words)
        np.testing.assert_array_equal(aggregated.vectors, expected.vectors)
        assert aggregated.dim == DIM
    assert index.aggregated_of([]) == []


def test_an_empty_descriptor_is_kept_and_never_found(index):
    empty = Entry(
        Aggregated(np.zeros(0, np.int32), np.zeros((0, 2), np.uint64), DIM),
        np.array([[0, 0, 9, 9]], np.float32),
        np.ones(1, np.float32),
        Keypoints.empty(DIM),
        LocalCodes.empty(DIM),
    )
    with index.writing() as writer:
        writer.put([(state("blank"), empty), (state(1), entry(1))])
    assert found(index) == {"blank", "1"}
    assert [Path(hit.picture.path).stem for hit in index.search(entry(1).aggregated, 10)] == ["1"]
    assert index.search(empty.aggregated, 10) == []
    assert len(index.keypoints(index.picture("/photos/blank.jpg"))) == 0


def test_a_picture_keeps_its_number_when_it_is_described_again(index):
    put(index, [1, 2])
    before = index.picture("/photos/1.jpg")
    put(index, [1])
    after = index.picture("/photos/1.jpg")
    assert after.id == before.id
    assert after.segment != before.segment


def test_segments_whose_pictures_are_all_gone_leave_the_disk(index):
    put(index, [1, 2])
    put(index, [3])
    with index.writing() as writer:
        writer.remove([index.picture("/photos/1.jpg"), index.picture("/photos/2.jpg")])
    assert len(list((index.folder / "segments").iterdir())) == 1
    assert index.size().dead == 0
    assert found(index) == {"3"}


def test_two_writers_cannot_both_write(index):
    with index.writing(), pytest.raises(StoreError, match="another process"), Index(index.folder).writing():
        pass
    put(index, [1])


def test_readers_are_not_blocked_while_a_writer_holds_the_index(index):
    put(index, range(5))
    with index.writing() as writer, Index(index.folder) as reader:
        assert len(reader.search(entry(1).aggregated, 10)) >= 1
        writer.put([(state(9), entry(9))])
        assert found(reader) == {"0", "1", "2", "3", "4", "9"}


def test_an_error_in_the_middle_of_a_commit_leaves_the_last_good_state(index, monkeypatch):
    put(index, [1, 2])
    with index.writing() as writer:
        monkeypatch.setattr(writer._catalogue, "put_pictures", lambda rows: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            writer.put([(state(3), entry(3))])
    assert found(index) == {"1", "2"}
    monkeypatch.undo()
    put(index, [4])
    assert found(index) == {"1", "2", "4"}
    assert len(list((index.folder / "segments").iterdir())) == 2


@pytest.mark.parametrize(("version", "word"), [(FORMAT + 1, "newer"), (FORMAT - 2, "older")])
def test_an_index_of_another_format_is_refused_with_what_to_do(index, version, word):
    with sqlite3.connect(index.folder / "catalogue.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(StoreError, match=rf"{word} d2r \(format {version}, this one is {FORMAT}\)"):
        Index(index.folder)


def test_a_folder_that_is_no_index_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nothing: not an index"):
        Index(tmp_path / "nothing")


def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        connection.execute("CREATE TABLE settings (x)")
    with pytest.raises(StoreError, match="another program"):
        Index(tmp_path)


def test_a_damaged_catalogue_is_named(index):
    put(index, [1])
    index.close()
    for file in index.folder.glob("catalogue.sqlite*"):
        file.write_bytes(b"damaged" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        Index(index.folder)


def test_a_missing_segment_file_is_named(index):
    put(index, [1])
    (index.folder / "segments" / "000001" / "g.npy").unlink()
    with Index(index.folder) as reader, pytest.raises(StoreError, match=r"g\.npy"):
        reader.search(entry(1).aggregated, 1)


def test_a_truncated_segment_file_is_named(index):
    put(index, [1])
    file = index.folder / "segments" / "000001" / "posting_codes.npy"
    file.write_bytes(file.read_bytes()[:100])
    with Index(index.folder) as reader, pytest.raises(StoreError, match="damaged"):
        reader.search(entry(1).aggregated, 1)


def test_an_index_larger_than_the_memory_gives_the_same_answers(index, monkeypatch):
    for start in (0, 10):
        put(index, range(start, start + 10))
    put(index, [])
    queries = [entry(7, num_words=30).aggregated, entry(500, num_words=3).aggregated, entry(1, num_words=0).aggregated]
    expected = index.search_all(queries, 20)
    asked = []
    fetch = Segment.fetch
    monkeypatch.setattr(Segment, "fetch", lambda self, words: (asked.append(len(words)), fetch(self, words)))
    monkeypatch.setattr("d2r.index.ranking.usable_memory", lambda: 1000)
    with Index(index.folder) as cold:
        assert cold.search_all(queries, 20) == expected
    assert len(asked) == 2


def test_a_read_only_index_can_be_searched(index, tmp_path):
    put(index, [1, 2])
    index.close()
    frozen = Path(shutil.copytree(index.folder, tmp_path / "frozen.index"))
    for path in [frozen, *frozen.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with Index(frozen) as reader:
        assert len(reader.search(entry(1).aggregated, 10)) == 2


_WRITER = """
    import os, sys
    from pathlib import Path
    sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]
    from test_index import entry, state
    from d2r.index import Index

    def say(line):
        # One call, so that a kill leaves all or nothing; unbuffered, print writes the line break separately.
        os.write(sys.stdout.fileno(), f"{line}\\n".encode())

    def write(start):
        index = Index(Path(sys.argv[1]))
        with index.writing() as writer:
            say("ready")
            for number in range(start, 100_000):
                writer.put([(state(f"{number}-{part}"), entry(part)) for part in range(3)])
                say(number)  # acknowledged: must survive from here on
                if number % 5 == 4:
                    writer.remove([index.picture(f"/photos/{number - 4}-{part}.jpg") for part in range(3)])
                    say(-(number - 4) - 1)
                if number % 7 == 6:
                    writer.compact()
"""

# Imports everything and loads the compiled code once, then starts a writer per line, and reports its death.
_WRITERS = (
    textwrap.dedent(_WRITER)
    + """
import tempfile
from test_index import created, put

with tempfile.TemporaryDirectory() as folder, created(Path(folder, "x.index")) as warm:
    for number in range(9):
        put(warm, [number])
for start in sys.stdin:
    child = os.fork()
    if not child:
        try:
            say(os.getpid())
            write(int(start))
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    say("dead")
"""
)


@pytest.mark.timeout(900)
def test_killing_a_writer_a_hundred_times_loses_nothing_that_was_acknowledged(quick_index):
    index = quick_index
    rng = random.Random(0)
    expected: set[int] = set()
    start = 0
    command = [sys.executable, "-c", _WRITERS, index.folder, Path(__file__).parent]
    with running(*command, limit_s=800, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:

        def line():
            said = writers.stdout.readline()
            assert said.endswith("\n"), "the writers are gone"
            return said.strip()

        for _ in range(100):
            writers.stdin.write(f"{start}\n")
            writers.stdin.flush()
            pid = int(line())
            assert line() == "ready"
            lines = [line() for _ in range(rng.randrange(4))]
            time.sleep(rng.uniform(0.0, 0.02))  # about as long as a change: any moment of it
            os.kill(pid, signal.SIGKILL)
            while (last := line()) != "dead":
                lines.append(last)
            for number in map(int, lines):
                if number >= 0:
                    expected.add(number)
                else:
                    expected.discard(-number - 1)
            with Index(index.folder) as reader:
                assert reader.check() == []
                names = found(reader)
                numbers = {int(name.split("-")[0]) for name in names}
                # Only complete batches; at most the change in progress may be there besides the acknowledged ones.
                assert all({f"{number}-{part}" for part in range(3)} <= names for number in numbers)
                assert len(numbers ^ expected) <= 1
                for row in reader.pictures():
                    part = int(Path(row.path).stem.split("-")[1])
                    assert row.slot is None or reader.keypoints(row).positions[0, 0] == part
                assert len(reader.search(entry(1).aggregated, 10_000)) >= len(numbers)
                expected, start = numbers, max(numbers, default=start) + 1
        writers.stdin.close()
        assert writers.wait() == 0


def ranking(index, query, top=1000):
    return [(Path(hit.picture.path).stem, hit.score) for hit in index.search(query, top)]


def test_merging_as_pictures_come_keeps_segments_few_and_changes_no_answer(index):
    query = entry(3, num_words=30).aggregated
    with Index.create(index.folder.parent / "at-once.index", {}) as at_once:
        with at_once.writing() as writer:
            writer.set_codebook(index.codebook)
        put(at_once, range(100))
        for seed in range(100):
            put(index, [seed])
        assert index.size().segments < 20
        assert at_once.size().segments == 1
        assert ranking(index, query) == ranking(at_once, query)
        assert ranking(index, query, 7) == ranking(at_once, query, 7)
    assert index.check() == []


def test_compacting_leaves_one_segment_without_dead_slots_and_the_same_answers(index):
    for start in range(0, 60, 20):
        put(index, range(start, start + 20))
    with index.writing() as writer:
        writer.remove([index.picture(f"/photos/{seed}.jpg") for seed in range(0, 60, 7)])
    query = entry(3, num_words=30).aggregated
    before, rows = ranking(index, query), list(index.pictures())
    steps = []
    with index.writing() as writer:
        writer.compact(lambda done, total: steps.append((done, total)))
    assert steps == [(0, 1), (1, 1)]
    assert ranking(index, query) == before
    size = index.size()
    assert (size.segments, size.dead, size.pictures) == (1, 0, 51)
    assert [path.name for path in (index.folder / "segments").iterdir()] == ["000004"]
    assert index.check() == []
    for old, new in zip(rows, index.pictures(), strict=True):
        assert (old.id, old.path, old.words) == (new.id, new.path, new.words)
        assert index.keypoints(new).positions[0, 0] == int(Path(new.path).stem)
    with index.writing() as writer:
        writer.compact()
    assert [path.name for path in (index.folder / "segments").iterdir()] == ["000004"]  # nothing left to do


def test_several_queries_at_once_have_the_answers_of_each_alone_on_any_number_of_threads(index):
    for start in range(0, 60, 20):
        put(index, range(start, start + 20))
    queries = [entry(seed, num_words=seed % 20).aggregated for seed in range(25)]
    expected = [index.search(query, 9) for query in queries]
    assert any(expected)
    for threads in (1, 2, 5):
        with Index(index.folder, threads=threads) as reader:
            assert reader.search_all(queries, 9) == expected
            assert reader.search_all([], 9) == []


def test_of_equal_scores_the_picture_that_came_first_is_first(index):
    for start in (0, 10, 20):
        with index.writing() as writer:
            writer.put([(state(f"{start + number:02d}"), entry(1)) for number in range(10)])
    for top in (1, 3, 12, 30):
        assert [name for name, _ in ranking(index, entry(1).aggregated, top)] == [
            f"{number:02d}" for number in range(top)
        ]


def problems_of(folder):
    try:
        with Index(folder) as reader:
            return reader.check()
    except StoreError as error:
        return [str(error)]


def contents(index):
    return list(index.pictures()), index.settings, index._catalogue.layout().segments


@pytest.mark.parametrize("state_of_log", ["empty", "full"])
def test_a_flipped_bit_in_any_file_is_found_or_changes_nothing(index, tmp_path, state_of_log):
    put(index, range(1000, 1200))  # so that the catalogue has pages without a newer copy in the log
    for start in (0, 10, 20):
        put(index, range(start, start + 10))
    with index.writing() as writer:
        writer.remove([index.picture(f"/photos/{seed}.jpg") for seed in (3, 12)])
        if state_of_log == "full":
            writer.put([(state(40), entry(40))])
            copy = Path(shutil.copytree(index.folder, tmp_path / "copy.index"))
    if state_of_log == "empty":
        copy = Path(shutil.copytree(index.folder, tmp_path / "copy.index"))
    with Index(copy) as reader:
        assert reader.check() == []
        good = contents(reader)
    rng = np.random.default_rng(0)
    files = [
        file
        for file in sorted(copy.rglob("*"))
        if file.is_file() and file.stat().st_size and "sqlite-" not in file.name
    ]
    assert len(files) > 40
    for file in files:
        original = file.read_bytes()
        found_in_file = 0
        bits = rng.integers(0, len(original) * 8, 200 if file.suffix == ".sqlite" else 2)
        for bit in bits:
            damaged = bytearray(original)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            problems = problems_of(copy)
            if problems:
                assert str(file) in problems[0] or "catalogue" in problems[0], (file, bit, problems)
                found_in_file += 1
            else:
                with Index(copy) as reader:
                    assert contents(reader) == good, (file, bit)
            file.write_bytes(original)
        assert found_in_file == len(bits) if file.suffix != ".sqlite" else found_in_file > 0


def test_a_flipped_bit_in_a_row_of_the_catalogue_is_found(index):
    put(index, range(3))
    index.close()
    for change in (
        "UPDATE pictures SET width = width + 1 WHERE id = 2",
        "UPDATE pictures SET path = x'2f61' WHERE id = 2",
        "UPDATE pictures SET slot = 3 WHERE id = 2",
        "UPDATE pictures SET slot = 0 WHERE id = 2",
        "UPDATE pictures SET segment = 9 WHERE id = 2",
        "DELETE FROM pictures WHERE id = 2",
        "INSERT INTO dead VALUES (1, 1)",
        "INSERT INTO dead VALUES (2, 0)",
        "UPDATE pictures SET missing_since = 5 WHERE id = 2",
    ):
        with Index(index.folder) as reader:
            assert reader.check() == []
        good = (index.folder / "catalogue.sqlite").read_bytes()
        with sqlite3.connect(index.folder / "catalogue.sqlite") as connection:
            connection.execute(change)
        connection.close()
        with Index(index.folder) as reader:
            assert reader.check(), change
        (index.folder / "catalogue.sqlite").write_bytes(good)


def test_a_new_time_alone_moves_no_descriptor_even_when_it_was_merged_meanwhile(index):
    for seed in range(7):
        put(index, [seed])
    listed = PictureFile("/photos/3.jpg", 1, 99)
    put(index, [7])  # the eighth segment: all are merged
    with index.writing() as writer:
        writer.touch([listed, PictureFile("/photos/unknown.jpg", 1, 99)])
    assert index.picture("/photos/3.jpg").mtime_ns == 99
    assert index.check() == []
    assert index.search(entry(3).aggregated, 1)[0].picture.path == "/photos/3.jpg"


def test_rows_that_were_read_before_a_merge_still_remove_their_pictures(index):
    for seed in range(3):
        put(index, [seed])
    rows = list(index.pictures())
    with index.writing() as writer:
        writer.compact()
        writer.remove(rows[:2])
    assert index.check() == []
    assert [name for name, _ in ranking(index, entry(2).aggregated)] == ["2"]


def test_features_are_found_where_a_merge_moved_them(index):
    for seed in range(3):
        put(index, [seed])
    hit = index.search(entry(1).aggregated, 1)[0]
    with index.writing() as writer:
        writer.compact()
        assert index.keypoints(hit.picture).positions[0, 0] == 1
        assert len(index.regions(hit.picture)[0]) == 1
        writer.remove([hit.picture])
    with pytest.raises(RemovedError, match="removed from the index meanwhile"):
        index.keypoints(hit.picture)


def test_every_picture_is_read_once_though_segments_merge_meanwhile(index):
    for seed in range(6):
        put(index, [seed])
    seen = []
    for picture, aggregated in index.aggregated():
        seen.append(Path(picture.path).stem)
        np.testing.assert_array_equal(aggregated.words, entry(int(seen[-1])).aggregated.words)
        if len(seen) == 2:
            with index.writing() as writer:
                writer.compact()
    assert sorted(seen) == [str(seed) for seed in range(6)]


def test_a_picture_that_the_catalogue_lost_ends_a_search_with_an_error(index):
    put(index, range(3))
    with sqlite3.connect(index.folder / "catalogue.sqlite") as connection:
        connection.execute("DELETE FROM pictures WHERE id = 2")
    connection.close()
    with pytest.raises(StoreError, match="lost pictures"):
        index.search(entry(1).aggregated, 3)


def test_damage_is_not_merged_under_a_new_checksum(index):
    for seed in range(3):
        put(index, [seed])
    file = index.folder / "segments" / "000002" / "point_codes.npy"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with index.writing() as writer, pytest.raises(StoreError, match=r"000002/point_codes\.npy: its content is not"):
        writer.compact()
    assert len(index.check()) == 1


def test_a_missing_codebook_is_an_error_and_not_learned_anew(index):
    put(index, [1])
    index.codebook_file.unlink()
    with Index(index.folder) as reader:
        with pytest.raises(StoreError, match=r"codebook\.safetensors: missing"):
            _ = reader.codebook
        assert len(reader.check()) == 1


def test_a_codebook_of_a_writer_that_died_before_its_commit_is_forgotten(tmp_path):
    with Index.create(tmp_path / "x.index", {}) as index:
        codebook = Codebook(np.random.default_rng(0).normal(size=(WORDS, DIM)).astype(np.float32))
        codebook.save(index.codebook_file)
        with index.writing() as writer:
            assert index.codebook is None
            writer.set_codebook(codebook)
        assert index.codebook is not None
        assert index.check() == []


def test_a_file_that_no_commit_names_is_not_taken_for_the_visual_words_nor_lost(tmp_path):
    with Index.create(tmp_path / "x.index", {}) as index:
        index.codebook_file.write_bytes(b"somebody's own")
        assert index.codebook is None
        with index.writing() as writer:
            writer.set_codebook(Codebook(np.random.default_rng(0).normal(size=(WORDS, DIM)).astype(np.float32)))
        (aside,) = index.folder.glob("codebook-*.safetensors")
        assert aside.read_bytes() == b"somebody's own"
        assert index.check() == []


def test_what_somebody_keeps_in_the_folder_of_an_index_is_never_deleted(index):
    """Names that no index uses; and foreign files in folders named like those of an index."""
    put(index, [1])
    segments = index.folder / "segments"
    (index.folder.parent / "elsewhere").mkdir()
    (segments / "000077").symlink_to(index.folder.parent / "elsewhere")
    kept = [
        segments / "holiday" / "words.npy",
        segments / "notes.txt",
        segments / "000001" / "mine.jpg",  # its segment will be removed
        segments / "000002" / "mine.jpg",  # its number is the next
        segments / ".000003.part" / "mine.jpg",
        segments / ".000004.part.old" / "g.npy",
        segments / "12" / "g.npy",
        segments / "000077" / "g.npy",
        index.folder / "photos" / "a.jpg",
    ]
    for file in kept:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    for seed in range(2, 12):
        put(index, [seed])
    with index.writing() as writer:
        writer.remove([index.picture("/photos/1.jpg"), index.picture("/photos/2.jpg")])
        writer.compact()
    assert [file for file in kept if not file.exists() or file.read_text() != "mine"] == []
    assert found(index) == {str(seed) for seed in range(3, 12)}
    assert index.check() == []
    ours = {path.name for path in (segments / "000001").iterdir()}
    assert ours == {"mine.jpg"}  # our files there are gone


def test_an_index_that_is_there_says_so_when_it_is_made_again(index, tmp_path):
    put(index, [1])
    with pytest.raises(StoreError, match=r"it is an index already; open it \(Engine\.open\)"):
        Index.create(index.folder, {})
    assert found(index) == {"1"}
    with pytest.raises(StoreError, match=r"a\\x00b|cannot be made there"):
        Index.create(tmp_path / "a\0b", {})


def test_of_two_that_make_an_index_at_once_one_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "x.index"

    def late(folder, settings):
        with pytest.raises(BusyError):
            Index.create(folder, {"made": "second"})
        create_catalogue(folder, settings)

    monkeypatch.setattr("d2r.index.index.create_catalogue", late)
    assert Index.create(folder, {"made": "first"}).settings == {"made": "first"}


def test_queries_that_do_not_fit_are_refused(index):
    put(index, [1])
    narrow = entry(1).aggregated
    with pytest.raises(ValueError, match="64 bits"):
        index.search(Aggregated(narrow.words, narrow.vectors[:, :1], 64), 1)
    with pytest.raises(ValueError, match="top must be"):
        index.search(narrow, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs the superuser")
def test_a_reader_without_the_right_to_write_sees_what_a_writer_committed(index, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(0o755)
    with index.writing() as writer:
        for seed in range(5):
            writer.put([(state(seed), entry(seed))])
        for path in [index.folder, *index.folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        code = (
            "import os, sys; from pathlib import Path; from d2r.index import Index; os.setuid(65534);"
            "print(Index(Path(sys.argv[1])).size().pictures)"
        )
        done = run(sys.executable, "-c", code, index.folder)
    assert done.stdout == "5\n", done.stderr


def test_searches_during_changes_always_see_one_whole_state(index):
    """A writer keeps replacing all pictures; every search finds each exactly once."""
    put(index, range(10))
    stop = threading.Event()
    begun = threading.Barrier(4)
    errors = []

    def read():
        with Index(index.folder) as reader:
            begun.wait(LIMIT_S)
            while not stop.is_set():
                names = [Path(hit.picture.path).stem for hit in reader.search(query, 100)]
                if sorted(names) != sorted(reachable):
                    errors.append(names)

    query = entry(3, num_words=WORDS).aggregated
    reachable = [Path(hit.picture.path).stem for hit in index.search(query, 100)]
    assert len(reachable) == 10
    threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        begun.wait(LIMIT_S)
        for turn in range(15):
            put(index, range(10))
            if turn % 4 == 3:
                with index.writing() as writer:
                    writer.compact()
    finally:
        stop.set()
        join(*threads)
    assert errors == []


def test_a_disk_that_fills_loses_nothing_and_the_index_can_be_used_on(index):
    put(index, range(5))

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    code = textwrap.dedent(_WRITER) + "write(100)"
    done = run(sys.executable, "-c", code, index.folder, Path(__file__).parent, preexec_fn=limit_files)
    assert done.returncode != 0
    assert found(index) == {"0", "1", "2", "3", "4"}
    assert [path for path in index.folder.rglob("*") if path.name.endswith(".part")] == []
    put(index, [7])
    assert found(index) == {"0", "1", "2", "3", "4", "7"}
    assert len(index.search(entry(7).aggregated, 1)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs the superuser")
def test_a_full_file_system_keeps_the_last_good_state(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        index = Index.create(place / "x.index", {})
        with index.writing() as writer:
            writer.set_codebook(Codebook(np.random.default_rng(0).normal(size=(WORDS, DIM)).astype(np.float32)))
        done = 0

        def fill():
            nonlocal done
            for number in range(1000):
                put(index, range(number * 20, number * 20 + 20))
                done += 20

        with pytest.raises((OSError, sqlite3.OperationalError), match=r"[Nn]o space|full"):
            fill()
        assert found(index) == {str(seed) for seed in range(done)}
        assert len(index.search(entry(1).aggregated, 1)) == 1
        with index.writing() as writer:
            writer.remove([row for row in index.pictures() if int(Path(row.path).stem) < done - 20])
        assert len(index.search(entry(1).aggregated, 100)) <= 20  # closes the files of removed pictures
        put(index, [1_000_000])
        assert len(found(index)) == 21
        index.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda one: replace(one, words=one.words[::-1].copy()), "words must ascend"),
        (lambda one: replace(one, words=one.words - 60), "words must ascend"),
        (lambda one: replace(one, words=one.words[1:]), "packed signs must be"),
        (lambda one: replace(one, words=one.words.astype(np.int64)), "words must be int32"),
        (lambda one: replace(one, vectors=one.vectors.astype(np.float32)), "packed signs must be uint64"),
        (lambda one: replace(one, vectors=one.vectors[:, :1].copy()), "packed signs must be uint64"),
        (lambda one: replace(one, dim=100), "a query has codes of 100 bits, but the index has codes of 128"),
    ],
)
def test_a_query_whose_arrays_do_not_fit_is_refused(index, wrong, reason):
    put(index, range(3))
    query = entry(1).aggregated
    assert len(index.search(query, 5)) > 0
    with pytest.raises(ValueError, match=reason):
        index.search(wrong(query), 5)


def test_a_query_of_words_that_no_picture_has_finds_nothing(index):
    put(index, range(3))
    query = entry(1).aggregated
    assert index.search(replace(query, words=query.words + 10**6), 5) == []


def narrow(one):
    return Aggregated(one.words, one.vectors[:, :1].copy(), 64)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda one: replace(one, aggregated=narrow(one.aggregated)), "codes of 64 bits"),
        (
            lambda one: replace(one, aggregated=replace(one.aggregated, words=one.aggregated.words + WORDS)),
            "with 50 words",
        ),
        (lambda one: replace(one, local=replace(one.local, words=one.local.words + WORDS)), "with 50 words"),
        (lambda one: replace(one, local=LocalCodes(one.local.words, one.local.codes[:, :1].copy(), 64)), "bits"),
        (lambda one: replace(one, keypoints=replace(one.keypoints, codes=one.keypoints.codes[:, :1].copy())), "bits"),
    ],
)
def test_an_entry_that_is_not_of_the_words_of_the_index_is_refused_and_the_index_stays_as_it_is(index, wrong, reason):
    put(index, range(3))
    with index.writing() as writer, pytest.raises(ValueError, match=reason):
        writer.put([(state(3), entry(3)), (state(4), wrong(entry(4)))])
    assert found(index) == {"0", "1", "2"}
    assert index.check() == []
    put(index, [3])
    assert len(index.search(entry(1).aggregated, 5)) == 4
