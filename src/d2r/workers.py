"""Run a function over many items in processes, so that no single item can stop the rest."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from loky import ProcessPoolExecutor
from loky.backend import get_context

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDied(Exception):  # noqa: N818
    """Stands for the result of an item whose process died: a crash in a decoder, or no memory left."""


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    prepare: Callable[[], None],
) -> Iterator[tuple[Item, Result | WorkerDied]]:
    """Yield each item with ``function(item)``, as they are done, at most a few ahead of the consumer.

    An exception of the function is raised here. An item whose process dies yields :class:`WorkerDied`; the others
    that were being worked on are tried again.

    Args:
        function: picklable; called in a worker process.
        items: read only as fast as they are worked on.
        workers: number of processes; 0 runs everything in this one.
        prepare: picklable; called once in every worker process before its first item.
    """
    if workers == 0:
        prepare()
        yield from ((item, function(item)) for item in items)
        return
    source = iter(items)
    pool = _Pool(function, workers, prepare)
    suspects: deque[Item] = deque()
    try:
        while True:
            pool.submit(islice(source, max(0, 2 * workers - len(pool))))
            if not len(pool):
                return
            item, result = pool.next()
            if not isinstance(result, WorkerDied):
                yield item, result
                continue
            # Any of the items in the pool may have killed it: try each alone, where only the guilty one dies.
            suspects.extend([item, *pool.items()])
            pool.close()
            while suspects:
                pool = _Pool(function, 1, prepare)
                while suspects:
                    pool.submit([suspects.popleft()])
                    item, result = pool.next()
                    yield item, result
                    if isinstance(result, WorkerDied):
                        break
                pool.close()
            pool = _Pool(function, workers, prepare)
    finally:
        pool.close()


def start_processes(workers: int, prepare: Callable[[], None]) -> ProcessPoolExecutor:
    """Return an executor of worker processes, each of which calls ``prepare`` first and ends with this one."""
    # loky starts clean processes (no fork of our threads) without importing the caller's main module again, so
    # that a script needs no `if __name__ == "__main__"` to use the library.
    begin = partial(_begin, prepare, os.getpid())
    return ProcessPoolExecutor(workers, context=get_context("loky"), initializer=begin)


def _begin(prepare: Callable[[], None], parent: int) -> None:
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    prepare()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: it would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class _Pool(Generic[Item, Result]):
    """Processes and the items they have in hand, in order of submission."""

    def __init__(self, function: Callable[[Item], Result], workers: int, prepare: Callable[[], None]) -> None:
        self._function = function
        self._executor = start_processes(workers, prepare)
        self._pending: deque[tuple[Item, Future[Result]]] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, items: Iterable[Item]) -> None:
        for item in items:
            try:
                future = self._executor.submit(self._function, item)
            except BrokenProcessPool as error:
                future = Future()
                future.set_exception(error)
            self._pending.append((item, future))

    def next(self) -> tuple[Item, Result | WorkerDied]:
        item, future = self._pending.popleft()
        try:
            return item, future.result()
        except BrokenProcessPool as error:
            return item, WorkerDied(str(error))

    def items(self) -> list[Item]:
        return [item for item, _ in self._pending]

    def close(self) -> None:
        self._executor.shutdown(kill_workers=True)
