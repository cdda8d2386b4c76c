"""Draw how an index grows, from the results of benchmarks/million.py.

    python benchmarks/plot_million.py FOLDER/results.json docs/performance/million

Writes OUT.png and OUT.svg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

from d2r.support.files import GENERATOR, is_our_png, is_our_svg, writing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.results.read_text())
    rows = [
        row
        for row, after in zip(rows, [*rows[1:], None], strict=True)
        if not after or after["pictures"] != row["pictures"]
    ]
    pictures = [row["pictures"] for row in rows]
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for threads, marker in ((1, "o"), (2, "s")):
        median, slow = zip(*(row[f"search_ms_{threads}_again"] for row in rows), strict=True)
        (line,) = axes.plot(pictures, median, marker=marker, label=f"{threads} thread{'s' * (threads > 1)}, median")
        axes.plot(
            pictures, slow, marker=marker, mfc="none", ls=":", color=line.get_color(), label="its 99th percentile"
        )
    axes.set(xscale="log", yscale="log", xlabel="pictures", ylabel="milliseconds a search (best 100)")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    with writing(options.out.with_suffix(".png"), is_our_png) as part:
        figure.savefig(part, format="png", dpi=150, metadata={"Software": GENERATOR})
    with writing(options.out.with_suffix(".svg"), is_our_svg) as part:
        figure.savefig(part, format="svg", metadata={"Creator": GENERATOR})


if __name__ == "__main__":
    main()
