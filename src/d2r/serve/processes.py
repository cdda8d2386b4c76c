"""Worker processes that a service hands its risky and its long work to.

Each process works on one thing at a time, so when one dies it is known what killed it, and nothing else is lost with
it. Another takes its place.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from d2r.errors import D2RError
from d2r.serve.logs import service_log
from d2r.support.processes import WorkerDied, WorkerProcesses

_T = TypeVar("_T")


class QueueFullError(D2RError):
    """More is waiting already than may."""


class TooLongError(D2RError):
    """The work took longer than it may, and its process was ended."""


class Processes:
    """Worker processes, to be used from one event loop.

    Args:
        count: of processes.
        queue: calls that may wait for a process.
        limit_s: seconds that one call may take once it has a process.
        prepare: picklable; called once in every process.
    """

    def __init__(self, count: int, *, queue: int, limit_s: float, prepare: Callable[[], None]) -> None:
        self._count = count
        self._queue = queue
        self._limit_s = limit_s
        self._prepare = partial(_prepare, prepare)
        self._free: asyncio.Queue[WorkerProcesses] = asyncio.Queue()
        self._all: set[WorkerProcesses] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.waiting = 0
        self._gone = 0

    @property
    def deaths(self) -> int:
        """Processes that died, were killed by others, or were ended because they took too long."""
        return self._gone + sum(one.deaths for one in self._all)

    async def start(self) -> None:
        """Start the processes, and return when they can work."""
        await asyncio.gather(*(self._begin() for _ in range(self._count)))

    async def stop(self) -> None:
        """Let what is under way end, then end the processes."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(asyncio.to_thread(one.close) for one in self._all))

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return ``function(*arguments)``, called in a process; what it raises is raised here.

        When this is cancelled it does not begin; once it has begun its process is busy until it ends.

        Raises:
            QueueFullError: too much is waiting.
            TooLongError: see there.
            WorkerDied: the process died of it, and so did another.
            WorkerStartError: no process can begin.
        """
        if self._free.empty() and self.waiting >= self._queue:
            raise QueueFullError
        self.waiting += 1
        try:
            process = await self._free.get()
        finally:
            self.waiting -= 1
        task = asyncio.create_task(self._finish(process, function, arguments))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _finish(self, process: WorkerProcesses, function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
        broken = True
        try:
            work: Future[_T] = process.submit(function, *arguments)
            result = await asyncio.wait_for(asyncio.wrap_future(work), self._limit_s)
            broken = False
            return result
        except WorkerDied:
            raise
        except TimeoutError as error:
            self._gone += 1
            raise TooLongError(f"it took more than {self._limit_s:g} s") from error
        except Exception:
            broken = False
            raise
        finally:
            if broken:
                self._gone += process.deaths
                self._all.discard(process)
                replacing = asyncio.create_task(self._replace(process))
                self._tasks.add(replacing)
                replacing.add_done_callback(self._done)
            else:
                self._free.put_nowait(process)

    async def _replace(self, process: WorkerProcesses) -> None:
        await asyncio.to_thread(process.close)
        try:
            await self._begin()
        except Exception:
            service_log.exception("a worker process does not start")

    async def _begin(self) -> None:
        process = WorkerProcesses(1, self._prepare)
        self._all.add(process)
        try:
            await asyncio.wrap_future(process.submit(os.getpid))
        finally:  # one that does not start tries to again at its next call, which is told why it cannot
            self._free.put_nowait(process)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone, and that is no error


def _prepare(prepare: Callable[[], None]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prepare()
