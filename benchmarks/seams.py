"""Test whether a detector finds landmarks, or the seams of pasted objects.

    python benchmarks/seams.py REGIONS LABELS[=PICTURES] BACKGROUNDS [--pictures N] [--threshold T] [--leave-out A,B]

REGIONS is any selector, ``detector:...`` or ``rmac``; give a detector a low threshold, to include low scores. Each of N
held-out photographs is used three times: unchanged, with a decoy planted in it (a part of another ordinary photograph),
and with a landmark of the validation split planted at the same place, with the same size and outline. The score of a
place is that of the best region that overlaps it by at least half (IoU).

A detector that has learned seams scores decoys far above the same places with nothing planted ("above nothing"; 0.5 is
no difference) and hardly below landmarks ("above decoys"). A good one does neither, and scores the boxes of the real
photographs, which have no seams, as high as planted landmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2r.boxes import Box, iou
from d2r.compose.detection_scenes import PlantedKind, Scene, compose_scene
from d2r.compose.scene_plan import plan_scenes, split_backgrounds
from d2r.datasets.detection import read_validation
from d2r.images import Picture, decode_image, encode_jpeg, read_image
from d2r.regions import Regions, make_selector
from d2r.report.tables import Table, as_text

OVERLAP = 0.5

CONTENTS: dict[str, tuple[PlantedKind, ...]] = {
    "nothing planted": (),
    "decoy planted": ("decoy",),
    "landmark planted": ("landmark",),
}
NOTHING, DECOY, LANDMARK = CONTENTS
REAL = "landmark in a real photograph"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("regions")
    parser.add_argument("labels")
    parser.add_argument("backgrounds", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--leave-out", default="")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    selector = make_selector(options.regions)
    real = read_validation(options.labels)
    left_out = [pattern for pattern in options.leave_out.split(",") if pattern]
    plan = plan_scenes(real, split_backgrounds(options.backgrounds, left_out, validation=True), options.seed)

    places: dict[str, list[float]] = {name: [] for name in (*CONTENTS, REAL)}
    best: dict[str, list[float]] = {name: [] for name in (*CONTENTS, REAL)}
    for index in range(options.pictures):
        scenes = {name: compose_scene(plan, index, kinds) for name, kinds in CONTENTS.items()}
        for name, scene in scenes.items():
            found = selector.select(_as_stored(scene))
            places[name].append(_score(found, scenes[LANDMARK if name == NOTHING else name].objects[0].box))
            best[name].append(_best(found))
    for picture in real:
        image = read_image(picture.path)
        found = selector.select(image)
        places[REAL] += [_score(found, _in_pixels(box, image)) for box in picture.boxes]
        best[REAL].append(_best(found))

    rows = tuple(
        (
            name,
            f"{len(places[name]):,}",
            f"{np.mean(np.array(places[name]) >= options.threshold):.1%}",
            f"{np.median(places[name]):.3f}",
            "" if name == NOTHING else f"{_above(places[name], places[NOTHING]):.3f}",
            "" if name in (NOTHING, DECOY) else f"{_above(places[name], places[DECOY]):.3f}",
            f"{np.mean(np.array(best[name]) >= options.threshold):.1%}",
        )
        for name in places
    )
    at = f"{options.threshold:g}"
    heads = (
        "",
        "places",
        f"found at {at}",
        "median score",
        "above nothing",
        "above decoys",
        f"pictures with any at {at}",
    )
    print(as_text(Table(options.regions, heads, rows)))


def _as_stored(scene: Scene) -> Picture:
    return decode_image(encode_jpeg(scene.picture, scene.quality))


def _score(found: Regions, box: Box) -> float:
    if not len(found):
        return 0.0
    return float(np.where(iou(found.boxes, box)[:, 0] >= OVERLAP, found.scores, 0.0).max())


def _best(found: Regions) -> float:
    return float(found.scores.max()) if len(found) else 0.0


def _in_pixels(box: Sequence[float], image: Picture) -> list[float]:
    height, width = image.shape[:2]
    return [share * side for share, side in zip(box, (width, height, width, height), strict=True)]


def _above(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return the probability that one of ``scores`` is above one of ``others``; a tie counts half."""
    difference = np.array(scores)[:, None] - np.array(others)[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


if __name__ == "__main__":
    main()
