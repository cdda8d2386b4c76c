"""Run a function over many items in processes, so that no item can stop the others."""

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
_EXIT_S = 30.0  # from when a process closes its pipe until it ends

# The program of a worker process. It finds modules where this process does, and does not import the main module again,
# so that a script needs no `if __name__ == "__main__"` to use the library.
_BEGIN = """
import sys
from multiprocessing.connection import Connection
line = Connection(int(sys.argv[1]))
sys.path[:] = line.recv()
from d2r.support.processes import _work
_work(line, int(sys.argv[2]))
"""


class WorkerDied(D2RError):  # noqa: N818
    """Stands for the result of a call whose process died, and died again at a second try.

    The text continues "the process ...": "was killed (SIGKILL), twice", for example when memory runs out, "crashed
    (SIGSEGV), twice", for example in a decoder, or "ended with exit code 7, twice".
    """


class WorkerStartError(D2RError):
    """Worker processes end before their first call."""


def default_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def map_in_processes(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int,
    prepare: Callable[[], None],
) -> Iterator[tuple[_Item, _Result | WorkerDied]]:
    """Yield each item with ``function(item)``, in order, working only a few items ahead of the consumer.

    If the process of an item dies, the item is tried once more in a new process; if that dies too, its result is
    :class:`WorkerDied`. Other items are not affected.

    Args:
        function: picklable; called in a worker process.
        items: read only as fast as they are processed.
        workers: number of processes; 0 runs everything in this one.
        prepare: picklable; called once in every worker process before its first item.

    Raises:
        WorkerStartError: a worker process ends before its first item.
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
    """Processes that run one call at a time each, and end with this process; thread-safe.

    A process starts at its first call. Each has its own pipe to this process, so that it is known which call a process
    was running when it died, and a half-sent answer ends the reading: on a shared pipe the reader would wait for the
    rest for ever.

    Args:
        count: number of processes.
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
        """How many processes crashed, exited or were killed from outside."""
        return sum(worker.deaths for worker in self._workers)

    def submit(self, function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """Return the future of ``function(*arguments)``, called in one of the processes; all must be picklable.

        The future raises what the function or ``prepare`` raises, :class:`WorkerDied` if two processes died of the
        call, or :class:`WorkerStartError`. It is cancelled after :meth:`close`.
        """
        future: Future[_Result] = Future()
        self._calls.put((future, function, arguments))
        if self._closed:
            future.cancel()
        return future

    def close(self) -> None:
        """Kill the processes, even during a call, and return when they have ended."""
        self._closed = True
        for worker in self._workers:
            worker.close()
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.wait()

    def _serve(self, worker: _Worker) -> None:
        # Inherited by the processes started here: Ctrl-C reaches all processes of a terminal, but only this one obeys.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while (call := self._calls.get()) is not None:
            future, function, arguments = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(worker.call(function, arguments))
                except BaseException as error:
                    future.set_exception(error)
            del call, future, function, arguments  # they may be large, and the next call may be a long time coming


class _Worker:
    """A process, started at the first call and replaced when it dies."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()  # so that none is started while closing
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
        """End the process and start no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def wait(self) -> None:
        """Return when the process has ended, also one that was killed between two calls."""
        if self._process is not None:
            self._process.wait()

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
        with suppress(OSError):  # it is dead already, which the next exchange notices
            ours.send(sys.path)
        return process

    def _exchange(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes | None:
        """Return the answer of the process, or None if it died of the question."""
        assert self._line is not None
        question = _packed((function, arguments))
        try:
            self._line.send_bytes(question)
            return self._line.recv_bytes()
        except (EOFError, OSError):
            return None

    def _end(self) -> str:
        """End a process that does not answer, and return how it ended."""
        assert self._process is not None
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:  # it has closed its pipe but runs on
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
    data: bytes = cloudpickle.dumps(value)  # also pickles functions of the main module, which workers cannot import
    return data


def _result(answer: bytes) -> Any:
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    return result


def _work(line: Connection, parent: int) -> None:
    """Answer questions in a worker process until the pipe is closed."""
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
    """End this process when its parent was killed: nobody waits for its work."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
