"""Figures of comparisons, as PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from d2r.evaluate.run import Row
from d2r.support.files import GENERATOR, is_our_png, is_our_svg, writing


def curve_files(path: Path) -> tuple[Path, Path]:
    """Return the paths of the PNG and the SVG that :func:`accuracy_curves` writes."""
    return path.with_name(path.name + ".png"), path.with_name(path.name + ".svg")


def accuracy_curves(rows: Sequence[Row], title: str, path: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Plot mAP over regions per picture, one curve per selector, and the baseline without regions as a flat line.

    Args:
        rows: results of a sweep; each protocol gets a panel.
        title: title of the figure.
        path: path without suffix.
        force: see :func:`d2r.support.files.writing`.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        d2r.support.files.OutputError: one of the files exists and is not a figure of this program.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    protocols = list(rows[0].scores)
    figure, panels = plt.subplots(1, len(protocols), figsize=(5.2 * len(protocols), 3.8), squeeze=False)
    for panel, protocol in zip(panels[0], protocols, strict=True):
        families: dict[str, list[Row]] = {}
        for row in rows:
            families.setdefault(row.regions.split(":")[0], []).append(row)
        for baseline in families.pop("whole", []):
            panel.axhline(
                100 * baseline.scores[protocol].map, color="0.4", linestyle="--", label=f"{baseline.method}, no regions"
            )
        for marker, (family, points) in zip("osD^v", families.items(), strict=False):
            points.sort(key=lambda row: row.regions_per_picture)
            panel.plot(
                [row.regions_per_picture for row in points],
                [100 * row.scores[protocol].map for row in points],
                marker=marker,
                label=f"{points[0].method}, {family}",
            )
        panel.set_xlabel("regions per picture, including the whole picture")
        panel.set_ylabel("mAP (%)" if protocol == "all" else f"mAP (%), {protocol}")
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    figure.suptitle(textwrap.fill(title, 60 * len(protocols)), fontsize=10)
    figure.tight_layout()
    png, svg = curve_files(path)
    with writing(png, is_our_png, force=force) as part:
        figure.savefig(part, format="png", dpi=150, metadata={"Software": GENERATOR})
    with writing(svg, is_our_svg, force=force) as part:
        figure.savefig(part, format="svg", metadata={"Creator": GENERATOR})
    plt.close(figure)
    return png, svg
