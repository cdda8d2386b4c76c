"""The routes that change the collection: jobs that add and remove pictures, and the state of the jobs."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from d2r.serve import work
from d2r.serve.access import Access
from d2r.serve.journal import Job
from d2r.serve.logs import access_log, quoted, service_log
from d2r.serve.models import JobInfo, JobList
from d2r.serve.openapi import PICTURE_BODY, PictureId
from d2r.serve.problems import ProblemError, documented
from d2r.serve.service import Service
from d2r.support.files import printable_path

_JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="id of a job")]


def change_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes that add and remove pictures and report on jobs."""
    router = APIRouter(prefix="/v1", tags=["changes"], dependencies=access.changing)

    @router.post(
        "/pictures", status_code=202, openapi_extra=PICTURE_BODY,
        responses=documented(401, 403, 408, 413, 415, 422, 429),
        summary="Add an uploaded picture; it is on disk when the response arrives",
    )  # fmt: skip
    async def add_picture(
        request: Request,
        response: Response,
        name: Annotated[str, Query(max_length=200, description="name of the picture")] = "",
    ) -> JobInfo:
        data = await service.receiver.picture(request)
        checking = service.processes.run(work.check, service.settings.limits.pixels, data)
        ending = await service.work(request, checking)
        called = printable_path(name.encode("utf-8", "replace").decode()).strip() or "added picture"
        try:
            job = await asyncio.to_thread(service.changing().add, data, ending, called)
        except FileExistsError as error:
            service_log.warning("%s: has the name of an uploaded picture but different content", error.filename)
            raise ProblemError(500, "Another file has the name of this picture; see the log of the service.") from error
        access_log.info("add job=%s %s name=%s", job.id, _client(request), quoted(called))
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return _job_info(job)

    @router.delete(
        "/pictures/{id}", status_code=202, responses=documented(401, 403, 404, 422),
        summary="Remove a picture from the index",
    )  # fmt: skip
    async def remove_picture(request: Request, id: PictureId, response: Response) -> JobInfo:
        row = service.picture(id, missing=True)
        name = service.picture_name(row.path)
        job = await asyncio.to_thread(service.changing().remove, row, name)
        access_log.info("remove job=%s %s picture=%d name=%s", job.id, _client(request), id, quoted(name))
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return _job_info(job)

    @router.get("/jobs", responses=documented(401, 403), summary="The latest jobs, newest first")
    def list_jobs(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JobList:
        jobs = service.changing()
        return JobList(jobs=[_job_info(job) for job in jobs.latest(limit)], counts=jobs.counts())

    @router.get("/jobs/{id}", responses=documented(401, 403, 404), summary="The state of a job")
    def get_job(id: _JobId) -> JobInfo:
        job = service.changing().get(id)
        if job is None:
            raise ProblemError(404, "There is no such job.")
        return _job_info(job)

    return router


def _job_info(job: Job) -> JobInfo:
    known = {name: value for name, value in vars(job).items() if name in JobInfo.model_fields}
    return JobInfo(**{**known, "name": job.name or ""})


def _client(request: Request) -> str:
    """Return the sender of a changing request for the log: the address, and the kind of token."""
    client = f"client={request.client.host if request.client is not None else '-'} token=write"
    forwarded = request.headers.get("x-forwarded-for")  # set by a reverse proxy, or forged by the client
    return client if forwarded is None else f"{client} forwarded={quoted(forwarded[:100])}"
