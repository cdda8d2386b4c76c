"""Every error of the API in one form: RFC 9457, ``application/problem+json``."""

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
    """One part of a request that is not as it must be."""

    field: str = Field(description="where it is, for instance query.top", examples=["query.top"])
    detail: str = Field(description="what is wrong with it")


class Problem(BaseModel):
    """An error, as of RFC 9457."""

    type: str = Field("about:blank", description="always about:blank: the status says what kind of error it is")
    title: str = Field(description="of the status", examples=["Not Found"])
    status: int = Field(description="of the answer", examples=[404])
    detail: str = Field(description="what went wrong and what to do", examples=["There is no picture 17."])
    errors: list[InvalidField] | None = Field(None, description="of a request that is malformed: each fault")


class ProblemError(D2RError):
    """Ends a request with a problem."""

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
    """Return an answer with a problem."""
    problem = Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    content = problem.model_dump(exclude_none=True)
    # ASCII with escapes: text of a client may hold what is no valid UTF-8.
    return Response(json.dumps(content), status, headers, MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Make an application answer with problems, for what it raises itself as for what the framework does."""

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
    404: "There is nothing at this address; /v1/openapi.json lists what there is.",
    405: "This address does not take this method; the header Allow says which.",
}

_WHEN = {
    401: "a token is missing or wrong",
    403: "nothing can be added or removed here, or a page of another site asks",
    404: "there is no such thing",
    408: "the picture took too long to send",
    409: "the regions of this collection come from no detector",
    413: "the picture has too many bytes",
    415: "the body is a form; send the file itself",
    422: "the request is malformed, or the picture cannot be used",
    429: "too much is waiting already; come again after the seconds in Retry-After",
    503: "not ready, or the detector cannot be used",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of errors with these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _WHEN[status].capitalize(), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
