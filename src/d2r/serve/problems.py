"""The errors of the API, all in one format: RFC 9457, ``application/problem+json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from d2r.errors import D2RError

MEDIA_TYPE = "application/problem+json"


class InvalidField(BaseModel):
    """An invalid part of a request."""

    field: str = Field(description="name of the invalid part", examples=["query.top"])
    detail: str = Field(description="what is wrong")


class Problem(BaseModel):
    """An error, in the format of RFC 9457."""

    type: str = Field("about:blank", description="always about:blank: the status gives the kind of error")
    title: str = Field(description="name of the status", examples=["Not Found"])
    status: int = Field(description="HTTP status", examples=[404])
    detail: str = Field(description="what went wrong, and what to do", examples=["There is no picture 17."])
    errors: list[InvalidField] | None = Field(None, description="the invalid parts of a malformed request")


class ProblemError(D2RError):
    """An error that ends a request with a problem response."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def problem_response(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[InvalidField] | None = None,
) -> Response:
    """Return a problem response."""
    problem = Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    content = problem.model_dump(exclude_none=True)
    # ASCII with escapes, because text from a client may not be valid UTF-8.
    return Response(json.dumps(content), status, headers, MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Make an application return all errors as problems, its own and those of the framework."""

    @app.exception_handler(ProblemError)
    async def ours(request: Request, error: ProblemError) -> Response:
        return problem_response(error.status, error.detail, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        return problem_response(
            error.status_code, _DETAILS.get(error.status_code) or str(error.detail), headers=error.headers
        )

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        faults = [
            InvalidField(field=".".join(str(part) for part in one["loc"]), detail=str(one["msg"]))
            for one in error.errors()
        ]
        detail = "; ".join(f"{fault.field}: {fault.detail}" for fault in faults)
        return problem_response(422, detail, errors=faults)


_DETAILS = {
    404: "Unknown address; see /v1/openapi.json.",
    405: "Method not allowed at this address; the header Allow lists the allowed ones.",
}

_WHEN = {
    401: "a token is missing or wrong",
    403: "adding and removing is disabled, or the request comes from a page of another site",
    404: "not found",
    408: "the picture took too long to send",
    409: "the regions of this collection do not come from a detector",
    413: "the picture file is too large",
    415: "the body is a form; send the file itself",
    422: "the request is malformed, or the picture cannot be used",
    429: "too many requests are waiting; retry after the seconds in Retry-After",
    503: "the service is not ready, or the detector cannot be used",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of errors with these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _WHEN[status].capitalize(), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
