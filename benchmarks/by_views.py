"""Split a run on a composed set by the kind of its queries: one photograph of the object, or several.

    python benchmarks/by_views.py RUN.json SET

Objects with several photographs are planted from photographs other than the query, so viewpoint and light really
differ; objects with one photograph are planted by synthetic warps of it. RUN is a file of ``d2r evaluate --out`` or
``d2r reproduce``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from d2r.datasets.ground_truth import load_set
from d2r.evaluate.metrics import paired_bootstrap
from d2r.report.tables import Table, as_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("set", type=Path)
    options = parser.parse_args()
    composed = load_set(options.set)
    photos = {instance.name: len(instance.photos) for instance in composed.instances}
    several = np.array([photos[query.instance] > 1 for query in composed.queries])
    rows = json.loads(options.run.read_text())["rows"]
    scores = [np.array(row["scores"]["all"]["average_precision"], np.float64) for row in rows]
    heads = ["method", "regions"]
    for name, chosen in (("several photos", several), ("one photo", ~several)):
        heads += [f"{name} ({chosen.sum()}): mAP", "change [95 %]"]
    lines = []
    for row, precision in zip(rows, scores, strict=True):
        cells = [row["method"] + (" + verification" if row["verified"] else ""), row["regions"]]
        for chosen in (several, ~several):
            change = ""
            if row is not rows[0]:
                gap = paired_bootstrap(precision[chosen], scores[0][chosen])
                change = f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            cells += [f"{100 * precision[chosen].mean():.1f}", change]
        lines.append(tuple(cells))
    print(as_text(Table("", tuple(heads), tuple(lines))))


if __name__ == "__main__":
    main()
