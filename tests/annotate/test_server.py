"""The requests that the server answers and refuses, over HTTP, as a browser sends them."""

import http.client
import io
import json

import numpy as np
import pytest
from PIL import Image

from d2r.annotate.server import MAX_PROPOSALS, SHOWN_SIDE, make_annotation_app
from d2r.annotate.session import open_session
from d2r.datasets.landmark_boxes import FractionBox, read_dataset
from d2r.regions import make_selector
from d2r.support.webserver import WebServer
from served import serving
from synthetic import texture, write

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def photos(tmp_path):
    write(tmp_path / "photos" / "a.jpg", texture(1, 400, 200))
    write(tmp_path / "photos" / "b.jpg", texture(2, 4000, 1000))
    (tmp_path / "photos" / "c.jpg").write_text("no picture")
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def ask(photos, out):
    selector = make_selector("rmac:levels=3")
    with (
        open_session(photos, out) as session,
        serving(make_annotation_app(session, propose=lambda picture: selector.select(picture).boxes)) as server,
    ):
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])

        def request(method, path, body=None, headers=JSON):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            is_json = response.getheader("Content-Type") == "application/json"
            return response.status, json.loads(data) if is_json else data, response.headers

        yield request


def test_it_listens_on_this_machine_only(ask, photos, tmp_path):
    with open_session(photos, tmp_path / "other") as session:
        server = WebServer(make_annotation_app(session))
        assert server.url.startswith("http://127.0.0.1:")
        assert server._socket.getsockname()[0] == "127.0.0.1"
        server._socket.close()


def test_the_page_and_its_parts_are_given_with_a_strict_policy(ask):
    for path, kind in (
        ("/", "text/html"),
        ("/base.css", "text/css"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ):
        status, data, headers = ask("GET", path)
        assert status == 200
        assert data
        assert headers["Content-Type"].startswith(kind)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert ask("GET", path)[0] == 404


def test_a_session_is_told(ask, out):
    status, told, _ = ask("GET", "/api/session")
    assert status == 200
    assert told["progress"] == {"pictures": 3, "boxes": 0, "none": 0, "unreadable": 0, "open": 3}
    assert told["next"] == 0
    assert told["out"] == str(out)
    assert told["can_undo"] is False


def test_pictures_are_given_small_and_told_large(ask):
    _, told, _ = ask("GET", "/api/pictures/1")
    assert (told["name"], told["width"], told["height"], told["decided"], told["box"]) == (
        "b.jpg",
        4000,
        1000,
        False,
        None,
    )
    status, data, headers = ask("GET", "/pictures/1.jpg")
    assert status == 200
    assert Image.open(io.BytesIO(data)).size == (SHOWN_SIDE, SHOWN_SIDE // 4)
    assert headers["Content-Type"] == "image/jpeg"


def test_a_box_is_kept_in_shares_and_told_in_pixels(ask, out):
    status, told, _ = ask("PUT", "/api/pictures/0/decision", {"box": [100, 50, 300, 150]})
    assert status == 200
    assert told["progress"]["boxes"] == 1
    assert told["next"] == 1
    assert told["can_undo"] is True
    assert read_dataset(out).training == {"a.jpg": FractionBox(0.25, 0.25, 0.75, 0.75)}
    assert ask("GET", "/api/pictures/0")[1]["box"] == [100, 50, 300, 150]


def test_no_prominent_landmark_is_kept_and_taken_back(ask, out):
    assert ask("PUT", "/api/pictures/0/decision", {"box": None})[1]["progress"]["none"] == 1
    assert list(read_dataset(out).pictures) == ["a.jpg"]
    assert ask("PUT", "/api/undo")[1] == {"number": 0}
    assert read_dataset(out).pictures == {}
    status, told, _ = ask("PUT", "/api/undo")
    assert (status, told["detail"]) == (409, "There is nothing to undo.")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([300, 50, 100, 150], "the corners are swapped"),
        ([10, 10, 10, 20], "it is empty"),
        ([500, 10, 600, 20], "it lies outside the picture"),
        (["nan", 10, 60, 20], "must be finite"),
        ([1, 2, 3], None),
        (["a", 2, 3, 4], None),
        ("all", None),
    ],
)
def test_a_box_that_is_none_is_refused(ask, out, box, reason):
    status, told, _ = ask("PUT", "/api/pictures/0/decision", {"box": box})
    assert status == 422
    if reason is not None:
        assert reason in told["detail"]
    assert read_dataset(out).pictures == {}


