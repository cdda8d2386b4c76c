"""Searches of a service: described in worker processes, scored and verified in threads, cancelled when abandoned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from d2r.boxes import PixelBox
from d2r.describe import Description
from d2r.engine import Engine
from d2r.errors import D2RError
from d2r.images import ImageError, encode_jpeg
from d2r.index import PictureRow
from d2r.options import SearchOptions
from d2r.regions import Detector
from d2r.results import rounded_scores, tenths
from d2r.serve import work
from d2r.serve.models import FoundPicture, PictureInfo, QueryInfo, SearchAnswer, ThresholdAnswer
from d2r.serve.processes import Processes, QueueFullError, TooLongError
from d2r.support.processes import WorkerDied

_T = TypeVar("_T")

SearchQuery: TypeAlias = bytes | PictureRow
"""A query: the encoded bytes of a picture, or a picture of the index."""


class FileGoneError(D2RError):
    """A picture of the index whose file is gone or broken."""

    def __init__(self, picture: int) -> None:
        super().__init__(picture)
        self.picture = picture


class Threads:
    """Threads that search."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="answer")

    async def run(self, function: Callable[[Callable[[], bool]], _T]) -> _T:
        """Return ``function(stopped)``, called in a thread; ``stopped()`` tells it whether this call was cancelled."""
        gone = threading.Event()
        try:
            return await asyncio.wrap_future(self._pool.submit(function, gone.is_set))
        except asyncio.CancelledError:
            gone.set()
            raise

    def stop(self) -> None:
        """Wait for the calls in progress."""
        self._pool.shutdown()


class Searches:
    """Searches of one index, for use from one event loop.

    Args:
        engine: engine of the index.
        processes: worker processes that describe pictures.
        threads: threads that search.
        limit: number of searches that may be in progress. Any more are refused at once: describing their queries
            would be wasted if no thread could then search.
        max_pixels: pictures of more pixels are refused.
    """

    def __init__(self, engine: Engine, processes: Processes, threads: Threads, *, limit: int, max_pixels: int) -> None:
        self._engine = engine
        self._processes = processes
        self._threads = threads
        self._limit = limit
        self._max_pixels = max_pixels
        self.under_way = 0

    @contextmanager
    def _room(self) -> Iterator[None]:
        if self.under_way >= self._limit:
            raise QueueFullError
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def describe(self, query: SearchQuery, box: PixelBox | None, regions: bool = False) -> Description:
        """Describe a query in a worker process, with its regions if ``regions``."""
        describing = self._processes.run(
            work.describe_source, self._engine.recipe, self._max_pixels, _source(query), box, regions
        )
        return await (describing if isinstance(query, bytes) else of_index(query, describing))

    async def warm(self) -> None:
        """Compile, and run one search with noise, so that everything loaded at first use is loaded."""
        await self._threads.run(lambda stopped: self._engine.prepare())
        noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
        query = await self.describe(encode_jpeg(noise), None)
        await self._threads.run(lambda stopped: self._engine.search_described(query, SearchOptions(top=1, verify=1)))

    async def answer(
        self,
        search_query: SearchQuery,
        box: PixelBox | None,
        options: SearchOptions,
        *,
        named: Callable[[str], str],
        timed: Callable[[str, float], None],
    ) -> bytes:
        """Search, and return the answer as JSON.

        Args:
            search_query: the query; a picture of the index is left out of the results.
            box: the query box, (x1, y1, x2, y2) in pixels; None for the whole picture.
            options: options of the search.
            named: returns the name of a picture for its path.
            timed: called with each stage and its seconds.
        """
        with self._room():
            ignored = () if isinstance(search_query, bytes) else (search_query.id,)
            started = time.perf_counter()
            query = await self.describe(search_query, box, options.query_regions)
            described = time.perf_counter() - started

            def search(stopped: Callable[[], bool]) -> bytes:
                answer = self._engine.search_described(query, options, ignored=ignored, stopped=stopped)
                seconds = {"describe": described, **answer.seconds}
                for stage, value in seconds.items():
                    timed(stage, value)
                found = []
                for result in answer:
                    picture = PictureInfo.model_construct(
                        id=result.id, name=named(result.path), width=result.width, height=result.height
                    )
                    found.append(FoundPicture.model_construct(picture=picture, **result.measured()))
                whole = SearchAnswer.model_construct(
                    query=query_info(query),
                    seconds={k: round(v, 5) for k, v in seconds.items()},
                    results=found,
                    missing=answer.missing,
                )
                return whole.model_dump_json(warnings=False).encode()

            return await self._threads.run(search)

    async def match(self, query: SearchQuery, box: PixelBox | None, other: PictureRow) -> bytes:
        """Return a JPEG of a query and a picture side by side, with lines between their inliers."""
        with self._room():
            described = await self.describe(query, box)
            verified = await self._threads.run(lambda stopped: self._engine.match(described.features, other))
            drawing = self._processes.run(
                work.match_picture,
                self._max_pixels,
                _source(query),
                other.path,
                described.boxes[0].tolist() if box is not None else None,
                described.features.positions[verified.rows],
                verified.positions,
            )
            return await of_index(other, drawing)

    async def thresholds(
        self, query: SearchQuery, box: PixelBox | None, picture: PictureRow, detector: Detector
    ) -> ThresholdAnswer:
        """Score a picture with its regions at each threshold of a detector."""
        with self._room():
            query_description = await self.describe(query, box)
            # Only better boxes suppress a box, so the boxes at any threshold are the first ones of this list.
            everything = replace(detector, threshold=0.0)
            describing = self._processes.run(
                work.describe_regions, everything, self._engine.recipe, self._max_pixels, picture.path
            )
            described = await of_index(picture, describing)
            scores = await self._threads.run(
                lambda stopped: self._engine.scores_by_regions(query_description, described, stopped=stopped)
            )
            return ThresholdAnswer(
                query=query_info(query_description),
                threshold=detector.threshold,
                regions=tenths(described.boxes),
                region_scores=rounded_scores(described.box_scores),
                scores=[round(score, 6) for score in scores],
            )


def query_info(query: Description) -> QueryInfo:
    """Return the public information about a query."""
    return QueryInfo.model_construct(
        width=query.width, height=query.height, box=tenths(query.boxes)[0], features=len(query.features)
    )


def _source(query: SearchQuery) -> work.PictureSource:
    return query if isinstance(query, bytes) else query.path


async def of_index(picture: PictureRow, work: Awaitable[_T]) -> _T:
    """Return the result of ``work``, which reads the file of a picture of the index.

    Raises:
        FileGoneError: the file is gone or broken.
    """
    try:
        return await work
    except (ImageError, TooLongError, WorkerDied) as error:
        raise FileGoneError(picture.id) from error


async def until_gone(request: Request, work: Awaitable[_T], gone: Callable[[], None]) -> _T:
    """Return the result of ``work``; cancel it if the client disconnects first.

    Raises:
        ClientDisconnect: the client disconnected; ``gone`` was called.
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
