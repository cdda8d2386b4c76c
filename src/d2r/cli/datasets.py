"""Commands on data sets: get, compose, annotate, stats, sample, compose-detection."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.terminal import Force, MaxPixels, Workers, out, progress_bars, say
from d2r.defaults import (
    MAX_PIXELS,
)
from d2r.support.files import (
    display_path,
)

if TYPE_CHECKING:
    from d2r.datasets.landmark_sample import Sample

LeaveOutRare = Annotated[
    bool, typer.Option("--leave-out-rare", help="Leave out landmarks with fewer than four pictures.")
]


def compose(
    backgrounds: Annotated[
        Path, typer.Argument(metavar="BACKGROUNDS", help="Folder of photographs to use as backgrounds.")
    ],
    instances: Annotated[
        list[Path],
        typer.Option(
            "--instances",
            metavar="FOLDER",
            help="Folder of objects to plant: each sub-folder of photos, or each photo, is one object. Repeatable.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write the set.")],
    most: Annotated[
        int | None,
        typer.Option(min=1, help="Use at most this many objects of each folder, drawn at random with the seed."),
    ] = None,
    difficulty: Annotated[str, typer.Option(help="easy, medium or hard.")] = "medium",
    seed: Annotated[int, typer.Option(min=0, help="The same seed and photos give the same pictures.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compose a clutter benchmark: real objects planted small in busy photographs, with known answers."""
    from d2r.compose.clutter import compose_set
    from d2r.compose.sources import draw_instances, read_backgrounds
    from d2r.datasets.difficulty import DIFFICULTIES

    if difficulty not in DIFFICULTIES:
        raise typer.BadParameter(f"--difficulty {difficulty!r} is not known; there are: {', '.join(DIFFICULTIES)}")
    chosen = [instance for place in instances for instance in draw_instances(place, most, seed)]
    with progress_bars() as progress:
        made = compose_set(DIFFICULTIES[difficulty], chosen, read_backgrounds(backgrounds), seed, folder, progress)
    if as_json:
        sizes = {"queries": len(made.queries), "pictures": len(made.database)}
        skipped = [(one.path, one.reason) for one in made.skipped]
        print_json("dataset compose", {"folder": os.path.abspath(folder), **sizes, "skipped": skipped})
        return
    counts = f"{len(made.queries):,} queries, {len(made.database):,} pictures in {display_path(folder)}"
    say(counts)
    for one in made.skipped:
        say(f"skipped {one.path}: {one.reason}")


def annotate(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of pictures, one sub-folder per landmark.")],
    folder: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Folder for train.csv, boxes_split1.csv and boxes_split2.csv."),
    ],
    proposals: Annotated[
        str | None,
        typer.Option(
            help="Region proposals to offer on each picture: rmac:levels=1, selective-search:top=3,"
            " detector:model=FILE.onnx.",
            show_default="none",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="SEED",
            help="Show four pictures per landmark for training and four for validation, drawn with this seed.",
            show_default="all pictures, for training",
        ),
    ] = None,
    leave_out_rare: LeaveOutRare = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 picks a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Annotate pictures on a local web page: draw at most one box, or mark that there is no prominent landmark.

    The page reports a decision as saved once it is on disk. Stop with Ctrl-C; the same command continues from there.
    """
    from d2r.annotate.server import make_annotation_app
    from d2r.annotate.session import open_session
    from d2r.regions import make_selector, pinned_regions
    from d2r.support.webserver import WebServer

    if not photos.is_dir():
        raise NotADirectoryError(f"{photos}: not a folder")
    if leave_out_rare and sample is None:
        raise typer.BadParameter("--leave-out-rare needs --sample")
    selector = make_selector(pinned_regions(proposals)) if proposals is not None else None
    with open_session(photos, folder, sample_seed=sample, leave_out_rare=leave_out_rare) as session:
        for error in session.skipped:
            say(f"skipped {error}")
        if session.sample is not None:
            _print_sample(session.sample)
        propose = None if selector is None else lambda picture: selector.select(picture).boxes
        server = WebServer(make_annotation_app(session, propose=propose, max_pixels=max_pixels), port)
        say(f"page: {server.url}  (stop with Ctrl-C)")
        if browser:
            _open_browser(server.url)
        with suppress(KeyboardInterrupt):
            server.run()
        progress = session.progress()
    out.print(
        escape(
            f"{progress.pictures:,} pictures: {progress.boxes:,} with a box, {progress.none:,} without a prominent"
            f" landmark, {progress.open + progress.unreadable:,} undecided; written to {display_path(folder)}"
        ),
        soft_wrap=True,
        highlight=False,
    )


def _open_browser(url: str) -> None:
    """Open a page if there is a screen; without one, a text browser would take over this terminal."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _print_sample(sample: Sample) -> None:
    shown = f"drawn: {len(sample.training):,} pictures for training, {len(sample.validation):,} for validation"
    if sample.rare:
        what = "landmark" if len(sample.rare) == 1 else "landmarks"
        shown += f"; {len(sample.rare):,} {what} with fewer than four pictures left out"
    if sample.unlabelled:
        what = "picture" if sample.unlabelled == 1 else "pictures"
        shown += f"; {sample.unlabelled:,} {what} without a landmark left out"
    say(shown)


