"""Output that several commands share: the report of an indexing run, and the results of a search."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from d2r.cli.terminal import out, say
from d2r.defaults import FEATURES_PER_WORD
from d2r.support.files import display_path

if TYPE_CHECKING:
    from d2r.engine import Engine
    from d2r.index import IndexSize
    from d2r.indexing.fill import Report
    from d2r.results import Answer

_FOLDERS = 10  # listed one by one


def print_report(engine: Engine, report: Report) -> None:
    """Print the report of an indexing run, and what needs attention."""
    size = engine.index.size()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    changes = [
        f"{count:,} {what}"
        for count, what in (
            (report.added, "added"),
            (report.changed, "changed"),
            (report.returned, "back"),
            (report.missing, "missing"),
            (report.removed, "removed"),
            (report.unchanged, "unchanged"),
            (len(report.skipped), "skipped"),
        )
        if count
    ]
    table.add_row("pictures", f"{size.pictures:,}  ({', '.join(changes)})")
    learned = f"  (learned now, chosen for {size.pictures:,} pictures)" if report.words_learned else ""
    if report.words_learned and (asked := engine.index.settings.get("words")):
        learned = f"  (learned now{too_many(size.num_words, asked)})"
    table.add_row("visual words", f"{size.num_words:,}{learned}")
    add_sizes(table, size)
    table.add_row("time", f"{report.seconds:.1f} s{_speeds(report)}")
    out.print(table)
    if report.missing:
        out.print(f"\n[bold]{report.missing:,} missing[/]: kept but not searched; `--prune` removes them")
    if report.removed:
        out.print(f"\n[bold]{report.removed:,} removed[/] because their files are gone")
    print_vanished(report.vanished)
    for title, rows in (
        ("skipped", report.skipped),
        ("without features: they cannot be found", [(path, "") for path in report.empty]),
    ):
        if rows:
            out.print(f"\n[bold]{len(rows):,} {title}[/]")
        for path, reason in rows:
            shown = f"  {display_path(path)}" + (f": {display_path(reason)}" if reason else "")
            say(shown)


def print_vanished(folders: Counter[str]) -> None:
    """Print the number of missing pictures of each folder, the largest first."""
    for folder, count in folders.most_common(_FOLDERS):
        say(f"  {count:,} from {display_path(folder)}")
    if len(folders) > _FOLDERS:
        rest = folders.total() - sum(count for _, count in folders.most_common(_FOLDERS))
        say(f"  {rest:,} from {len(folders) - _FOLDERS:,} other folders")


def too_many(num_words: int, asked: int) -> str:
    """Return why there are fewer visual words than requested; an empty string if there are not fewer."""
    if num_words >= asked:
        return ""
    return f"; {asked:,} need {FEATURES_PER_WORD * asked:,} features, {FEATURES_PER_WORD} per word"


def _speeds(report: Report) -> str:
    """Return the pictures per second of each stage, in one process."""
    speeds = [
        f"{name} {report.stage_pictures[name] / max(seconds, 1e-6):,.1f}"
        for name, seconds in report.stage_seconds.items()
        if report.stage_pictures[name]
    ]
    return f"  (pictures per second and process: {', '.join(speeds)})" if speeds else ""


def add_sizes(table: Table, size: IndexSize) -> None:
    """Add the bytes per picture to a table."""
    each = max(1, size.pictures + size.missing + size.dead)
    table.add_row(
        "bytes per picture",
        f"{size.search_bytes / each:,.0f} to search, {size.verify_bytes / each:,.0f} to verify and expand"
        f"  ({size.postings / each:,.0f} words per picture)",
    )


def print_results(answer: Answer) -> None:
    """Print the results of a search, best first."""
    if not answer.results:
        hint = "" if len(answer.query.features) else ": the query has no texture to extract features from"
        out.print(f"nothing found{hint}")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("inliers", justify="right")
    table.add_column("box", justify="right")
    table.add_column("path", overflow="fold")
    for rank, result in enumerate(answer.results, start=1):
        inliers = "-" if result.inliers is None else str(result.inliers)
        found = "-" if result.found is None else ",".join(f"{value:.0f}" for value in result.found)
        table.add_row(str(rank), f"{result.score:.4f}", inliers, found, escape(display_path(result.path)))
    out.print(table)
    seconds = ", ".join(f"{stage} {1000 * value:,.0f} ms" for stage, value in answer.seconds.items())
    out.print(f"[dim]{seconds}[/]", highlight=False)
