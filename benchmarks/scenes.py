"""Leave-one-out search over the scene photographs among distractors: the scenes table of docs/results.md.

    python benchmarks/scenes.py [--data FOLDER] [--work FOLDER]

Every photograph of ``scenes/`` is a query against all the others and the 1,000 pictures of ``photos/``. Three rows:
ASMK* (whole pictures), R-ASMK* (R-MAC boxes, levels 1 and 2), and R-ASMK* with the best 100 verified.

Two of the four folders show the same building: ``entry`` is the portal of the courtyard that ``castle`` shows, and
most pictures of one contain part of the other. So each row is scored three times: by folder, as labelled; with the two
folders as one building; and with the pictures of the other of the two folders ignored, like "junk" in the Oxford
protocol.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID, track
from rich.table import Table

from d2r.engine import Engine
from d2r.evaluate.metrics import mean_average_precision, paired_bootstrap
from d2r.evaluate.revisited import Relevance
from d2r.indexing.codebook import codebook_from
from d2r.options import SearchOptions

ROWS = (("ASMK*", "whole", 0), ("R-ASMK*, RMAC 1-2", "rmac:levels=2", 0), ("+ verification", "rmac:levels=2", 100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("D2R_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/scenes"), help="indexes are kept here and reused")
    options = parser.parse_args()
    paths = [path.resolve() for path in sorted(options.data.glob("scenes/*/*.jpg"))]
    queries = len(paths)
    if not queries:
        parser.error(f"no scenes/*/*.jpg in {options.data}; give --data or set D2R_DATA")
    paths += [path.resolve() for path in sorted(options.data.glob("photos/*"))]
    labels = np.array([path.parent.name for path in paths])

    options.work.mkdir(parents=True, exist_ok=True)
    regional = _index(options.work / "rmac.index", paths, "rmac:levels=2", None)
    whole = _index(options.work / "whole.index", paths, "whole", options.work / "rmac.index")
    engines = {"rmac:levels=2": regional, "whole": whole}

    schemes = {"by folder": labels, "castle = entry": _merged(labels), "other of the two ignored": labels}
    relevance = {
        name: _relevance(scheme, queries, _merged(labels) if "ignored" in name else scheme)
        for name, scheme in schemes.items()
    }
    table = Table(title=f"{queries} queries, {len(paths):,} pictures, {regional.index.size().num_words:,} words")
    table.add_column("method")
    for name in schemes:
        table.add_column(f"{name}\nmAP", justify="right")
        table.add_column("\nP@5", justify="right")
    results = []
    for row, regions, verify in ROWS:
        rankings = _rankings(engines[regions], paths, queries, verify, row)
        scores = {name: mean_average_precision(rankings, truth, ks=(5,)) for name, truth in relevance.items()}
        table.add_row(row, *(f"{v:.3f}" for s in scores.values() for v in (s.map, s.mean_precision[0])))
        results.append(scores)
    console = Console(width=120)
    console.print(table)
    for name in schemes:
        for first, second in ((0, 1), (1, 2), (0, 2)):
            change = paired_bootstrap(results[second][name].average_precision, results[first][name].average_precision)
            console.print(
                f"{name}: {ROWS[second][0]} against {ROWS[first][0]}: mAP {change.mean:+.3f}"
                f" [{change.low:+.3f}, {change.high:+.3f}]"
            )


def _index(folder: Path, paths: list[Path], regions: str, codebook: Path | None) -> Engine:
    if (folder / "catalogue.sqlite").exists():
        engine = Engine.open(folder)
    else:
        words = codebook_from(codebook) if codebook is not None else None
        engine = Engine.create(folder, regions=regions, features="rootsift", codebook=words)
    with Progress() as bar:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=done, total=total)

        print(folder, engine.add(paths, progress=update))
    return engine


def _merged(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == "entry", "castle", labels)


def _relevance(labels: np.ndarray, queries: int, buildings: np.ndarray) -> list[Relevance]:
    """Return positives (same label) and junk (the query itself, and the same building under another label)."""
    truth = []
    for query in range(queries):
        same = labels == labels[query]
        junk = (buildings == buildings[query]) & ~same
        same[query], junk[query] = False, True
        truth.append(Relevance(np.flatnonzero(same), np.flatnonzero(junk)))
    return truth


def _rankings(engine: Engine, paths: list[Path], queries: int, verify: int, title: str) -> list[np.ndarray]:
    rows = {os.fspath(path): row for row, path in enumerate(paths)}
    rankings = []
    for query in track(range(queries), description=title):
        # One more, because the query itself is found and does not count.
        answer = engine.search(
            paths[query], SearchOptions(top=len(paths), verify=verify + 1 if verify else 0, expand=0)
        )
        rankings.append(np.array([rows[result.path] for result in answer.results]))
    return rankings


if __name__ == "__main__":
    main()
