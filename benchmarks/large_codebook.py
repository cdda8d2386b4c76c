"""Learn a large codebook from the cache of ``d2r evaluate --features rootsift --regions rmac:levels=2``.

    python benchmarks/large_codebook.py --cache d2r-cache --out words.safetensors PHOTOS...

PHOTOS are folders of pictures that an evaluation with the same cache described. Takes 20 descriptors per word and 8
iterations: 7 minutes for 65,536 words on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

from d2r.asmk.learning import train_codebook
from d2r.defaults import MAX_SIDE, VERIFY_FEATURES
from d2r.evaluate.extraction import sample_descriptors
from d2r.indexing.entry import Recipe, origin_of
from d2r.sources import find_pictures
from d2r.support.files import is_our_safetensors, writing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, default=Path("d2r-cache"))
    parser.add_argument("--words", type=int, default=65_536)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    described = {file.stem: file for file in options.cache.glob("rmac-levels-2-rootsift-*/*.safetensors")}
    photos = [file for folder in options.photos for file in find_pictures(folder)]
    names = [hashlib.blake2b(Path(file.path).read_bytes(), digest_size=16).hexdigest() for file in photos]
    files = [described[name] for name in names if name in described]
    sample, pictures = sample_descriptors(files, options.words * 20)
    origin = origin_of(Recipe("rmac:levels=2", "rootsift", MAX_SIDE, VERIFY_FEATURES), pictures)
    started = time.perf_counter()
    book = train_codebook(sample, options.words, iterations=8, origin=origin)
    with writing(options.out, is_our_safetensors) as part:
        book.save(part)
    print(
        f"{options.words:,} words from {len(sample):,} descriptors of {len(files):,} of {len(photos):,} pictures"
        f" in {time.perf_counter() - started:,.0f} s"
    )


if __name__ == "__main__":
    main()
