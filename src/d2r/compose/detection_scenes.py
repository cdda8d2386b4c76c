"""Composed scenes for a detector: boxed landmarks of real photographs, and decoys, planted in ordinary photographs.

A detector that sees landmarks pasted into pictures soon finds the paste, not the landmark. So each picture also has
decoys, cut from other ordinary photographs and planted in exactly the same way: a decoy takes the outline, the
proportions and the size of a landmark that is drawn as if it were to be planted, and everything random after that is
drawn alike. What is cut is the box and a random strip of its surroundings, so that the seam is not the edge of the box.
Decoys have no box: they are background.

What a set holds, in ``folder``::

    photos/00000.jpg ...   the pictures
    boxes.json             a COCO file: the boxes of the landmarks; the boxes of the decoys apart, under "decoys"

Everything random about picture ``i`` comes from (seed, i): the same seed and sources give the same pictures.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np

from d2r.boxes import PixelBox
from d2r.compose.clutter import vary
from d2r.compose.planning import Progress, Stream, generator
from d2r.compose.planting import Matrix, Planting, plant
from d2r.compose.sources import read_backgrounds
from d2r.compose.texture import textured_box
from d2r.datasets.detection import DetectionDataError, DetectionPicture
from d2r.datasets.difficulty import ClutterConfig
from d2r.datasets.ground_truth import ClutterError, Skipped
from d2r.images import ImageError, Picture, encode_jpeg, read_image
from d2r.support.files import check_no_index, display_path
from d2r.support.processes import WorkerDied, map_in_processes

Kind: TypeAlias = Literal["landmark", "decoy"]

BOXES: Final = "boxes.json"

CONFIG: Final = ClutterConfig(
    name="detection",
    share=(0.05, 0.9),
    tilt=20,
    roll=5,
    stretch=1.2,
    lighting=0.5,
    blur=0.8,
    noise=4,
    occlusion=0.25,
    decoys=(1, 3),
    quality=(60, 95),
    side=512,
)
"""How objects are planted. ``share`` is the range of a landmark's box."""

_ALONE: Final = 0.5  # share of the pictures with one object: a large one leaves no room for others
_LANDMARKS: Final = (0.25, 0.5, 0.25)  # probabilities of 0, 1 and 2 landmarks in another picture
_HIDDEN: Final = 0.5  # share of the objects that something may hide in part
_STRIP: Final = 0.3  # widest strip around a box that is cut out with it, relative to the box's side
_LARGEST: Final = 0.95  # share of a picture that a box with its strips covers at most
_ENLARGE: Final = 2.0  # no photograph is enlarged more than this, for blur would tell
_TRIES: Final = 3  # sizes tried for an object, each half as large in area as the one before
_HELD_OUT: Final = 5  # one background in so many is for validation


@dataclass(frozen=True)
class Landmark:
    """A photograph of a landmark and its box, x1, y1, x2, y2 as shares of width and height."""

    path: Path
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ScenePlan:
    """What scenes are composed of; see :func:`plan_scenes`."""

    landmarks: tuple[Landmark, ...]
    backgrounds: tuple[Path, ...]
    seed: int


@dataclass(frozen=True)
class PlantedObject:
    """A landmark or a decoy in a scene: where, in pixels of the scene, and the photograph that it was cut from."""

    kind: Kind
    box: PixelBox
    source: Path


@dataclass(frozen=True, eq=False)
class Scene:
    """A composed picture, uint8 (H, W, 3), its JPEG quality, what is in it, and sources that turned out broken."""

    picture: Picture
    quality: int
    background: Path
    objects: tuple[PlantedObject, ...]
    skipped: tuple[Skipped, ...]


