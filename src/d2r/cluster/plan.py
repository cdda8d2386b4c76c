"""How many machines a collection needs, computed from measurements of this build.

Everything is linear in the number of pictures, as in any inverted file without early termination. What was not measured
is an assumption, is marked as one, and can be set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from d2r.defaults import VERIFY
from d2r.errors import D2RError

GB: Final = 1e9


@dataclass(frozen=True)
class Constant:
    """A number that a plan depends on.

    Attributes:
        name: its meaning.
        value: its value in ``unit``.
        unit: its unit.
        source: where it was measured, or that it was not.
    """

    name: str
    value: float
    unit: str
    source: str


_MILLION: Final = "docs/performance.md, a million pictures"

POSTING_BYTES: Final = Constant("memory per posting", 18.02, "bytes", _MILLION)
POSTING_NS: Final = Constant("scoring a posting on one core", 2.34, "ns", f"{_MILLION}, compacted")
SCORED: Final = Constant("postings scored per picture and query, of 787 words each", 16.0, "postings", _MILLION)
SCORED_WORDS: Final = Constant("words of each of those", 787.0, "words", _MILLION)
TAIL: Final = Constant("slowest of a hundred searches to the median", 1.32, "times", f"{_MILLION}, 2 threads, again")
WORDS: Final = Constant(
    "words of a whole picture", 794.0, "words", "docs/results.md, real landmarks, 65,536 words: 15,878 bytes / 20"
)
REGION_WORDS: Final = Constant(
    "words added per further region", 102.0, "words", "the same, with 9.0 regions: (32,218 / 20 - 794) / 8.0"
)
VERIFY_BYTES: Final = Constant(
    "local features per picture, on disk",
    50_070.0,
    "bytes",
    "`d2r info` of 103 photos, at most 1,000 points: 30,070, and 20 of each for expansion",
)
CATALOGUE_BYTES: Final = Constant("catalogue per picture", 135.0, "bytes", _MILLION)
FACTOR_BYTES: Final = Constant("normalisation per picture, in memory", 4.0, "bytes", "one float32 per picture")
WRITE_US: Final = Constant("writing a picture without its features", 172.0, "us", f"{_MILLION}; one writer")
DISK: Final = Constant("writing to the disk", 330e6, "bytes/s", "docs/performance.md, the machine")
COPIES: Final = Constant(
    "times that features of a picture are written", 4.0, "times",
    "src/d2r/index/compaction.py: from commits of 64 MB, 125 pictures, to 65,536 by merging eight into one",
)  # fmt: skip
READ_S: Final = Constant(
    "reading and decoding a picture", 1 / 432, "core s", "docs/performance.md, building: 432 per second, 640 pixels"
)
REGION_S: Final = Constant(
    "describing and aggregating a region with RootSIFT",
    (1 / 3.9 + 1 / 2.3) / 9,
    "core s",
    "docs/performance.md, building: 3.9 and 2.3 pictures per second, nine regions each, 65,536 words",
)
QUERY_S: Final = Constant(
    "describing a query with RootSIFT and finding its words",
    0.122,
    "core s",
    "benchmarks/cluster_overhead.py: 691 features",
)
VERIFY_S: Final = Constant(
    "verifying a picture", 0.00085, "core s", "benchmarks/cluster_overhead.py, of 100; 0.81 ms since"
)
HOP_S: Final = Constant(
    "asking shards twice, instead of searching locally",
    0.0213,
    "s",
    "benchmarks/cluster_overhead.py: all of them on two cores; 16.8 ms since",
)
QUERY_BYTES: Final = Constant(
    "sent to each shard for a query",
    218_000.0,
    "bytes",
    "benchmarks/cluster_overhead.py: 691 features, its words and codes, and keypoints for verification",
)

MEASURED: Final = (
    POSTING_BYTES, POSTING_NS, SCORED, SCORED_WORDS, TAIL, WORDS, REGION_WORDS, VERIFY_BYTES, CATALOGUE_BYTES,
    FACTOR_BYTES, WRITE_US, DISK, COPIES, READ_S, REGION_S, QUERY_S, VERIFY_S, HOP_S, QUERY_BYTES,
)  # fmt: skip
"""All constants of a plan that cannot be set."""


class PlanError(D2RError):
    """A request that no number of machines can meet; the message says why."""


@dataclass(frozen=True)
class Request:
    """The requirements, and the machines.

    Attributes:
        pictures: pictures in the collection.
        regions: average regions per picture, including the whole picture.
        qps: queries per second.
        latency_s: maximum median latency of a query.
        verify: length of the shortlist for spatial verification.
        cores: cores per machine.
        memory: memory per machine, in bytes.
        bandwidth: rate at which all cores of a machine together read memory, in bytes per second. It was not measured.
        busy: maximum share of the time that cores are busy; above it, queries wait too long.
        replicas: machines per shard.
        days: days in which to describe the collection.
    """

    pictures: float
    regions: float
    qps: float
    latency_s: float
    verify: int = VERIFY
    cores: int = 32
    memory: float = 256 * GB
    bandwidth: float = 150 * GB
    busy: float = 0.6
    replicas: int = 1
    days: float = 7.0


@dataclass(frozen=True)
class Plan:
    """The resources needed; seconds are wall-clock, and bytes are of all machines together, unless stated otherwise.

    Attributes:
        words: visual words per picture.
        postings: postings of the collection.
        scored: postings that one query scores.
        search_bytes: memory of one copy.
        disk_bytes: disk space of one copy: postings, features and catalogue.
        shards: parts of the index, one per machine.
        bound: what determines that number: "memory", "queries" or "latency".
        machines: machines that search: shards times replicas.
        front_cores: further cores, which describe queries.
        scoring_s: scoring time of one query, on the cores of all shards.
        waiting_s: time that a query waits for those before it.
        verifying_s: verification time of one query.
        median_s: median latency of one query, everything included.
        slow_s: latency of the slowest query in a hundred.
        busy: share of the time that cores of the shards are busy.
        core_s_a_query: core seconds per query of describing, scoring and verifying.
        describing_core_hours: core hours to describe the whole collection.
        describing_cores: cores that describe it in time.
        writing_hours: hours of the single process that commits.
        network: bytes per second from the front to the shards.
    """

    words: float
    postings: float
    scored: float
    search_bytes: float
    disk_bytes: float
    shards: int
    bound: str
    machines: int
    front_cores: int
    scoring_s: float
    waiting_s: float
    verifying_s: float
    median_s: float
    slow_s: float
    busy: float
    core_s_a_query: float
    describing_core_hours: float
    describing_cores: int
    writing_hours: float
    network: float


def make_plan(request: Request) -> Plan:
    """Plan the fewest shards that hold the collection, keep up with the queries, and answer in time.

    All shards score a query at once, each on all its cores. Queries arrive at random and take equally long, so they
    wait as in an M/D/1 queue.

    Raises:
        PlanError: no number of shards meets the latency, because the steps before and after scoring take longer.
    """
    words = WORDS.value + REGION_WORDS.value * max(0.0, request.regions - 1)
    postings = request.pictures * words
    # A query is one region. How often two pictures share a word is proportional to the words of each.
    scored = request.pictures * SCORED.value * (words / SCORED_WORDS.value) * (WORDS.value / SCORED_WORDS.value)
    search_bytes = postings * POSTING_BYTES.value + request.pictures * FACTOR_BYTES.value
    # More cores than the memory bandwidth can feed do not help.
    posting_s = max(POSTING_NS.value * 1e-9 / request.cores, POSTING_BYTES.value / request.bandwidth)
    verify_core_s = request.verify * VERIFY_S.value
    around_s = QUERY_S.value + HOP_S.value

    def timing(shards: int) -> tuple[float, float, float, float, float]:
        scoring_s = scored * posting_s / shards
        # The shortlist falls on shards at random: the fullest has its share and two standard deviations.
        share = request.verify / shards
        fullest = min(float(request.verify), math.ceil(share + 2 * math.sqrt(share)))
        verifying_s = math.ceil(fullest / request.cores) * VERIFY_S.value
        service_s = scoring_s + verify_core_s / (shards * request.cores)
        busy = request.qps / request.replicas * service_s
        waiting_s = service_s * busy / (2 * (1 - busy)) if busy < 1 else math.inf
        return scoring_s, waiting_s, verifying_s, around_s + scoring_s + waiting_s + verifying_s, busy

    least = math.ceil(search_bytes / (0.8 * request.memory))  # the rest is for the system and the shortlist's features
    floor_s = around_s + (VERIFY_S.value if request.verify else 0.0)
    if floor_s >= request.latency_s:
        raise PlanError(
            f"a query cannot be answered in {1000 * request.latency_s:g} ms: describing it, asking the shards and"
            f" verifying one picture take {1000 * floor_s:.0f} ms"
        )
    enough: dict[str, Callable[[int], bool]] = {
        "queries": lambda count: timing(count)[4] <= request.busy,
        "latency": lambda count: timing(count)[3] <= request.latency_s,
    }
    shards, bound = max(1, least), "memory"
    for name, is_enough in enough.items():
        if not is_enough(shards):
            shards, bound = _smallest(shards, is_enough), name
    scoring_s, waiting_s, verifying_s, median_s, busy = timing(shards)
    describing_s = request.pictures * (READ_S.value + request.regions * REGION_S.value)
    writing_s = WRITE_US.value * 1e-6 + COPIES.value * VERIFY_BYTES.value / DISK.value
    return Plan(
        words=words,
        postings=postings,
        scored=scored,
        search_bytes=search_bytes,
        disk_bytes=search_bytes + request.pictures * (VERIFY_BYTES.value + CATALOGUE_BYTES.value),
        shards=shards,
        bound=bound,
        machines=shards * request.replicas,
        front_cores=math.ceil(request.qps * QUERY_S.value / request.busy),
        scoring_s=scoring_s,
        waiting_s=waiting_s,
        verifying_s=verifying_s,
        median_s=median_s,
        slow_s=median_s + (TAIL.value - 1) * scoring_s + _slow_wait(waiting_s, busy) - waiting_s,
        busy=busy,
        core_s_a_query=QUERY_S.value + scored * POSTING_NS.value * 1e-9 + verify_core_s,
        describing_core_hours=describing_s / 3600,
        describing_cores=math.ceil(describing_s / (request.days * 86400)),
        writing_hours=request.pictures * writing_s / 3600,
        network=request.qps * shards * QUERY_BYTES.value,
    )


def _slow_wait(mean_s: float, busy: float) -> float:
    """Return the minimum wait of one query in a hundred, as the waits of a queue fall off exponentially."""
    return mean_s / busy * math.log(100 * busy) if busy > 0.01 else 0.0


def _smallest(low: int, enough: Callable[[int], bool]) -> int:
    """Return the smallest count above ``low`` that is enough, if every greater one is too."""
    high = 2 * low
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
