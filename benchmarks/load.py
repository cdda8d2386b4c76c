"""Load a service with twice the searches it can handle, and compare it with the same index in this process.

    python benchmarks/load.py pictures.index QUERY... --seconds 600

It searches in this process. Then it starts `d2r serve` and searches from a few clients that wait for their answers,
which measures what the service can handle; and then at a fixed rate, by default twice that, whether or not answers
come. A search that gets 429 is counted and not sent again. Every answer is compared with that of the index in this
process. Memory is that of the service with all its processes, without memory-mapped files. The tables are Markdown. The
exit status is 1 if an answer was wrong or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from d2r.engine import Engine
from d2r.options import SearchOptions

_SAMPLE_S = 5.0  # between two measurements of the memory
_PATIENCE_S = 300.0  # for one answer: longer than the queue of a working service


@dataclass
class Outcome:
    """The searches of one phase: ``carried`` answers per second in ``wall`` seconds."""

    wall: float = 0.0
    carried: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def end(self, started: float) -> None:
        """Record the duration and the rate at the end of the phase."""
        self.wall = time.perf_counter() - started
        self.carried = self.counts["answered"] / self.wall

    def row(self, what: str) -> str:
        """Return a row of the table."""
        p50, p99 = 1000 * np.percentile(self.seconds, [50, 99]) if self.seconds else (np.nan, np.nan)
        sent = self.counts.total()
        return (
            f"| {what} | {sent:,} | {sent / self.wall:.2f} | {self.counts['answered']:,} | {self.counts['again']:,} |"
            f" {len(self.wrong):,} | {self.counts['failed']:,} | {self.carried:.2f} |"
            f" {p50:,.0f} | {p99:,.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the overload")
    parser.add_argument("--short", type=float, default=30.0, help="seconds of each measurement before the overload")
    parser.add_argument("--clients", type=int, default=8, help="clients that measure what the service can handle")
    parser.add_argument(
        "--rate", type=float, help="searches per second of the overload; default: twice what the service handles"
    )
    parser.add_argument("--verify", type=int, default=100)
    parser.add_argument("--top", type=int, default=10)
    given = parser.parse_args()
    processors = len(os.sched_getaffinity(0))
    rows = []
    with Engine.open(given.index) as engine:
        expected = {query: told(engine, query, given) for query in given.queries}
        for callers in sorted({1, processors}):
            done = in_process(engine, given, callers)
            rows.append(done.row(f"in one process, {callers} thread{'s' * (callers > 1)}"))
    with serving(given.index) as (process, url):
        carried = asyncio.run(closed(url, given, expected))
        rows.append(carried.row(f"served, {given.clients} clients that wait for each answer"))
        rate = given.rate or 2 * carried.carried
        with watched(process.pid) as memory:
            loaded = asyncio.run(open_loop(url, given, expected, rate))
        rows.append(loaded.row(f"served, {rate:.2f} searches per second for {loaded.wall:,.0f} s"))
    print("| | sent | per second | answered | told to retry | wrong | failed | answers/s | median ms | 99 % ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(
        f"\n{processors} processors, which also send the requests; an index of {engine_size(given.index):,} pictures\n"
    )
    print_memory(memory)
    for line in (carried.wrong + loaded.wrong)[:5]:
        print(line, file=sys.stderr)
    failed = carried.counts["failed"] + loaded.counts["failed"]
    sys.exit(1 if carried.wrong or loaded.wrong or failed else 0)


def engine_size(index: Path) -> int:
    with Engine.open(index) as engine:
        return engine.index.size().pictures


def told(engine: Engine, query: Path, given: argparse.Namespace) -> list[tuple[float, int | None]]:
    """Return the score and inliers of each result of a search in this process."""
    answer = engine.search(query, SearchOptions(top=given.top, verify=given.verify))
    return [(result.score, result.inliers) for result in answer.results]


def in_process(engine: Engine, given: argparse.Namespace, callers: int) -> Outcome:
    """Search in this process, from several threads at once."""
    outcome, lock = Outcome(), threading.Lock()
    started = time.perf_counter()

    def call(first: int) -> None:
        for query in itertools.islice(itertools.cycle(given.queries), first, None):
            begun = time.perf_counter()
            if begun - started > given.short:
                return
            told(engine, query, given)
            with lock:
                outcome.counts["answered"] += 1
                outcome.seconds.append(time.perf_counter() - begun)

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(call, range(callers)))
    outcome.end(started)
    return outcome


@contextmanager
def serving(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``d2r serve`` until it can answer; yields its process and address."""
    program = [sys.executable, "-c", "from d2r.cli.app import main; main()"]
    command = [*program, "serve", str(index), "--port", "0", "--read-only"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        if address is None:
            raise SystemExit("d2r serve does not start")
        while httpx.get(f"{address.group()}v1/ready", timeout=_PATIENCE_S).status_code != 200:
            time.sleep(0.2)
        yield process, address.group()
    finally:
        process.terminate()
        process.wait()


async def closed(url: str, given: argparse.Namespace, expected: dict) -> Outcome:
    """Search from some clients, each of which waits for its answer before it asks again."""
    outcome = Outcome()
    started = time.perf_counter()
    async with client(url) as http:
        search = searcher(http, given, expected, outcome)

        async def ask(first: int) -> None:
            for query in itertools.islice(itertools.cycle(given.queries), first, None):
                if time.perf_counter() - started > given.short:
                    return
                await search(query)

        await asyncio.gather(*(ask(first) for first in range(given.clients)))
    outcome.end(started)
    return outcome


async def open_loop(url: str, given: argparse.Namespace, expected: dict, rate: float) -> Outcome:
    """Search at a rate, whether or not answers come."""
    outcome = Outcome()
    started = time.perf_counter()
    async with client(url) as http:
        search = searcher(http, given, expected, outcome)
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(rate * given.seconds)):
                await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
                tasks.create_task(search(given.queries[number % len(given.queries)]))
            outcome.end(started)  # later answers are awaited, and count for neither rate
    return outcome


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, limits=httpx.Limits(max_connections=None))


