"""The API over HTTP: results, errors and their format, and access control."""

import io
import shutil
import socket
import threading
from contextlib import ExitStack, contextmanager

import pytest
from PIL import Image

from d2r import defaults
from d2r.engine import Engine
from d2r.options import SearchOptions
from d2r.serve.app import make_service_app
from d2r.serve.settings import ServeError, ServiceSettings, token_from
from programs import join, workers_held
from serving import AUTHORIZED, ended, serving, wait_until

PROBLEM = "application/problem+json"


def ids(client):
    return {one["name"].split("/")[-1]: one["id"] for one in client.get("/v1/pictures").json()["pictures"]}


def is_problem(response, status):
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == PROBLEM
    assert response.json()["status"] == status
    assert response.json()["title"]
    return response.json()["detail"]


def test_a_search_by_upload_finds_what_the_engine_finds(client, index, pagoda, photo_folder):
    answer = client.post("/v1/search?top=4&box=40,30,300,200", content=pagoda).json()
    with Engine.open(index) as engine:
        expected = engine.search(photo_folder / "pagoda-0.jpg", SearchOptions(top=4), box=(40, 30, 300, 200))
    assert [one["picture"]["name"].split("/")[-1] for one in answer["results"]] == [
        one.path.split("/")[-1] for one in expected.results
    ]
    for told, known in zip(answer["results"], expected.results, strict=True):
        assert told["score"] == pytest.approx(known.score, abs=1e-5)
        assert told["inliers"] == known.inliers == len(told["points"]) == len(told["query_points"])
        assert len(told["regions"]) == len(known.boxes)
    assert answer["query"]["box"] == [40, 30, 300, 200]
    assert set(answer["seconds"]) == {"describe", "search", "verify", "expand"}


def test_a_query_may_be_described_by_its_regions_too(client, index, photo_folder):
    path = photo_folder / "pagoda-0.jpg"
    told = client.post("/v1/search?top=4&query_regions=true", content=path.read_bytes()).json()
    plain = client.post("/v1/search?top=4", content=path.read_bytes()).json()
    with Engine.open(index) as engine:
        expected = engine.search(path, SearchOptions(top=4, query_regions=True))
    assert [one["score"] for one in told["results"]] == pytest.approx([one.score for one in expected.results], abs=1e-5)
    assert told["query"]["features"] == len(expected.query.features) > plain["query"]["features"]


def test_a_search_by_picture_leaves_that_picture_out(client):
    number = ids(client)["pagoda-1.jpg"]
    answer = client.get(f"/v1/pictures/{number}/search?top=3&verify=10").json()
    names = [one["picture"]["name"].split("/")[-1] for one in answer["results"]]
    assert set(names[:2]) == {"pagoda-0.jpg", "pagoda-2.jpg"}
    assert "pagoda-1.jpg" not in names


def test_nothing_is_verified_when_none_is_asked_for(client, pagoda):
    answer = client.post("/v1/search?verify=0&top=2", content=pagoda).json()
    assert [one["inliers"] for one in answer["results"]] == [None, None]


def test_a_search_may_be_expanded(client, pagoda):
    answer = client.post("/v1/search?expand=5&diffuse=true&top=3", content=pagoda).json()
    assert set(answer["seconds"]) == {"describe", "search", "verify", "expand"}
    assert {one["picture"]["name"].split("/")[-1][:6] for one in answer["results"]} == {"pagoda"}
    for options in ("verify=0&expand=5", "expand=0&diffuse=true"):  # no verified results, or none to expand with
        plain = client.post(f"/v1/search?top=3&{options.split('&')[0]}", content=pagoda).json()["results"]
        assert client.post(f"/v1/search?top=3&{options}", content=pagoda).json()["results"] == plain
    number = answer["results"][0]["picture"]["id"]
    others = client.get(f"/v1/pictures/{number}/search?expand=5&top=10").json()["results"]
    assert number not in {result["picture"]["id"] for result in others}
    assert client.post("/v1/search?expand=-1", content=pagoda).status_code == 422


