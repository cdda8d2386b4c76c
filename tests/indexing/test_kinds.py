"""An index of several kinds of features: one row, one commit and one answer for all of them."""

import shutil
from dataclasses import replace

import pytest
from PIL import Image

from d2r.engine import Engine
from d2r.features import Combined, Delf, FeatureError, RootSIFT, pinned_features
from d2r.index import StoreError
from d2r.indexing.codebook import codebook_from
from d2r.mining.groups import find_links
from d2r.options import SearchOptions
from d2r.support.registry import SpecError

SPEC = "rootsift:top=300+delf:top=200"


@pytest.fixture(scope="module")
def folder(photo_folder, tmp_path_factory):
    """Three views of the pagoda and four other pictures, indexed with two kinds of features."""
    folder = tmp_path_factory.mktemp("kinds") / "photos"
    folder.mkdir()
    for path in (*photo_folder.glob("*.jpg"), *sorted((photo_folder / "deep").glob("*.PNG"))[:4]):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def filled(folder):
    index = folder.parent / "x.index"
    with Engine.create(index, regions="rmac:levels=1", features=SPEC, num_words=64) as engine:
        engine.sync(folder, workers=2)
    return index


@pytest.fixture
def engine(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "x.index")
    with Engine.open(tmp_path / "x.index") as engine:
        yield engine


def names(answer):
    return [result.path.rpartition("/")[2] for result in answer]


def test_both_kinds_are_in_one_descriptor_whose_words_do_not_meet(engine):
    codebook = engine.index.codebook
    assert codebook.starts == (0, 64)
    assert codebook.num_words > 64
    for _, aggregated in engine.index.aggregated():
        assert (aggregated.words < 64).any()
        assert (aggregated.words >= 64).any()


def test_a_result_says_how_many_inliers_each_kind_has(engine, folder):
    answer = engine.search(folder / "pagoda-0.jpg")
    assert names(answer)[0] == "pagoda-0.jpg"
    assert set(names(answer)[:3]) == {"pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg"}
    for result in answer:
        assert set(result.kinds) == {"rootsift", "delf"}
        assert result.inliers == max(result.kinds.values()) == len(result.positions)
    assert answer.results[0].kinds["rootsift"] > 50
    assert answer.results[0].kinds["delf"] > 20
    assert answer.results[0].to_json()["kinds"] == answer.results[0].kinds


def test_a_picture_is_most_similar_to_itself_by_both_kinds_together(engine, folder):
    for path in sorted(folder.iterdir()):
        best = engine.search(path, SearchOptions(verify=0, top=1)).results[0]
        assert best.path == str(path)
        assert 0.2 < best.score <= 1.0


@pytest.mark.parametrize("kind", [0, 1])
def test_a_kind_that_finds_nothing_in_the_query_leaves_the_answer_to_the_other(engine, folder, kind):
    query = engine.search(folder / "pagoda-0.jpg", SearchOptions(verify=0, top=1)).query
    rows = query.features.kinds == kind
    alone = replace(query, features=query.features.take(rows), regions=query.regions[rows])
    answer = engine.search_described(alone)
    assert names(answer)[0] == "pagoda-0.jpg"
    assert answer.results[0].kinds[["delf", "rootsift"][kind]] == 0
    nothing = replace(query, features=query.features.take(rows & False), regions=query.regions[rows & False])
    assert engine.search_described(nothing).results == []


def test_a_picture_without_features_is_no_trouble(engine, folder, tmp_path):
    flat = tmp_path / "flat.png"
    Image.new("RGB", (300, 300), (90, 90, 90)).save(flat)
    assert engine.add([flat], workers=0).empty == [str(flat)]
    assert engine.search(flat).results == []
    assert "flat.png" not in names(engine.search(folder / "pagoda-0.jpg"))


def test_removal_merging_and_checking_keep_the_kinds_together(engine, folder):
    engine.remove([folder / "pagoda-0.jpg"])
    engine.add([folder / "pagoda-0.jpg"], workers=0)
    engine.remove([folder / "pagoda-2.jpg"])
    engine.compact()
    assert engine.check() == []
    assert engine.index.size().dead == 0
    answer = engine.search(folder / "pagoda-0.jpg")
    assert names(answer)[:2] == ["pagoda-0.jpg", "pagoda-1.jpg"]
    assert "pagoda-2.jpg" not in names(answer)


def test_links_are_found_by_the_precise_kind_alone(engine):
    links = find_links(engine, top=6, progress=lambda *step: None)
    joined = {frozenset(row.path.rpartition("/")[2] for row in (link.first, link.second)) for link in links}
    assert {frozenset({"pagoda-0.jpg", "pagoda-1.jpg"}), frozenset({"pagoda-1.jpg", "pagoda-2.jpg"})} <= joined
    for link in links:
        assert max(link.keypoint_counts) <= 300 < len(engine.index.keypoints(link.first))
        own, its = (engine.index.keypoints(row) for row in (link.first, link.second))
        assert len(own.by_kind(own.starts)) == 2
        assert link.inliers <= min(link.keypoint_counts) < len(its)


def test_its_words_serve_another_index_of_the_same_kinds_alone(engine, tmp_path):
    words = codebook_from(engine.index.folder)
    assert words.starts == engine.index.codebook.starts
    with Engine.create(tmp_path / "same.index", features=SPEC, codebook=words) as same:
        assert same.index.codebook.same_as(words)
    for features in ("rootsift", "delf+rootsift", "rootsift+hardnet"):
        with pytest.raises(ValueError, match="do not fit them"):
            Engine.create(tmp_path / "other.index", features=features, codebook=words)


def test_kinds_can_be_given_as_objects(tmp_path):
    both = Combined((RootSIFT(top=300), Delf(top=200)))
    with Engine.create(tmp_path / "x.index", features=both) as engine:
        assert engine.recipe.features == pinned_features(SPEC)


def test_what_cannot_be_combined_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"features 'surf' is not known|surf"):
        Engine.create(tmp_path / "x.index", features="rootsift+surf")
    with pytest.raises((SpecError, FeatureError, StoreError)):
        Engine.create(tmp_path / "x.index", features="rootsift+")
