"""The client class against a real service."""

import pytest

from d2r.options import SearchOptions
from d2r.serve.client import Client, ServiceError
from serving import TOKEN, serving


@pytest.fixture
def url(engine, tmp_path):
    with serving(engine.index.folder, tmp_path / "uploads") as http:
        yield str(http.base_url)


def test_it_searches_adds_and_removes(url, photo_folder):
    with Client(url, token=TOKEN) as client:
        assert client.info()["pictures"] == 10
        answer = client.search(photo_folder / "pagoda-0.jpg", SearchOptions(top=2), box=(40, 30, 300, 200))
        number = answer["results"][1]["picture"]["id"]
        assert "pagoda" in answer["results"][1]["picture"]["name"]
        assert client.search(number, SearchOptions(top=1))["results"]
        assert client.image(number).startswith(b"\xff\xd8")
        job = client.wait(client.add((photo_folder / "pagoda-0.jpg").read_bytes(), name="again.jpg"))
        assert job["state"] == "done"
        assert client.wait(client.remove(job["picture"]))["state"] == "done"
        with pytest.raises(ServiceError, match="There is no picture"):
            client.image(job["picture"])


def test_what_is_refused_is_said_in_the_words_of_the_service(url):
    with Client(url) as client, pytest.raises(ServiceError, match="cannot be used") as refused:
        client.search(b"no picture")
    assert refused.value.status == 422