def test_the_collection_is_listed_page_by_page(client):
    seen, after = [], 0
    while after is not None:
        page = client.get(f"/v1/pictures?limit=4&after={after}").json()
        seen += [one["id"] for one in page["pictures"]]
        after = page["next"]
    assert len(seen) == len(set(seen)) == client.get("/v1/info").json()["pictures"] == 10


@pytest.mark.parametrize("kind", ["image", "thumbnail"])
def test_a_picture_is_shown_as_jpeg_and_kept_by_the_browser(client, kind):
    number = next(iter(ids(client).values()))
    response = client.get(f"/v1/pictures/{number}/{kind}")
    assert response.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(response.content)).format == "JPEG"
    again = client.get(f"/v1/pictures/{number}/{kind}", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_match_is_shown_as_one_picture(client, pagoda):
    numbers = ids(client)
    sent = client.post(f"/v1/pictures/{numbers['pagoda-1.jpg']}/match?box=40,30,300,200", content=pagoda)
    kept = client.get(f"/v1/pictures/{numbers['pagoda-1.jpg']}/match?query={numbers['pagoda-0.jpg']}")
    for response in (sent, kept):
        assert response.headers["Content-Type"] == "image/jpeg"
        width, height = Image.open(io.BytesIO(response.content)).size
        assert width > 1.8 * height * 0.9


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/pictures/999", 404),
        ("GET", "/v1/pictures/999/image", 404),
        ("GET", "/v1/pictures/999/search", 404),
        ("GET", "/v1/pictures/99999999999999999999", 422),
        ("GET", "/v1/pictures/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/pictures/one", 422),
        ("GET", "/v1/pictures?limit=0", 422),
        ("PUT", "/v1/search", 405),
        ("POST", "/v1/search?top=0", 422),
        ("POST", "/v1/search?top=100000", 422),
        ("POST", "/v1/search?box=1,2,3", 422),
        ("POST", "/v1/search", 422),
    ],
)
def test_every_error_is_a_problem(client, method, path, status):
    is_problem(client.request(method, path), status)


def test_a_malformed_request_is_told_each_fault(client):
    response = client.get("/v1/pictures?limit=0&after=x")
    assert {fault["field"] for fault in response.json()["errors"]} == {"query.limit", "query.after"}


def test_the_method_that_is_not_allowed_is_told_which_are(client):
    assert client.put("/v1/search").headers["Allow"] == "POST"


@pytest.mark.parametrize("data", [b"no picture", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(500), b"<svg/>"])
def test_what_is_no_picture_is_refused_with_the_reason(client, data):
    assert "cannot be used" in is_problem(client.post("/v1/search", content=data), 422)


def test_a_box_outside_the_picture_is_refused(client, pagoda):
    assert "outside the picture" in is_problem(client.post("/v1/search?box=9000,9000,9100,9100", content=pagoda), 422)


def test_a_form_is_told_to_send_the_file_itself(client, pagoda):
    assert "curl" in is_problem(client.post("/v1/search", files={"file": pagoda}), 415)


def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/page.js", "/v1/info", "/v1/nothing", "/v1/pictures/999"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers


