"""The web server under the pages and the API: how it handles connections, whatever the application."""

import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from d2r.support import webserver
from served import serving
from serving import wait_until

HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


def application():
    app = FastAPI()
    app.get("/hello")(lambda: {"hello": "there"})
    app.get("/much")(lambda: Response(bytes(64 << 20)))
    app.post("/refused")(lambda: Response(status_code=401))

    @app.post("/length")
    async def length(request: Request):
        return len(await request.body())

    return app


@pytest.fixture(scope="module")
def server():
    with serving(application()) as server:
        yield server


def connections(server):
    return list(server._server.server_state.connections)


@contextmanager
def line_to(server):
    host, port = server._socket.getsockname()[:2]
    with socket.create_connection((host, port)) as line:
        line.settimeout(60)
        yield line


def ended(line):
    """Read until the other side closes, and return everything."""
    parts = []
    while part := line.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_no_answer_waits_for_more_to_send_with_it(server):
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/hello").status_code == 200
        accepted = [one.transport.get_extra_info("socket") for one in connections(server)]
        assert accepted
        assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in accepted)


def test_head_is_answered_as_get_without_the_body(server):
    with httpx.Client(base_url=server.url) as client:
        for _ in range(2):  # on one connection, which a body would put out of step
            head, get = client.head("/hello"), client.get("/hello")
            assert (head.status_code, head.content) == (200, b"")
            assert get.content
            assert {**head.headers, "date": ""} == {**get.headers, "date": ""}
        assert client.head("/length").status_code == 405
        assert client.put("/hello").headers["Allow"] == "GET, HEAD"
        assert client.get("/length").headers["Allow"] == "POST"


@pytest.mark.parametrize("start", [b"", b"GE", HELLO[:-2], HELLO + HELLO[:-2]])
def test_a_connection_whose_header_does_not_come_is_closed(server, monkeypatch, start):
    monkeypatch.setattr(webserver, "_HEADER_S", 0.3)
    with line_to(server) as line:
        line.sendall(start)
        assert ended(line).count(b"200 OK") == start.count(HELLO)


def test_a_header_that_trickles_is_given_no_more_time(server, monkeypatch):
    monkeypatch.setattr(webserver, "_HEADER_S", 0.5)
    with line_to(server) as line:
        line.sendall(HELLO[:-2])
        line.settimeout(0.05)
        wait_until(lambda: closed_on_a_byte(line, b"X"), seconds=60)


def test_a_body_that_nobody_wants_any_more_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(webserver, "_HEADER_S", 0.5)
    with line_to(server) as line:
        line.sendall(b"POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 401")
        line.settimeout(0.05)
        wait_until(lambda: closed_on_a_byte(line, b"0"), seconds=60)


def closed_on_a_byte(line, byte):
    try:
        line.sendall(byte)
        return line.recv(1 << 16) == b""
    except TimeoutError:
        return False
    except OSError:  # reset
        return True


def test_a_body_takes_the_time_it_takes_when_somebody_reads_it(server, monkeypatch):
    monkeypatch.setattr(webserver, "_HEADER_S", 0.2)
    with line_to(server) as line:
        line.sendall(b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\na")
        line.settimeout(0.8)
        with pytest.raises(TimeoutError):
            line.recv(1)
        line.settimeout(60)
        line.sendall(b"b")
        assert ended(line).endswith(b"\r\n\r\n2")


def test_a_client_that_does_not_read_its_answer_is_given_up(server, monkeypatch):
    monkeypatch.setattr(webserver, "_UNREAD_S", 0.3)
    before = len(connections(server))
    with line_to(server) as line:
        line.sendall(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(1) == b"H"
        wait_until(lambda: len(connections(server)) <= before, seconds=60)


def test_a_client_that_reads_slowly_gets_all_of_its_answer(server, monkeypatch):
    monkeypatch.setattr(webserver, "_UNREAD_S", 0.5)
    with line_to(server) as line:
        line.sendall(b"GET /much HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        pause, received = threading.Event(), 0
        while part := line.recv(4 << 20):
            received += len(part)
            pause.wait(0.02)
    assert received > 64 << 20
