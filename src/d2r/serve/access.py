"""Access control: dependencies of the routes that refuse a request before any work is done for it."""

from __future__ import annotations

import hmac

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from d2r.serve.problems import ProblemError
from d2r.serve.service import Service


class Access:
    """The access rules of a service.

    Attributes:
        reading: dependencies of routes that only read: they require the read token, if the service has one.
        costly: dependencies of costly GET routes. Any web page can make a browser send a GET, so they also refuse
            requests from other sites.
        changing: dependencies of routes that add or remove pictures or report on jobs: they require the token.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        bearer = Depends(HTTPBearer(auto_error=False))  # for the OpenAPI document
        self.reading = [bearer, Depends(self._check_readable)]
        self.costly = [*self.reading, Depends(_check_same_site)]
        self.changing = [bearer, Depends(self._check_changeable)]

    async def _check_readable(self, request: Request) -> None:
        settings = self._settings
        if settings.read_token is not None and not _matches(_bearer(request), settings.read_token, settings.token):
            raise ProblemError(401, "A token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    async def _check_changeable(self, request: Request) -> None:
        self._service.changing()
        if not _matches(_bearer(request), self._settings.token):
            raise ProblemError(
                401, "Adding and removing need a token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )


async def _check_same_site(request: Request) -> None:
    """Refuse requests from pages of other sites: these cannot read the answer, but could overload the service."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise ProblemError(403, "Requests from pages of other sites are refused.")


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _matches(given: str | None, *tokens: str | None) -> bool:
    """Compare a token with the valid ones, in a time that does not depend on how much of it matches."""
    if given is None:
        return False
    right = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens if token is not None]
    return any(right)
