"""How many shards affect the slowest of them: a simulation of a scattered search, and of stalls.

    python benchmarks/scale.py

Every shard scores a query, which is answered when the last shard has answered or the time is up. Each shard works on
one query after the other, on all its cores. The time of a search is that of :mod:`d2r.cluster.plan`, spread as measured
(the slowest of a hundred over the median), and a shard stalls now and then, as processes on shared machines do. How
often and how long was not measured: the values are assumptions, so there are several.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import numpy as np

from d2r.cluster.plan import HOP_S, QUERY_S, TAIL, VERIFY_S, Plan, Request, make_plan

SECONDS = 400
DEADLINE_S = 0.5
STALLS = ((0.0, 0.0), (0.0001, 0.5), (0.001, 0.5), (0.001, 2.0))  # share of searches, and seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qps", type=float, default=50.0)
    parser.add_argument("--regions", type=float, default=4.0)
    arguments = parser.parse_args()
    print("| pictures | shards | replicas | stalls | busy | median, ms | 99 %, ms | 99.9 %, ms | complete in 500 ms |")
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|")
    for pictures in (1e8, 1e9):
        request = Request(pictures, arguments.regions, arguments.qps, latency_s=10.0)
        least = make_plan(request).shards
        for factor in (1, 2, 4):
            for replicas in (1, 2):
                if replicas == 2 and factor != 1:
                    continue
                for often, long_s in STALLS:
                    times, busy = simulate(request, least * factor, replicas, often, long_s)
                    slow = np.percentile(times, [50, 99, 99.9]) * 1000
                    stalls = "none" if not often else f"{long_s:g} s, one in {1 / often:,.0f}"
                    print(
                        f"| {pictures:.0e} | {least * factor:,} | {replicas} | {stalls} | {busy:.0%} |"
                        f" {slow[0]:,.0f} | {slow[1]:,.0f} | {slow[2]:,.0f} | {np.mean(times <= DEADLINE_S):.2%} |"
                    )


def simulate(
    request: Request, shards: int, replicas: int, often: float, long_s: float, seed: int = 0
) -> tuple[np.ndarray, float]:
    """Return the seconds that each of many queries takes, and the share of the time that shards are busy.

    Args:
        request: pictures, queries per second and machines.
        shards: parts of the index.
        replicas: per shard; queries alternate between them.
        often: share of a shard's searches that stall.
        long_s: length of a stall in seconds.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    count = round(request.qps * SECONDS)
    arrivals = np.cumsum(rng.exponential(1 / request.qps, count))
    scoring_s, verifying_s = of_shard(request, shards)
    sigma = math.log(TAIL.value) / 2.326  # of a log-normal with that 99th percentile over its median
    slowest = np.zeros(count)
    busy = 0.0
    for _ in range(shards):
        service = (scoring_s + verifying_s) * rng.lognormal(0.0, sigma, count)
        service += (rng.random(count) < often) * long_s
        busy += service.sum() / SECONDS / replicas / shards
        for replica in range(replicas):
            turn = slice(replica, None, replicas)
            slowest[turn] = np.maximum(slowest[turn], waited(arrivals[turn], service[turn]))
    return slowest + QUERY_S.value + HOP_S.value, busy


def of_shard(request: Request, shards: int) -> tuple[float, float]:
    """Return the seconds that one shard spends on scoring and on verifying one query."""
    plan: Plan = make_plan(dataclasses.replace(request, qps=0.0))
    scoring_s = plan.scoring_s * plan.shards / shards
    return scoring_s, request.verify * VERIFY_S.value / (shards * request.cores)


def waited(arrivals: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Return the seconds from arrival to answer of queries that one shard answers in turn (Lindley's recursion)."""
    before = np.concatenate([[0.0], np.cumsum(service)[:-1]])
    starts = before + np.maximum.accumulate(arrivals - before)
    return starts + service - arrivals


if __name__ == "__main__":
    main()
