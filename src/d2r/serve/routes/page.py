"""The routes of the search page: its static files."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import APIRouter

from d2r.support.webserver import base_style, fixed

_PAGE: Final = {
    "index.html": "text/html; charset=utf-8",
    "base.css": "text/css; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "editor.js": "text/javascript; charset=utf-8",
    "results.js": "text/javascript; charset=utf-8",
    "match.js": "text/javascript; charset=utf-8",
    "threshold.js": "text/javascript; charset=utf-8",
    "svg.js": "text/javascript; charset=utf-8",
}


def page_routes() -> APIRouter:
    """Return the routes of the page, at ``/``."""
    router = APIRouter(include_in_schema=False)
    for name, kind in _PAGE.items():
        content = base_style() if name == "base.css" else (files("d2r.serve") / "page" / name).read_bytes()
        path = "/" if name == "index.html" else f"/{name}"
        router.add_api_route(path, fixed(content, kind, {"Cache-Control": "no-cache"}), methods=["GET"])
    return router