def test_another_name_or_another_site_is_refused(client, pagoda):
    is_problem(client.get("/v1/info", headers={"Host": "evil.example"}), 421)
    is_problem(client.post("/v1/search", content=pagoda, headers={"Origin": "https://evil.example"}), 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_elsewhere_cannot_make_the_service_work(client, site):
    number, other = list(ids(client).values())[:2]
    costly = ("search", f"match?query={other}", f"thresholds?query={other}", "image", "thumbnail")
    for path in costly:
        is_problem(client.get(f"/v1/pictures/{number}/{path}", headers={"Sec-Fetch-Site": site}), 403)
    for asked in ("same-origin", "none"):  # the page itself; a typed address
        answer = client.get(f"/v1/pictures/{number}/thumbnail", headers={"Sec-Fetch-Site": asked})
        assert answer.status_code == 200
    assert client.get("/", headers={"Sec-Fetch-Site": site}).status_code == 200  # a link to the page


@pytest.mark.parametrize("path", ["/", "/page.js", "/v1/info", "/v1/health", "/v1/pictures", "/v1/openapi.json"])
def test_head_is_answered_wherever_get_is(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_a_body_with_two_lengths_ends_the_connection(client):
    """A proxy could take the bytes after the body for the request of another client."""
    hidden = b"0\r\n\r\nGET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(hidden)}\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
        line.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + hidden)
        line.settimeout(60)
        answer = b""
        while part := line.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_the_figures_are_what_prometheus_reads(client, pagoda):
    client.post("/v1/search?top=1", content=pagoda)
    text = client.get("/v1/metrics").text
    assert 'd2r_requests_total{method="POST",route="/v1/search",status="200"}' in text
    assert 'd2r_stage_seconds_count{stage="verify"}' in text
    assert "d2r_pictures 10.0" in text


def test_the_document_describes_every_route_and_loads_nothing_from_elsewhere(client):
    document = client.get("/v1/openapi.json").json()
    assert {"/v1/search", "/v1/pictures/{id}/search", "/v1/jobs/{id}"} <= set(document["paths"])
    assert all(path.startswith("/v1/") for path in document["paths"])
    is_problem(client.get("/docs"), 404)


def test_a_picture_is_added_found_and_removed(client, photo_folder):
    buffer = io.BytesIO()
    Image.open(photo_folder / "pagoda-2.jpg").rotate(4).save(buffer, "PNG")
    response = client.post("/v1/pictures?name=turned.png", content=buffer.getvalue(), headers=AUTHORIZED)
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{response.json()['id']}"
    job = ended(client, response.json())
    assert (job["state"], job["problem"]) == ("done", None)
    detail = client.get(f"/v1/pictures/{job['picture']}").json()
    assert (detail["name"], detail["uploaded"]) == ("turned.png", True)
    found = client.post("/v1/search?top=3", content=buffer.getvalue()).json()["results"]
    assert found[0]["picture"]["id"] == job["picture"]
    again = ended(client, client.post("/v1/pictures", content=buffer.getvalue(), headers=AUTHORIZED).json())
    assert again["picture"] == job["picture"]
    removal = client.delete(f"/v1/pictures/{job['picture']}", headers=AUTHORIZED)
    assert ended(client, removal.json())["state"] == "done"
    is_problem(client.get(f"/v1/pictures/{job['picture']}"), 404)


def test_a_log_names_who_added_and_removed_and_no_line_of_it_can_be_forged(client, photo_folder, caplog):
    caplog.set_level("INFO", logger="d2r.serve.access")
    buffer = io.BytesIO()
    Image.open(photo_folder / "pagoda-2.jpg").rotate(-4).save(buffer, "PNG")
    forged = {"name": 'a" job=x\nINFO d2r.serve.access: remove \u2028\u202e.jpg'}
    headers = {**AUTHORIZED, "X-Forwarded-For": '192.0.2.7" token=none'}
    added = client.post("/v1/pictures", params=forged, content=buffer.getvalue(), headers=headers).json()
    number = ended(client, added)["picture"]
    removed = client.delete(f"/v1/pictures/{number}", headers=AUTHORIZED).json()
    ended(client, removed)

    def lines():
        return {record.getMessage() for record in caplog.records if record.name == "d2r.serve.access"}

    wait_until(lambda: len(lines()) == 4)
    name = r'"a\" job=x\\nINFO d2r.serve.access: remove \\u2028\\u202e.jpg"'
    forwarded = r'forwarded="192.0.2.7\" token=none"'
    assert lines() == {
        f"add job={added['id']} client=127.0.0.1 token=write {forwarded} name={name}",
        f"done job={added['id']} kind=add picture={number}",
        f"done job={removed['id']} kind=remove picture={number}",
        f"remove job={removed['id']} client=127.0.0.1 token=write picture={number} name={name}",
    }
    assert all(line.isprintable() for line in lines())


def test_a_picture_whose_file_is_gone_is_not_there_whatever_is_asked_of_it(built_index, tmp_path, photo_folder):
    buffer = io.BytesIO()
    Image.open(photo_folder / "pagoda-2.jpg").rotate(8).save(buffer, "PNG")
    index = shutil.copytree(built_index, tmp_path / "photos.index")
    with serving(index, tmp_path / "uploads") as client:
        number = ended(client, client.post("/v1/pictures", content=buffer.getvalue(), headers=AUTHORIZED).json())[
            "picture"
        ]
        other = ids(client)["pagoda-1.jpg"]
        next((tmp_path / "uploads").glob("*.png")).unlink()
        for path in (
            f"{number}/image", f"{number}/search", f"{number}/match?query={other}", f"{other}/match?query={number}",
            f"{other}/thresholds?query={number}", f"{number}/thresholds?query={other}",
        ):  # fmt: skip
            assert f"Picture {number} is in the index" in is_problem(client.get(f"/v1/pictures/{path}"), 404)


def test_nobody_adds_or_removes_without_the_token(client, pagoda):
    number = next(iter(ids(client).values()))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic " + AUTHORIZED["Authorization"]}):
        for response in (
            client.post("/v1/pictures", content=pagoda, headers=headers),
            client.delete(f"/v1/pictures/{number}", headers=headers),
            client.get("/v1/jobs", headers=headers),
        ):
            is_problem(response, 401)
            assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_service_that_only_reads_takes_no_token(built_index, tmp_path, pagoda):
    with serving(built_index, tmp_path / "uploads", read_only=True, read_token="another-token-to-read") as client:
        is_problem(client.post("/v1/pictures", content=pagoda, headers=AUTHORIZED), 403)
        for path in ("/v1/info", "/v1/metrics", "/v1/pictures", "/v1/pictures/1/image"):
            is_problem(client.get(path), 401)
            assert client.get(path, headers={"Authorization": "Bearer another-token-to-read"}).status_code == 200
            assert client.get(path, headers=AUTHORIZED).status_code == 200  # the write token allows reading
        assert client.get("/v1/health").status_code == 200
        assert client.get("/").status_code == 200
    assert not (tmp_path / "uploads").exists()


def test_limits_hold_and_a_full_queue_says_when_to_come_again(built_index, tmp_path, pagoda):
    with serving(
        built_index, tmp_path, limits={"upload_bytes": 100_000, "pixels": 200_000, "queue": 0, "seconds": 120.0}
    ) as client:
        is_problem(client.post("/v1/search", content=bytes(100_001)), 413)
        is_problem(client.post("/v1/search", content=iter([bytes(60_000)] * 2)), 413)
        large = io.BytesIO()
        Image.new("RGB", (1000, 201)).save(large, "PNG")
        assert "above the limit" in is_problem(client.post("/v1/search", content=large.getvalue()), 422)
        answers = []

        def search():
            answers.append(client.post("/v1/search", content=pagoda))

        threads = [threading.Thread(target=search, daemon=True) for _ in range(8)]
        with workers_held():
            for thread in threads:
                thread.start()
            wait_until(lambda: len(answers) == 7)
        join(*threads)
        assert sorted(one.status_code for one in answers) == [200] + [429] * 7
        assert all(int(one.headers["Retry-After"]) >= 1 for one in answers if one.status_code == 429)


def test_a_picture_that_is_not_sent_in_time_is_given_up(built_index, tmp_path):
    with (
        serving(built_index, tmp_path, limits={"seconds": 1.5}) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as line,
    ):
        line.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        assert line.recv(100).startswith(b"HTTP/1.1 408")


@contextmanager
def sending(client, count, length):
    """Connections on which the service awaits a picture of this many bytes."""
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    with ExitStack() as stack:
        lines = []
        for _ in range(count):
            line = stack.enter_context(socket.create_connection((client.base_url.host, client.base_url.port)))
            line.settimeout(60)
            line.sendall(head.encode())
            assert line.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
            lines.append(line)
        yield lines


def test_pictures_that_come_slowly_keep_nobody_out(built_index, tmp_path, pagoda):
    with (
        serving(built_index, tmp_path, limits={"requests": 4, "seconds": 60}) as client,
        sending(client, 40, 1000) as lines,
    ):
        for line in lines:
            line.sendall(b"x")
        assert client.get("/v1/health").status_code == 200
        assert client.post("/v1/search?top=1", content=pagoda).status_code == 200


def test_the_memory_for_pictures_that_are_not_whole_yet_is_limited_and_given_back(built_index, tmp_path):
    with serving(built_index, tmp_path, limits={"upload_bytes": 1000, "seconds": 60}) as client:

        def status():
            return client.post("/v1/search", content=b"no picture" * 20).status_code

        with sending(client, 8, 1000) as lines:
            for line in lines:
                line.sendall(bytes(999))
            wait_until(lambda: status() == 429)
        wait_until(lambda: status() == 422)


def test_it_gets_ready_although_a_picture_may_take_no_time_to_describe(built_index, tmp_path):
    with serving(built_index, tmp_path, limits={"seconds": 0.001}) as client:
        assert client.get("/v1/ready").status_code == 200


def test_a_search_that_nobody_waits_for_is_given_up(client, pagoda):
    def abandoned():
        lines = client.get("/v1/metrics").text.splitlines()
        return next(float(one.split()[1]) for one in lines if one.startswith("d2r_abandoned_total"))

    before = abandoned()
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(pagoda)}\r\n\r\n".encode()
    lines = [socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) for _ in range(6)]
    with workers_held():
        for line in lines:
            line.sendall(head + pagoda)
        wait_until(lambda: "d2r_waiting 5.0" in client.get("/v1/metrics").text)
        for line in lines:
            line.close()
        wait_until(lambda: abandoned() == before + 6)
    assert client.post("/v1/search?top=1", content=pagoda).status_code == 200


