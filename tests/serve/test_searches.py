"""Searches that are refused before any work is done."""

import asyncio

import pytest

from d2r.engine import Engine
from d2r.images import ImageError
from d2r.options import SearchOptions
from d2r.serve.processes import QueueFullError
from d2r.serve.searches import Searches, Threads


class Busy:
    """Processes whose calls end when released, and fail."""

    def __init__(self):
        self.begun = 0
        self.go = asyncio.Event()

    async def run(self, function, *arguments):
        self.begun += 1
        await self.go.wait()
        raise ImageError("query.jpg", "broken")


def search(searches):
    return searches.answer(b"", None, SearchOptions(top=1), named=str, timed=lambda stage, seconds: None)


def test_a_search_for_which_there_is_no_room_is_not_described_and_there_is_room_after_one_that_fails(built_index):
    async def run():
        with Engine.open(built_index) as engine:
            processes = Busy()
            searches = Searches(engine, processes, Threads(1), limit=2, max_pixels=1000)
            first, second = (asyncio.create_task(search(searches)) for _ in range(2))
            await asyncio.sleep(0)
            row = engine.index.picture_at(1)
            for more in (search(searches), searches.match(b"", None, row)):
                with pytest.raises(QueueFullError):
                    await more
            assert (processes.begun, searches.under_way) == (2, 2)
            first.cancel()
            await asyncio.sleep(0)
            third = asyncio.create_task(search(searches))
            await asyncio.sleep(0)
            assert (processes.begun, searches.under_way) == (3, 2)
            processes.go.set()
            for one in (second, third):
                with pytest.raises(ImageError):
                    await one
            assert searches.under_way == 0

    asyncio.run(run())
