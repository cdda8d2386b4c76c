"""Codebooks: training, assignment, residuals, and files."""

from __future__ import annotations

import json
import os
import stat
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from d2r.asmk.codebook import Codebook, CodebookError, Origin
from d2r.asmk.learning import MAX_SAMPLES_PER_WORD, fitting_words, train_codebook


def descriptors(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))


# ---- Training ----


@pytest.mark.parametrize("original", [{}, {"bits": 16, "medians": True}])
def test_the_same_input_and_seed_give_the_same_codebook(original: dict[str, int]) -> None:
    data = descriptors(3000)
    first, second = (train_codebook(data, 20, seed=3, **original) for _ in range(2))
    assert same(first.centroids, second.centroids)
    assert same(first.projection, second.projection)
    assert same(first.medians, second.medians)


def test_another_seed_gives_another_codebook() -> None:
    data = descriptors(500)
    assert not same(train_codebook(data, 20, seed=0).centroids, train_codebook(data, 20, seed=1).centroids)


def test_training_finds_the_centres_of_clear_clusters() -> None:
    centres = np.eye(6, 16, dtype=np.float32) * 4
    rng = np.random.default_rng(0)
    data = (np.repeat(centres, 40, axis=0) + rng.normal(0, 0.01, (240, 16))).astype(np.float32)
    found = train_codebook(data, 6, iterations=25, seed=0)
    assert found.num_words == 6
    assert found.dim == 16
    assert found.centroids.dtype == np.float32
    nearest = np.linalg.norm(found.centroids[:, None] - centres[None], axis=2)
    # k-means may merge two of the clusters, but every word lies on a cluster or between two of them.
    assert np.count_nonzero(nearest.min(axis=0) < 0.02) >= 4


def test_training_leaves_the_descriptors_as_they_are() -> None:
    data = descriptors(10 * MAX_SAMPLES_PER_WORD)
    before = data.copy()
    train_codebook(data, 4)
    assert same(data, before)


def test_as_many_words_as_descriptors_is_possible() -> None:
    data = descriptors(7)
    assert train_codebook(data, 7).centroids.shape == (7, 16)


@pytest.mark.parametrize("count", [0, 1, 1023])
def test_fewer_descriptors_than_words_is_a_clear_error(count: int) -> None:
    with pytest.raises(CodebookError, match=rf"^{count:,} descriptors are too few to learn 1,024 words"):
        train_codebook(descriptors(count), 1024)


@pytest.mark.parametrize("num_words", [0, -1])
def test_no_words_is_a_clear_error(num_words: int) -> None:
    with pytest.raises(CodebookError, match="at least one word"):
        train_codebook(descriptors(5), num_words)


def test_projection_is_orthonormal_and_medians_are_those_of_the_projected_descriptors() -> None:
    data = descriptors(400)
    book = train_codebook(data, 5, bits=16, medians=True)
    assert book.projection is not None
    assert book.medians is not None
    np.testing.assert_allclose(book.projection @ book.projection.T, np.eye(16), atol=1e-6)
    assert not np.allclose(book.projection, np.eye(16), atol=0.1)
    words = ((data[:, None] - book.centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    for word in range(5):
        own = data[words == word].astype(np.float64) @ book.projection.T.astype(np.float64)
        np.testing.assert_allclose(book.medians[word], np.median(own, axis=0), atol=1e-6)


def test_fewer_bits_project_residuals_to_as_many_dimensions(tmp_path: Path) -> None:
    data = descriptors(400)
    book = train_codebook(data, 5, bits=6)
    assert (book.dim, book.bits) == (16, 6)
    np.testing.assert_allclose(book.projection @ book.projection.T, np.eye(6), atol=1e-6)
    words = book.assign(data)[:, 0]
    assert words.tolist() == train_codebook(data, 5).assign(data)[:, 0].tolist()  # the same words as with all bits
    expected = (data - book.centroids[words]).astype(float) @ book.projection.T.astype(float)
    np.testing.assert_allclose(book.residuals(data, words), expected, atol=1e-6)
    book.save(tmp_path / "words.safetensors")
    assert Codebook.load(tmp_path / "words.safetensors").bits == 6


@pytest.mark.parametrize("bits", [0, 17])
def test_bits_that_the_features_do_not_have_are_refused(bits: int) -> None:
    with pytest.raises(CodebookError, match=f"from 1 to 16 bits, not {bits}"):
        train_codebook(descriptors(50), 5, bits=bits)


# ---- Assignment and residuals ----


def test_assignment_is_to_the_nearest_words_closest_first() -> None:
    book = Codebook(descriptors(12))
    data = descriptors(50, seed=1)
    exact = ((data[:, None].astype(float) - book.centroids[None]) ** 2).sum(axis=2)
    for count in (1, 4, 12):
        found = book.assign(data, count)
        assert found.dtype == np.int32
        assert found.tolist() == np.argsort(exact, axis=1, kind="stable")[:, :count].tolist()


@pytest.mark.parametrize("nearest", [1, 3])
def test_no_descriptors_have_no_words(nearest: int) -> None:
    book = Codebook(descriptors(5))
    assert book.assign(np.zeros((0, 16), np.float32), nearest).shape == (0, nearest)


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e25])
def test_descriptors_that_are_not_finite_are_refused(count: int, value: float) -> None:
    data = descriptors(count, seed=1)
    data[1, 5] = value
    with pytest.raises(CodebookError, match="finite"):
        Codebook(descriptors(12)).assign(data)


