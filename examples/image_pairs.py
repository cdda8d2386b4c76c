"""Write pairs of similar pictures in the format of hloc and COLMAP, and match two pictures.

    python image_pairs.py [FOLDER]

Without a folder it uses photographs of scikit-image (``pip install 'detect-to-retrieve[demo]'``). It writes
pairs.index, pairs.txt and match.png to the current folder.
"""

import sys
from pathlib import Path

import d2r
from d2r.compose.bundled import bundled_photos
from d2r.images import read_image
from d2r.mining.pairs import write_pairs
from d2r.report.drawing import draw_match, write_png


def main(folder: str = "") -> None:
    with d2r.open("pairs.index", create=True) as engine:
        if folder:
            engine.sync(folder)
        else:
            bundled = bundled_photos()
            engine.add([*bundled.instances[1].photos, *bundled.backgrounds[:4]], workers=0)
        pairs, root = write_pairs(
            engine, Path("pairs.txt"), top=20, verify=True, root=None, progress=lambda stage, done, total: None
        )
    print(f"{len(pairs)} pairs in pairs.txt, names relative to {root}")
    if not pairs:
        return
    first, second = (read_image(Path(root) / name) for name in pairs[0])
    match = d2r.match(first, second)  # uses all features; an index keeps only the strongest
    print(f"{pairs[0][0]} and {pairs[0][1]}: {len(match.matches)} matches, {match.inliers} inliers")
    print(match.transform)
    drawn = draw_match(first, second, *match.positions(match.inlier), unconfirmed=match.positions(~match.inlier))
    write_png(drawn, Path("match.png"))
    print("drawing: match.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
