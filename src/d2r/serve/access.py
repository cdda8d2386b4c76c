"""Who may ask for what: dependencies of the routes that refuse a request before anything is done for it."""

from __future__ import annotations

import hmac

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from d2r.serve.problems import ProblemError
from d2r.serve.service import Service


class Access:
    """Who may use a service.

    Attributes:
        reading: dependencies of a route that only reads: they ask for the read token, if the service has one.
        costly: of a GET that makes the service work, as any page may make a browser send one: they refuse other sites
            too.
        changing: of a route that adds or removes pictures, or tells of it: they ask for the token.
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
    """Refuse what a page of another site asks for: it cannot read the answer, and could make the service work."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise ProblemError(403, "Requests from pages of other sites are not taken.")


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _matches(given: str | None, *tokens: str | None) -> bool:
    """Compare a token with those that are right, in a time that does not tell how much of it is."""
    if given is None:
        return False
    right = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens if token is not None]
    return any(right)
