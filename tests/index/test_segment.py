"""A segment on disk: what was written can be read, and a failure leaves nothing."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r.asmk.codes import LocalCodes, pack_signs
from d2r.asmk.kernels import Aggregated
from d2r.index import segment_files, segment_merging
from d2r.index.segment import Segment
from d2r.index.segment_files import SEARCH_ARRAYS, VERIFY_ARRAYS, check_segment, discard_segment
from d2r.index.segment_merging import merge_segments
from d2r.index.segment_writing import Entry, write_segment
from d2r.verify.keypoints import Keypoints

WORDS = 30


def random_entry(rng: np.random.Generator, dim: int = 128, count: int | None = None) -> Entry:
    words = np.sort(rng.permutation(WORDS)[: rng.integers(1, WORDS)]).astype(np.int32)
    number = int(rng.integers(1, 40)) if count is None else count
    keypoints = Keypoints(
        (rng.random((number, 2)) * 1000).astype(np.float32),
        (rng.random(number) * 50).astype(np.float32),
        ((rng.random(number) * 4 - 2) * np.pi).astype(np.float32),
        np.sort(rng.integers(0, WORDS, number)).astype(np.uint8),
        pack_signs(rng.standard_normal((number, dim))),
        np.arange(number, dtype=np.int32),
    )
    regions = int(rng.integers(1, 6))
    boxes = (rng.random((regions, 4)) * 500).astype(np.float32)
    aggregated = Aggregated(words, pack_signs(rng.standard_normal((len(words), dim))), dim)
    local = LocalCodes(
        rng.integers(0, WORDS, number).astype(np.int32), pack_signs(rng.standard_normal((number, dim))), dim
    )
    return Entry(aggregated, boxes, rng.random(regions).astype(np.float32), keypoints, local)


def empty_entry(dim: int = 128) -> Entry:
    nothing = Aggregated(np.zeros(0, np.int32), pack_signs(np.zeros((0, dim))), dim)
    return Entry(
        nothing,
        np.array([[0, 0, 9, 9]], np.float32),
        np.ones(1, np.float32),
        Keypoints.empty(dim),
        LocalCodes.empty(dim),
    )


def some_entries(dim: int = 128) -> list[Entry]:
    rng = np.random.default_rng(dim)
    return [random_entry(rng, dim), empty_entry(dim), *(random_entry(rng, dim) for _ in range(6)), empty_entry(dim)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dim", [64, 100, 128, 256])
def test_what_was_written_comes_back(tmp_path: Path, dim: int) -> None:
    entries = some_entries(dim)
    write_segment(tmp_path / "1", entries)
    found = Segment.load(tmp_path / "1")
    assert len(found) == len(entries)
    for slot, (entry, aggregated) in enumerate(zip(entries, found.aggregated(dim), strict=True)):
        assert aggregated.dim == dim
        np.testing.assert_array_equal(aggregated.words, entry.aggregated.words)
        np.testing.assert_array_equal(aggregated.vectors, entry.aggregated.vectors)
        boxes, scores = found.regions(slot)
        np.testing.assert_array_equal(boxes, entry.boxes)
        np.testing.assert_array_equal(scores, entry.box_scores)
        keypoints = found.keypoints(slot)
        for name in ("positions", "scales", "words", "codes", "rows"):
            np.testing.assert_array_equal(getattr(keypoints, name), getattr(entry.keypoints, name))
            assert getattr(keypoints, name).dtype == getattr(entry.keypoints, name).dtype
        local = found.local(slot, dim)
        np.testing.assert_array_equal(local.words, entry.local.words)
        np.testing.assert_array_equal(local.codes, entry.local.codes)
        words = len(entry.aggregated)
        assert found.g[slot] == (np.float32(1 / np.sqrt(words)) if words else 0)


def test_arrays_have_the_types_they_are_documented_to_have(tmp_path: Path) -> None:
    write_segment(tmp_path / "1", some_entries())
    found = Segment.load(tmp_path / "1")
    types = {
        "words": np.int32, "word_starts": np.int64, "posting_slots": np.uint16, "posting_codes": np.uint64,
        "g": np.float32, "point_starts": np.int64, "positions": np.float32, "scales": np.float32,
        "angles": np.uint8, "point_words": np.uint8, "point_codes": np.uint64,
        "local_words": np.int32, "local_codes": np.uint64,
        "region_starts": np.int64, "boxes": np.float32, "box_scores": np.float32,
    }  # fmt: skip
    assert {name: getattr(found, name).dtype for name in types} == types
    assert names(tmp_path / "1") == sorted(f"{name}.npy" for name in types)
    assert all(isinstance(getattr(found, name), np.memmap) for name in types)
    assert not any(getattr(found, name).flags.writeable for name in types)


def test_postings_lie_by_word_and_within_a_word_by_slot(tmp_path: Path) -> None:
    entries = some_entries()
    write_segment(tmp_path / "1", entries)
    found = Segment.load(tmp_path / "1")
    assert found.word_starts[0] == 0
    assert found.word_starts[-1] == len(found.posting_slots) == len(found.posting_codes)
    assert found.words.tolist() == sorted({word for entry in entries for word in entry.aggregated.words.tolist()})
    for row, word in enumerate(found.words):
        rows = slice(found.word_starts[row], found.word_starts[row + 1])
        holders = [slot for slot, entry in enumerate(entries) if word in entry.aggregated.words]
        assert found.posting_slots[rows].tolist() == holders
        codes = [entries[slot].aggregated.vectors[entries[slot].aggregated.words == word][0] for slot in holders]
        np.testing.assert_array_equal(found.posting_codes[rows], np.array(codes, np.uint64).reshape(-1, 2))


def test_the_first_and_the_last_word_have_postings_too(tmp_path: Path) -> None:
    entry = empty_entry()
    ends = Aggregated(np.array([0, WORDS - 1], np.int32), pack_signs(np.eye(2, 128)), 128)
    write_segment(tmp_path / "1", [replace(entry, aggregated=ends)])
    found = Segment.load(tmp_path / "1")
    assert found.words.tolist() == [0, WORDS - 1]
    assert found.word_starts.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(next(found.aggregated(128)).vectors, ends.vectors)


def test_pictures_without_anything_can_be_alone_in_a_segment(tmp_path: Path) -> None:
    write_segment(tmp_path / "1", [empty_entry(), empty_entry()])
    found = Segment.load(tmp_path / "1")
    assert found.g.tolist() == [0, 0]
    assert [len(one) for one in found.aggregated(128)] == [0, 0]
    assert [found.keypoints(slot).codes.shape for slot in range(2)] == [(0, 2), (0, 2)]
    assert found.regions(1)[0].tolist() == [[0, 0, 9, 9]]


def test_an_angle_is_kept_to_half_a_step_of_256_whatever_turn_it_was_in(tmp_path: Path) -> None:
    entries = some_entries()
    write_segment(tmp_path / "1", entries)
    found = Segment.load(tmp_path / "1")
    turns = 0
    for slot, entry in enumerate(entries):
        kept = found.keypoints(slot).angles
        assert kept.dtype == np.float32
        difference = np.angle(np.exp(1j * (kept.astype(float) - entry.keypoints.angles)))
        assert np.abs(difference).max(initial=0) <= np.pi / 256 + 1e-5
        turns += int((np.abs(entry.keypoints.angles) > np.pi).sum())
    assert turns > 20


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    entries = some_entries()
    written = write_segment(tmp_path / "1", entries)
    sizes = {path.stem: path.stat().st_size for path in (tmp_path / "1").iterdir()}
    searched = ("words", "word_starts", "posting_slots", "posting_codes", "g")
    assert written.search_bytes == sum(sizes[name] for name in searched)
    assert written.search_bytes + written.verify_bytes == sum(sizes.values())
    assert (written.slots, written.postings) == (len(entries), sum(len(entry.aggregated) for entry in entries))


@pytest.mark.parametrize("chunk", [1, 5, 1 << 22])
def test_merged_segments_are_as_if_what_lives_had_been_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(segment_merging, "_CHUNK", chunk)
    entries = [*some_entries(), *some_entries()[:5], *some_entries()]
    bounds = [(0, 9), (9, 10), (10, 14), (14, 23)]
    live = [np.array([0, 1, 2, 5, 8]), np.array([0]), np.zeros(0, np.int64), np.arange(9)]
    sources = []
    for number, (start, stop) in enumerate(bounds):
        write_segment(tmp_path / f"{number}", entries[start:stop])
        sources.append((Segment.load(tmp_path / f"{number}"), live[number]))
    merged = merge_segments(tmp_path / "merged", sources)
    kept = [entries[start + slot] for (start, _), slots in zip(bounds, live, strict=True) for slot in slots]
    at_once = write_segment(tmp_path / "at-once", kept)
    assert merged == at_once  # including the digests of all files


def test_a_segment_as_it_was_written_is_sound_and_each_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    written = write_segment(folder, some_entries())
    assert check_segment(folder, written.digests) == []
    rng = np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        good = file.read_bytes()
        for bit in rng.integers(0, len(good) * 8, 5):
            damaged = bytearray(good)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            problems = check_segment(folder, written.digests)
            assert len(problems) == 1
            assert str(file) in problems[0]
        file.unlink()
        assert "No such file" in check_segment(folder, written.digests)[0]
        file.write_bytes(good)


@pytest.mark.parametrize("after", [0, 1, 6, 11])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_of_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException
) -> None:
    calls = []
    save = np.save

    def failing(file: Any, array: Any) -> None:
        if len(calls) == after:
            Path(file).write_bytes(b"half")
            raise error
        calls.append(file)
        save(file, array)

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(type(error)):
        write_segment(tmp_path / "1", some_entries())
    assert names(tmp_path) == []
    monkeypatch.undo()
    write_segment(tmp_path / "1", some_entries())  # and it can be written afterwards
    assert names(tmp_path) == ["1"]


def test_every_file_is_on_the_disk_before_the_segment_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[str, bool] = {}

    def note(path: Path) -> None:
        assert path.exists()
        synced[path.name] = (tmp_path / "1").exists()

    monkeypatch.setattr(segment_files, "sync", note)
    write_segment(tmp_path / "1", some_entries())
    appeared = synced.pop(tmp_path.name)
    assert appeared  # the parent folder is synced last, so that the name is on the disk too
    assert sorted(synced) == sorted([".1.part", *names(tmp_path / "1")])
    assert not any(synced.values())


def test_a_segment_whose_data_does_not_reach_the_disk_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segment_files, "sync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_segment(tmp_path / "1", some_entries())
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".1.part").mkdir()
    (tmp_path / ".1.part" / "words.npy").write_bytes(b"half")
    write_segment(tmp_path / "1", some_entries())
    assert names(tmp_path) == ["1"]
    assert len(Segment.load(tmp_path / "1")) == len(some_entries())


def test_what_no_segment_has_is_not_deleted_with_its_files(tmp_path: Path) -> None:
    write_segment(tmp_path / "1", some_entries())
    (tmp_path / "1" / "mine.jpg").write_bytes(b"mine")
    (tmp_path / "linked").symlink_to(tmp_path / "1")
    discard_segment(tmp_path / "linked")
    assert len(Segment.load(tmp_path / "1")) == len(some_entries())
    discard_segment(tmp_path / "1")
    assert names(tmp_path / "1") == ["mine.jpg"]
    discard_segment(tmp_path / "nothing")


def test_a_segment_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    write_segment(tmp_path / "1", [empty_entry()])
    with pytest.raises(OSError):  # noqa: PT011 - its type differs by system
        write_segment(tmp_path / "1", some_entries())
    assert len(Segment.load(tmp_path / "1")) == 1
    assert names(tmp_path) == ["1"]


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Segment.load(tmp_path / "1")
    write_segment(tmp_path / "1", some_entries())
    (tmp_path / "1" / "scales.npy").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Segment.load(tmp_path / "1")
    assert str(caught.value.filename).endswith("scales.npy")


@pytest.mark.parametrize("name", ["word_starts", "posting_codes", "point_codes", "local_codes", "boxes"])
def test_a_damaged_file_is_a_value_error(tmp_path: Path, name: str) -> None:
    write_segment(tmp_path / "1", some_entries())
    file = tmp_path / "1" / f"{name}.npy"
    content = file.read_bytes()
    damaged = [content[:length] for length in (0, 1, 8, 30, 127, 128, len(content) - 1)]
    damaged += [b"junk" * 50, b"PK\x03\x04" + content, content[:10] + b"{" * 20 + content[30:]]
    for bad in damaged:
        file.write_bytes(bad)
        with pytest.raises(ValueError):  # noqa: PT011 - numpy words it in many ways
            Segment.load(tmp_path / "1")
    file.write_bytes(content)
    assert len(Segment.load(tmp_path / "1")) == len(some_entries())


def with_aggregated(**other: Any) -> Entry:
    entry = random_entry(np.random.default_rng(3), count=9)
    return replace(entry, aggregated=replace(entry.aggregated, **other))


GOOD = random_entry(np.random.default_rng(3), count=9)


@pytest.mark.parametrize(
    "wrong",
    [
        with_aggregated(words=GOOD.aggregated.words[::-1].copy()),
        with_aggregated(words=GOOD.aggregated.words - 31),
        with_aggregated(words=np.full_like(GOOD.aggregated.words, 7)),
        with_aggregated(words=GOOD.aggregated.words[1:]),
        with_aggregated(vectors=GOOD.aggregated.vectors[1:]),
        with_aggregated(vectors=GOOD.aggregated.vectors[:, :1].copy()),
        with_aggregated(vectors=GOOD.aggregated.vectors.view(np.int64)),
        replace(GOOD, local=GOOD.local.take(np.arange(8))),
        replace(GOOD, box_scores=GOOD.box_scores[1:]),
        replace(GOOD, boxes=GOOD.boxes[:0], box_scores=GOOD.box_scores[:0]),
        replace(GOOD, keypoints=replace(GOOD.keypoints, words=GOOD.keypoints.words[::-1].copy())),
        replace(GOOD, keypoints=replace(GOOD.keypoints, codes=GOOD.keypoints.codes[1:])),
    ],
)
def test_an_entry_whose_arrays_do_not_fit_is_refused_and_leaves_nothing(tmp_path: Path, wrong: Entry) -> None:
    write_segment(tmp_path / "1", [GOOD, GOOD])
    with pytest.raises(ValueError, match="entr"):
        write_segment(tmp_path / "2", [GOOD, wrong, GOOD])
    assert names(tmp_path) == ["1"]


def test_a_segment_of_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a segment holds 1 to"):
        write_segment(tmp_path / "1", [])


@pytest.mark.parametrize("name", ["word_starts", "point_starts", "region_starts"])
@pytest.mark.parametrize("value", [-1, 10**12, 0, 2**62])
def test_starts_that_lead_beside_the_rows_are_damage(tmp_path: Path, name: str, value: int) -> None:
    write_segment(tmp_path / "1", some_entries())
    file = tmp_path / "1" / f"{name}.npy"
    starts = np.load(file)
    for place in (0, 3, len(starts) - 1):
        if starts[place] != value:
            damaged = starts.copy()
            damaged[place] = value
            np.save(file, damaged)
            with pytest.raises(ValueError, match=f"{name} must ascend"):
                Segment.load(tmp_path / "1")


@pytest.mark.parametrize("name", [*SEARCH_ARRAYS, *VERIFY_ARRAYS])
def test_an_array_that_is_shorter_or_of_another_type_is_damage(tmp_path: Path, name: str) -> None:
    write_segment(tmp_path / "1", some_entries())
    file = tmp_path / "1" / f"{name}.npy"
    array = np.load(file)
    for wrong in (array[:-1], array.astype(np.float64), array[..., None]):
        np.save(file, wrong)
        with pytest.raises(ValueError, match="must"):
            Segment.load(tmp_path / "1")


def test_a_slot_that_no_picture_has_harms_nothing(tmp_path: Path) -> None:
    entries = some_entries()
    write_segment(tmp_path / "1", entries)
    file = tmp_path / "1" / "posting_slots.npy"
    slots = np.load(file)
    slots[::2] = 65535
    np.save(file, slots)
    found = Segment.load(tmp_path / "1")
    assert len(found.aggregated_of(range(len(entries)), 128)) == len(entries)
    merged = merge_segments(tmp_path / "2", [(found, np.arange(len(entries)))])
    assert merged.postings == np.count_nonzero(slots < len(entries))
