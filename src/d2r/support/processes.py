"""Run a function over many items in processes, so that no single item can stop the rest."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

import cloudpickle

from d2r.errors import D2RError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
_EXIT_S = 30.0  # between a process closing its line and its end

# What a worker process runs: it finds modules where this one does, and does not import the main module again, so that a
# script needs no `if __name__ == "__main__"` to use the library.
_BEGIN = """
import sys
from multiprocessing.connection import Connection
line = Connection(int(sys.argv[1]))
sys.path[:] = line.recv()
from d2r.support.processes import _work
_work(line, int(sys.argv[2]))
"""


class WorkerDied(D2RError):  # noqa: N818
    """Stands for the result of a call whose process died, and died again when it was tried once more.

    The text goes on after "the process": "was killed (SIGKILL), twice", as when no memory is left, "crashed (SIGSEGV),
    twice", as when a decoder does, or "ended with exit code 7, twice".
    """


class WorkerStartError(D2RError):
    """Worker processes end before they can be given anything to do."""


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def map_in_processes(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int,
    prepare: Callable[[], None],
) -> Iterator[tuple[_Item, _Result | WorkerDied]]:
    """Yield each item with ``function(item)``, in their order, at most a few ahead of the consumer.

    An item whose process dies is tried once more in a new one; when that dies too it yields :class:`WorkerDied`. The
    other items never notice.

    Args:
        function: picklable; called in a worker process.
        items: read only as fast as they are worked on.
        workers: number of processes; 0 runs everything in this one.
        prepare: picklable; called once in every worker process before its first item.

    Raises:
        WorkerStartError: a worker process ends before it has its first item.
        Exception: whatever ``function`` or ``prepare`` raises.
    """
    if workers == 0:
        prepare()
        yield from ((item, function(item)) for item in items)
        return
    source = iter(items)
    pool = WorkerProcesses(workers, prepare)
    pending: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        while True:
            pending.extend((item, pool.submit(function, item)) for item in islice(source, 2 * workers - len(pending)))
            if not pending:
                return
            item, future = pending.popleft()
            result: _Result | WorkerDied
            try:
                result = future.result()
            except WorkerDied as died:
                result = died
            yield item, result
    finally:
        pool.close()


class WorkerProcesses:
    """Processes that do one call at a time each, and end with this one; safe to use from several threads.

    They start when there is something to do. Each has a line of its own to this process, so that it is known what one
    that dies had in hand, and what it had said only half is heard to end: processes that share a pipe would leave the
    reader waiting for the rest for ever.

    Args:
        count: of processes.
        prepare: picklable; called once in every process before its first call.
    """

    def __init__(self, count: int, prepare: Callable[[], None]) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
        self._calls = queue.SimpleQueue()
        self._closed = False
        self._workers = [_Worker(prepare) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._serve, args=[worker], name="worker", daemon=True) for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def deaths(self) -> int:
        """Processes that died of themselves or were killed by others."""
        return sum(worker.deaths for worker in self._workers)

    def submit(self, function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """Return what will be ``function(*arguments)``, all of it picklable, called in one of the processes.

        The future raises what the function or ``prepare`` raises, :class:`WorkerDied` when two processes died of the
        call, and :class:`WorkerStartError`. It is cancelled when there are no processes any more.
        """
        future: Future[_Result] = Future()
        self._calls.put((future, function, arguments))
        if self._closed:
            future.cancel()
        return future

    def close(self) -> None:
        """Kill the processes, whatever they do, and return when they are gone."""
        self._closed = True
        for worker in self._workers:
            worker.close()
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: _Worker) -> None:
        # Processes that are started here inherit this: Ctrl-C reaches all of a terminal, and is for this one to heed.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while (call := self._calls.get()) is not None:
            future, function, arguments = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(worker.call(function, arguments))
                except BaseException as error:
                    future.set_exception(error)
            del call, future, function, arguments  # they may be large, and the next may be far


class _Worker:
    """A process, or none yet; another after one that died."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()  # between starting a process and closing
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None
        self.deaths = 0

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        said: list[str] = []
        while len(said) < 2:
            if self._process is None or self._process.poll() is not None:
                self._start()
            answer = self._exchange(function, arguments)
            if answer is not None:
                return _result(answer)
            said.append(self._end())
        raise WorkerDied(_both(*said))

    def close(self) -> None:
        """End the process; there is no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> None:
        said: list[str] = []
        while len(said) < 2:
            process = self._spawn()
            answer = self._exchange(self._prepare, ())
            if answer is not None:
                try:
                    _result(answer)
                except BaseException:
                    process.kill()
                    raise
                return
            said.append(self._end())
        raise WorkerStartError(f"worker processes do not start: the process {_both(*said)}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        ours, theirs = Pipe()
        with theirs, self._lock:
            if self._closed:
                raise WorkerDied("was ended")
            command = [sys.executable, "-P", "-c", _BEGIN, str(theirs.fileno()), str(os.getpid())]
            self._process = process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        if self._line is not None:
            self._line.close()
        self._line = ours
        with suppress(OSError):  # it is dead already, which whoever asks it something will see
            ours.send(sys.path)
        return process

    def _exchange(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes | None:
        """Return the answer of the process, or None when it died of the question."""
        assert self._line is not None
        question = _packed((function, arguments))
        try:
            self._line.send_bytes(question)
            return self._line.recv_bytes()
        except (EOFError, OSError):
            return None

    def _end(self) -> str:
        """Return how the process ended, which does not answer."""
        assert self._process is not None
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:  # it has closed its line and goes on
            self._process.kill()
            code = self._process.wait()
        self.deaths += not self._closed
        if code >= 0:
            return f"ended with exit code {code}"
        name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
        return f"{'crashed' if -code in _CRASHES else 'was killed'} ({name})"


def _both(first: str, second: str) -> str:
    return f"{first}, twice" if first == second else f"{first}, then {second}"


def _packed(value: object) -> bytes:
    data: bytes = cloudpickle.dumps(value)  # functions of a main module too, which others cannot import
    return data


def _result(answer: bytes) -> Any:
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    return result


def _work(line: Connection, parent: int) -> None:
    """Answer every question until nobody has more: what a worker process does."""
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            line.send_bytes(_answer(line.recv_bytes()))


def _answer(question: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(question)
        return _packed((function(*arguments), None))
    except BaseException as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        try:
            return _packed((None, error))
        except Exception:
            return _packed((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: it would work on what nobody waits for."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
