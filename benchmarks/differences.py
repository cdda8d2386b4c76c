"""The difference between two methods of a run, with its interval; the run's own table compares with its first row only.

    python benchmarks/differences.py RUN.json METHOD OTHER

RUN is what ``d2r evaluate --out`` or ``d2r reproduce`` wrote. Prints the mean difference of average precision, METHOD
less OTHER, and its 95 % interval by paired bootstrap over the queries; a line each without and with verification.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from d2r.evaluate.revisited import paired_bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("method")
    parser.add_argument("other")
    options = parser.parse_args()
    rows = {(row["method"], row["verified"]): row for row in json.loads(options.run.read_text())["rows"]}
    for verified in (False, True):
        pair = [rows.get((name, verified)) for name in (options.method, options.other)]
        if None in pair:
            continue
        for protocol in pair[0]["scores"]:
            one, other = (np.array(row["scores"][protocol]["average_precision"], np.float64) for row in pair)
            gap = paired_bootstrap(one, other)
            print(
                f"{options.method} less {options.other}{', verified' if verified else ''} ({protocol}):"
                f" {100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            )


if __name__ == "__main__":
    main()
