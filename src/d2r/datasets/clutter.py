"""The clutter benchmark: objects of real photographs planted small in busy photographs, at known boxes.

What a set holds, in ``folder``::

    query/000-castle.jpg ...   one picture of each instance, with a box
    photos/00000.jpg ...       the database: each instance in ``views`` pictures; decoys; plain distractors
    ground_truth.json          boxes, positives, every planted object, the seed, the configuration, the sources

An instance with several photographs is planted from photographs other than the query's that are *verified* to show
what the query's box shows (local features that agree with one homography), so that the viewpoints differ for real.
An instance with one photograph is planted by synthetic warps of it. Decoys are planted in the same way and are
nobody's answer.

Everything random about picture ``i`` comes from (seed, i): the same seed, configuration and sources give the same
bytes, whatever was composed before. Boxes are x1, y1, x2, y2 in pixels, half-open; a homography maps such
coordinates (not pixel indices) of the source photograph to those of the composed picture.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from d2r.datasets.clutter_set import (
    GROUND_TRUTH,
    ClutterConfig,
    ClutterError,
    ClutterSet,
    DatabasePicture,
    Instance,
    Planted,
    Progress,
    Query,
    Skipped,
    write_ground_truth,
)
from d2r.datasets.planting import plant, textured_box, tone_curve
from d2r.datasets.viewpoints import MATCH_PHOTOS, DescribedPhoto, SharedPart, agreeing, describe_photo, query_and_views
from d2r.files import display_path
from d2r.images import SUFFIXES, ImageError, Picture, encode_jpeg, read_image, shrink

_QUERY_QUALITY = 92


def read_instances(folder: Path) -> list[Instance]:
    """Return the instances in a folder: each sub-folder with pictures is one, and each picture directly in it is one.

    Raises:
        ClutterError: it is not a folder, or holds no pictures.
    """
    instances = [Instance(path.name, tuple(_pictures(path.iterdir()))) for path in _entries(folder) if path.is_dir()]
    instances += [Instance(path.stem, (path,)) for path in _pictures(_entries(folder))]
    instances = [instance for instance in instances if instance.photos]
    if not instances:
        raise ClutterError(f"{display_path(folder)}: no pictures in it or in its sub-folders")
    return instances


def draw_instances(folder: Path, most: int | None, seed: int) -> list[Instance]:
    """Return the instances in a folder, at most ``most`` of them, drawn by the seed; None is all.

    Raises:
        ClutterError: see :func:`read_instances`.
    """
    instances = read_instances(folder)
    if most is None or most >= len(instances):
        return instances
    rows = np.random.default_rng(seed).permutation(len(instances))[:most]
    return [instances[row] for row in sorted(rows)]


def read_backgrounds(folder: Path) -> list[Path]:
    """Return the pictures in a folder and everything below it, sorted.

    Raises:
        ClutterError: it is not a folder, or holds no pictures.
    """
    _entries(folder)
    photos = _pictures(folder.rglob("*"))
    if not photos:
        raise ClutterError(f"{display_path(folder)}: no pictures in it or below it")
    return photos


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ClutterError(f"{display_path(folder)}: cannot be read: {error.strerror or error}") from error


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


@dataclass(frozen=True)
class _Target:
    """An instance as it is used.

    Attributes:
        name: the instance's name.
        query: what its query shows.
        views: the part to plant in each of its pictures.
        junk: parts that are planted for other instances and are seen to show its query as well.
    """

    name: str
    query: SharedPart
    views: tuple[SharedPart, ...]
    junk: frozenset[SharedPart] = frozenset()


@dataclass(frozen=True)
class _Slot:
    """What a database picture is to hold; ``target`` is None where no instance is planted."""

    background: Path
    target: _Target | None
    part: SharedPart | None
    decoys: tuple[int, int]


@dataclass(frozen=True)
class ClutterPlan:
    """Everything that is decided about a set before its first picture is composed; see :func:`plan_set`."""

    config: ClutterConfig
    seed: int
    instances: tuple[Instance, ...]
    backgrounds: tuple[Path, ...]
    targets: tuple[_Target, ...]
    slots: tuple[_Slot, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True)
class Composed:
    """A database picture: its JPEG file, what is in it, and the sources that turned out broken on the way."""

    jpeg: bytes
    truth: DatabasePicture
    skipped: tuple[Skipped, ...]


def plan_set(
    config: ClutterConfig,
    instances: Sequence[Instance],
    backgrounds: Sequence[Path],
    seed: int,
    progress: Progress | None = None,
) -> ClutterPlan:
    """Decide what each picture of a set will hold.

    Photographs of instances are read here: those of instances with several are compared with each other. An instance
    that cannot be used is skipped and listed: broken photographs, or none that show the same part.

    Args:
        config: sizes and limits.
        instances: what to search for; names must differ.
        backgrounds: photographs to plant in and to take decoys from; those that are also an instance's are left out.
        seed: of all that is random, 0 or more.
        progress: told about each instance.

    Raises:
        ClutterError: no instance or no background can be used, or two instances have the same name.
    """
    names = [instance.name for instance in instances]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ClutterError(f"two instances are called {twice!r}")
    own = {path.resolve() for instance in instances for path in instance.photos}
    free = tuple(path for path in backgrounds if path.resolve() not in own)
    if not free:
        raise ClutterError("no background is left that is not an instance's photograph")

    skipped: list[Skipped] = []
    targets: list[_Target] = []
    described: dict[Path, DescribedPhoto] = {}
    for number, instance in enumerate(instances):
        rng = _generator(seed, _Stream.INSTANCE, number)
        if target := _target(instance, config.views, rng, skipped, described):
            targets.append(target)
        if progress:
            progress("instances", number + 1, len(instances))
    if not targets:
        reasons = "; ".join(f"{entry.path}: {entry.reason}" for entry in skipped[:3])
        raise ClutterError(f"none of {len(instances)} instances can be used ({reasons})")
    targets = _with_junk(targets, described)

    rng = _generator(seed, _Stream.PLAN)
    contents: list[tuple[_Target | None, SharedPart | None, tuple[int, int]]] = []
    contents += [(target, part, config.decoys) for target in targets for part in target.views]
    contents += [(None, None, (max(1, config.decoys[0]), max(1, config.decoys[1])))] * config.decoy_pictures
    contents += [(None, None, (0, 0))] * config.distractors
    # Shuffled, so that a picture's number says nothing about it: rankings break ties by name.
    rounds = math.ceil(len(contents) / len(free))
    hosts = np.concatenate([rng.permutation(len(free)) for _ in range(rounds)])
    slots = [_Slot(free[host], *contents[k]) for host, k in zip(hosts, rng.permutation(len(contents)), strict=False)]
    return ClutterPlan(config, seed, tuple(instances), free, tuple(targets), tuple(slots), tuple(skipped))


class _Stream(enum.IntEnum):
    """What a random generator is for; the first number of its key."""

    PLAN = 0
    INSTANCE = 1
    PICTURE = 2


def _generator(seed: int, stream: _Stream, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))


def _target(
    instance: Instance,
    views: int,
    rng: np.random.Generator,
    skipped: list[Skipped],
    described: dict[Path, DescribedPhoto],
) -> _Target | None:
    """Choose an instance's query and the parts to plant; add to ``skipped``, and to ``described`` if it has several."""
    photos: list[DescribedPhoto] = []
    for k in rng.permutation(len(instance.photos))[:MATCH_PHOTOS]:
        path = instance.photos[k]
        try:
            if len(instance.photos) == 1:
                part = SharedPart(path, textured_box(read_image(path)))
                return _Target(instance.name, part, (part,) * views)
            photos.append(describe_photo(path))
        except ImageError as error:
            skipped.append(Skipped(error.name, error.reason))
    if not photos:
        return None
    query, found = query_and_views(photos, views)
    if not found:
        skipped.append(Skipped(instance.name, "no two of its photographs are seen to show the same part"))
        return None
    described |= {photo.photo: photo for photo in photos}
    parts = tuple(found[k % len(found)] for k in range(views))
    return _Target(instance.name, SharedPart(query.photo, query.textured), parts)


