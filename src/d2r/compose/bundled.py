"""Real photographs shipped with scikit-image and scikit-learn, and a small collection composed of them.

Nothing is downloaded: the files are part of the installed libraries, and are read by path without importing them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from d2r.boxes import PixelBox
from d2r.compose.clutter import compose_set
from d2r.compose.planning import ComposeProgress
from d2r.datasets import difficulty
from d2r.datasets.difficulty import ClutterConfig
from d2r.datasets.ground_truth import Instance
from d2r.errors import D2RError

_INSTALL = "pip install 'detect-to-retrieve[demo]'"

_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
_INSTANCES = {
    "pagoda": ("sklearn/china.jpg",),
    "motorcycle": ("skimage/motorcycle_left.png", "skimage/motorcycle_right.png"),
    "astronaut": ("skimage/astronaut.png",),
    "cameraman": ("skimage/camera.png",),
    "coins": ("skimage/coins.png",),
    "page": ("skimage/page.png",),
}
_BACKGROUNDS = (
    "sklearn/flower.jpg",
    "skimage/brick.png",
    "skimage/chelsea.png",
    "skimage/coffee.png",
    "skimage/grass.png",
    "skimage/gravel.png",
    "skimage/hubble_deep_field.jpg",
    "skimage/ihc.png",
    "skimage/moon.png",
    "skimage/retina.jpg",
    "skimage/rocket.jpg",
    "skimage/text.png",
)


class BundledError(D2RError):
    """The libraries with the photographs are missing; the message says what to install."""


@dataclass(frozen=True)
class BundledPhotos:
    """The photographs: objects to search for, and backgrounds to plant them in."""

    instances: tuple[Instance, ...]
    backgrounds: tuple[Path, ...]


@dataclass(frozen=True)
class DemoCollection:
    """A small collection, and a query with known answers.

    Attributes:
        photos: folder with the pictures of the collection.
        name: name of the object that the query shows.
        query: the query picture, outside ``photos``.
        box: the query box.
        answers: the pictures in ``photos`` that show it.
    """

    photos: Path
    name: str
    query: Path
    box: PixelBox
    answers: tuple[Path, ...]


def bundled_photos() -> BundledPhotos:
    """Return the photographs shipped with scikit-image and scikit-learn, as paths into the installed libraries.

    Raises:
        BundledError: a library is not installed, or lacks a photograph.
    """
    folders = {library: _folder(library) for library in _FOLDERS}

    def find(name: str) -> Path:
        library, file = name.split("/")
        path = folders[library] / file
        if not path.is_file():
            raise BundledError(f"{path}: this version of {library} does not have it; try: {_INSTALL}")
        return path

    return BundledPhotos(
        tuple(Instance(name, tuple(map(find, files))) for name, files in _INSTANCES.items()),
        tuple(map(find, _BACKGROUNDS)),
    )


def _folder(library: str) -> Path:
    spec = importlib.util.find_spec(library)  # finds a top-level package without importing it
    if spec is None or spec.origin is None:
        raise BundledError(f"the demo uses photographs shipped with {library}; install it with: {_INSTALL}")
    return Path(spec.origin).parent / _FOLDERS[library]


def demo_collection(folder: Path, *, seed: int = 0, progress: ComposeProgress | None = None) -> DemoCollection:
    """Compose a collection of 60 JPEG pictures, with sides of at most 640 pixels, from the bundled photographs.

    Six objects are each planted in five pictures, in clutter and from five viewpoints; one of them is the query. The
    same seed gives the same pictures; they are written to ``folder/photos``, the query picture to ``folder/query``.

    Args:
        folder: where to write; created if missing.
        seed: seed of everything random, 0 or more.
        progress: see :data:`d2r.compose.planning.ComposeProgress`.

    Raises:
        BundledError: the libraries with the photographs are missing.
        d2r.datasets.ground_truth.ClutterError: the folder holds other pictures, or cannot be written.
    """
    bundled = bundled_photos()
    composed = compose_set(_demo_config(), bundled.instances, bundled.backgrounds, seed, folder, progress)
    query = composed.queries[0]
    return DemoCollection(
        photos=folder / "photos",
        name=query.instance,
        query=folder / query.path,
        box=query.box,
        answers=tuple(folder / path for path in query.positives),
    )


def _demo_config() -> ClutterConfig:
    """Return how the pictures of the demo are composed."""
    return replace(
        difficulty.DIFFICULTIES["easy"],
        name="demo",
        share=(0.1, 0.25),
        tilt=30,
        roll=15,
        stretch=1.2,
        lighting=0.4,
        occlusion=0.15,
        quality=(80, 92),
        views=5,
        decoy_pictures=12,
        distractors=18,
    )
