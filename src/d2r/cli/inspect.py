"""The commands that draw local features and matches: ``d2r show`` and ``d2r match``."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.terminal import Force, MaxPixels, say
from d2r.defaults import FEATURES, MAX_PIXELS, MAX_SIDE
from d2r.support.files import check_output, display_path, is_our_png

if TYPE_CHECKING:
    from d2r.describe import Description
    from d2r.features import FeatureExtractor
    from d2r.images import Picture

FeaturesOption = Annotated[str, typer.Option(help="Local features: hardnet, rootsift, delf, or delf:model=FILE.onnx.")]
Png = Annotated[Path, typer.Option("--out", metavar="FILE", help="PNG to write.")]
MaxSide = Annotated[int, typer.Option(min=32, help="Shrink pictures to this longer side, in pixels, as indexing does.")]


def show_features(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="Picture to describe.")],
    file: Png,
    features: FeaturesOption = FEATURES,
    box: Annotated[str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Describe only this box, in pixels.")] = None,
    max_side: MaxSide = MAX_SIDE,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Draw the local features of a picture: circles by scale, coloured by attention, with counts per scale."""
    from d2r.boxes import parse_box
    from d2r.features import make_extractor
    from d2r.images import read_image
    from d2r.report.drawing import count_by_scale, draw_features, write_png

    check_output(file, is_our_png, force=force, inputs=[picture])
    region = parse_box(box) if box is not None else None
    extractor = make_extractor(features)
    image = read_image(picture, max_pixels=max_pixels)
    description, seconds = _describe(image, region, extractor, max_side)
    found = description.features
    drawn = draw_features(image, found, title=features, box=None if region is None else description.boxes[0])
    write_png(drawn, file, force=force)
    counts = count_by_scale(found.scales)
    if as_json:
        about = {"dimensions": found.descriptors.shape[1], "scales": [asdict(one) for one in counts]}
        described = _record(picture, description, seconds)
        print_json("show features", {**described, **about, "file": os.path.abspath(file)})
        return
    say(f"{len(found):,} features of {found.descriptors.shape[1]} dimensions in {1000 * seconds:,.0f} ms")
    for count in counts:
        say(f"  {count} pixels: {count.count:,}")
    say(f"picture: {display_path(file)}")


def match_two(
    first: Annotated[Path, typer.Argument(metavar="A", help="Query picture.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Picture to search in.")],
    file: Png,
    features: FeaturesOption = FEATURES,
    box: Annotated[
        str | None,
        typer.Option("--box", "--box-a", metavar="X1,Y1,X2,Y2", help="Match only this box of A, in pixels."),
    ] = None,
    max_side: MaxSide = MAX_SIDE,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Match two pictures, and draw the inliers in colour and the other matches in grey.

    The matching is that of a search, except that all features share one visual word.
    """
    from d2r.boxes import parse_box
    from d2r.features import make_extractor
    from d2r.images import read_image
    from d2r.index.ready import get_ready
    from d2r.pair import match_described
    from d2r.report.drawing import draw_match, write_png
    from d2r.results import tenths

    check_output(file, is_our_png, force=force, inputs=[first, second])
    region = parse_box(box) if box is not None else None
    extractor = make_extractor(features)
    left, right = (read_image(path, max_pixels=max_pixels) for path in (first, second))
    query, query_s = _describe(left, region, extractor, max_side)
    other, other_s = _describe(right, None, extractor, max_side)
    get_ready(extractor.dim)  # not part of the measured time
    started = time.perf_counter()
    match = match_described(query, other, max_side=max_side)
    match_s = time.perf_counter() - started
    drawn = draw_match(
        left,
        right,
        *match.positions(match.inlier),
        box=None if region is None else query.boxes[0],
        unconfirmed=match.positions(~match.inlier),
    )
    write_png(drawn, file, force=force)
    if as_json:
        own, its = match.positions(match.inlier)
        record = {
            "first": _record(first, query, query_s),
            "second": _record(second, other, other_s),
            "matches": len(match.matches),
            "inliers": match.inliers,
            "transform": None if match.transform is None else match.transform.tolist(),
            "first_points": tenths(own),
            "second_points": tenths(its),
            "seconds": round(match_s, 5),
            "file": os.path.abspath(file),
        }
        print_json("match", record)
        return
    counts = f"{len(query.features):,} in {1000 * query_s:,.0f} ms, and {len(other.features):,}"
    say(f"features: {counts} in {1000 * other_s:,.0f} ms")
    say(f"matches: {len(match.matches):,}; inliers: {match.inliers:,}; {1000 * match_s:,.0f} ms")
    say(f"picture: {display_path(file)}")


def _record(path: Path, description: Description, seconds: float) -> dict[str, Any]:
    """Return how a picture was described, as JSON values."""
    from d2r.results import tenths

    return {
        "path": os.path.abspath(path),
        "width": description.width,
        "height": description.height,
        "box": tenths(description.boxes)[0],
        "features": len(description.features),
        "seconds": round(seconds, 5),
    }


def _describe(
    image: Picture, box: tuple[float, float, float, float] | None, extractor: FeatureExtractor, max_side: int
) -> tuple[Description, float]:
    """Return a description and the seconds it took, without the time to load what the first use loads."""
    from d2r.describe import describe_query

    describe_query(image[:64, :64], None, extractor, max_side=max_side)
    started = time.perf_counter()
    description = describe_query(image, box, extractor, max_side=max_side)
    return description, time.perf_counter() - started
