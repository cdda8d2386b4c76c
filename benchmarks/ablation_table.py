"""Print the runs of `python -m benchmarks.ablation` on several data sets as one table of their common rows.

python benchmarks/ablation_table.py results/ablation-medium.json results/ablation-landmarks.json ...
"""

import json
import sys
from pathlib import Path

from d2r.evaluate.metrics import paired_bootstrap
from d2r.report.tables import Table, as_text


def main():
    runs = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    names = [run["benchmark"]["name"] for run in runs]
    heads = ["variant", *names, f"bytes/picture ({names[0]})", *(f"ms/query ({name})" for name in names[:2])]
    rows = []
    by_name = [{row["method"]: row for row in run["rows"]} for run in runs]
    for first in runs[0]["rows"]:
        name = first["method"]
        if not all(name in rows_of_run for rows_of_run in by_name):
            continue
        same = [rows_of_run[name] for rows_of_run in by_name]
        cells = [name]
        for run, row in zip(runs, same, strict=True):
            base, own = run["rows"][0]["scores"]["all"], row["scores"]["all"]
            cell = f"{100 * own['map']:.1f}"
            if row is not run["rows"][0]:
                change = paired_bootstrap(*(numbers(one["average_precision"]) for one in (own, base)))
                cell = f"{100 * change.mean:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
            cells.append(cell)
        cells += [f"{first['bytes_per_picture']:,.0f}", *(f"{row['milliseconds']:.1f}" for row in same[:2])]
        rows.append(tuple(cells))
    print(as_text(Table("", tuple(heads), tuple(rows))))


def numbers(values):
    return [float("nan") if value is None else value for value in values]


if __name__ == "__main__":
    main()
