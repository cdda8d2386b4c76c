"""Search an index with less memory than it takes.

    python benchmarks/beyond_memory.py INDEX --like real.index [--memory 4 8 16]

Each run is a process in a control group with this many GB (Linux; needs root), which counts the pages of the index in
memory as well as the process's own. The index is first dropped from the system's cache. The queries are those of
million.py; each is asked once, and then all again. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from d2r.index import Index
from synthetic import folder_bytes, measure, pictures

QUERIES = 30
GROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--like", type=Path, required=True, help="index that the queries are modelled on")
    parser.add_argument("--memory", type=float, nargs="+", default=[4.0, 8.0, 16.0], metavar="GB")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        searches(options.index, options.like)
        return
    print(f"An index of {folder_bytes(options.index) / 1e9:.1f} GB; two threads, best 100.\n")
    print("| memory | open, ms | each query once, ms: median / 99 % | again | resident: own / mapped, MB |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    for memory in options.memory:
        forget(options.index)
        own = [str(options.index), "--like", str(options.like), "--inside"]
        group = limited(int(memory * 2**30))
        try:
            command = 'echo $$ > "$0" && exec "$@"'
            process = [str(group / "cgroup.procs"), sys.executable, __file__, *own]
            done = subprocess.run(["sh", "-c", command, *process], capture_output=True, text=True, check=True)
            print(f"| {memory:g} GB {done.stdout.strip()}", flush=True)
        finally:
            group.rmdir()


def limited(size: int) -> Path:
    """Make a control group, of version 2 or 1, with a limit in bytes, and return its folder."""
    two = (GROUPS / "cgroup.controllers").exists()
    group = GROUPS / ("" if two else "memory") / f"d2r-{os.getpid()}"
    group.mkdir()
    (group / ("memory.max" if two else "memory.limit_in_bytes")).write_text(str(size))
    return group


def forget(folder: Path) -> None:
    """Drop the files in a folder from the system's cache."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def searches(folder: Path, like: Path) -> None:
    with Index(like) as real_index:
        queries = list(pictures(measure(real_index), QUERIES, seed=1))
    started = time.perf_counter()
    with Index(folder, threads=2) as index:
        index.size()
        cells = [f"{1000 * (time.perf_counter() - started):.0f}"]
        for _ in range(2):
            times = []
            for query in queries:
                started = time.perf_counter()
                index.search(query, 100)
                times.append(1000 * (time.perf_counter() - started))
            cells.append(f"{statistics.median(times):,.0f} / {np.percentile(times, 99):,.0f}")
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        resident = [int(status[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")]
    print("|", " | ".join([*cells, f"{resident[0]:,} / {resident[1]:,}"]), "|")


if __name__ == "__main__":
    main()
