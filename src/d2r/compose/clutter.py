"""The clutter benchmark: objects of real photographs planted small in busy photographs, at known boxes.

A set in ``folder``::

    query/000-castle.jpg ...   one picture of each instance, with a box
    photos/00000.jpg ...       the database: each instance in ``views`` pictures; decoys; plain distractors
    ground_truth.json          boxes, positives, every planted object, the seed, the configuration, the sources

An instance with several photographs is planted from photographs other than the query's that are *verified* to show
the content of the query box (local features that match under one homography), so that the viewpoints really differ.
An instance with one photograph is planted by synthetic warps of it. Decoys are planted in the same way and are no
query's answer.

Everything random about picture ``i`` comes from (seed, i): the same seed, configuration and sources give the same
bytes, whatever was composed before. Boxes are x1, y1, x2, y2 in pixels, half-open; a homography maps such
coordinates (not pixel indices) of the source photograph to those of the composed picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from d2r.compose.planning import ClutterPlan, ComposeProgress, Stream, Target, generator, plan_set
from d2r.compose.planting import plant, tone_curve
from d2r.compose.texture import textured_box
from d2r.datasets.difficulty import ClutterConfig
from d2r.datasets.ground_truth import (
    GROUND_TRUTH,
    ClutterError,
    ClutterSet,
    DatabasePicture,
    GroundTruthQuery,
    Instance,
    Planted,
    Skipped,
    load_set,
    write_ground_truth,
)
from d2r.images import ImageError, Picture, encode_jpeg, read_image, shrink
from d2r.support.files import check_no_index, check_plain, display_path, is_temporary, replacing

_QUERY_QUALITY = 92
_FOLDERS = ("query", "photos")
_ANOTHER = "not of this set; compose into an empty folder"


@dataclass(frozen=True)
class Composed:
    """A database picture: its JPEG file, its content, and the sources that could not be read."""

    jpeg: bytes
    truth: DatabasePicture
    skipped: tuple[Skipped, ...]


def compose_picture(plan: ClutterPlan, index: int) -> Composed:
    """Compose one database picture of a plan; the outcome depends only on the plan and ``index``.

    An unreadable background is replaced by another, and listed.

    Raises:
        ClutterError: no background can be read.
        d2r.images.ImageError: a photograph of an instance, which was read for the plan, can no longer be read.
    """
    config, slot = plan.config, plan.slots[index]
    rng = generator(plan.seed, Stream.PICTURE, index)
    skipped: dict[str, Skipped] = {}

    def readable(paths: Iterable[Path]) -> tuple[Path, Picture]:
        for path in paths:
            try:
                return path, read_image(path)
            except ImageError as error:
                skipped[error.name] = Skipped(error.name, error.reason)
        raise ClutterError("none of the backgrounds can be read")

    def shuffled() -> Iterator[Path]:
        return (plan.backgrounds[k] for k in rng.permutation(len(plan.backgrounds)))

    background, host = readable((slot.background, *shuffled()))
    picture = vary(host, config.side, rng)
    decoys = int(rng.integers(*slot.decoys, endpoint=True))
    planted: list[Planted] = []
    for part in [*([slot.part] if slot.part else []), *[None] * decoys]:
        if part is None:
            path, photo = readable(shuffled())
            box = textured_box(photo)
        else:
            path, photo, box = part.photo, read_image(part.photo), part.box
        occluder = readable(shuffled())[1] if config.occlusion else None
        taken = [other.box for other in planted]
        planting = plant(picture, photo, box, config, rng, occluder=occluder, taken=taken)
        if planting is None:  # only for a decoy, as the instance comes first
            continue
        picture = planting.picture
        target = slot.target if part else None
        planted.append(
            Planted(
                "instance" if target else "decoy",
                target.name if target else None,
                path,
                planting.box,
                tuple(tuple(row) for row in planting.homography.tolist()),
            )
        )
    jpeg = encode_jpeg(picture, int(rng.integers(*config.quality, endpoint=True)))
    height, width = picture.shape[:2]
    truth = DatabasePicture(_picture_path(index), width, height, background, tuple(planted))
    return Composed(jpeg, truth, tuple(skipped.values()))


def _picture_path(index: int) -> str:
    return f"photos/{index:05d}.jpg"


def vary(photo: Picture, side: int, rng: np.random.Generator) -> Picture:
    """Return most of a background, perhaps mirrored, in slightly changed light, its longer side ``side`` pixels."""
    height, width = photo.shape[:2]
    # No panoramas: an object that covers a quarter of the picture must fit into it.
    h = max(1, round(min(height, 1.8 * width) * rng.uniform(0.75, 1)))
    w = max(1, round(min(width, 1.8 * height) * rng.uniform(0.75, 1)))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    part = photo[y : y + h, x : x + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    scale = side / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(np.ascontiguousarray(part), size, interpolation=interpolation)
    return np.asarray(cv2.LUT(scaled, np.rint(tone_curve(0.3, rng)).astype(np.uint8)), dtype=np.uint8)


def compose_set(
    config: ClutterConfig,
    instances: Sequence[Instance],
    backgrounds: Sequence[Path],
    seed: int,
    folder: Path,
    progress: ComposeProgress | None = None,
) -> ClutterSet:
    """Compose a set and write it.

    ``ground_truth.json`` comes last, so that a set that has it is complete. No picture is overwritten: a stopped run
    can be continued, and existing pictures must be what would be written.

    Args:
        config: sizes and limits.
        instances: objects to search for; names must differ; see :func:`d2r.compose.sources.read_instances`.
        backgrounds: photographs to plant in and to take decoys from; see
            :func:`d2r.compose.sources.read_backgrounds`. Those that are also an instance's are left out.
        seed: seed of everything random, 0 or more.
        folder: where to write: new, empty, or with this same set or a part of it.
        progress: called for each instance and each picture.

    Returns:
        the set, equal to what :func:`d2r.datasets.ground_truth.load_set` reads back.

    Raises:
        d2r.support.files.OutputError: the folder is in an index.
        ClutterError: nothing can be composed, the folder holds anything but this set, or it cannot be written to.
        d2r.images.ImageError: a photograph of an instance, which was read for the plan, can no longer be read.
    """
    check_no_index(folder)
    plan = plan_set(config, instances, backgrounds, seed, progress)
    names = [_query_path(k, target.name) for k, target in enumerate(plan.targets)]
    try:
        _prepare(folder, plan, {*names, *(_picture_path(k) for k in range(len(plan)))})
        queries = [_write_query(plan, target, folder, name) for target, name in zip(plan.targets, names, strict=True)]
        database: list[DatabasePicture] = []
        skipped = dict.fromkeys(plan.skipped)
        for index in range(len(plan)):
            composed = compose_picture(plan, index)
            _put(folder / composed.truth.path, composed.jpeg)
            database.append(composed.truth)
            skipped |= dict.fromkeys(composed.skipped)
            if progress:
                progress("pictures", index + 1, len(plan))
        whole = ClutterSet(
            folder,
            seed,
            config,
            tuple(queries),
            tuple(database),
            tuple(skipped),
            plan.instances,
            plan.backgrounds,
        )
        write_ground_truth(whole)
    except OSError as error:
        raise ClutterError(f"{display_path(folder)}: cannot be written: {error.strerror or error}") from error
    return whole


def _query_path(number: int, name: str) -> str:
    return f"query/{number:03d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:60]}.jpg"


def _write_query(plan: ClutterPlan, target: Target, folder: Path, name: str) -> GroundTruthQuery:
    photo = read_image(target.query.photo)
    picture = shrink(photo, plan.config.side)
    _put(folder / name, encode_jpeg(picture, _QUERY_QUALITY))
    scale = picture.shape[1] / photo.shape[1]
    x1, y1, x2, y2 = (round(value * scale, 2) for value in target.query.box)
    return GroundTruthQuery(
        path=name,
        instance=target.name,
        source=target.query.photo,
        box=(x1, y1, x2, y2),
        positives=tuple(_picture_path(k) for k, slot in enumerate(plan.slots) if slot.target is target),
        junk=tuple(_picture_path(k) for k, slot in enumerate(plan.slots) if slot.part in target.junk),
    )


def _put(path: Path, jpeg: bytes) -> None:
    """Write a picture unless it exists; an existing one must be equal."""
    if not path.exists():
        with replacing(path) as part:
            part.write_bytes(jpeg)
    elif path.read_bytes() != jpeg:
        raise ClutterError(f"{display_path(path)}: {_ANOTHER}")


def _prepare(folder: Path, plan: ClutterPlan, paths: set[str]) -> None:
    """Make the folders of a set, but first refuse anything that is not of this set."""
    if (folder / GROUND_TRUTH).exists():
        check_plain(folder / GROUND_TRUTH)
        whole = load_set(folder)
        made_of = (whole.config, whole.seed, whole.instances, whole.backgrounds)
        if made_of != (plan.config, plan.seed, plan.instances, plan.backgrounds):
            raise ClutterError(f"{display_path(folder / GROUND_TRUTH)}: {_ANOTHER}")
    elif folder.exists() and (other := sorted({path.name for path in folder.iterdir()} - set(_FOLDERS))):
        raise ClutterError(f"{display_path(folder / other[0])}: {_ANOTHER}")
    for place in (folder / name for name in _FOLDERS):
        if place.is_symlink():
            raise ClutterError(f"{display_path(place)}: {_ANOTHER}")
        for path in sorted(place.iterdir()) if place.exists() else ():
            if f"{place.name}/{path.name}" not in paths and not is_temporary(path):
                raise ClutterError(f"{display_path(path)}: {_ANOTHER}")
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