def test_a_decision_without_a_box_field_is_refused_not_taken_for_none(ask, out):
    assert ask("PUT", "/api/pictures/0/decision", {})[0] == 422
    assert read_dataset(out).pictures == {}


def test_a_file_that_is_no_picture_waits_for_no_decision(ask, out):
    status, told, _ = ask("GET", "/api/pictures/2")
    assert status == 200
    assert told["problem"].startswith("not a picture")
    assert told["progress"]["unreadable"] == 1
    assert ask("GET", "/pictures/2.jpg")[0] == 404
    assert ask("GET", "/api/pictures/2/proposals")[0] == 404
    status, told, _ = ask("PUT", "/api/pictures/2/decision", {"box": None})
    assert status == 409
    assert "The picture cannot be annotated: not a picture" in told["detail"]
    assert read_dataset(out).pictures == {}


@pytest.mark.parametrize("number", ["3", "-1", "x", "..%2f..%2fetc%2fpasswd", "0.jpg%00", "99999999999999999999"])
def test_only_numbers_of_pictures_are_served(ask, number):
    for path in (f"/pictures/{number}.jpg", f"/api/pictures/{number}", f"/api/pictures/{number}/proposals"):
        assert ask("GET", path)[0] in (404, 422)
    assert ask("PUT", f"/api/pictures/{number}/decision", {"box": None})[0] in (404, 422)


def test_proposals_are_given_best_first_and_not_too_many(ask):
    status, told, _ = ask("GET", "/api/pictures/0/proposals")
    assert status == 200
    assert len(told["boxes"]) == MAX_PROPOSALS
    assert told["boxes"][0] == [0, 0, 200, 200]


def test_without_a_selector_nothing_is_proposed(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session, serving(make_annotation_app(session)) as server:
        connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=20)
        connection.request("GET", "/api/pictures/0/proposals")
        assert json.load(connection.getresponse()) == {"boxes": []}
        connection.close()


def test_another_host_name_for_this_machine_is_refused(ask):
    for method, path in (("GET", "/"), ("GET", "/pictures/0.jpg"), ("PUT", "/api/undo")):
        assert ask(method, path, headers={"Host": "evil.example", **JSON})[0] == 400
    assert ask("GET", "/", headers={"Host": "localhost:1234"})[0] == 200


def test_other_sites_get_no_leave_to_send_decisions(ask):
    asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    status, _, headers = ask("OPTIONS", "/api/pictures/0/decision", headers=asking)
    assert status == 405
    assert "Access-Control-Allow-Origin" not in headers
    # requests that a form of another site could send without a preflight
    assert ask("POST", "/api/pictures/0/decision", {"box": None}, {"Content-Type": "text/plain"})[0] == 405
    assert ask("POST", "/api/undo", {}, {"Content-Type": "text/plain"})[0] == 405


def test_what_could_not_be_written_is_told(ask, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("d2r.annotate.session.write_pictures", full)
    status, told, _ = ask("PUT", "/api/pictures/0/decision", {"box": None})
    assert status == 507
    assert "No space left on device" in told["detail"]
    assert ask("GET", "/api/pictures/0")[1]["decided"] is False


def test_a_picture_above_the_limit_of_pixels_is_not_decoded(photos, tmp_path):
    with (
        open_session(photos, tmp_path / "out") as session,
        serving(make_annotation_app(session, max_pixels=100_000)) as server,
    ):
        connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=20)
        connection.request("GET", "/api/pictures/1")
        assert "above the limit" in json.load(connection.getresponse())["problem"]
        connection.close()


def test_a_port_that_is_taken_is_an_error(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        first = WebServer(make_annotation_app(session))
        with pytest.raises(OSError, match="in use"):
            WebServer(make_annotation_app(session), int(first.url.rstrip("/").rsplit(":", 1)[1]))
        first._socket.close()


def test_boxes_of_a_selector_may_be_any_floats(photos, tmp_path):
    offered = np.array([[0.4, 1.6, 99.5, 50.2]], np.float32)
    with (
        open_session(photos, tmp_path / "out") as session,
        serving(make_annotation_app(session, propose=lambda _: offered)) as server,
    ):
        connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=20)
        connection.request("GET", "/api/pictures/0/proposals")
        assert json.load(connection.getresponse())["boxes"][0] == pytest.approx(offered[0].tolist())
        connection.close()