def test_an_index_without_pictures_is_not_served(tmp_path):
    with Engine.create(tmp_path / "empty.index") as engine, pytest.raises(ServeError, match="no pictures yet"):
        make_service_app(engine, ServiceSettings(uploads=tmp_path / "uploads"))


def test_a_token_comes_from_a_file_or_the_environment_and_is_no_short_one(tmp_path):
    file = tmp_path / "token"
    file.write_text("  0123456789abcdef\n")
    assert token_from(file, "D2R_TOKEN", {"D2R_TOKEN": "not-this-one-at-all"}) == "0123456789abcdef"
    assert token_from(None, "D2R_TOKEN", {"D2R_TOKEN": "0123456789abcdef"}) == "0123456789abcdef"
    assert token_from(None, "D2R_TOKEN", {}) is None
    for short in ("", "short", "with a space in it"):
        with pytest.raises(ServeError, match="openssl"):
            token_from(None, "D2R_TOKEN", {"D2R_TOKEN": short})
    with pytest.raises(ServeError, match="cannot read the token"):
        token_from(tmp_path / "nowhere", "D2R_TOKEN", {})


def test_a_picture_whose_file_is_missing_is_not_listed_nor_shown_and_can_be_removed(
    client, index, tmp_path, photo_folder
):
    picture = tmp_path / "soon-gone.jpg"
    picture.write_bytes((photo_folder / "pagoda-2.jpg").read_bytes())
    with Engine.open(index) as engine:
        engine.add([picture], workers=0)
        number = engine.index.picture(str(picture)).id
        before = client.get("/v1/info").json()["pictures"]
        assert client.get(f"/v1/pictures/{number}").status_code == 200
        picture.unlink()
        engine.add([picture], workers=0)
    assert client.get("/v1/info").json()["pictures"] == before - 1
    assert "soon-gone.jpg" not in ids(client)
    for path in ("", "/image", "/thumbnail", "/search"):
        detail = is_problem(client.get(f"/v1/pictures/{number}{path}"), 404)
        assert detail == f"Picture {number} is in the index, but its file is gone or broken."
    job = client.delete(f"/v1/pictures/{number}", headers=AUTHORIZED).json()
    assert ended(client, job)["state"] == "done"
    assert "no picture" in is_problem(client.get(f"/v1/pictures/{number}"), 404)


def test_the_page_learns_from_the_service_what_a_search_takes_that_does_not_say_otherwise(client):
    expected = {"top": defaults.TOP, "verify": defaults.VERIFY, "expand": defaults.EXPAND}
    assert client.get("/v1/info").json()["defaults"] == expected
    for path in ("/v1/search", "/v1/pictures/{id}/search"):
        (operation,) = client.get("/v1/openapi.json").json()["paths"][path].values()
        taken = {one["name"]: one["schema"].get("default") for one in operation["parameters"]}
        assert {name: taken[name] for name in expected} == expected
