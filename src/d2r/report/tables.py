"""Tables as text, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from d2r.evaluate.metrics import RetrievalScores, paired_bootstrap
from d2r.evaluate.run import Row, Stage
from d2r.support.files import writing

_MARK_MD = "<!-- d2r -->\n"
_MARK_TEX = "% d2r\n"
_MARK_CSV = "method,regions,words,mAP"

_STAGES: Final[Mapping[Stage, str]] = {
    "ranked": "",
    "verified": " + verification",
    "expanded": " + verification + expansion",
}


@dataclass(frozen=True)
class Table:
    """A table of text: a title, the column heads, and the rows; the first column holds names."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def accuracy_table(rows: Sequence[Row], title: str = "") -> Table:
    """Return the table of a comparison: accuracy per protocol, regions and bytes per picture, and time per query.

    Size and mAP are also given relative to the first row; for mAP, as the mean difference with its 95 % interval by
    paired bootstrap over the queries.
    """
    protocols = list(rows[0].scores)
    heads = ["method", "regions", "words"]
    for protocol in protocols:
        name = "" if protocol == "all" else f" {protocol[0].upper()}"
        heads += [f"mAP{name}", f"change{name} [95 %]", f"mP@10{name}"]
    heads += ["regions/picture", "bytes/picture", "relative size", "ms/query"]
    return Table(title, tuple(heads), tuple(_cells(row, protocols, rows[0]) for row in rows))


def _cells(row: Row, protocols: Sequence[str], first: Row) -> tuple[str, ...]:
    cells = [row.method + _STAGES[row.stage], row.regions, f"{row.num_words:,}"]
    for protocol in protocols:
        scores = row.scores[protocol]
        precision = scores.mean_precision[scores.ks.index(10)]
        change = _change(scores, first.scores[protocol]) if row is not first else ""
        cells += [f"{100 * scores.map:.1f}", change, f"{100 * precision:.1f}"]
    return (
        *cells,
        f"{row.regions_per_picture:.1f}",
        f"{row.bytes_per_picture:,.0f}",
        f"{row.bytes_per_picture / first.bytes_per_picture:.2f}",
        f"{row.milliseconds:.2f}",
    )


def _change(scores: RetrievalScores, base: RetrievalScores) -> str:
    change = paired_bootstrap(scores.average_precision, base.average_precision)
    return f"{100 * change.mean:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def published_table(figures: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table of the mAP in a paper, given as method to protocol to per cent."""
    protocols = sorted({protocol for one in figures.values() for protocol in one}, reverse=True)
    rows = tuple((name, *(f"{one[protocol]:.1f}" for protocol in protocols)) for name, one in figures.items())
    return Table("As published", ("method", *(f"mAP {protocol[0].upper()}" for protocol in protocols)), rows)


def table_files(path: Path) -> tuple[Path, ...]:
    """Return the paths of the files that :func:`write_tables` writes."""
    return tuple(path.with_name(path.name + ending) for ending in (".md", ".csv", ".tex"))


def write_tables(table: Table, path: Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write a table to ``path`` with the suffixes .md, .csv and .tex, and return the three paths.

    Raises:
        d2r.support.files.OutputError: one of the files exists and is not a table of this program (see
            :func:`is_our_table`), see :func:`d2r.support.files.writing`.
    """
    files = table_files(path)
    texts = f"{_MARK_MD}{as_text(table)}\n", as_csv(table), _MARK_TEX + as_latex(table)
    for file, text in zip(files, texts, strict=True):
        with writing(file, is_our_table, force=force) as part:
            part.write_text(text, encoding="utf-8")
    return files


def is_our_table(path: Path) -> bool:
    """Return whether a file is a table of this program; CSV, which cannot hold a mark, is recognised by its heads."""
    with path.open("rb") as file:
        return file.read(64).startswith(tuple(mark.encode() for mark in (_MARK_MD, _MARK_TEX, _MARK_CSV)))


def as_text(table: Table) -> str:
    """Return a table in Markdown with aligned columns, readable as plain text too."""
    lines = [table.heads, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.heads))]
    text = [_line(line, widths) for line in lines]
    rule = (
        "|"
        + "|".join(
            ("-" * (width + 2)) if not column else "-" * (width + 1) + ":" for column, width in enumerate(widths)
        )
        + "|"
    )
    title = [f"**{table.title}**", ""] if table.title else []
    return "\n".join([*title, text[0], rule, *text[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def as_csv(table: Table) -> str:
    """Return a table as CSV with a header line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([table.heads, *table.rows])
    return buffer.getvalue()


def as_latex(table: Table) -> str:
    """Return a table as a LaTeX ``tabular`` that needs the booktabs package."""
    columns = "l" + "r" * (len(table.heads) - 1)
    body = [" & ".join(map(_escape, row)) + r" \\" for row in (table.heads, *table.rows)]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    return "\n".join([f"% {table.title}", *lines, r"\end{tabular}", ""])


def _escape(text: str) -> str:
    for letter in "&%$#_{}":
        text = text.replace(letter, f"\\{letter}")
    return text.replace("*", r"$^\star$")