def split_backgrounds(folder: Path, leave_out: Sequence[str] = (), *, validation: bool = False) -> tuple[Path, ...]:
    """Return the photographs below a folder that are for training, or the others, about a fifth, for validation.

    The hash of a photograph's path below the folder decides, so that it stays where it is when others join.

    Args:
        folder: of ordinary photographs.
        leave_out: patterns such as ``*castle*``, matched to the path below ``folder``: photographs that show landmarks.
        validation: return those for validation.

    Raises:
        d2r.datasets.ground_truth.ClutterError: it is no folder or holds no pictures, a pattern matches none, or none is
            left.
    """
    found = {path: path.relative_to(folder).as_posix() for path in read_backgrounds(folder)}
    for pattern in leave_out:
        if not any(fnmatchcase(name, pattern) for name in found.values()):
            raise ClutterError(f"{display_path(folder)}: no picture matches {pattern!r}, which is to be left out")
    chosen = tuple(
        path
        for path, name in found.items()
        if _is_held_out(name) == validation and not any(fnmatchcase(name, each) for each in leave_out)
    )
    if not chosen:
        purpose = "validation" if validation else "training"
        raise ClutterError(f"{display_path(folder)}: none of its {len(found)} pictures is left for {purpose}")
    return chosen


def plan_scenes(pictures: Sequence[DetectionPicture], backgrounds: Sequence[Path], seed: int) -> ScenePlan:
    """Return what scenes are composed of: every box of ``pictures`` is a landmark.

    Args:
        pictures: of one split.
        backgrounds: of the same split, to plant in and to cut decoys from; those that are also in ``pictures`` are
            left out.
        seed: of all that is random, 0 or more.

    Raises:
        DetectionDataError: no picture has a box.
        d2r.datasets.ground_truth.ClutterError: no background is left.
    """
    landmarks = tuple(Landmark(picture.path, box) for picture in pictures for box in picture.boxes)
    if not landmarks:
        raise DetectionDataError("no picture has a box: there is no landmark to plant")
    own = {picture.path.resolve() for picture in pictures}
    free = tuple(path for path in backgrounds if path.resolve() not in own)
    if not free:
        raise ClutterError("no background is left that is not a photograph of a landmark")
    return ScenePlan(landmarks, free, seed)


def compose_scene(plan: ScenePlan, index: int, contents: Sequence[Kind] | None = None) -> Scene:
    """Compose one picture; it depends on the plan, ``index`` and ``contents`` alone.

    An object that finds no free place is left out. The k-th object of ``contents`` has its size, outline, change of
    light and (in an empty picture) place whether it is a landmark or a decoy.

    Args:
        plan: what to compose of.
        index: number of the picture, 0 or more.
        contents: what to plant; None draws one object, or 0 to 2 landmarks and 1 to 3 decoys, half and half.

    Raises:
        d2r.images.ImageError: a photograph of a landmark cannot be read.
        d2r.datasets.ground_truth.ClutterError: no background can be read.
    """
    rng = generator(plan.seed, Stream.SCENE, index)
    skipped: dict[str, Skipped] = {}

    def ordinary(rng: np.random.Generator) -> tuple[Path, Picture]:
        for k in rng.permutation(len(plan.backgrounds)):
            try:
                return plan.backgrounds[k], read_image(plan.backgrounds[k])
            except ImageError as error:
                skipped[error.name] = Skipped(error.name, error.reason)
        raise ClutterError("none of the backgrounds can be read")

    drawn = _contents(rng)
    background, host = ordinary(rng)
    picture = vary(host, CONFIG.side, rng)
    quality = int(rng.integers(*CONFIG.quality, endpoint=True))
    objects: list[PlantedObject] = []
    taken: list[PixelBox] = []
    for kind in drawn if contents is None else contents:
        (own,) = rng.spawn(1)  # so that what is planted first changes nothing for what is planted next
        landmark = plan.landmarks[own.integers(len(plan.landmarks))]
        other, photo = ordinary(own)
        occluder = ordinary(own)[1] if own.random() < _HIDDEN else None
        cut = _cut(read_image(landmark.path), landmark.box, photo, own)
        source, cutting = (landmark.path, cut.landmark) if kind == "landmark" else (other, cut.decoy)
        planting = _plant(picture, cutting, cut.pixels, own, occluder, taken)
        if planting is None:
            continue
        picture = planting.picture
        taken.append(planting.box)
        objects.append(PlantedObject(kind, _visible(cutting.box, planting), source))
    return Scene(picture, quality, background, tuple(objects), tuple(skipped.values()))