def _with_junk(targets: Sequence[_Target], described: Mapping[Path, DescribedPhoto]) -> list[_Target]:
    """Note for each instance which parts of *other* instances show its query too (a castle's, of the castle's entry).

    Only instances with several photographs are compared; a flat folder of photographs is taken at its word.
    """
    several = [target for target in targets if target.query.photo in described]
    marked = {target.name: target for target in targets}
    for target in several:
        query = described[target.query.photo].within(target.query.box)
        others = {part for other in several if other is not target for part in other.views}
        junk = {
            part
            for part in others
            if len(agreeing(query, described[part.photo].within(part.box), described[part.photo].tolerance))
        }
        marked[target.name] = dataclasses.replace(target, junk=frozenset(junk))
    return [marked[target.name] for target in targets]


def compose_picture(plan: ClutterPlan, index: int) -> Composed:
    """Compose one database picture of a plan; the outcome depends on the plan and ``index`` alone.

    A background that cannot be read is replaced by another, and listed.

    Raises:
        ClutterError: no background can be read.
        d2r.images.ImageError: a photograph of an instance, read when planning, cannot be read any more.
    """
    config, slot = plan.config, plan.slots[index]
    rng = _generator(plan.seed, _Stream.PICTURE, index)
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
    picture = _vary(host, config.side, rng)
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
        if planting is None:  # only a decoy can find its place taken: the instance comes first
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


