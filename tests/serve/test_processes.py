"""Worker processes: a call that kills one affects no others, slow calls are killed, excess calls are refused."""

import asyncio
import os
import signal
import time
from functools import partial

import pytest

from d2r.serve.processes import Processes, QueueFullError, TooLongError
from d2r.support.processes import WorkerDied
from programs import LIMIT_S


def nothing():
    pass


def wait_for(path):
    (path.parent / "begun").touch()
    while not path.exists():
        time.sleep(0.01)


async def until(true):
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0.01)


async def started(count=1, queue=8, limit_s=LIMIT_S):
    processes = Processes(count, queue=queue, limit_s=limit_s, prepare=nothing)
    await processes.start()
    return processes


def test_what_kills_its_process_is_told_and_the_next_works():
    async def run():
        processes = await started()
        with pytest.raises(WorkerDied, match="ended with exit code 7, twice"):
            await processes.run(os._exit, 7)
        result = await processes.run(pow, 2, 5)
        deaths = processes.deaths
        await processes.stop()
        return result, deaths

    assert asyncio.run(run()) == (32, 2)


def kill_at_first(file):
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_work_whose_process_is_killed_once_is_done_by_another(tmp_path):
    async def run():
        processes = await started()
        result = await processes.run(kill_at_first, tmp_path / "tried")
        deaths = processes.deaths
        await processes.stop()
        return result, deaths

    assert asyncio.run(run()) == ("done", 1)


def fail_while(file):
    if file.exists():
        raise OSError(5, "the model cannot be read")


def test_processes_that_cannot_be_prepared_say_why_at_each_call_and_work_when_they_can(tmp_path):
    async def run():
        (tmp_path / "broken").touch()
        processes = Processes(1, queue=8, limit_s=LIMIT_S, prepare=partial(fail_while, tmp_path / "broken"))
        for attempt in (processes.start, partial(processes.run, pow, 2, 5), partial(processes.run, pow, 2, 5)):
            with pytest.raises(OSError, match="the model cannot be read"):
                await attempt()
        (tmp_path / "broken").unlink()
        assert await processes.run(pow, 2, 5) == 32
        await processes.stop()

    asyncio.run(run())


def test_what_takes_too_long_is_ended():
    async def run():
        processes = await started(limit_s=0.5)
        with pytest.raises(TooLongError):
            await processes.run(time.sleep, 3000)
        processes._limit_s = LIMIT_S
        assert await processes.run(pow, 2, 5) == 32
        await processes.stop()

    asyncio.run(run())


def test_more_than_may_wait_is_refused_and_who_gives_up_is_not_worked_for(tmp_path):
    async def run():
        processes = await started(queue=1)
        first = asyncio.create_task(processes.run(wait_for, tmp_path / "go"))
        await until((tmp_path / "begun").exists)
        second = asyncio.create_task(processes.run(os._exit, 7))
        await until(lambda: processes.waiting)
        with pytest.raises(QueueFullError):
            await processes.run(pow, 2, 5)
        second.cancel()
        (tmp_path / "go").touch()
        await first
        assert await processes.run(pow, 2, 5) == 32
        assert processes.deaths == 0
        await processes.stop()

    asyncio.run(run())


def test_an_error_of_the_function_is_raised_and_the_process_kept():
    async def run():
        processes = await started()
        process = await processes.run(os.getpid)
        with pytest.raises(ZeroDivisionError):
            await processes.run(divmod, 1, 0)
        assert await processes.run(os.getpid) == process
        await processes.stop()

    asyncio.run(run())