def dataset_get(
    name: Annotated[str, typer.Argument(help="roxford5k, rparis6k, r1m or landmark-boxes.")],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder that holds data sets.")] = Path(
        "data"
    ),
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, help="landmark-boxes: at most this many requests per second.", show_default="10"),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="landmark-boxes: retry pictures that failed before.")
    ] = False,
    without_box: Annotated[
        bool, typer.Option("--all", help="landmark-boxes: also fetch pictures without a box.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the pictures and the ground truth of a data set; run it again to continue where it stopped.

    For landmark-boxes, put train.csv, boxes_split1.csv and boxes_split2.csv into FOLDER/landmark-boxes yourself:
    downloading them needs an account. The pictures are fetched from the URLs in train.csv to
    FOLDER/landmark-boxes/jpg; failures are listed in failures.csv there.
    """
    from d2r.datasets.download import NAMES, get_dataset

    if name == "landmark-boxes":
        _get_landmark_pictures(folder / name, 10.0 if rate is None else rate, retry_failed, without_box, as_json)
        return
    if name not in NAMES:
        known = ", ".join((*NAMES, "landmark-boxes"))
        raise typer.BadParameter(f"data set {name!r} is not known; there are: {known}")
    if rate is not None or retry_failed or without_box:
        raise typer.BadParameter("--rate, --retry-failed and --all are for landmark-boxes")
    with progress_bars() as progress:

        def update(file: str, done: int, total: int | None) -> None:
            progress(file, done, total or done)

        place = get_dataset(name, folder, progress=update)
    if as_json:
        print_json("dataset get", {"name": name, "folder": os.path.abspath(place)})
    else:
        say(f"{name}: {display_path(place)}")


def _get_landmark_pictures(folder: Path, rate: float, retry_failed: bool, without_box: bool, as_json: bool) -> None:
    from d2r.datasets.landmark_boxes import read_dataset
    from d2r.datasets.landmark_pictures import FAILURES, get_pictures

    dataset = read_dataset(folder)
    wanted = [row for row in dataset.pictures.values() if without_box or dataset.box(row.id) is not None]
    with progress_bars() as progress:
        done = get_pictures(wanted, folder, rate=rate, retry_failed=retry_failed, progress=progress)
    if as_json:
        place = {"name": folder.name, "folder": os.path.abspath(folder)}
        print_json("dataset get", {**place, "pictures": len(wanted), **vars(done), "failed": list(done.failed.items())})
        return
    counts = [
        f"{count:,} {what}"
        for count, what in (
            (done.fetched, "fetched"),
            (done.there, "already there"),
            (done.without_url, "without a URL"),
            (len(done.failed), "failed"),
            (done.passed_over, "failed before and not retried (--retry-failed)"),
        )
        if count
    ]
    out.print(
        escape(f"{len(wanted):,} pictures{': ' if counts else ''}{', '.join(counts)}; {display_path(folder)}"),
        soft_wrap=True,
        highlight=False,
    )
    if done.failed or done.passed_over:
        say(f"failures: {display_path(folder / FAILURES)}")


def dataset_stats(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with train.csv and its two files of boxes.")],
    as_json: AsJson = False,
) -> None:
    """Print how many pictures and boxes a set of landmark boxes has, and how large the boxes are."""
    import numpy as np

    from d2r.datasets.landmark_boxes import read_dataset
    from d2r.datasets.landmark_statistics import landmark_statistics

    found = landmark_statistics(read_dataset(folder))
    each = np.quantile(found.pictures_each, (0, 0.5, 1)).tolist() if len(found.pictures_each) else None
    areas = np.quantile(found.areas, (0, 0.25, 0.5, 0.75, 1)).tolist() if len(found.areas) else None
    if as_json:
        record = {
            "pictures": found.pictures,
            "training": found.training,
            "validation": found.validation,
            "without_box": found.without_box,
            "without_url": found.without_url,
            "without_landmark": found.without_landmark,
            "landmarks": len(found.pictures_each),
            "pictures_each": each,
            "areas": areas,
            "area_histogram": found.area_histogram.tolist(),
        }
        print_json("dataset stats", record)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("pictures", f"{found.pictures:,}")
    table.add_row("boxes", f"{found.training:,} for training, {found.validation:,} for validation")
    table.add_row("without a box", f"{found.without_box:,}")
    table.add_row("without a URL", f"{found.without_url:,}")
    table.add_row("landmarks", f"{len(found.pictures_each):,}; {found.without_landmark:,} pictures without one")
    if each is not None:
        low, middle, high = each
        table.add_row("pictures per landmark", f"{low:,.0f} to {high:,.0f}, median {middle:,.0f}")
    if areas is not None:
        low, first, middle, third, high = areas
        table.add_row(
            "area of the boxes",
            f"{low:.0%} to {high:.0%}, median {middle:.0%}, half of them {first:.0%} to {third:.0%}",
        )
        counts = found.area_histogram
        for k, count in enumerate(counts):
            shown = f"  {k / len(counts):.0%} to {(k + 1) / len(counts):.0%}"
            table.add_row(shown, f"{count:>7,}  {'█' * round(40 * count / counts.max())}")
    out.print(table)


def dataset_sample(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with train.csv and its two files of boxes.")],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the same files of the sample.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
    leave_out_rare: LeaveOutRare = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Draw four pictures per landmark for training and four for validation, and leave out those without a box."""
    from d2r.datasets.landmark_boxes import FILES, PICTURES, read_dataset, write_dataset
    from d2r.datasets.landmark_sample import sample_dataset

    name = display_path(source / PICTURES)
    sampled = sample_dataset(read_dataset(source), seed, leave_out_rare=leave_out_rare, name=name)
    write_dataset(folder, sampled.dataset, force=force, inputs=[source / file for file in FILES])
    training, validation = len(sampled.dataset.training), len(sampled.dataset.validation)
    if as_json:
        drawn = sampled.sample
        record = {
            "folder": os.path.abspath(folder),
            "drawn": {"training": len(drawn.training), "validation": len(drawn.validation)},
            "boxes": {"training": training, "validation": validation},
            "without_box": sampled.without_box,
            "rare": drawn.rare,
            "unlabelled": drawn.unlabelled,
        }
        print_json("dataset sample", record)
        return
    _print_sample(sampled.sample)
    out.print(
        escape(
            f"{len(sampled.without_box):,} of them left out because they have no box; {training:,} boxes for training"
            f" and {validation:,} for validation in {display_path(folder)}"
        ),
        soft_wrap=True,
        highlight=False,
    )


def dataset_compose_detection(
    source: Annotated[
        str,
        typer.Argument(
            metavar="LABELS[=PICTURES]",
            help="Landmarks to plant: a folder of landmark boxes or a COCO file, and the folder of its pictures.",
        ),
    ],
    backgrounds: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Ordinary photographs, used as backgrounds and to cut decoys from."),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="New folder for the set.")],
    pictures: Annotated[int, typer.Option(min=1, help="Pictures to compose.")] = 4000,
    split: Annotated[
        str,
        typer.Option(
            help="training or validation: use the boxes of that split, and four fifths (training) or one fifth"
            " (validation) of the backgrounds; the two splits share none."
        ),
    ] = "training",
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN,...",
            help="Leave out backgrounds that show landmarks: *castle*,*church*. Repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and photos give the same pictures.")] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Compose pictures to train or evaluate a detector: landmarks with boxes, and decoys planted the same way."""
    from d2r.compose.detection_scenes import BOXES, compose_scenes
    from d2r.compose.scene_plan import plan_scenes, split_backgrounds
    from d2r.datasets.detection import read_training, read_validation
    from d2r.support.processes import default_workers

    if split not in ("training", "validation"):
        raise typer.BadParameter(f"--split {split!r} is not known; there are: training, validation")
    patterns = [pattern for one in leave_out or () for pattern in one.split(",")]
    validation = split == "validation"
    boxed = read_validation(source) if validation else read_training(source)
    plan = plan_scenes(boxed, split_backgrounds(backgrounds, patterns, validation=validation), seed)
    with progress_bars() as progress:
        skipped = compose_scenes(
            plan, pictures, folder, workers=default_workers() if workers is None else workers, progress=progress
        )
    if as_json:
        used = {"boxes": len(plan.landmarks), "backgrounds": len(plan.backgrounds)}
        failed = [(one.path, one.reason) for one in skipped]
        file = os.path.abspath(folder / BOXES)
        print_json("dataset compose-detection", {"file": file, "pictures": pictures, **used, "skipped": failed})
        return
    for one in skipped:
        say(f"skipped {one.path}: {one.reason}")
    counts = f"{pictures:,} pictures from {len(plan.landmarks):,} boxes and {len(plan.backgrounds):,} backgrounds"
    say(f"{counts}; {display_path(folder / BOXES)}")