def searcher(http: httpx.AsyncClient, given: argparse.Namespace, expected: dict, outcome: Outcome) -> Callable:
    """Return a coroutine function that searches once with a file and records the outcome."""
    pictures = {query: query.read_bytes() for query in given.queries}
    asked = {"top": given.top, "verify": given.verify}

    async def search(query: Path) -> None:
        begun = time.perf_counter()
        try:
            response = await http.post("/v1/search", params=asked, content=pictures[query])
        except httpx.TransportError as error:
            outcome.counts["failed"] += 1
            print(f"{query}: {error!r}", file=sys.stderr)
            return
        taken = time.perf_counter() - begun
        if response.status_code == 429:
            outcome.counts["again"] += 1
            return
        if response.status_code != 200:
            outcome.counts["failed"] += 1
            print(f"{query}: {response.status_code} {response.text[:300]}", file=sys.stderr)
            return
        outcome.counts["answered"] += 1
        outcome.seconds.append(taken)
        found = [(one["score"], one["inliers"]) for one in response.json()["results"]]
        if not same(found, expected[query]):
            outcome.wrong.append(f"{query}: {found[:3]} and not {expected[query][:3]}")

    return search


def same(found: list, expected: list) -> bool:
    return len(found) == len(expected) and all(
        abs(a[0] - b[0]) < 2e-4 and a[1] == b[1] for a, b in zip(found, expected, strict=True)
    )


@contextmanager
def watched(process: int) -> Iterator[list[tuple[float, float]]]:
    """Record the memory of a process and its descendants until the end, as seconds from now and MB."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()
    started = time.perf_counter()

    def look() -> None:
        samples.append((time.perf_counter() - started, sum(map(memory_of, family(process))) / 1e6))

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            look()

    look()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        look()


def family(process: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [process]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def memory_of(process: int) -> int:
    """Return the bytes of memory of a process without mapped files, with its share of shared memory."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def print_memory(samples: list[tuple[float, float]]) -> None:
    """Print the memory at the start, after each minute and at the end, and its growth."""
    last = samples[-1][0]
    whole = [min(samples, key=lambda sample: abs(sample[0] - 60 * minute)) for minute in range(1, int(last // 60) + 1)]
    print("| minute | memory of the service, MB |")
    print("|---|---|")
    for when, amount in [samples[0], *whole, samples[-1]]:
        print(f"| {when / 60:.1f} | {amount:,.0f} |")
    for name, begin in (("all of it", 0.0), ("its second half", last / 2)):
        times, amounts = np.array([sample for sample in samples if sample[0] >= begin]).T
        slope = 60 * np.polyfit(times, amounts, 1)[0]
        print(f"\nslope over {name}: {slope:+.2f} MB per minute")


if __name__ == "__main__":
    main()
