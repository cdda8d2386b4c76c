"""Index photographs, search them for the object in a box, and write a page of the results.

    python search_photos.py                                         # photographs of scikit-image
    python search_photos.py ~/Pictures castle.jpg 120,80,640,520    # your own; the box is optional

It needs ``pip install 'detect-to-retrieve[demo]'``, and writes photos.index and found.html to the current folder.
"""

import sys
from pathlib import Path

import d2r
from d2r.boxes import parse_box
from d2r.compose.bundled import bundled_photos


def main(folder: str = "", query: str = "", box: str = "") -> None:
    with d2r.open("photos.index", create=True) as engine:
        if folder:
            engine.sync(folder)
        else:
            bundled = bundled_photos()
            motorcycles = {thing.name: thing.photos for thing in bundled.instances}["motorcycle"]
            query, box = str(motorcycles[0]), "240,90,560,430"  # a stereo pair: left and right view
            engine.add([*motorcycles, *bundled.backgrounds[:4]], workers=0)
        answer = engine.search(query, box=parse_box(box) if box else None)
    for result in answer:
        print(f"{result.score:.3f}  {result.inliers or 0:>4} inliers  {result.path}")
    Path("found.html").write_text(answer.to_html(query), encoding="utf-8")
    print("page: found.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
