"""Compare a search on a cluster with the same search on one machine, and time describing and verifying.

    python benchmarks/cluster_overhead.py PHOTOS --shards 2

Indexes the photos with 65,536 words (randomly chosen descriptors: the cost of a word does not depend on which one it
is), and searches with some of them, one at a time and several at once. Unless there is another cluster, it starts one
on this machine alone, so it measures what Ray adds, not what more machines gain.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import KERNELS, aggregate, assign
from d2r.cluster.connect import connected
from d2r.defaults import FEATURES
from d2r.describe import Description, describe_query
from d2r.engine import Engine
from d2r.features import make_extractor
from d2r.images import read_image
from d2r.indexing.entry import prepare_worker
from d2r.options import SearchOptions
from d2r.sources import find_pictures
from d2r.support.processes import default_workers
from d2r.verify.keypoints import make_keypoints
from d2r.verify.verify import NEAREST

WORDS = 65536
SEGMENTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pictures", type=int, default=300, help="maximum number of photos")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--verify", type=int, default=100)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--ray-address")
    arguments = parser.parse_args()
    photos = [Path(file.path) for file in find_pictures(arguments.photos)][: arguments.pictures]
    place = Path(tempfile.mkdtemp())
    try:
        with Engine.create(place / "index", regions="whole", codebook=some_words(photos)) as engine:
            for first in range(SEGMENTS):  # so that each shard has segments
                engine.add(photos[first::SEGMENTS])
            queries = describe(photos[: arguments.queries], engine)
            print(f"{engine.index.size().pictures} pictures, {len(queries)} queries, best {arguments.verify} verified")
            depths = (0, arguments.verify)
            local = {verify: timed(engine, queries, verify) for verify in depths}
            with connected(arguments.ray_address):
                from d2r.cluster.search import sharded

                with sharded(engine.index, shards=arguments.shards) as cluster:
                    timed(cluster, queries, arguments.verify)  # compiled and mapped at first use
                    spread = {verify: timed(cluster, queries, verify) for verify in depths}
                    rates = {
                        (verify, where): together(one, queries, verify, arguments.at_once)
                        for verify in depths
                        for where, one in (("here", engine), ("cluster", cluster))
                    }
        for verify in depths:
            for stage in ("search", "verify", "all"):
                here, there = np.array(local[verify][stage]), np.array(spread[verify][stage])
                print(
                    f"{verify} verified, {stage}: here {shown(here)}, cluster {shown(there)} ms;"
                    f" the cluster adds {shown(there - here)} ms (median [quartiles])"
                )
            for where in ("here", "cluster"):
                rate = rates[verify, where]
                print(f"{verify} verified, {arguments.at_once} queries at once, {where}: {rate:.1f} per second")
        apart_s = 1.0 / rates[arguments.verify, "here"] - 1.0 / rates[0, "here"]
        core_ms = 1000 * default_workers() * apart_s / arguments.verify
        print(f"core ms to verify a picture, from these rates: {core_ms:.2f}")
    finally:
        shutil.rmtree(place)


def some_words(photos: list[Path]) -> Codebook:
    """Return descriptors of some photos as visual words."""
    extractor = make_extractor(FEATURES)
    found: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    while sum(map(len, found)) < WORDS:
        picture = read_image(photos[len(found) % len(photos)])
        descriptors = extractor.extract([picture])[0].descriptors
        noise = rng.normal(0, 0.02, descriptors.shape)  # so that the second round has others
        found.append(np.abs(descriptors + noise).astype(np.float32))
    every = np.concatenate(found)[:WORDS]
    return Codebook(every / np.linalg.norm(every, axis=1, keepdims=True))


def describe(photos: list[Path], engine: Engine) -> list[Description]:
    """Describe queries, and print the core time of describing and of finding their words."""
    prepare_worker()
    extractor = make_extractor(engine.recipe.features)
    queries, sent, seconds = [], 0, dict.fromkeys(("read", "describe", "words"), 0.0)
    codebook = engine.index.codebook
    assert codebook is not None
    codebook.assign(np.zeros((1, codebook.dim), np.float32))  # builds its coarse partition
    for photo in photos:
        clock = [time.process_time()]
        picture = read_image(photo)
        clock.append(time.process_time())
        query = describe_query(picture, None, extractor, max_side=1024)
        clock.append(time.process_time())
        words = aggregate(assign(codebook, query.features.descriptors), KERNELS["r-asmk*"])
        clock.append(time.process_time())
        keypoints = make_keypoints(query.features, codebook, nearest=NEAREST)
        sent += len(pickle.dumps((words, keypoints), protocol=pickle.HIGHEST_PROTOCOL))
        for name, took in zip(seconds, np.diff(clock), strict=True):
            seconds[name] += took
        queries.append(query)
    count = len(queries)
    features = np.mean([len(query.features) for query in queries])
    print(
        f"core ms per query of {features:.0f} features: read {1000 * seconds['read'] / count:.1f}, describe"
        f" {1000 * seconds['describe'] / count:.1f}, words {1000 * seconds['words'] / count:.1f};"
        f" {sent / count:,.0f} bytes go to a shard"
    )
    return queries


def timed(engine: Engine, queries: list[Description], verify: int) -> dict[str, list[float]]:
    """Return the milliseconds of each stage of each query, run one query after the other."""
    found: dict[str, list[float]] = {"search": [], "verify": [], "all": []}
    for query in queries:
        started = time.perf_counter()
        answer = engine.search_described(query, SearchOptions(top=10, verify=verify, expand=0))
        found["all"].append(1000 * (time.perf_counter() - started))
        for stage, seconds in answer.seconds.items():
            found[stage].append(1000 * seconds)
    return found


def together(engine: Engine, queries: list[Description], verify: int, at_once: int) -> float:
    """Return the queries per second when several run at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(
            pool.map(
                lambda query: engine.search_described(query, SearchOptions(top=10, verify=verify, expand=0)), queries
            )
        )
    return len(queries) / (time.perf_counter() - started)


def shown(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
