"""The routes that search: searches, matches with one picture, and thresholds of the detector.

Each exists twice: for an uploaded query picture, and for one of the collection.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from d2r.boxes import BoxError, PixelBox, parse_box
from d2r.defaults import EXPAND, TOP, VERIFY
from d2r.index import PictureRow
from d2r.options import SearchOptions
from d2r.regions import Detector
from d2r.serve.access import Access
from d2r.serve.models import SearchAnswer, ThresholdAnswer
from d2r.serve.openapi import JPEG_ANSWER, LAST_ID, PICTURE_BODY, PictureId
from d2r.serve.problems import ProblemError, documented
from d2r.serve.searches import SearchQuery
from d2r.serve.service import Service
from d2r.serve.settings import MAX_RESULTS

_QueryId = Annotated[int, Query(ge=1, le=LAST_ID, description="number of the query picture")]
_Box = Annotated[
    str | None,
    Query(
        max_length=100,
        description="query box: x1,y1,x2,y2 in pixels of the upright picture; the whole picture without one",
        examples=["120,80,640,520"],
    ),
]
_Top = Annotated[int, Query(ge=1, le=MAX_RESULTS, description="at most this many results")]
_Verify = Annotated[
    int,
    Query(
        ge=0,
        le=MAX_RESULTS,
        description="verify this many of the best results spatially, and rank the verified ones first",
    ),
]
_Expand = Annotated[
    int,
    Query(
        ge=0,
        le=MAX_RESULTS,
        description="query expansion: search again with the query and up to this many verified results; 0 is off",
    ),
]
_Diffuse = Annotated[bool, Query(description="re-rank by diffusion from the verified results")]
_QueryRegions = Annotated[bool, Query(description="describe the query by regions too, like the indexed pictures")]


def _search_options(
    top: _Top = TOP,
    verify: _Verify = VERIFY,
    expand: _Expand = EXPAND,
    diffuse: _Diffuse = False,
    query_regions: _QueryRegions = False,
) -> SearchOptions:
    # Over HTTP, diffusion without verification or expansion has always done nothing instead of failing.
    return SearchOptions(top, verify, expand, diffuse and verify > 0 and expand > 0, query_regions)


_Options = Annotated[SearchOptions, Depends(_search_options)]


def search_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes that search."""
    router = APIRouter(prefix="/v1", tags=["search"])

    async def answer(request: Request, query: SearchQuery, box: str | None, options: SearchOptions) -> Response:
        searching = service.searches.answer(
            query, _parsed(box), options, named=service.picture_name,
            timed=lambda stage, seconds: service.metrics.stage_seconds.labels(stage).observe(seconds),
        )  # fmt: skip
        return Response(await service.work(request, searching), media_type="application/json")

    @router.post(
        "/search", summary="Search with an uploaded picture", dependencies=access.reading,
        openapi_extra=PICTURE_BODY, response_model=SearchAnswer, responses=documented(401, 408, 413, 415, 422, 429),
    )  # fmt: skip
    async def search_upload(request: Request, options: _Options, box: _Box = None) -> Response:
        _parsed(box)  # refuse an invalid box before receiving the picture
        query = await service.receiver.picture(request)
        return await answer(request, query, box, options)

    @router.get(
        "/pictures/{id}/search", dependencies=access.costly, response_model=SearchAnswer,
        responses=documented(401, 403, 404, 422, 429),
        summary="Search with a picture of the collection, which the results leave out",
    )  # fmt: skip
    async def search_picture(request: Request, id: PictureId, options: _Options, box: _Box = None) -> Response:
        return await answer(request, service.picture(id), box, options)

    async def match(request: Request, query: SearchQuery, box: str | None, other: PictureRow) -> Response:
        matching = service.searches.match(query, _parsed(box), other)
        return Response(await service.work(request, matching), media_type="image/jpeg")

    @router.post(
        "/pictures/{id}/match", dependencies=access.reading, response_class=Response, openapi_extra=PICTURE_BODY,
        responses={**JPEG_ANSWER, **documented(401, 404, 408, 413, 415, 422, 429)},
        summary="A drawing of the inliers between an uploaded query and a picture",
    )  # fmt: skip
    async def match_upload(request: Request, id: PictureId, box: _Box = None) -> Response:
        _parsed(box)
        other = service.picture(id)
        return await match(request, await service.receiver.picture(request), box, other)

    @router.get(
        "/pictures/{id}/match", dependencies=access.costly, response_class=Response,
        responses={**JPEG_ANSWER, **documented(401, 403, 404, 422, 429)},
        summary="A drawing of the inliers between two pictures of the collection",
    )  # fmt: skip
    async def match_pictures(request: Request, id: PictureId, query: _QueryId, box: _Box = None) -> Response:
        return await match(request, service.picture(query), box, service.picture(id))

    def detector() -> Detector:
        if service.detector is None:
            raise ProblemError(
                409, "The regions of this collection do not come from a detector: there is no threshold."
            )
        return service.detector

    @router.post(
        "/pictures/{id}/thresholds", dependencies=access.reading, openapi_extra=PICTURE_BODY,
        responses=documented(401, 404, 408, 409, 413, 415, 422, 429, 503),
        summary="Regions and score at each threshold of the detector, for an uploaded query",
    )  # fmt: skip
    async def thresholds_upload(request: Request, id: PictureId, box: _Box = None) -> ThresholdAnswer:
        parsed, row, chosen = _parsed(box), service.picture(id), detector()
        query = await service.receiver.picture(request)
        return await service.work(request, service.searches.thresholds(query, parsed, row, chosen))

    @router.get(
        "/pictures/{id}/thresholds", dependencies=access.costly,
        responses=documented(401, 403, 404, 409, 422, 429, 503),
        summary="Regions and score at each threshold of the detector, for a query from the collection",
    )  # fmt: skip
    async def thresholds_pictures(
        request: Request, id: PictureId, query: _QueryId, box: _Box = None
    ) -> ThresholdAnswer:
        asking = service.searches.thresholds(service.picture(query), _parsed(box), service.picture(id), detector())
        return await service.work(request, asking)

    return router


def _parsed(box: str | None) -> PixelBox | None:
    if box is None:
        return None
    try:
        return parse_box(box)
    except BoxError as error:
        raise ProblemError(422, f"{error}.") from error
