"""Worker processes for the risky and the slow work of a service.

Each process handles one call at a time, so if it dies, the call that killed it is known and no other is lost. A new
process replaces it.
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
    """Too many calls are waiting."""


class TooLongError(D2RError):
    """A call exceeded its time limit, and its process was killed."""


class Processes:
    """Worker processes, for use from one event loop.

    Args:
        count: number of processes.
        queue: number of calls that may wait for a process.
        limit_s: seconds that a call may take once it has a process.
        prepare: function to call once in each process; picklable.
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
        """Number of processes that died, were killed from outside, or exceeded the time limit."""
        return self._gone + sum(one.deaths for one in self._all)

    async def start(self) -> None:
        """Start the processes, and return when they are ready."""
        await asyncio.gather(*(self._begin() for _ in range(self._count)))

    async def stop(self) -> None:
        """Wait for the calls in progress, then end the processes."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(asyncio.to_thread(one.close) for one in self._all))

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return ``function(*arguments)``, called in a process; its exceptions are raised here.

        A call that is cancelled before it starts never starts; one that has started keeps its process busy until it
        ends.

        Raises:
            QueueFullError: too many calls are waiting.
            TooLongError: the call exceeded the time limit.
            WorkerDied: the call killed its process, and a second one when retried.
            WorkerStartError: no process can start.
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
        finally:  # a process that fails to start tries again at its next call, which then gets the error
            self._free.put_nowait(process)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone: retrieve the exception, so that asyncio does not log it


def _prepare(prepare: Callable[[], None]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prepare()
