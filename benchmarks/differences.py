"""The difference between two methods of a run, with its interval; the run's own table compares only with its first row.

    python benchmarks/differences.py RUN.json METHOD OTHER
    python benchmarks/differences.py RUN.json METHOD OTHER --in OTHER_RUN.json

RUN is a file of ``d2r evaluate --out`` or ``d2r reproduce``. Prints the mean difference of average precision, METHOD
minus OTHER, and its 95 % interval by paired bootstrap over the queries, on one line without and one with verification.
With ``--in``, OTHER is from another run on the same data set, for example with other features.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from d2r.evaluate.metrics import paired_bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("method")
    parser.add_argument("other")
    parser.add_argument("--in", dest="other_run", type=Path, help="run that has OTHER; default: RUN")
    options = parser.parse_args()
    run, other_run = (json.loads(path.read_text()) for path in (options.run, options.other_run or options.run))
    if run["benchmark"] != other_run["benchmark"]:
        parser.error(f"{options.run} and {options.other_run} are of different data sets")
    rows, other_rows = ({(row["method"], row["verified"]): row for row in one["rows"]} for one in (run, other_run))
    for verified in (False, True):
        pair = [rows.get((options.method, verified)), other_rows.get((options.other, verified))]
        if None in pair:
            continue
        for protocol in pair[0]["scores"]:
            one, other = (np.array(row["scores"][protocol]["average_precision"], np.float64) for row in pair)
            gap = paired_bootstrap(one, other)
            where = f" in {options.other_run.name}" if options.other_run else ""
            print(
                f"{options.method} minus {options.other}{where}{', verified' if verified else ''} ({protocol}):"
                f" {100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            )


if __name__ == "__main__":
    main()