@pytest.mark.parametrize("shape", [(3, 15), (3, 17), (0, 8), (16,), (2, 3, 16)])
def test_descriptors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodebookError, match="do not fit a codebook of 16 dimensions"):
        Codebook(descriptors(4)).assign(np.zeros(shape, np.float32))


@pytest.mark.parametrize("nearest", [0, 5, -1])
def test_more_words_than_there_are_cannot_be_assigned(nearest: int) -> None:
    with pytest.raises(CodebookError, match=f"cannot assign {nearest} words from a codebook of 4"):
        Codebook(descriptors(4)).assign(descriptors(3), nearest)


def test_check_dim_names_both_dimensions() -> None:
    book = Codebook(descriptors(4))
    book.check_dim(16)
    with pytest.raises(CodebookError, match="16 dimensions, but the features have 128"):
        book.check_dim(128)


def test_residuals_are_to_the_word_by_default() -> None:
    book = Codebook(descriptors(4))
    data, words = descriptors(9, seed=1), np.arange(9, dtype=np.int32) % 4
    assert same(book.residuals(data, words), data - book.centroids[words])


def test_residuals_are_projected_and_to_the_median_where_there_is_one() -> None:
    projection = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0].astype(np.float32)
    centroids, medians = descriptors(4), descriptors(4, seed=5)
    data, words = descriptors(9, seed=1), np.arange(9, dtype=np.int32) % 4
    turned = data.astype(np.float64) @ projection.T
    found = Codebook(centroids, projection).residuals(data, words)
    np.testing.assert_allclose(found, turned - (centroids @ projection.T)[words], atol=1e-6)
    found = Codebook(centroids, projection, medians).residuals(data, words)
    np.testing.assert_allclose(found, turned - medians[words], atol=1e-6)
    found = Codebook(centroids, None, medians).residuals(data, words)
    np.testing.assert_allclose(found, data - medians[words], atol=1e-6)


@pytest.mark.parametrize("dim", [2, 16, 128])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_descriptor_that_is_its_word_has_no_residual_at_all_also_where_it_is_projected(dim: int, count: int) -> None:
    projection = np.linalg.qr(np.random.default_rng(dim).standard_normal((dim, dim)))[0].astype(np.float32)
    centroids = descriptors(50, dim)
    words = np.random.default_rng(count).integers(0, 50, count).astype(np.int32)
    for book in (Codebook(centroids), Codebook(centroids, projection)):
        assert not book.residuals(centroids[words], words).any()


# ---- The file ----


@pytest.mark.parametrize("kept", ["centroids", "projection", "medians", "all"])
def test_a_saved_codebook_comes_back(tmp_path: Path, kept: str) -> None:
    projection = descriptors(16, seed=1) if kept in ("projection", "all") else None
    medians = descriptors(5, seed=2) if kept in ("medians", "all") else None
    book = Codebook(descriptors(5), projection, medians)
    book.save(tmp_path / "words.safetensors")
    found = Codebook.load(tmp_path / "words.safetensors")
    assert same(found.centroids, book.centroids)
    assert same(found.projection, book.projection)
    assert same(found.medians, book.medians)
    assert same(found.assign(descriptors(9, seed=3)), book.assign(descriptors(9, seed=3)))


