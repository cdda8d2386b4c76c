import csv
import io

from d2r.report.tables import Table, as_csv, as_latex, as_text, published_table, write_tables

TABLE = Table("Kernels", ("method", "mAP"), (("asmk*", "61.5"), ("r-asmk* & more, 100 %", "7.25")))


def test_text_is_an_aligned_markdown_table():
    assert as_text(TABLE).splitlines() == [
        "**Kernels**",
        "",
        "| method                |  mAP |",
        "|-----------------------|-----:|",
        "| asmk*                 | 61.5 |",
        "| r-asmk* & more, 100 % | 7.25 |",
    ]


def test_csv_can_be_read_back():
    assert list(csv.reader(io.StringIO(as_csv(TABLE)))) == [list(TABLE.heads), *map(list, TABLE.rows)]


def test_latex_escapes_what_has_a_meaning_there():
    text = as_latex(TABLE)
    assert r"asmk$^\star$ & 61.5 \\" in text
    assert r"r-asmk$^\star$ \& more, 100 \% & 7.25 \\" in text
    assert text.count(r"\begin{tabular}{lr}") == 1


def test_published_figures_are_set_out_by_protocol():
    table = published_table({"A": {"medium": 67.84, "hard": 43.1}})
    assert table.heads == ("method", "mAP M", "mAP H")
    assert table.rows == (("A", "67.8", "43.1"),)


def test_three_files_are_written(tmp_path):
    files = write_tables(TABLE, tmp_path / "fig5-set.v2")
    assert [file.name for file in files] == ["fig5-set.v2.md", "fig5-set.v2.csv", "fig5-set.v2.tex"]
    assert files[0].read_text() == "<!-- d2r -->\n" + as_text(TABLE) + "\n"
