"""The command about detectors: judge one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2r.defaults import MAX_PIXELS, REGIONS
from d2r.files import check_output, display_path, is_our_json, is_our_png
from d2r.terminal import Force, progress_bars, say

if TYPE_CHECKING:
    from d2r.evaluate.detector import SourceScores
    from d2r.report.tables import Table

detector_app = typer.Typer()

_WORST = 24


@detector_app.command("evaluate-detector")
def evaluate_detector(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="LABELS[=PICTURES]: a folder of landmark boxes (its validation boxes), a COCO file (.json), or a"
            " composed set; and the folder that its pictures lie in, where that is another one.",
        ),
    ],
    regions: Annotated[
        str,
        typer.Option(
            help="What to judge: detector:model=FILE.onnx, or any other way to select regions, such as rmac:levels=2."
            " For a detector, threshold=0.01 and top=100 are used where you give none: average precision needs the"
            " unsure boxes too."
        ),
    ] = REGIONS,
    file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")] = None,
    failures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Also write the {_WORST} worst failures as one PNG: true boxes green, the best found red.",
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option(help="Leave out a picture of more pixels than this.")] = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Measure how well a detector, or another selector of regions, finds the boxes of pictures.

    AP50 is average precision at an overlap (IoU) of 0.5, AP50:95 its mean over 0.5, 0.55, ..., 0.95; recall at k is the
    share of true boxes that the best k boxes of a picture find at 0.5. The time is the median of a picture in memory.
    """
    from d2r.datasets.detection import read_validation
    from d2r.evaluate.detector import as_json, judge_source, scoring_spec, worst_failures
    from d2r.evaluate.run import write_json
    from d2r.regions import make_selector, pinned_spec
    from d2r.report.detections import write_sheet
    from d2r.report.tables import as_text

    for path, ours in ((file, is_our_json), (failures, is_our_png)):
        if path is not None:
            check_output(path, ours, force=force)
    spec = scoring_spec(regions)
    pinned = pinned_spec(spec)
    selector = make_selector(pinned)
    read = [(source, read_validation(source)) for source in sources]
    with progress_bars() as progress:
        judged = [
            judge_source(selector, source, pictures, max_pixels=max_pixels, progress=progress)
            for source, pictures in read
        ]
    say(spec)
    say(as_text(_table(judged)))
    for one in judged:
        for skipped, reason in one.skipped:
            say(f"skipped {skipped}: {display_path(reason)}")
    if file is not None:
        write_json(file, {"regions": pinned, "sources": [as_json(one) for one in judged]}, force=force)
        say(f"figures: {display_path(file)}")
    if failures is not None:
        worst = worst_failures([picture for one in judged for picture in one.judged], _WORST)
        if worst:
            write_sheet(worst, failures, max_pixels=max_pixels, force=force)
        shown = f"the {len(worst)} worst failures: {display_path(failures)}" if worst else "no failures to show"
        say(shown)


def _table(judged: list[SourceScores]) -> Table:
    from d2r.report.tables import Table

    ks = judged[0].scores.ks
    heads = ("source", "AP50", "AP50:95", *(f"recall at {k}" for k in ks), "boxes", "pictures", "skipped", "ms/picture")
    rows = tuple(
        (
            display_path(one.source),
            f"{100 * one.scores.ap50:.1f}",
            f"{100 * one.scores.ap:.1f}",
            *(f"{100 * recall:.1f}" for recall in one.scores.recall50),
            f"{one.scores.boxes:,}",
            f"{one.scores.pictures:,}",
            f"{len(one.skipped):,}",
            f"{one.milliseconds:.1f}",
        )
        for one in judged
    )
    return Table("", heads, rows)
