"""Composed scenes for a detector: boxed landmarks of real photographs, and decoys, planted in ordinary photographs.

A detector trained on pasted landmarks soon finds the pasting instead of the landmark. So each picture also has decoys,
cut from other ordinary photographs and planted in exactly the same way: a decoy gets the outline, the proportions and
the size of a randomly drawn landmark, and all later random choices are made alike. The box is cut out with a random
strip of its surroundings, so that the seam is not the edge of the box. Decoys have no box: they are background.

A set in ``folder``::

    photos/00000.jpg ...   the pictures
    boxes.json             a COCO file: the boxes of the landmarks; separately, under "decoys", those of the decoys

Everything random about picture ``i`` comes from (seed, i): the same seed and sources give the same pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np

from d2r.boxes import PixelBox
from d2r.compose.clutter import vary
from d2r.compose.cuttings import cut, plant_cutting, planting_config, visible_box
from d2r.compose.planning import ComposeProgress, Stream, generator
from d2r.compose.scene_plan import ScenePlan
from d2r.datasets.ground_truth import ClutterError, Skipped
from d2r.images import ImageError, Picture, encode_jpeg, read_image
from d2r.support.files import check_no_index, display_path
from d2r.support.processes import WorkerDied, map_in_processes

PlantedKind: TypeAlias = Literal["landmark", "decoy"]

BOXES: Final = "boxes.json"

_ALONE: Final = 0.5  # share of the pictures with a single object: a large one leaves no room for others
_LANDMARKS: Final = (0.25, 0.5, 0.25)  # probabilities of 0, 1 and 2 landmarks in the other pictures
_HIDDEN: Final = 0.5  # share of the objects that may be partly occluded


@dataclass(frozen=True)
class PlantedObject:
    """A landmark or a decoy in a scene: its box, in pixels of the scene, and the photograph it was cut from."""

    kind: PlantedKind
    box: PixelBox
    source: Path


@dataclass(frozen=True, eq=False)
class Scene:
    """A composed picture, uint8 (H, W, 3), its JPEG quality, its content, and the sources that could not be read."""

    picture: Picture
    quality: int
    background: Path
    objects: tuple[PlantedObject, ...]
    skipped: tuple[Skipped, ...]


def compose_scene(plan: ScenePlan, index: int, contents: Sequence[PlantedKind] | None = None) -> Scene:
    """Compose one picture; it depends only on the plan, ``index`` and ``contents``.

    An object that finds no free place is left out. The k-th object of ``contents`` has the same size, outline, change
    of light and (in an empty picture) place as a landmark and as a decoy.

    Args:
        plan: the sources.
        index: number of the picture, 0 or more.
        contents: the objects to plant; None draws one object, or 0 to 2 landmarks and 1 to 3 decoys, with equal
            probability.

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
    config = planting_config()
    picture = vary(host, config.side, rng)
    quality = int(rng.integers(*config.quality, endpoint=True))
    objects: list[PlantedObject] = []
    taken: list[PixelBox] = []
    for kind in drawn if contents is None else contents:
        (own,) = rng.spawn(1)  # so that an object does not change the random choices of the next
        landmark = plan.landmarks[own.integers(len(plan.landmarks))]
        other, photo = ordinary(own)
        occluder = ordinary(own)[1] if own.random() < _HIDDEN else None
        pair = cut(read_image(landmark.path), landmark.box, photo, own)
        source, cutting = (landmark.path, pair.landmark) if kind == "landmark" else (other, pair.decoy)
        planting = plant_cutting(picture, cutting, pair.pixels, own, occluder, taken)
        if planting is None:
            continue
        picture = planting.picture
        taken.append(planting.box)
        objects.append(PlantedObject(kind, visible_box(cutting.box, planting), source))
    return Scene(picture, quality, background, tuple(objects), tuple(skipped.values()))


def compose_scenes(
    plan: ScenePlan,
    pictures: int,
    folder: Path,
    *,
    workers: int,
    progress: ComposeProgress = lambda stage, done, total: None,
) -> tuple[Skipped, ...]:
    """Compose pictures 0 to ``pictures`` - 1 of a plan and write them with their boxes.

    The folder appears when it is complete.

    Args:
        plan: the sources.
        pictures: number of pictures.
        folder: where to write; it must not exist, or be empty.
        workers: number of processes; 0 composes in this one.
        progress: called with ("pictures", pictures done, pictures in all).

    Returns:
        the backgrounds that could not be read.

    Raises:
        d2r.datasets.ground_truth.ClutterError: the folder is not empty or cannot be written to; or see
            :func:`compose_scene`.
        d2r.images.ImageError: see :func:`compose_scene`.
    """
    name = display_path(folder)
    check_no_index(folder)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    skipped: dict[Skipped, None] = {}
    images: list[dict[str, Any]] = []
    boxes: dict[PlantedKind, list[dict[str, Any]]] = {"landmark": [], "decoy": []}
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ClutterError(f"{name}: not empty; compose into a new folder, or remove it first")
        (part / "photos").mkdir(parents=True)
        outcomes = map_in_processes(
            partial(_write_scene, plan, part), range(pictures), workers=workers, prepare=_one_thread
        )
        for done, (index, scene) in enumerate(outcomes, start=1):
            if isinstance(scene, WorkerDied):
                raise ClutterError(f"{name}: the process that composed picture {index} {scene}; is memory short?")
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


@dataclass(frozen=True)
class _Written:
    name: str
    width: int
    height: int
    objects: tuple[PlantedObject, ...]
    skipped: tuple[Skipped, ...]


def _contents(rng: np.random.Generator) -> list[PlantedKind]:
    if rng.random() < _ALONE:
        return ["landmark" if rng.random() < 0.5 else "decoy"]
    landmarks = int(rng.choice(len(_LANDMARKS), p=_LANDMARKS))
    decoys = int(rng.integers(*planting_config().decoys, endpoint=True))
    kinds: list[PlantedKind] = [*["landmark"] * landmarks, *["decoy"] * decoys]  # type: ignore[list-item]
    # The first object has the whole picture to itself, so it must not always be a landmark.
    return [kinds[k] for k in rng.permutation(len(kinds))]


def _one_thread() -> None:
    cv2.setNumThreads(1)  # there is already one process per core


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