def test_arrays_that_lie_in_another_order_in_memory_are_saved_right(tmp_path: Path) -> None:
    centroids, projection, medians = descriptors(5), descriptors(16, seed=1), descriptors(10, seed=2)[::2]
    Codebook(np.asfortranarray(centroids), projection.T, medians).save(tmp_path / "words.safetensors")
    found = Codebook.load(tmp_path / "words.safetensors")
    assert same(found.centroids, centroids)
    assert same(found.projection, projection.T)
    assert same(found.medians, medians)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_plain_array_of_centroids_is_a_codebook(tmp_path: Path, dtype: type) -> None:
    centroids = np.asfortranarray(descriptors(5).astype(dtype))
    np.save(tmp_path / "words.npy", centroids)
    found = Codebook.load(tmp_path / "words.npy")
    assert found.centroids.dtype == np.float32
    assert same(found.centroids, centroids.astype(np.float32))
    assert found.projection is None
    assert found.medians is None


def test_saving_replaces_an_older_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    for seed in (0, 1):
        Codebook(descriptors(5, seed=seed)).save(tmp_path / "words.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["words.safetensors"]
    assert same(Codebook.load(tmp_path / "words.safetensors").centroids, descriptors(5, seed=1))


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_of_a_saved_codebook_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Codebook(descriptors(5)).save(tmp_path / "words.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "words.safetensors").stat().st_mode) == 0o666 & ~umask


def refused(path: Path, reason: str) -> None:
    with pytest.raises(CodebookError, match=reason) as caught:
        Codebook.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["words.safetensors", "words.npy"])
@pytest.mark.parametrize("content", [b"", b"\x93", b"junk" * 100, b"PK\x03\x04" + b"\0" * 60, b"\xff\xd8\xff" * 50])
def test_an_empty_or_foreign_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "cannot be read as a codebook")


@pytest.mark.parametrize("name", ["words.safetensors", "words.npy"])
def test_a_file_cut_short_anywhere_is_named(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    if name.endswith("npy"):
        np.save(whole, descriptors(3))
    else:
        Codebook(descriptors(3)).save(whole)
    content = whole.read_bytes()
    for length in [*range(0, 140, 7), len(content) - 1]:
        whole.write_bytes(content[:length])
        refused(whole, "cannot be read as a codebook")


@pytest.mark.parametrize("name", ["words.safetensors", "words.npy"])
def test_a_missing_file_or_a_folder_is_named(tmp_path: Path, name: str) -> None:
    refused(tmp_path / name, "cannot be read as a codebook")
    (tmp_path / name).mkdir()
    refused(tmp_path / name, "cannot be read as a codebook")


def test_a_broken_header_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", descriptors(3))
    content = (tmp_path / "words.npy").read_bytes()
    for broken in (b"{" * 20, b"(" * 20, b"\xff" * 20, b"'''" + b" " * 17):
        (tmp_path / "words.npy").write_bytes(content[:10] + broken + content[30:])
        refused(tmp_path / "words.npy", "cannot be read as a codebook")


def test_an_archive_of_arrays_is_not_a_codebook(tmp_path: Path) -> None:
    with (tmp_path / "words.npy").open("wb") as file:
        np.savez(file, centroids=descriptors(3))
    refused(tmp_path / "words.npy", "cannot be read as a codebook")


def test_an_array_of_objects_is_refused_without_unpickling_it(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.array([[{}]], object), allow_pickle=True)
    refused(tmp_path / "words.npy", "cannot be read as a codebook")


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_a_number_type_that_numpy_lacks_is_named(tmp_path: Path, dtype: str) -> None:
    size = 8 if dtype == "BF16" else 4
    header = json.dumps({"centroids": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, size]}}).encode()
    (tmp_path / "words.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * size)
    refused(tmp_path / "words.safetensors", "cannot be read as a codebook")


@pytest.mark.parametrize("names", [["weights"], ["centroids", "weights"], ["projection"], []])
def test_tensors_of_something_else_are_refused(tmp_path: Path, names: list[str]) -> None:
    save_file({name: descriptors(16) for name in names}, tmp_path / "words.safetensors")
    refused(tmp_path / "words.safetensors", "not a codebook")


@pytest.mark.parametrize("shape", [(), (16,), (0, 16), (5, 0), (2, 5, 16)])
def test_centroids_of_a_wrong_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "words.npy", np.zeros(shape, np.float32))
    refused(tmp_path / "words.npy", r"centroids must be a float array \(words, dimensions\)")


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64, "U3"])
def test_centroids_that_are_not_real_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "words.npy", np.zeros((5, 16), dtype))
    refused(tmp_path / "words.npy", "centroids must be a float array")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("projection", (16, 15)),
        ("projection", (17, 16)),
        ("projection", (0, 16)),
        ("medians", (4, 16)),
        ("medians", (16,)),
    ],
)
def test_a_projection_or_medians_that_do_not_fit_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    tensors = {"centroids": descriptors(5), name: np.zeros(shape, np.float32)}
    save_file(tensors, tmp_path / "words.safetensors")
    refused(tmp_path / "words.safetensors", f"{name} must have")


