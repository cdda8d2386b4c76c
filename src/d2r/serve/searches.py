"""Searches for a service: described in worker processes, scored and verified in threads, given up when abandoned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from d2r.boxes import PixelBox
from d2r.describe import Description
from d2r.engine import Engine
from d2r.images import encode_jpeg
from d2r.index import PictureRow
from d2r.serve import work
from d2r.serve.models import Found, PictureInfo, QueryInfo, SearchAnswer
from d2r.serve.processes import Processes, QueueFullError

Result = TypeVar("Result")


class Threads:
    """Threads that search, and a bound on what waits for them."""

    def __init__(self, count: int, *, queue: int) -> None:
        self._most = count + queue
        self._now = 0
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="answer")

    async def run(self, function: Callable[[Callable[[], bool]], Result]) -> Result:
        """Return ``function(stopped)`` of a thread; ``stopped()`` says whether this call was cancelled meanwhile.

        Raises:
            QueueFullError: too much is waiting.
        """
        if self._now >= self._most:
            raise QueueFullError
        self._now += 1
        gone = threading.Event()
        future = self._pool.submit(function, gone.is_set)
        future.add_done_callback(lambda _: self._done())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            gone.set()
            raise

    def stop(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()

    def _done(self) -> None:
        self._now -= 1


class Searches:
    """Searches of one index."""

    def __init__(self, engine: Engine, processes: Processes, threads: Threads, *, max_pixels: int) -> None:
        self._engine = engine
        self._processes = processes
        self._threads = threads
        self._max_pixels = max_pixels

    async def describe(self, source: work.Source, box: PixelBox | None) -> Description:
        """Describe a query in a worker process."""
        return await self._processes.run(work.describe_source, self._engine.recipe, self._max_pixels, source, box)

    async def warm(self) -> None:
        """Search once, for nothing: what is compiled and loaded at first use is then there."""
        noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
        query = await self.describe(encode_jpeg(noise), None)
        await self._threads.run(lambda stopped: self._engine.search_described(query, top=1, verify=1))

    async def answer(
        self,
        source: work.Source,
        box: PixelBox | None,
        *,
        top: int,
        verify: int,
        named: Callable[[PictureRow], PictureInfo],
        without: int | None = None,
        timed: Callable[[str, float], None],
    ) -> bytes:
        """Search, and return the answer as JSON.

        Args:
            source: the query.
            box: on it.
            top: at most this many results.
            verify: how many are verified.
            named: makes of a picture what is told of it.
            without: leave this picture out of the results.
            timed: told how long each stage took.
        """
        started = time.perf_counter()
        query = await self.describe(source, box)
        described = time.perf_counter() - started

        def search(stopped: Callable[[], bool]) -> bytes:
            more = without is not None
            answer = self._engine.search_described(
                query, top=top + more, verify=verify + (more and verify > 0), stopped=stopped
            )
            seconds = {"describe": described, **answer.seconds}
            for stage, value in seconds.items():
                timed(stage, value)
            found = []
            for result in answer.results:
                row = self._engine.index.picture(result.path)
                if row is None or row.id == without:
                    continue  # removed meanwhile, or the query itself
                found.append(
                    Found.model_construct(
                        picture=named(row),
                        score=round(result.score, 6),
                        inliers=result.inliers,
                        regions=_tenths(result.boxes),
                        region_scores=[round(float(score), 4) for score in result.box_scores],
                        transform=None if result.transform is None else result.transform.tolist(),
                        query_points=_tenths(result.query_points),
                        points=_tenths(result.points),
                    )
                )
            whole = SearchAnswer.model_construct(
                query=query_info(query),
                seconds={k: round(v, 5) for k, v in seconds.items()},
                results=found[:top],
                missing=answer.missing,
            )
            return whole.model_dump_json(warnings=False).encode()

        return await self._threads.run(search)

    async def match(self, query: work.Source, box: PixelBox | None, other: PictureRow) -> bytes:
        """Return a JPEG of a query and a picture beside each other, with their matched points joined."""
        described = await self.describe(query, box)
        verification, features = await self._threads.run(lambda stopped: self._engine.match(described.features, other))
        return await self._processes.run(
            work.match_picture,
            self._max_pixels,
            query,
            other.path,
            described.boxes[0].tolist() if box is not None else None,
            described.features.positions[verification.matches[:, 0]],
            features.positions[verification.matches[:, 1]],
        )


def query_info(query: Description) -> QueryInfo:
    """Return what is told of a query."""
    return QueryInfo.model_construct(
        width=query.width, height=query.height, box=_tenths(query.boxes)[0], features=len(query.features)
    )


def _tenths(points: Any) -> Any:
    # A float32 does not print short; the same number as float64 does.
    return points.astype("float64").round(1).tolist()


async def until_gone(request: Request, work: Awaitable[Result], gone: Callable[[], None]) -> Result:
    """Return what ``work`` gives; cancel it when the client is gone before.

    Raises:
        ClientDisconnect: the client is gone; ``gone`` was called.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        gone()
        raise ClientDisconnect
    finally:
        watch.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
