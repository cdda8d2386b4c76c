"""State that the routes share: the index, the processes and threads that search it, and the jobs that change it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import PurePath
from typing import Final, TypeVar

from fastapi import Request

from d2r.boxes import BoxError
from d2r.engine import Engine
from d2r.images import ImageError
from d2r.index import PictureRow, RemovedError
from d2r.regions import Detector, DetectorError, make_selector
from d2r.serve import work
from d2r.serve.guard import Places
from d2r.serve.jobs import Jobs
from d2r.serve.journal import Journal
from d2r.serve.logs import service_log
from d2r.serve.metrics import Metrics
from d2r.serve.models import PictureInfo
from d2r.serve.problems import ProblemError
from d2r.serve.processes import Processes, QueueFullError, TooLongError
from d2r.serve.receive import Receiver
from d2r.serve.searches import FileGoneError, Searches, Threads, until_gone
from d2r.serve.settings import ServeError, ServiceSettings
from d2r.serve.uploads import uploaded_file
from d2r.support.files import printable_path
from d2r.support.processes import WorkerDied

_T = TypeVar("_T")

_GRACE_S: Final = 20.0
_GONE: Final = "Picture {} is in the index, but its file is gone or broken."


class Service:
    """A service for one index, for use from one event loop.

    Args:
        engine: engine of the index; the caller closes it.
        settings: see :class:`~d2r.serve.settings.ServiceSettings`.

    Attributes:
        places: places for concurrent requests.
        receiver: receives the pictures that clients upload.
        detector: detector that selected the regions of the collection; None if another selector did.
        processes: worker processes that decode and describe pictures.
        searches: searches of the index.
        jobs: jobs that change the index; None if adding and removing is disabled.
        ready: whether the service can answer searches.

    Raises:
        ServeError: the index has no visual words yet, or the folder of uploads cannot be used.
    """

    def __init__(self, engine: Engine, settings: ServiceSettings) -> None:
        if engine.index.codebook is None:
            raise ServeError(f"{engine.index.folder}: the index has no pictures yet; run `d2r index` first")
        self.engine = engine
        self.settings = settings
        limits = settings.limits
        self.metrics = Metrics()
        self.places = Places(limits.requests)
        self.receiver = Receiver(limits, self.places, self.metrics.refused)
        selector = make_selector(engine.recipe.regions)
        self.detector = selector if isinstance(selector, Detector) else None
        prepare = partial(work.prepare_describing, engine.recipe, engine.index.folder)
        self.processes = Processes(settings.workers, queue=limits.queue, limit_s=limits.seconds, prepare=prepare)
        self._threads = Threads(settings.threads)
        limit = settings.workers + limits.queue
        self.searches = Searches(engine, self.processes, self._threads, limit=limit, max_pixels=limits.pixels)
        self.jobs: Jobs | None = None
        if settings.writable:
            self.jobs = Jobs(engine, settings.uploads, workers=settings.workers, max_pixels=limits.pixels)
        self._journal = self.jobs.journal if self.jobs is not None else Journal(settings.uploads, write=False)
        self.ready = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the jobs, and the processes without waiting for them; at the end wait for the work in progress."""
        starting = asyncio.create_task(self._start())

        def started(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is None:
                self.ready = True
            elif not task.cancelled():
                service_log.error("worker processes cannot start: %s", task.exception())

        starting.add_done_callback(started)
        if self.jobs is not None:
            self.jobs.start()
        yield
        self.ready = False
        starting.cancel()
        if self.jobs is not None:
            await asyncio.to_thread(self.jobs.stop, _GRACE_S)
        await self.processes.stop()
        await asyncio.to_thread(self._threads.stop)

    async def _start(self) -> None:
        await self.processes.start()
        with suppress(
            TooLongError
        ):  # the first search may exceed the limit of a client's, and the service would never be ready
            await self.searches.warm()

    async def work(self, request: Request, awaited: Awaitable[_T]) -> _T:
        """Await costly work while the client is connected; expected errors become problems."""
        try:
            return await until_gone(request, awaited, self.metrics.abandoned.inc)
        except QueueFullError as error:
            self.metrics.refused.inc()
            raise ProblemError(
                429, "Too many requests are waiting; retry later.", {"Retry-After": str(self._patience())}
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
            raise ProblemError(404, "The picture has been removed.") from error
        except DetectorError as error:
            service_log.warning("%s", error)
            raise ProblemError(503, "The detector of this index cannot be used; see the log of the service.") from error

    def _patience(self) -> int:
        """Return the seconds after which a client may retry."""
        return 1 + max(self.processes.waiting, self.searches.under_way) // (4 * self.settings.workers)

    def picture(self, number: int, *, missing: bool = False) -> PictureRow:
        """Return a searchable picture, or with ``missing`` also one whose file is missing.

        Raises:
            ProblemError: there is no such picture.
        """
        row = self.engine.index.picture_at(number)
        if row is None or row.segment is None:
            raise ProblemError(404, f"There is no picture {number}.")
        if not (row.findable or missing):
            raise ProblemError(404, _GONE.format(number))
        return row

    def picture_info(self, row: PictureRow) -> PictureInfo:
        """Return the public information about a picture."""
        return PictureInfo.model_construct(
            id=row.id, name=self.picture_name(row.path), width=row.width or 0, height=row.height or 0
        )

    def picture_name(self, path: str) -> str:
        """Return the name of a picture, with no more of its path than clients may know."""
        file = uploaded_file(self.settings.uploads, path)
        if file is not None:
            return self._journal.name_of(file) or file
        return printable_path("/".join(PurePath(path).parts[-2:]).lstrip("/"))

    def changing(self) -> Jobs:
        """Return the jobs.

        Raises:
            ProblemError: adding and removing is disabled.
        """
        if self.jobs is None:
            raise ProblemError(403, "Adding and removing pictures is disabled: this service is read-only.")
        return self.jobs
