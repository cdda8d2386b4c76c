"""The routes about the service itself: health, readiness, metrics and information."""

from __future__ import annotations

from fastapi import APIRouter, Response

from d2r.defaults import EXPAND, TOP, VERIFY
from d2r.serve.access import Access
from d2r.serve.metrics import CONTENT_TYPE
from d2r.serve.models import DefaultsInfo, Info, LimitsInfo, Status
from d2r.serve.problems import ProblemError, documented
from d2r.serve.service import Service
from d2r.serve.settings import MAX_RESULTS
from d2r.support.files import printable_path
from d2r.support.version import package_version


def status_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes of health, metrics and info."""
    router = APIRouter(prefix="/v1", tags=["service"])

    @router.get("/health", summary="Is the process alive?")
    async def health() -> Status:
        return Status()

    @router.get("/ready", summary="Is the service ready to search?", responses=documented(503))
    async def ready() -> Status:
        if not service.ready:
            raise ProblemError(503, "The service is starting or stopping.")
        try:
            service.engine.index.picture_at(1)
        except Exception as error:
            raise ProblemError(503, "The index cannot be read.") from error
        return Status()

    @router.get(
        "/metrics", summary="Metrics for Prometheus", dependencies=access.reading, response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **documented(401)},
    )  # fmt: skip
    def metrics() -> Response:
        figures = service.metrics
        figures.waiting.set(service.processes.waiting)
        figures.searches.set(service.searches.under_way)
        figures.deaths.set(service.processes.deaths)
        figures.pictures.set(service.engine.index.size().pictures)
        for state, count in (service.jobs.counts() if service.jobs is not None else {}).items():
            figures.jobs.labels(state).set(count)
        return Response(figures.text(), media_type=CONTENT_TYPE)

    @router.get(
        "/info", summary="The collection and the service", dependencies=access.reading, responses=documented(401)
    )
    def info() -> Info:
        index, recipe, detector = service.engine.index, service.engine.recipe, service.detector
        size, limits = index.size(), service.settings.limits
        return Info(
            version=package_version(),
            index=printable_path(index.folder.name),
            pictures=size.pictures,
            words=size.num_words,
            regions="detector" if detector is not None else recipe.regions,
            features=recipe.features.partition(":")[0],  # the path of a network is private
            detector=detector is not None,
            threshold=detector.threshold if detector is not None else None,
            writable=service.settings.writable,
            limits=LimitsInfo(
                upload_bytes=limits.upload_bytes,
                pixels=limits.pixels,
                seconds=limits.seconds,
                top=MAX_RESULTS,
                verify=MAX_RESULTS,
            ),
            defaults=DefaultsInfo(top=TOP, verify=VERIFY, expand=EXPAND),
        )

    return router