def compose_scenes(
    plan: ScenePlan, pictures: int, folder: Path, *, workers: int, progress: Progress = lambda stage, done, total: None
) -> tuple[Skipped, ...]:
    """Compose pictures 0 to ``pictures`` - 1 of a plan and write them with their boxes.

    The folder appears when it is whole.

    Args:
        plan: what to compose of.
        pictures: how many.
        folder: where to write; it must not exist, or be empty.
        workers: processes; 0 composes in this one.
        progress: told ("pictures", pictures done, pictures in all).

    Returns:
        the backgrounds that could not be read.

    Raises:
        d2r.datasets.ground_truth.ClutterError: the folder is not empty or cannot be written, or see
            :func:`compose_scene`.
        d2r.images.ImageError: see :func:`compose_scene`.
    """
    name = display_path(folder)
    check_no_index(folder)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    skipped: dict[Skipped, None] = {}
    images: list[dict[str, Any]] = []
    boxes: dict[Kind, list[dict[str, Any]]] = {"landmark": [], "decoy": []}
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ClutterError(f"{name}: not empty; compose into a new folder, or remove it first")
        (part / "photos").mkdir(parents=True)
        outcomes = map_in_processes(
            partial(_write_scene, plan, part), range(pictures), workers=workers, prepare=_one_thread
        )
        for done, (index, scene) in enumerate(outcomes, start=1):
            if isinstance(scene, WorkerDied):
                raise ClutterError(f"{name}: the process that composed picture {index} {scene}; is there memory left?")
            skipped |= dict.fromkeys(scene.skipped)
            images.append({"id": index, "file_name": scene.name, "width": scene.width, "height": scene.height})
            for one in scene.objects:
                boxes[one.kind].append(_annotation(len(boxes[one.kind]) + 1, index, one))
            progress("pictures", done, pictures)
        images.sort(key=lambda image: image["id"])
        document = {
            "info": {"description": "composed by d2r dataset compose-detection", "seed": plan.seed},
            "images": images,
            "annotations": boxes["landmark"],
            "categories": [{"id": 1, "name": "landmark"}],
            "decoys": boxes["decoy"],
        }
        (part / BOXES).write_text(json.dumps(document, indent=1), encoding="utf-8")
        part.replace(folder)
    except OSError as error:
        raise ClutterError(f"{name}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return tuple(skipped)


@dataclass(frozen=True, eq=False)
class _Cutting:
    """What is cut from a photograph: a box and the strip around it, in pixels."""

    photo: Picture
    box: PixelBox
    whole: PixelBox


@dataclass(frozen=True, eq=False)
class _Cut:
    """A landmark and the decoy that could take its place; ``pixels`` is the area of the smaller one's box."""

    landmark: _Cutting
    decoy: _Cutting
    pixels: float


@dataclass(frozen=True)
class _Written:
    name: str
    width: int
    height: int
    objects: tuple[PlantedObject, ...]
    skipped: tuple[Skipped, ...]


def _is_held_out(name: str) -> bool:
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % _HELD_OUT == 0


def _contents(rng: np.random.Generator) -> list[Kind]:
    if rng.random() < _ALONE:
        return ["landmark" if rng.random() < 0.5 else "decoy"]
    landmarks = int(rng.choice(len(_LANDMARKS), p=_LANDMARKS))
    decoys = int(rng.integers(*CONFIG.decoys, endpoint=True))
    kinds: list[Kind] = [*["landmark"] * landmarks, *["decoy"] * decoys]  # type: ignore[list-item]
    # The first one has the whole picture to itself: it must not always be a landmark.
    return [kinds[k] for k in rng.permutation(len(kinds))]


def _cut(
    landmark: Picture, shares: tuple[float, float, float, float], ordinary: Picture, rng: np.random.Generator
) -> _Cut:
    """Return a landmark with a strip around its box, and a part of an ordinary photograph of the same proportions."""
    height, width = landmark.shape[:2]
    sides = np.array([width, height, width, height], np.float64)
    box = np.array(shares) * sides
    extent = np.tile(box[2:] - box[:2], 2)
    whole = np.clip(box + _STRIP * rng.uniform(0, 1, 4) ** 2 * extent * [-1, -1, 1, 1], 0, sides)

    x1, y1, x2, y2 = textured_box(ordinary)
    size = np.array([ordinary.shape[1], ordinary.shape[0]], np.float64)
    scale = min(1.0, float((size / (whole[2:] - whole[:2])).min()))
    corner = np.array([x1 + x2, y1 + y2]) / 2 - (whole[2:] - whole[:2]) * scale / 2
    corner = np.clip(corner, 0, np.maximum(size - (whole[2:] - whole[:2]) * scale, 0))
    offset = np.tile(corner - whole[:2] * scale, 2)
    return _Cut(
        _Cutting(landmark, _as_box(box), _as_box(whole)),
        _Cutting(ordinary, _as_box(box * scale + offset), _as_box(whole * scale + offset)),
        float(extent[0] * extent[1]) * scale**2,
    )


def _as_box(corners: Matrix) -> PixelBox:
    x1, y1, x2, y2 = corners.tolist()
    return (x1, y1, x2, y2)


def _plant(
    picture: Picture,
    cutting: _Cutting,
    pixels: float,
    rng: np.random.Generator,
    occluder: Picture | None,
    taken: Sequence[PixelBox],
) -> Planting | None:
    """Plant a cutting at a random size; None when it has no place at that size or a fraction of it."""
    total = picture.shape[0] * picture.shape[1]
    share = min(rng.uniform(*CONFIG.share), _ENLARGE**2 * pixels / total)
    share *= _area(cutting.whole) / _area(cutting.box)
    for _ in range(_TRIES):
        top = min(share, _LARGEST)
        config = dataclasses.replace(CONFIG, share=(0.85 * top, top))
        planting = plant(picture, cutting.photo, cutting.whole, config, rng, occluder=occluder, taken=taken)
        if planting is not None:
            return planting
        share /= 2
    return None


def _area(box: PixelBox) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _visible(box: PixelBox, planting: Planting) -> PixelBox:
    """Return where what a box holds is seen: its rounded outline through the homography, as far as it is planted."""
    x1, y1, x2, y2 = box
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # As round as what is planted (d2r.compose.planting.outline): things seldom reach into the corners of their boxes.
    outline = circle * (circle**4).sum(axis=1, keepdims=True) ** -0.25
    points = outline * [(x2 - x1) / 2, (y2 - y1) / 2] + [(x1 + x2) / 2, (y1 + y2) / 2]
    seen = cv2.perspectiveTransform(points[None], planting.homography)[0]
    low = np.maximum(seen.min(axis=0), planting.box[:2])
    high = np.minimum(seen.max(axis=0), planting.box[2:])
    return _as_box(np.round(np.concatenate([low, high]), 2))


def _one_thread() -> None:
    cv2.setNumThreads(1)  # there is a process a core already


def _write_scene(plan: ScenePlan, folder: Path, index: int) -> _Written:
    scene = compose_scene(plan, index)
    name = f"photos/{index:05d}.jpg"
    (folder / name).write_bytes(encode_jpeg(scene.picture, scene.quality))
    height, width = scene.picture.shape[:2]
    return _Written(name, width, height, scene.objects, scene.skipped)


def _annotation(number: int, image: int, planted: PlantedObject) -> dict[str, Any]:
    x1, y1, x2, y2 = planted.box
    box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
        "source": os.fspath(planted.source),
    }  # fmt: skip
