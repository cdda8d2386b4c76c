"""The web application that shows the pictures of a session and records decisions; for this machine only.

Bind it to the loopback address. Clients refer to pictures by number, never by path. Requests that change something are
PUTs with JSON, which browsers do not let other sites send, and a request must name this machine as its host, so that no
other site can impersonate this one (DNS rebinding).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Final, TypeAlias

from fastapi import Body, FastAPI, HTTPException, Path, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from d2r.annotate.session import Session
from d2r.boxes import BoxError, Boxes, check_box
from d2r.datasets.landmark_boxes import from_pixels, to_pixels
from d2r.defaults import MAX_PIXELS
from d2r.images import ImageError, Picture, encode_jpeg, read_image, shrink
from d2r.support.files import display_path, printable_path
from d2r.support.webserver import base_style, fixed

Propose: TypeAlias = Callable[[Picture], Boxes]
"""Returns the proposed boxes of a picture, best first."""

MAX_PROPOSALS: Final = 9
"""Most proposals per picture: each has a digit as its key."""

SHOWN_SIDE: Final = 1600
"""Longer side of the pictures on the page, in pixels. Boxes are in pixels of the original picture."""

_QUALITY: Final = 88
_KEPT: Final = 6  # encoded pictures in the cache: the current one and its neighbours

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_PAGE: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

Number: TypeAlias = Annotated[int, Path(ge=0)]


class DecisionBody(BaseModel):
    """A decision sent by the page.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the picture, half-open; None for no prominent landmark.
    """

    box: tuple[float, float, float, float] | None


def make_annotation_app(session: Session, *, propose: Propose | None = None, max_pixels: int = MAX_PIXELS) -> FastAPI:
    """Return the application.

    Args:
        session: the pictures and their decisions.
        propose: returns the proposed boxes of each picture; None proposes none.
        max_pixels: pictures of more pixels are not decoded and need no decision.
    """
    # No generated documentation: its pages load scripts from another site.
    app = FastAPI(title="d2r annotate", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    # The browser may cache pictures, but the next session may use the same port for other pictures.
    version = secrets.token_hex(8)

    @lru_cache(_KEPT)
    def shown(number: int) -> tuple[int, int, bytes]:
        picture = read(number)
        return picture.shape[1], picture.shape[0], encode_jpeg(shrink(picture, SHOWN_SIDE), _QUALITY)

    @lru_cache(_KEPT)
    def proposals(number: int) -> list[list[float]]:
        if propose is None:
            return []
        return [[float(side) for side in box] for box in propose(read(number))[:MAX_PROPOSALS]]

    def read(number: int) -> Picture:
        try:
            picture = read_image(session.items[number].path, max_pixels=max_pixels)
        except ImageError:
            session.mark(number, readable=False)
            raise
        session.mark(number, readable=True)
        return picture

    def check(number: int) -> None:
        if number >= len(session.items):
            raise HTTPException(404, f"There are {len(session.items)} pictures, numbered from 0.")

    def standing(number: int) -> dict[str, Any]:
        progress = session.progress()
        return {
            "progress": {**asdict(progress), "open": progress.open},
            "next": session.next_open(number),
            "can_undo": session.can_undo,
        }

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(OSError)
    def tell(request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"detail": f"The files could not be written: {display_path(str(error))}."}, 507)

    for path, (name, kind) in _PAGE.items():
        app.add_api_route(path, fixed((files("d2r.annotate") / name).read_bytes(), kind), methods=["GET"])
    app.add_api_route("/base.css", fixed(base_style(), "text/css; charset=utf-8"), methods=["GET"])

    @app.get("/api/session")
    def get_session() -> dict[str, Any]:
        last = len(session.items) - 1
        return {"out": printable_path(session.out), "version": version, **standing(last)}

    @app.get("/api/pictures/{number}")
    def get_picture(number: Number) -> dict[str, Any]:
        check(number)
        item, decision = session.items[number], session.decision(number)
        found: dict[str, Any] = {
            "name": printable_path(item.picture.id),
            "landmark": printable_path(item.picture.landmark) if item.picture.landmark else None,
            "decided": decision is not None,
            "box": None,
            "problem": None,
        }
        try:
            width, height, _ = shown(number)
        except ImageError as error:
            return {**found, "problem": error.reason, **standing(number)}
        if decision is not None and decision.box is not None:
            found["box"] = to_pixels(decision.box, width, height)
        return {**found, "width": width, "height": height, **standing(number)}

    @app.get("/pictures/{number}.jpg")
    def get_jpeg(number: Number) -> Response:
        check(number)
        try:
            data = shown(number)[2]
        except ImageError as error:
            raise HTTPException(404, error.reason) from error
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/api/pictures/{number}/proposals")
    def get_proposals(number: Number) -> dict[str, Any]:
        check(number)
        try:
            return {"boxes": proposals(number)}
        except ImageError as error:
            raise HTTPException(404, error.reason) from error

    @app.put("/api/pictures/{number}/decision")
    def put_decision(number: Number, body: Annotated[DecisionBody, Body()]) -> dict[str, Any]:
        check(number)
        try:
            width, height, _ = shown(number)
        except ImageError as error:
            raise HTTPException(409, f"The picture cannot be annotated: {error.reason}.") from error
        try:
            box = None if body.box is None else from_pixels(check_box(body.box, width, height), width, height)
        except BoxError as error:
            raise HTTPException(422, str(error)) from error
        session.decide(number, box)
        return standing(number)

    @app.put("/api/undo")
    def put_undo() -> dict[str, Any]:
        number = session.undo()
        if number is None:
            raise HTTPException(409, "There is nothing to undo.")
        return {"number": number}

    return app
