"""Index and search with your own local features: VGG descriptors, which OpenCV has and d2r does not.

    python own_features.py [FOLDER [QUERY]]

Without a folder it uses photographs of scikit-image (``pip install 'detect-to-retrieve[demo]'``). It writes vgg.index
to the current folder. The extractor is passed as an object, here and wherever the index is opened again.
docs/extend.md shows how a package makes it available to the command line and the service too.
"""

import sys
from dataclasses import dataclass

import cv2
import numpy as np

import d2r
from d2r.compose.bundled import bundled_photos
from d2r.features import Features


@dataclass(frozen=True)
class Vgg:
    """VGG descriptors at SIFT keypoints; the fields are its options."""

    top: int = 1000
    dim = 120

    def extract(self, images):
        return [self._one(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in images]

    def _one(self, grey):
        points = cv2.SIFT.create().detect(grey, None)
        strongest = sorted(points, key=lambda point: -point.response)[: self.top]
        if not strongest:
            return Features.empty(self.dim)
        kept, descriptors = cv2.xfeatures2d.VGG.create(scale_factor=6.75).compute(grey, strongest)  # the factor of SIFT
        lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
        return Features(
            positions=np.array([point.pt for point in kept], np.float32) + 0.5,  # OpenCV's centres are at integers
            scales=np.array([point.size for point in kept], np.float32),
            descriptors=descriptors / np.maximum(lengths, 1e-12),
            attention=np.array([point.response for point in kept], np.float32),
            angles=np.deg2rad([point.angle for point in kept]).astype(np.float32),
        )


def main(folder: str = "", query: str = "") -> None:
    with d2r.open("vgg.index", create=True, features=Vgg(top=500)) as engine:
        if folder:
            engine.sync(folder)
        else:
            bundled = bundled_photos()
            motorcycles = {thing.name: thing.photos for thing in bundled.instances}["motorcycle"]
            query = str(motorcycles[0])
            engine.add([*motorcycles, *bundled.backgrounds[:4]])
        print(f"{engine.recipe.features}: {engine.index.size().num_words} visual words of {Vgg.dim} dimensions")
        for result in engine.search(query, d2r.SearchOptions(top=3)) if query else ():
            print(f"{result.score:.3f}  {result.inliers or 0:>4} inliers  {result.path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
