"""Plan the pictures of a clutter set: queries, parts to plant, backgrounds."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from d2r.compose.texture import textured_box
from d2r.compose.viewpoints import Described, PhotoPart, consistent_matches, describe_photo, query_and_views
from d2r.datasets.difficulty import ClutterConfig
from d2r.datasets.ground_truth import ClutterError, Instance, Skipped
from d2r.images import ImageError, read_image

ComposeProgress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; the stages are "instances" and "pictures"."""

_MATCH_PHOTOS = 32  # photographs of one instance to compare


@dataclass(frozen=True)
class Target:
    """A usable instance.

    Attributes:
        name: the instance's name.
        query: the query box in its photograph.
        views: the part to plant in each of its pictures.
        junk: parts planted for other instances that are verified to show its query too.
    """

    name: str
    query: PhotoPart
    views: tuple[PhotoPart, ...]
    junk: frozenset[PhotoPart] = frozenset()


@dataclass(frozen=True)
class Slot:
    """The planned content of a database picture; ``target`` is None if no instance is planted."""

    background: Path
    target: Target | None
    part: PhotoPart | None
    decoys: tuple[int, int]


@dataclass(frozen=True)
class ClutterPlan:
    """All decisions about a set that are made before its first picture is composed; see :func:`plan_set`."""

    config: ClutterConfig
    seed: int
    instances: tuple[Instance, ...]
    backgrounds: tuple[Path, ...]
    targets: tuple[Target, ...]
    slots: tuple[Slot, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.slots)


def plan_set(
    config: ClutterConfig,
    instances: Sequence[Instance],
    backgrounds: Sequence[Path],
    seed: int,
    progress: ComposeProgress | None = None,
) -> ClutterPlan:
    """Plan each picture of a set.

    Reads the photographs of instances and compares those of one instance with each other. An instance whose photographs
    cannot be read, or do not show the same part, is skipped and listed.

    Args:
        config: sizes and limits.
        instances: objects to search for; names must differ.
        backgrounds: photographs to plant in and to take decoys from; those that are also an instance's are left out.
        seed: seed of everything random, 0 or more.
        progress: called for each instance.

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
    targets: list[Target] = []
    described: dict[Path, Described] = {}
    for number, instance in enumerate(instances):
        rng = generator(seed, Stream.INSTANCE, number)
        if target := _target(instance, config.views, rng, skipped, described):
            targets.append(target)
        if progress:
            progress("instances", number + 1, len(instances))
    if not targets:
        reasons = "; ".join(f"{entry.path}: {entry.reason}" for entry in skipped[:3])
        raise ClutterError(f"none of {len(instances)} instances can be used ({reasons})")
    targets = _with_junk(targets, described)

    rng = generator(seed, Stream.PLAN)
    contents: list[tuple[Target | None, PhotoPart | None, tuple[int, int]]] = []
    contents += [(target, part, config.decoys) for target in targets for part in target.views]
    contents += [(None, None, (max(1, config.decoys[0]), max(1, config.decoys[1])))] * config.decoy_pictures
    contents += [(None, None, (0, 0))] * config.distractors
    # Shuffled, so that a picture's number reveals nothing: rankings break ties by name.
    rounds = math.ceil(len(contents) / len(free))
    hosts = np.concatenate([rng.permutation(len(free)) for _ in range(rounds)])
    slots = [Slot(free[host], *contents[k]) for host, k in zip(hosts, rng.permutation(len(contents)), strict=False)]
    return ClutterPlan(config, seed, tuple(instances), free, tuple(targets), tuple(slots), tuple(skipped))


class Stream(enum.IntEnum):
    """The purpose of a random generator, which is the first number of its key."""

    PLAN = 0
    INSTANCE = 1
    PICTURE = 2
    SCENE = 3


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return a random generator that depends only on the seed, the purpose and ``index``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))


def _target(
    instance: Instance,
    views: int,
    rng: np.random.Generator,
    skipped: list[Skipped],
    described: dict[Path, Described],
) -> Target | None:
    """Choose an instance's query and the parts to plant; add to ``skipped``, and to ``described`` if it has several."""
    photos: list[Described] = []
    for k in rng.permutation(len(instance.photos))[:_MATCH_PHOTOS]:
        path = instance.photos[k]
        try:
            if len(instance.photos) == 1:
                part = PhotoPart(path, textured_box(read_image(path)))
                return Target(instance.name, part, (part,) * views)
            photos.append(describe_photo(path))
        except ImageError as error:
            skipped.append(Skipped(error.name, error.reason))
    if not photos:
        return None
    query, found = query_and_views(photos, views)
    if not found:
        skipped.append(Skipped(instance.name, "no two of its photographs verifiably show the same part"))
        return None
    described |= {photo.photo: photo for photo in photos}
    parts = tuple(found[k % len(found)] for k in range(views))
    return Target(instance.name, PhotoPart(query.photo, query.textured), parts)


def _with_junk(targets: Sequence[Target], described: Mapping[Path, Described]) -> list[Target]:
    """Note for each instance which parts of *other* instances show its query too, as a castle shows its entry.

    Only instances with several photographs are compared; single photographs are taken to be distinct instances.
    """
    several = [target for target in targets if target.query.photo in described]
    marked = {target.name: target for target in targets}
    for target in several:
        query = described[target.query.photo].within(target.query.box)
        others = {part for other in several if other is not target for part in other.views}
        junk = {
            part
            for part in others
            if len(consistent_matches(query, described[part.photo].within(part.box), described[part.photo].tolerance))
        }
        marked[target.name] = dataclasses.replace(target, junk=frozenset(junk))
    return [marked[target.name] for target in targets]