def _vary(photo: Picture, side: int, rng: np.random.Generator) -> Picture:
    """Return most of a background, perhaps mirrored, in slightly other light, its longer side ``side`` pixels."""
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
    progress: Progress | None = None,
) -> ClutterSet:
    """Compose a whole set and write it; the arguments but ``folder`` are those of :func:`plan_set`.

    Files of the same name are written over; ``ground_truth.json`` comes last, so that a set that has it is whole.

    Args:
        config: sizes and limits.
        instances: what to search for; see :func:`read_instances`.
        backgrounds: photographs to plant in; see :func:`read_backgrounds`.
        seed: of all that is random.
        folder: where to write; made if need be.
        progress: told about each instance and each picture.

    Returns:
        the set, equal to what :func:`load_set` reads back.

    Raises:
        ClutterError: nothing can be composed, the folder holds pictures of another set, or it cannot be written.
        d2r.images.ImageError: a photograph of an instance, read when planning, cannot be read any more.
    """
    plan = plan_set(config, instances, backgrounds, seed, progress)
    names = [_query_path(k, target.name) for k, target in enumerate(plan.targets)]
    try:
        _prepare(folder, {*names, *(_picture_path(k) for k in range(len(plan)))})
        queries = [_write_query(plan, target, folder, name) for target, name in zip(plan.targets, names, strict=True)]
        database: list[DatabasePicture] = []
        skipped = dict.fromkeys(plan.skipped)
        for index in range(len(plan)):
            composed = compose_picture(plan, index)
            (folder / composed.truth.path).write_bytes(composed.jpeg)
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


def _write_query(plan: ClutterPlan, target: _Target, folder: Path, name: str) -> Query:
    photo = read_image(target.query.photo)
    picture = shrink(photo, plan.config.side)
    (folder / name).write_bytes(encode_jpeg(picture, _QUERY_QUALITY))
    scale = picture.shape[1] / photo.shape[1]
    x1, y1, x2, y2 = (round(value * scale, 2) for value in target.query.box)
    return Query(
        path=name,
        instance=target.name,
        source=target.query.photo,
        box=(x1, y1, x2, y2),
        positives=tuple(_picture_path(k) for k, slot in enumerate(plan.slots) if slot.target is target),
        junk=tuple(_picture_path(k) for k, slot in enumerate(plan.slots) if slot.part in target.junk),
    )


def _prepare(folder: Path, paths: set[str]) -> None:
    """Make the folders of a set; refuse when they hold other pictures than the set will have."""
    for name in ("query", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / name).iterdir()):
            if f"{name}/{path.name}" not in paths:
                raise ClutterError(f"{display_path(path)}: not of this set; compose into an empty folder")
    (folder / GROUND_TRUTH).unlink(missing_ok=True)
