"""The OpenAPI document, and the parts that several routes share."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import FastAPI, Path
from fastapi.openapi.utils import get_openapi

from d2r.serve.problems import Problem, documented

LAST_ID: Final = 2**53 - 1
"""Highest number of a picture: the largest integer that JavaScript represents exactly."""

PictureId = Annotated[int, Path(ge=1, le=LAST_ID, description="number of a picture")]

PICTURE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "the picture file: JPEG, PNG, WebP, BMP, TIFF or GIF",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/octet-stream", "image/jpeg", "image/png")
        },
    }
}
"""``openapi_extra`` of a route that receives a picture."""

JPEG_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A JPEG picture",
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""``responses`` of a route that returns a picture."""


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application, with every error documented as a problem."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"]
        schemas |= schema.pop("$defs", {})
        schemas["Problem"] = schema
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                if "422" in operation["responses"]:
                    operation["responses"] |= {str(k): v for k, v in documented(422).items()}
        app.openapi_schema = document
    return app.openapi_schema
