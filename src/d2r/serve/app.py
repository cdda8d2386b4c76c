"""The application: routes under ``/v1``, and the page.

Pictures go by number: no path comes from a client. What decodes pictures runs in worker processes.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from d2r.boxes import BoxError, PixelBox, parse_box
from d2r.defaults import EXPAND, TOP, VERIFY
from d2r.engine import Engine
from d2r.images import ImageError
from d2r.index import PictureRow, RemovedError
from d2r.regions import Detector, DetectorError, make_selector
from d2r.results import rounded_scores, tenths
from d2r.serve import work
from d2r.serve.guard import Guard, Places
from d2r.serve.jobs import Jobs
from d2r.serve.journal import Job, Journal
from d2r.serve.logs import access_log, quoted, service_log
from d2r.serve.metrics import CONTENT_TYPE, Metrics
from d2r.serve.models import (
    DefaultsInfo,
    Info,
    JobInfo,
    JobList,
    LimitsInfo,
    PictureDetail,
    PictureInfo,
    PictureList,
    SearchAnswer,
    Status,
    ThresholdAnswer,
)
from d2r.serve.problems import Problem, ProblemError, documented, handle_problems
from d2r.serve.processes import Processes, QueueFullError, TooLongError
from d2r.serve.searches import FileGoneError, Searches, Sought, Threads, of_index, until_gone
from d2r.serve.settings import ServeError, Settings
from d2r.serve.uploads import uploaded_file
from d2r.support.files import printable_path
from d2r.support.processes import WorkerDied
from d2r.support.version import package_version
from d2r.support.webserver import base_style, fixed

MOST_RESULTS: Final = 200
"""Results, and verified pictures, that one search may ask for."""

_THUMBNAIL_SIDE: Final = 360
_IMAGE_SIDE: Final = 1600
_KEPT_BYTES: Final = 64 << 20  # of pictures that are kept encoded
_MOST_ARRIVED: Final = 8  # of the largest uploads, whose bytes may have arrived of those that are not whole yet
_LAST_ID: Final = 2**53 - 1  # that JavaScript can tell from the next
_GRACE_S: Final = 20.0
_GONE: Final = "Picture {} is in the index, but its file is gone or broken."

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

Result = TypeVar("Result")

PictureId = Annotated[int, Path(ge=1, le=_LAST_ID, description="number of a picture")]
QueryId = Annotated[int, Query(ge=1, le=_LAST_ID, description="number of the query picture")]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="of a job")]
BoxQuery = Annotated[
    str | None,
    Query(
        max_length=100,
        description="what to look for on the query: x1,y1,x2,y2 in pixels of the upright picture; without it the whole",
        examples=["120,80,640,520"],
    ),
]
TopQuery = Annotated[int, Query(ge=1, le=MOST_RESULTS, description="at most this many results")]
VerifyQuery = Annotated[
    int,
    Query(ge=0, le=MOST_RESULTS, description="check the geometry of this many best, and put those that agree first"),
]
ExpandQuery = Annotated[
    int,
    Query(
        ge=0,
        le=MOST_RESULTS,
        description="search again, with what this many confirmed results show of it joined to the query; 0 does not",
    ),
]
DiffuseQuery = Annotated[bool, Query(description="put first also what is like the confirmed results")]
RegionsQuery = Annotated[
    bool, Query(description="describe the query by the regions that are found in it too, as the pictures are")
]
_UPLOAD: Final = {
    "requestBody": {
        "required": True,
        "description": "the picture itself: JPEG, PNG, WebP, BMP, TIFF or GIF",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/octet-stream", "image/jpeg", "image/png")
        },
    }
}
_JPEG: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "A JPEG", "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


def make_app(engine: Engine, settings: Settings) -> FastAPI:
    """Return the application.

    Args:
        engine: of the index; it is closed by who opened it, after the application has ended.
        settings: see there.

    Raises:
        ServeError: the index has no visual words yet.
    """
    return _Service(engine, settings).app


class _Service:
    """What the routes share."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        if engine.index.codebook is None:
            raise ServeError(f"{engine.index.folder}: it holds no pictures yet; run `d2r index` first")
        self.engine = engine
        self.settings = settings
        self.limits = limits = settings.limits
        self.metrics = Metrics()
        selector = make_selector(engine.recipe.regions)
        self.detector = selector if isinstance(selector, Detector) else None
        prepare = partial(work.prepare, engine.recipe, engine.index.folder)
        self.processes = Processes(settings.workers, queue=limits.queue, limit_s=limits.seconds, prepare=prepare)
        self.threads = Threads(settings.threads)
        most = settings.workers + limits.queue
        self.searches = Searches(engine, self.processes, self.threads, most=most, max_pixels=limits.pixels)
        self.jobs: Jobs | None = None
        if settings.writable:
            self.jobs = Jobs(engine, settings.uploads, workers=settings.workers, max_pixels=limits.pixels)
        self.journal = self.jobs.journal if self.jobs is not None else Journal(settings.uploads, write=False)
        self.kept = _Kept(_KEPT_BYTES)
        self.places = Places(limits.requests)
        self.arrived = 0  # bytes, of the uploads that are not whole yet
        self.ready = False
        self.app = self._app()

    # Starting and ending

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(self._start())

        def started(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is None:
                self.ready = True
            elif not task.cancelled():
                service_log.error("worker processes do not start: %s", task.exception())

        starting.add_done_callback(started)
        if self.jobs is not None:
            self.jobs.start()
        yield
        self.ready = False
        starting.cancel()
        if self.jobs is not None:
            await asyncio.to_thread(self.jobs.stop, _GRACE_S)
        await self.processes.stop()
        await asyncio.to_thread(self.threads.stop)

    async def _start(self) -> None:
        await self.processes.start()
        with suppress(TooLongError):  # the first time may take longer than a client's may, and it would never be ready
            await self.searches.warm()

    # What routes need

    async def work(self, request: Request, awaited: Awaitable[Result]) -> Result:
        """Await something that costs, as long as the client is there; what can go wrong becomes a problem."""
        try:
            return await until_gone(request, awaited, self.metrics.abandoned.inc)
        except QueueFullError as error:
            self.metrics.refused.inc()
            raise ProblemError(
                429, "Too much is waiting already; come again.", {"Retry-After": str(self._patience())}
            ) from error
        except ImageError as error:
            reason = error.reason.partition(" (raise it with")[0]
            raise ProblemError(422, f"The picture cannot be used: {reason}.") from error
        except BoxError as error:
            raise ProblemError(422, f"{error}.") from error
        except TooLongError as error:
            raise ProblemError(422, f"The picture cannot be used: {error}.") from error
        except WorkerDied as error:
            raise ProblemError(422, f"The picture cannot be used: the process that read it {error}.") from error
        except FileGoneError as error:
            raise ProblemError(404, _GONE.format(error.picture)) from error
        except RemovedError as error:
            raise ProblemError(404, "The picture was removed meanwhile.") from error
        except DetectorError as error:
            service_log.warning("%s", error)
            raise ProblemError(503, "The detector of this index cannot be used; the log says why.") from error

    def _patience(self) -> int:
        return 1 + max(self.processes.waiting, self.searches.under_way) // (4 * self.settings.workers)

    async def upload(self, request: Request) -> bytes:
        """Receive the picture that is the body of a request."""
        most = self.limits.upload_bytes
        too_large = ProblemError(413, f"A picture may have {most:,} bytes at most.", {"Connection": "close"})
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise ProblemError(
                415, "Send the file itself as the body, not a form: curl --data-binary @FILE", {"Accept": "image/*"}
            )
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > most:
            raise too_large
        too_many = ProblemError(
            429, "Too many uploads at once; come again.", {"Retry-After": "1", "Connection": "close"}
        )
        data = bytearray()
        try:
            with self.places.left():
                async with asyncio.timeout(self.limits.seconds):
                    async for chunk in request.stream():
                        data += chunk
                        self.arrived += len(chunk)
                        if len(data) > most:
                            raise too_large
                        if self.arrived > _MOST_ARRIVED * most:
                            self.metrics.refused.inc()
                            raise too_many
        except TimeoutError as error:
            raise ProblemError(
                408, f"The picture was not sent within {self.limits.seconds:g} s.", {"Connection": "close"}
            ) from error
        finally:
            self.arrived -= len(data)
        if not data:
            raise ProblemError(422, "The body is empty; send a picture: curl --data-binary @FILE")
        return bytes(data)

    def row(self, number: int, *, missing: bool = False) -> PictureRow:
        """Return a picture that can be found, or with ``missing`` one whose file is missing too."""
        row = self.engine.index.picture_at(number)
        if row is None or row.segment is None:
            raise ProblemError(404, f"There is no picture {number}.")
        if not (row.findable or missing):
            raise ProblemError(404, _GONE.format(number))
        return row

    def info(self, row: PictureRow) -> PictureInfo:
        return PictureInfo.model_construct(
            id=row.id, name=self.name(row.path), width=row.width or 0, height=row.height or 0
        )

    def name(self, path: str) -> str:
        file = uploaded_file(self.settings.uploads, path)
        if file is not None:
            return self.journal.name_of(file) or file
        return printable_path("/".join(PurePath(path).parts[-2:]).lstrip("/"))

    async def picture(self, request: Request, row: PictureRow, side: int, quality: int) -> Response:
        """Answer with a picture, from memory where it is there, or with nothing when the browser has it."""
        tag = f'"{row.digest.hex() if row.digest else row.id}-{side}"'
        headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        data = self.kept.get(tag)
        if data is None:
            rendering = self.processes.run(work.rendered, self.limits.pixels, row.path, side, quality)
            data = await self.work(request, of_index(row, rendering))
            self.kept.put(tag, data)
        return Response(data, media_type="image/jpeg", headers=headers)

    def changing(self) -> Jobs:
        """Return the jobs of a service that takes some."""
        if self.jobs is None:
            raise ProblemError(403, "Nothing can be added or removed here: this service only reads.")
        return self.jobs

    async def readable(self, request: Request) -> None:
        given = _bearer(request)
        if self.settings.read_token is not None and not _matches(given, self.settings.read_token, self.settings.token):
            raise ProblemError(401, "A token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    async def changeable(self, request: Request) -> None:
        self.changing()
        if not _matches(_bearer(request), self.settings.token):
            raise ProblemError(
                401, "Adding and removing need a token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    async def from_here(self, request: Request) -> None:
        """Refuse what a page of another site asks for: it cannot read the answer, and could make the service work."""
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise ProblemError(403, "Requests from pages of other sites are not taken.")

    # The routes

    def _app(self) -> FastAPI:
        # The generated documentation pages load scripts from another site, so there are none; the document is there.
        app = FastAPI(
            title="Detect-to-Retrieve",
            version=package_version(),
            description="Find the pictures of a collection that show the same building, monument or object.",
            docs_url=None,
            redoc_url=None,
            openapi_url="/v1/openapi.json",
            lifespan=self.lifespan,
        )
        app.add_middleware(
            Guard,
            hosts=self.settings.hosts,
            places=self.places,
            observe=self.metrics.observe,
        )
        handle_problems(app)
        self._service_routes(app)
        self._picture_routes(app)
        self._search_routes(app)
        self._change_routes(app)
        for name, kind in _PAGE.items():
            content = base_style() if name == "base.css" else (files("d2r.serve") / "page" / name).read_bytes()
            path = "/" if name == "index.html" else f"/{name}"
            app.add_api_route(
                path, fixed(content, kind, {"Cache-Control": "no-cache"}), methods=["GET"], include_in_schema=False
            )
        app.openapi = lambda: _document(app)  # type: ignore[method-assign]
        return app

    def _service_routes(self, app: FastAPI) -> None:
        reading = [Depends(HTTPBearer(auto_error=False)), Depends(self.readable)]

        @app.get("/v1/health", tags=["service"], summary="Is the process alive?")
        async def health() -> Status:
            return Status()

        @app.get("/v1/ready", tags=["service"], summary="Can it answer?", responses=documented(503))
        async def ready() -> Status:
            if not self.ready:
                raise ProblemError(503, "The worker processes are still starting, or it is ending.")
            try:
                self.engine.index.picture_at(1)
            except Exception as error:
                raise ProblemError(503, "The index cannot be read.") from error
            return Status()

        @app.get(
            "/v1/metrics", tags=["service"], summary="Figures for Prometheus", dependencies=reading,
            response_class=Response, responses={200: {"content": {"text/plain": {}}}, **documented(401)},
        )  # fmt: skip
        def metrics() -> Response:
            self.metrics.waiting.set(self.processes.waiting)
            self.metrics.searches.set(self.searches.under_way)
            self.metrics.deaths.set(self.processes.deaths)
            self.metrics.pictures.set(self.engine.index.size().pictures)
            for state, count in (self.jobs.counts() if self.jobs is not None else {}).items():
                self.metrics.jobs.labels(state).set(count)
            return Response(self.metrics.text(), media_type=CONTENT_TYPE)

        @app.get(
            "/v1/info", tags=["service"], summary="The collection and the service", dependencies=reading,
            responses=documented(401),
        )  # fmt: skip
        def info() -> Info:
            size, recipe = self.engine.index.size(), self.engine.recipe
            return Info(
                version=package_version(),
                index=printable_path(self.engine.index.folder.name),
                pictures=size.pictures,
                words=size.words,
                regions="detector" if self.detector is not None else recipe.regions,
                features=recipe.features.partition(":")[0],  # a network's path is nobody's business
                detector=self.detector is not None,
                threshold=self.detector.threshold if self.detector is not None else None,
                writable=self.settings.writable,
                limits=LimitsInfo(
                    upload_bytes=self.limits.upload_bytes,
                    pixels=self.limits.pixels,
                    seconds=self.limits.seconds,
                    top=MOST_RESULTS,
                    verify=MOST_RESULTS,
                ),
                defaults=DefaultsInfo(top=TOP, verify=VERIFY, expand=EXPAND),
            )

    def _picture_routes(self, app: FastAPI) -> None:
        reading = [Depends(HTTPBearer(auto_error=False)), Depends(self.readable)]

        @app.get(
            "/v1/pictures", tags=["pictures"], summary="The collection, by number", dependencies=reading,
            responses=documented(401),
        )  # fmt: skip
        def list_pictures(
            after: Annotated[int, Query(ge=0, le=_LAST_ID, description="only pictures of a higher number")] = 0,
            limit: Annotated[int, Query(ge=1, le=200, description="at most this many")] = 48,
        ) -> PictureList:
            rows = self.engine.index.pictures_after(after, limit + 1)
            more = len(rows) > limit
            return PictureList(
                pictures=[self.info(row) for row in rows[:limit]], next=rows[limit - 1].id if more else None
            )

        @app.get(
            "/v1/pictures/{id}", tags=["pictures"], summary="One picture", dependencies=reading,
            responses=documented(401, 404),
        )  # fmt: skip
        def get_picture(id: PictureId) -> PictureDetail:
            row = self.row(id)
            try:
                boxes, scores = self.engine.index.regions(row)
            except RemovedError as error:
                raise ProblemError(404, f"There is no picture {id}.") from error
            return PictureDetail(
                **dict(self.info(row)),
                regions=tenths(boxes),
                region_scores=rounded_scores(scores),
                uploaded=uploaded_file(self.settings.uploads, row.path) is not None,
            )

        costly = [*reading, Depends(self.from_here)]
        shown: dict[int | str, dict[str, Any]] = {
            **_JPEG, 304: {"description": "The browser has it"}, **documented(401, 403, 404, 429),
        }  # fmt: skip

        @app.get(
            "/v1/pictures/{id}/image", tags=["pictures"], dependencies=costly, response_class=Response,
            responses=shown, summary=f"The picture, upright, at most {_IMAGE_SIDE} pixels a side",
        )  # fmt: skip
        async def get_image(request: Request, id: PictureId) -> Response:
            return await self.picture(request, self.row(id), _IMAGE_SIDE, 88)

        @app.get(
            "/v1/pictures/{id}/thumbnail", tags=["pictures"], dependencies=costly, response_class=Response,
            responses=shown, summary=f"The picture, upright, at most {_THUMBNAIL_SIDE} pixels a side",
        )  # fmt: skip
        async def get_thumbnail(request: Request, id: PictureId) -> Response:
            return await self.picture(request, self.row(id), _THUMBNAIL_SIDE, 80)

    def _search_routes(self, app: FastAPI) -> None:
        reading = [Depends(HTTPBearer(auto_error=False)), Depends(self.readable)]
        costly = [*reading, Depends(self.from_here)]  # a GET, which any page may make a browser send

        async def answer(
            request: Request, query: Sought, box: str | None, top: int, verify: int, expand: int, diffuse: bool,
            query_regions: bool,
        ) -> Response:  # fmt: skip
            searching = self.searches.answer(
                query, _box(box), top=top, verify=verify, expand=expand, diffuse=diffuse,
                query_regions=query_regions, named=self.name,
                timed=lambda stage, seconds: self.metrics.stage_seconds.labels(stage).observe(seconds),
            )  # fmt: skip
            return Response(await self.work(request, searching), media_type="application/json")

        @app.post(
            "/v1/search", tags=["search"], summary="Search with a picture that is sent", dependencies=reading,
            openapi_extra=_UPLOAD, response_model=SearchAnswer, responses=documented(401, 408, 413, 415, 422, 429),
        )  # fmt: skip
        async def search_upload(
            request: Request, box: BoxQuery = None, top: TopQuery = TOP, verify: VerifyQuery = VERIFY,
            expand: ExpandQuery = EXPAND, diffuse: DiffuseQuery = False, query_regions: RegionsQuery = False,
        ) -> Response:  # fmt: skip
            _box(box)  # before the picture is received
            return await answer(request, await self.upload(request), box, top, verify, expand, diffuse, query_regions)

        @app.get(
            "/v1/pictures/{id}/search", tags=["search"], dependencies=costly, response_model=SearchAnswer,
            responses=documented(401, 403, 404, 422, 429),
            summary="Search with a picture of the collection, which is left out of the results",
        )  # fmt: skip
        async def search_picture(
            request: Request, id: PictureId, box: BoxQuery = None, top: TopQuery = TOP, verify: VerifyQuery = VERIFY,
            expand: ExpandQuery = EXPAND, diffuse: DiffuseQuery = False, query_regions: RegionsQuery = False,
        ) -> Response:  # fmt: skip
            return await answer(request, self.row(id), box, top, verify, expand, diffuse, query_regions)

        async def match(request: Request, query: Sought, box: str | None, other: PictureRow) -> Response:
            matching = self.searches.match(query, _box(box), other)
            return Response(await self.work(request, matching), media_type="image/jpeg")

        @app.post(
            "/v1/pictures/{id}/match", tags=["search"], dependencies=reading, response_class=Response,
            openapi_extra=_UPLOAD, responses={**_JPEG, **documented(401, 404, 408, 413, 415, 422, 429)},
            summary="A picture of the matched points, beside a picture that is sent",
        )  # fmt: skip
        async def match_upload(request: Request, id: PictureId, box: BoxQuery = None) -> Response:
            _box(box)
            other = self.row(id)
            return await match(request, await self.upload(request), box, other)

        @app.get(
            "/v1/pictures/{id}/match", tags=["search"], dependencies=costly, response_class=Response,
            responses={**_JPEG, **documented(401, 403, 404, 422, 429)},
            summary="A picture of the matched points, beside another picture of the collection",
        )  # fmt: skip
        async def match_pictures(request: Request, id: PictureId, query: QueryId, box: BoxQuery = None) -> Response:
            return await match(request, self.row(query), box, self.row(id))

        def chosen() -> Detector:
            if self.detector is None:
                raise ProblemError(409, "The regions of this collection come from no detector: there is no threshold.")
            return self.detector

        @app.post(
            "/v1/pictures/{id}/thresholds", tags=["search"], dependencies=reading, openapi_extra=_UPLOAD,
            responses=documented(401, 404, 408, 409, 413, 415, 422, 429, 503),
            summary="Regions and score at each threshold of the detector, for a query that is sent",
        )  # fmt: skip
        async def thresholds_upload(request: Request, id: PictureId, box: BoxQuery = None) -> ThresholdAnswer:
            parsed, row, detector = _box(box), self.row(id), chosen()
            query = await self.upload(request)
            return await self.work(request, self.searches.thresholds(query, parsed, row, detector))

        @app.get(
            "/v1/pictures/{id}/thresholds", tags=["search"], dependencies=costly,
            responses=documented(401, 403, 404, 409, 422, 429, 503),
            summary="Regions and score at each threshold of the detector, for another picture of the collection",
        )  # fmt: skip
        async def thresholds_pictures(
            request: Request, id: PictureId, query: QueryId, box: BoxQuery = None
        ) -> ThresholdAnswer:
            asking = self.searches.thresholds(self.row(query), _box(box), self.row(id), chosen())
            return await self.work(request, asking)

    def _change_routes(self, app: FastAPI) -> None:
        changing = [Depends(HTTPBearer(auto_error=False)), Depends(self.changeable)]

        @app.post(
            "/v1/pictures", tags=["changes"], status_code=202, dependencies=changing, openapi_extra=_UPLOAD,
            responses=documented(401, 403, 408, 413, 415, 422, 429),
            summary="Add a picture that is sent; it is on the disk when this answers",
        )  # fmt: skip
        async def add_picture(
            request: Request,
            response: Response,
            name: Annotated[str, Query(max_length=200, description="what to call it")] = "",
        ) -> JobInfo:
            data = await self.upload(request)
            ending = await self.work(request, self.processes.run(work.check, self.limits.pixels, data))
            called = printable_path(name.encode("utf-8", "replace").decode()).strip() or "added picture"
            try:
                job = await asyncio.to_thread(self.changing().add, data, ending, called)
            except FileExistsError as error:
                service_log.warning(
                    "%s: it has the name of a picture that is sent and is not that picture", error.filename
                )
                raise ProblemError(500, "Another file has the picture's name; the log says which.") from error
            access_log.info("add job=%s %s name=%s", job.id, _client(request), quoted(called))
            response.headers["Location"] = f"/v1/jobs/{job.id}"
            return _job(job)

        @app.delete(
            "/v1/pictures/{id}", tags=["changes"], status_code=202, dependencies=changing,
            responses=documented(401, 403, 404, 422), summary="Remove a picture from the index",
        )  # fmt: skip
        async def remove_picture(request: Request, id: PictureId, response: Response) -> JobInfo:
            row = self.row(id, missing=True)
            name = self.name(row.path)
            job = await asyncio.to_thread(self.changing().remove, row, name)
            access_log.info("remove job=%s %s picture=%d name=%s", job.id, _client(request), id, quoted(name))
            response.headers["Location"] = f"/v1/jobs/{job.id}"
            return _job(job)

        @app.get(
            "/v1/jobs", tags=["changes"], dependencies=changing, responses=documented(401, 403),
            summary="The latest jobs, the newest first",
        )  # fmt: skip
        def list_jobs(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JobList:
            jobs = self.changing()
            return JobList(jobs=[_job(job) for job in jobs.latest(limit)], counts=jobs.counts())

        @app.get(
            "/v1/jobs/{id}", tags=["changes"], dependencies=changing, responses=documented(401, 403, 404),
            summary="How far a job is",
        )  # fmt: skip
        def get_job(id: JobId) -> JobInfo:
            job = self.changing().get(id)
            if job is None:
                raise ProblemError(404, "There is no such job.")
            return _job(job)


def _job(job: Job) -> JobInfo:
    known = {name: value for name, value in vars(job).items() if name in JobInfo.model_fields}
    return JobInfo(**{**known, "name": job.name or ""})


def _box(text: str | None) -> PixelBox | None:
    if text is None:
        return None
    try:
        return parse_box(text)
    except BoxError as error:
        raise ProblemError(422, f"{error}.") from error


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _client(request: Request) -> str:
    """Return who sent a request that changes something, for the log: the address, and what token it had."""
    client = f"client={request.client.host if request.client is not None else '-'} token=write"
    forwarded = request.headers.get("x-forwarded-for")  # by a server in front of this one, or claimed by anybody
    return client if forwarded is None else f"{client} forwarded={quoted(forwarded[:100])}"


def _matches(given: str | None, *tokens: str | None) -> bool:
    """Compare a token with those that are right, in a time that does not tell how much of it is."""
    if given is None:
        return False
    right = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens if token is not None]
    return any(right)


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, in which every error is a problem."""
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


class _Kept:
    """Encoded pictures that were asked for lately, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        data = self._pictures.get(key)
        if data is not None:
            self._pictures.move_to_end(key)
        return data

    def put(self, key: str, data: bytes) -> None:
        if key in self._pictures or len(data) > self._most:
            return
        self._pictures[key] = data
        self._bytes += len(data)
        while self._bytes > self._most:
            self._bytes -= len(self._pictures.popitem(last=False)[1])
