"""Load a running service from many threads, and compare it with the same index called in this process.

    d2r serve pictures.index &
    python benchmarks/load.py pictures.index QUERY... --url http://127.0.0.1:8765 --clients 8 --seconds 20

Every answer is compared with what the index answers in this process; a wrong one ends the run with status 1. A request
that is told to come again (429) is counted and sent again after the time that it was told.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from d2r.client import Client, ServiceError
from d2r.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path, nargs="+")
    parser.add_argument("--url", default="http://127.0.0.1:8765")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--verify", type=int, default=100)
    parser.add_argument("--top", type=int, default=10)
    given = parser.parse_args()
    expected, own = in_process(given)
    report("in this process, one at a time", own, sum(own))
    seconds, outcomes, wrong = loaded(given, expected)
    report(f"served, {given.clients} clients", seconds, given.seconds)
    print(f"told to come again: {outcomes['again']:,}; failed: {outcomes['failed']:,}; wrong answers: {len(wrong):,}")
    for line in wrong[:5]:
        print(line)
    sys.exit(1 if wrong or outcomes["failed"] else 0)


def in_process(given: argparse.Namespace) -> tuple[dict[Path, list[tuple[float, int | None]]], list[float]]:
    """Return the answer to each query as scores and inliers, and the seconds of three searches of each."""
    answers, seconds = {}, []
    with Engine.open(given.index) as engine:
        engine.search(given.queries[0], top=given.top, verify=given.verify)
        for query in given.queries * 3:
            started = time.perf_counter()
            answer = engine.search(query, top=given.top, verify=given.verify)
            seconds.append(time.perf_counter() - started)
            answers[query] = [(round(result.score, 4), result.inliers) for result in answer.results]
    return answers, seconds


def loaded(given: argparse.Namespace, expected: dict) -> tuple[list[float], Counter[str], list[str]]:
    """Return the seconds of each answer, counts of the other outcomes, and what was wrong."""
    pictures = {query: query.read_bytes() for query in given.queries}
    seconds: list[float] = []
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()
    end = time.monotonic() + given.seconds

    def work(number: int) -> None:
        with Client(given.url, timeout=120) as client:
            turn = number
            while time.monotonic() < end:
                query = given.queries[turn % len(given.queries)]
                turn += 1
                started = time.perf_counter()
                try:
                    answer = client.search(pictures[query], top=given.top, verify=given.verify)
                except ServiceError as error:
                    with lock:
                        outcomes["again" if error.status == 429 else "failed"] += 1
                    time.sleep(error.retry_after or 0)
                    continue
                taken = time.perf_counter() - started
                found = [(round(one["score"], 4), one["inliers"]) for one in answer["results"]]
                with lock:
                    seconds.append(taken)
                    if not same(found, expected[query]):
                        wrong.append(f"{query}: {found[:3]} and not {expected[query][:3]}")

    with ThreadPoolExecutor(given.clients) as threads:
        list(threads.map(work, range(given.clients)))
    return seconds, outcomes, wrong


def same(found: list, expected: list) -> bool:
    return len(found) == len(expected) and all(
        abs(a[0] - b[0]) < 2e-4 and a[1] == b[1] for a, b in zip(found, expected, strict=True)
    )


def report(what: str, seconds: list[float], wall: float) -> None:
    if not seconds:
        print(f"{what}: no answer")
        return
    p50, p90, p99 = 1000 * np.percentile(seconds, [50, 90, 99])
    print(
        f"{what}: {len(seconds) / wall:.2f} searches a second; ms: median {p50:.0f}, 90 % {p90:.0f}, 99 % {p99:.0f}"
        f" ({len(seconds):,} searches)"
    )


if __name__ == "__main__":
    main()
