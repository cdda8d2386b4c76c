"""Indexing with a network of local features on the command line."""

import numpy as np
import pytest
from PIL import Image

from d2r.asmk.codebook import CodebookError
from d2r.engine import Engine
from d2r.images import read_image
from local_features import write_features

REFUSED = "toy.onnx: not the expected file: its SHA-256 is"


@pytest.fixture
def model(tmp_path):
    return write_features(tmp_path / "toy.onnx")


@pytest.mark.parametrize("dim", [40, 150])
def test_pictures_are_indexed_and_found_by_worker_processes(d2r, collection, tmp_path, dim):
    """Codes of 40 bits take less than one block of 64, codes of 150 take three."""
    model = write_features(tmp_path / "toy.onnx", dim=dim)
    right, down = 32, 16
    moved = read_image(collection / "pagoda-0.jpg")[down:, right:]
    Image.fromarray(moved).save(tmp_path / "query.png")
    index = tmp_path / "photos.index"
    arguments = [
        "index", collection, "--out", index, "--features", f"delf:model={model},top=400", "--words", "64",
        "--workers", "2", "--regions", "rmac:levels=1",
    ]  # fmt: skip
    status, out, err = d2r(*arguments)
    assert status == 0, err
    assert "10  (10 added)" in out
    assert d2r(*arguments)[1].count("10 unchanged") == 1
    with Engine.open(index) as engine:
        assert engine.index.codebook.bits == dim
        assert "sha256=" in engine.recipe.features
        (result, *_) = engine.search(tmp_path / "query.png").results
        assert result.path == str(collection / "pagoda-0.jpg")
        assert result.inliers > 50
        np.testing.assert_allclose(result.transform, [[1, 0, right], [0, 1, down]], atol=0.5)
        row = engine.index.picture(result.path)
        assert engine.index.keypoints(row).codes.shape == (400, -(-dim // 64))
        assert engine.check() == []


def test_fewer_bits_and_a_codebook_must_fit_the_dimensions(collection, model, tmp_path):
    with Engine.create(tmp_path / "a", features=f"delf:model={model}", num_words=32, bits=16) as engine:
        engine.sync(collection, workers=0)
        assert engine.index.codebook.bits == 16
        codebook = engine.index.codebook
        assert engine.search(collection / "pagoda-0.jpg").results[0].path == str(collection / "pagoda-0.jpg")
    with pytest.raises(CodebookError, match="from 1 to 24 bits, not 25"):
        Engine.create(tmp_path / "b", features=f"delf:model={model}", bits=25)
    with pytest.raises(CodebookError, match=r"learned from delf:model=.*, but the pictures are described by hardnet:"):
        Engine.create(tmp_path / "b", codebook=codebook)
    assert not (tmp_path / "b").exists()


def test_an_index_refuses_another_network_under_the_name_of_its_own(d2r, model, collection, tmp_path):
    index, spec = tmp_path / "photos.index", f"delf:model={model}"
    build = ["index", collection, "--out", index, "--workers", "0", "--regions", "whole"]
    assert d2r(*build, "--features", spec, "--words", "64")[0] == 0
    kept = model.read_bytes()
    write_features(model, seed=1)
    status, _, err = d2r(*build, "--features", spec)
    assert status == 2
    assert "--features: this index was created with" in err
    status, _, err = d2r("search", index, collection / "pagoda-0.jpg")
    assert (status, REFUSED in err) == (1, True)
    status, out, err = d2r("serve", index, "--port", "0")
    assert (status, out, REFUSED in err) == (1, "", True)
    Image.open(collection / "pagoda-1.jpg").rotate(90).save(collection / "another.jpg")
    status, _, err = d2r(*build)
    assert (status, REFUSED in err) == (1, True)
    model.write_bytes(kept)
    status, out, _ = d2r(*build, "--features", spec)
    assert status == 0
    assert "1 added" in out


def test_features_that_cannot_be_used_make_no_index(d2r, collection, tmp_path):
    for spec, problem in (
        ("delf:model=none.onnx", "none.onnx: cannot be read: No such file"),
        ("delf:model=how-r18", "how-r18: there is no such model"),
    ):
        status, _, err = d2r("index", collection, "--out", tmp_path / "out", "--features", spec)
        assert status == 1
        assert problem in err
        assert not (tmp_path / "out").exists()


def test_features_are_evaluated_with_descriptions_of_their_own(d2r, model, photo_folder, tmp_path):
    (tmp_path / "set" / "pagoda").mkdir(parents=True)
    for number in range(2):
        name = f"pagoda-{number}.jpg"
        (tmp_path / "set" / "pagoda" / name).write_bytes((photo_folder / name).read_bytes())
    evaluate = ["evaluate", tmp_path / "set", "--words", "16", "--workers", "0", "--cache", tmp_path / "cache"]
    for seed in (0, 1):
        write_features(model, seed=seed)
        status, _, err = d2r(*evaluate, "--regions", "whole", "--features", f"delf:model={model}")
        assert status == 0, err
    assert len([path for path in (tmp_path / "cache").iterdir() if path.name.startswith("whole-delf")]) == 2
