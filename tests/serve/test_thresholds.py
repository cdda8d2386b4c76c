"""Regions and scores at other thresholds of the detector, compared with indexes built with those thresholds."""

import pytest

from d2r.engine import Engine
from d2r.indexing.codebook import codebook_from, learn_codebook
from d2r.options import SearchOptions
from d2r.serve.client import Client
from detectors import write_detector
from serving import serving

BOXES = ((0.1, 0.1, 0.8, 0.8), (0.2, 0.0, 0.6, 0.5), (0.5, 0.5, 1.0, 1.0))
SCORES = (0.9, 0.4, 0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("model") / "toy.onnx", BOXES, SCORES)


@pytest.fixture(scope="module")
def index_with(model, photo_folder, tmp_path_factory):
    """Returns a function that creates an index with a threshold.

    Of one kind of features: the weights of several are those of the index, and differ a little between indexes.
    """
    words = learn_codebook(photo_folder, 64, regions="whole", features="rootsift", workers=0)

    def make(threshold):
        folder = tmp_path_factory.mktemp("detected") / "photos.index"
        regions = f"detector:model={model},threshold={threshold}"
        with Engine.create(folder, regions=regions, features="rootsift", codebook=words) as engine:
            engine.sync(photo_folder, workers=0)
        return folder

    return make


@pytest.fixture(scope="module")
def client(index_with, tmp_path_factory):
    with serving(index_with(0.3), tmp_path_factory.mktemp("uploads")) as client:
        yield client


def first(client, pagoda):
    return client.post("/v1/search?top=3&verify=0&box=40,30,300,200", content=pagoda).json()["results"][1]


def test_the_regions_are_all_that_the_detector_finds_and_the_score_that_of_the_index_is_among_them(client, pagoda):
    found = first(client, pagoda)
    path = f"/v1/pictures/{found['picture']['id']}/thresholds"
    answer = client.post(f"{path}?box=40,30,300,200", content=pagoda).json()
    assert answer["query"]["box"] == [40, 30, 300, 200]
    assert answer["threshold"] == 0.3
    assert answer["region_scores"] == pytest.approx([1.0, *SCORES], abs=1e-3)
    assert answer["regions"][:3] == found["regions"]
    assert answer["scores"][2] == pytest.approx(found["score"], abs=1e-5)
    assert len(set(answer["scores"])) == 4


@pytest.mark.parametrize(("threshold", "regions"), [(0.95, 1), (0.5, 2), (0.1, 4)])
def test_each_score_is_what_an_index_with_that_threshold_finds(
    client, index_with, photo_folder, pagoda, threshold, regions
):
    other = first(client, pagoda)["picture"]
    answer = client.post(f"/v1/pictures/{other['id']}/thresholds", content=pagoda).json()
    assert sum(score >= threshold for score in answer["region_scores"]) == regions
    with Engine.open(index_with(threshold)) as engine:
        found = engine.search(photo_folder / "pagoda-0.jpg", SearchOptions(verify=0)).results
    (known,) = [one for one in found if one.path.endswith(other["name"].split("/")[-1])]
    assert answer["scores"][regions - 1] == pytest.approx(known.score, abs=1e-5)


def test_the_query_may_be_another_picture_of_the_collection(client, pagoda):
    numbers = {one["name"].split("/")[-1]: one["id"] for one in client.get("/v1/pictures").json()["pictures"]}
    path = f"/v1/pictures/{numbers['pagoda-1.jpg']}/thresholds"
    kept = client.get(f"{path}?query={numbers['pagoda-0.jpg']}").json()
    assert kept == client.post(path, content=pagoda).json()
    with Client(str(client.base_url)) as own:
        assert own.thresholds(numbers["pagoda-1.jpg"], numbers["pagoda-0.jpg"]) == kept
        assert own.thresholds(numbers["pagoda-1.jpg"], pagoda) == kept


def test_the_service_says_what_threshold_the_index_has(client):
    info = client.get("/v1/info").json()
    assert (info["detector"], info["threshold"]) == (True, 0.3)


def test_without_a_detector_there_is_no_threshold(built_index, photo_folder, tmp_path, pagoda):
    folder = tmp_path / "photos.index"
    with Engine.create(folder, regions="whole", codebook=codebook_from(built_index)) as engine:
        engine.sync(photo_folder, workers=0)
    with serving(folder, tmp_path / "uploads") as client:
        assert client.get("/v1/info").json()["threshold"] is None
        response = client.post("/v1/pictures/1/thresholds", content=pagoda)
        assert (response.status_code, response.json()["title"]) == (409, "Conflict")


def test_what_is_gone_is_said_to_be_gone(index_with, photo_folder, model, pagoda, tmp_path):
    folder = index_with(0.3)
    hidden = photo_folder / "hidden.jpg"
    with serving(folder, tmp_path) as client:
        numbers = {one["name"].split("/")[-1]: one["id"] for one in client.get("/v1/pictures").json()["pictures"]}
        path = f"/v1/pictures/{numbers['pagoda-1.jpg']}"
        try:
            (photo_folder / "pagoda-1.jpg").rename(hidden)
            for address in (f"{path}/thresholds", f"{path}/match"):
                response = client.post(address, content=pagoda)
                assert response.status_code == 404
                assert "its file is gone or broken" in response.json()["detail"]
        finally:
            hidden.rename(photo_folder / "pagoda-1.jpg")
        assert client.post(f"{path}/thresholds", content=pagoda).status_code == 200
        try:
            model.rename(model.with_name("moved"))
            response = client.post(f"{path}/thresholds", content=pagoda)
            assert response.status_code == 503
            assert str(model.parent) not in response.json()["detail"]
        finally:
            model.with_name("moved").rename(model)
