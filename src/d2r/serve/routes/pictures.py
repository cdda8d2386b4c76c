"""The routes of pictures: the collection, the information about each picture, and the pictures themselves."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from d2r.index import PictureRow, RemovedError
from d2r.results import rounded_scores, tenths
from d2r.serve import work
from d2r.serve.access import Access
from d2r.serve.models import PictureDetail, PictureList
from d2r.serve.openapi import JPEG_ANSWER, LAST_ID, PictureId
from d2r.serve.problems import ProblemError, documented
from d2r.serve.searches import of_index
from d2r.serve.service import Service
from d2r.serve.uploads import uploaded_file

_THUMBNAIL_SIDE: Final = 360
_IMAGE_SIDE: Final = 1600
_CACHE_BYTES: Final = 64 << 20


def picture_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes that show the collection."""
    router = APIRouter(prefix="/v1/pictures", tags=["pictures"])
    shown: dict[int | str, dict[str, Any]] = {
        **JPEG_ANSWER, 304: {"description": "Not modified"}, **documented(401, 403, 404, 429),
    }  # fmt: skip
    cache = _JpegCache(_CACHE_BYTES)

    @router.get(
        "", summary="The pictures of the collection, by number", dependencies=access.reading, responses=documented(401)
    )
    def list_pictures(
        after: Annotated[int, Query(ge=0, le=LAST_ID, description="only pictures with a higher number")] = 0,
        limit: Annotated[int, Query(ge=1, le=200, description="at most this many")] = 48,
    ) -> PictureList:
        rows = service.engine.index.pictures_after(after, limit + 1)
        more = len(rows) > limit
        return PictureList(
            pictures=[service.picture_info(row) for row in rows[:limit]], next=rows[limit - 1].id if more else None
        )

    @router.get("/{id}", summary="One picture", dependencies=access.reading, responses=documented(401, 404))
    def get_picture(id: PictureId) -> PictureDetail:
        row = service.picture(id)
        try:
            boxes, scores = service.engine.index.regions(row)
        except RemovedError as error:
            raise ProblemError(404, f"There is no picture {id}.") from error
        return PictureDetail(
            **dict(service.picture_info(row)),
            regions=tenths(boxes),
            region_scores=rounded_scores(scores),
            uploaded=uploaded_file(service.settings.uploads, row.path) is not None,
        )

    @router.get(
        "/{id}/image", dependencies=access.costly, response_class=Response, responses=shown,
        summary=f"The picture, upright, at most {_IMAGE_SIDE} pixels on its longer side",
    )  # fmt: skip
    async def get_image(request: Request, id: PictureId) -> Response:
        return await _show(service, cache, request, service.picture(id), _IMAGE_SIDE, 88)

    @router.get(
        "/{id}/thumbnail", dependencies=access.costly, response_class=Response, responses=shown,
        summary=f"The picture, upright, at most {_THUMBNAIL_SIDE} pixels on its longer side",
    )  # fmt: skip
    async def get_thumbnail(request: Request, id: PictureId) -> Response:
        return await _show(service, cache, request, service.picture(id), _THUMBNAIL_SIDE, 80)

    return router


async def _show(
    service: Service, cache: _JpegCache, request: Request, row: PictureRow, side: int, quality: int
) -> Response:
    """Return a response with a picture, from the cache if possible, or without one if the browser has it."""
    tag = f'"{row.digest.hex() if row.digest else row.id}-{side}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    data = cache.get(tag)
    if data is None:
        rendering = service.processes.run(work.rendered, service.settings.limits.pixels, row.path, side, quality)
        data = await service.work(request, of_index(row, rendering))
        cache.put(tag, data)
    return Response(data, media_type="image/jpeg", headers=headers)


class _JpegCache:
    """The encoded pictures that were used most recently, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        data = self._pictures.get(key)
        if data is not None:
            self._pictures.move_to_end(key)
        return data

    def put(self, key: str, data: bytes) -> None:
        if key in self._pictures or len(data) > self._max_bytes:
            return
        self._pictures[key] = data
        self._bytes += len(data)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._pictures.popitem(last=False)[1])