@pytest.mark.parametrize("name", ["centroids", "projection", "medians"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    tensors = {"centroids": descriptors(5), "projection": descriptors(16), "medians": descriptors(5)}
    tensors[name][3, 2] = value
    save_file(tensors, tmp_path / "words.safetensors")
    refused(tmp_path / "words.safetensors", "not finite")


def test_a_value_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.full((2, 2), 1e300))
    refused(tmp_path / "words.npy", "not finite")


# ---- What the words were learned from ----

ORIGIN = Origin("hardnet:sha256=12ab", "detector:sha256=34cd", 1024, 500, "0.1.0")


@pytest.mark.parametrize("origin", [None, ORIGIN, Origin("rootsift", "whole", 640, None, None)])
def test_a_saved_codebook_keeps_what_it_was_learned_from(tmp_path: Path, origin: Origin | None) -> None:
    Codebook(descriptors(5), origin=origin).save(tmp_path / "words.safetensors")
    assert Codebook.load(tmp_path / "words.safetensors").origin == origin


@pytest.mark.parametrize("medians", [False, True])
def test_what_words_were_learned_from_stays_with_them(medians: bool) -> None:
    assert train_codebook(descriptors(50), 4, bits=8, medians=medians, origin=ORIGIN).origin == ORIGIN
    assert train_codebook(descriptors(50), 4, medians=medians).origin is None


def test_equal_words_are_the_same_whatever_they_were_learned_from() -> None:
    assert Codebook(descriptors(5), origin=ORIGIN).same_as(Codebook(descriptors(5)))
    assert not Codebook(descriptors(5), origin=ORIGIN).same_as(Codebook(descriptors(5, seed=1), origin=ORIGIN))


def test_a_plain_array_and_a_file_of_an_older_version_say_nothing_of_their_origin(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", descriptors(5))
    save_file({"centroids": descriptors(5)}, tmp_path / "words.safetensors")
    assert Codebook.load(tmp_path / "words.npy").origin is None
    assert Codebook.load(tmp_path / "words.safetensors").origin is None


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "7", '{"features": "rootsift"}', json.dumps(asdict(ORIGIN) | {"features": 5})]
)
def test_an_origin_that_cannot_be_read_is_named(tmp_path: Path, record: str) -> None:
    save_file({"centroids": descriptors(5)}, tmp_path / "words.safetensors", {"origin": record})
    refused(tmp_path / "words.safetensors", "origin")


def test_an_origin_of_a_newer_version_may_say_more(tmp_path: Path) -> None:
    record = json.dumps(asdict(ORIGIN) | {"licence": "free"})
    save_file({"centroids": descriptors(5)}, tmp_path / "words.safetensors", {"origin": record, "more": "of it"})
    assert Codebook.load(tmp_path / "words.safetensors").origin == ORIGIN


@pytest.mark.parametrize(
    ("num_words", "count", "fitting"),
    [(64, 1024, 64), (64, 1023, 32), (65536, 5000, 256), (50, 799, 25), (1, 0, 1), (7, 0, 1), (1, 10**9, 1)],
)
def test_words_are_halved_until_there_are_sixteen_descriptors_for_each(
    num_words: int, count: int, fitting: int
) -> None:
    assert fitting_words(num_words, count) == fitting


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_words_are_not_learned_from_what_is_no_number(value: float) -> None:
    data = descriptors(60)
    data[7, 3] = value
    with pytest.raises(CodebookError, match="finite"):
        train_codebook(data, 4)


@pytest.mark.parametrize(
    "data", [descriptors(5)[0], descriptors(8)[None], np.ones((9, 4), np.int32), np.ones((9, 4), "O")]
)
def test_words_are_not_learned_from_arrays_of_another_kind(data: np.ndarray) -> None:
    with pytest.raises(CodebookError, match="floating-point numbers of"):
        train_codebook(data, 2)
