"""Structure from motion with `d2r pairs` against exhaustive matching: registered images, pairs, times.

    python benchmarks/colmap.py [--data FOLDER] [--work FOLDER] [--top 10]

All photographs of ``scenes/`` go into one folder, like a collection of unknown buildings. COLMAP (pycolmap,
``pip install 'detect-to-retrieve[colmap]'``) extracts its own features once, and matches them for all pairs, for the
pairs of ``d2r pairs``, and for those of ``d2r pairs --verify``. Each is then reconstructed. A picture counts as
registered if it is in a model of at least three.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

import pycolmap

from d2r.engine import Engine
from d2r.mining.pairs import write_pairs
from d2r.support.files import own_folder, remove_own_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("D2R_DATA", "../shared/data")))
    parser.add_argument(
        "--work", type=Path, default=Path("build/colmap"), help="folder; replaces that of an earlier run"
    )
    parser.add_argument("--scene", action="append", help="only these folders of scenes/")
    parser.add_argument("--top", type=int, default=10, help="number of most similar pictures to pair each with")
    parser.add_argument("--side", type=int, default=640, help="maximum side of pictures in COLMAP")
    parser.add_argument("--features", type=int, default=1500, help="maximum number per picture in COLMAP")
    options = parser.parse_args()
    photos = sorted(options.data.resolve().glob("scenes/*/*.jpg"))
    photos = [path for path in photos if options.scene is None or path.parent.name in options.scene]
    if not photos:
        parser.error(f"no scenes/*/*.jpg in {options.data}; give --data or set D2R_DATA")
    remove_own_folder(options.work)
    own_folder(options.work)
    images = options.work / "images"
    images.mkdir()
    for path in photos:
        shutil.copy(path, images / f"{path.parent.name}-{path.name}")
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    pycolmap.set_random_seed(0)

    extracted = options.work / "features.db"
    started = time.perf_counter()
    extraction = pycolmap.FeatureExtractionOptions(max_image_size=options.side, use_gpu=False)
    extraction.sift.max_num_features = options.features
    pycolmap.extract_features(
        extracted, images, camera_mode=pycolmap.CameraMode.AUTO, extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )  # fmt: skip
    print(f"{len(photos)} pictures; features in {time.perf_counter() - started:.0f} s\n")

    rows = [("all pairs", None, len(photos) * (len(photos) - 1) // 2, 0.0)]
    started = time.perf_counter()
    with Engine.create(options.work / "index", regions="rmac:levels=2", features="rootsift") as engine:
        engine.sync(images)
        indexed = time.perf_counter() - started
        for verify in (False, True):
            file = options.work / f"pairs{'-verified' if verify else ''}.txt"
            started = time.perf_counter()
            pairs, _ = write_pairs(engine, file, top=options.top, verify=verify, root=images, progress=quiet)
            name = f"d2r pairs --top {options.top}{' --verify' if verify else ''}"
            rows.append((name, file, len(pairs), indexed + time.perf_counter() - started))

    print("| pairs | number | finding them, s | matching, s | mapping, s | registered | models | points |")
    print("|---|---:|---:|---:|---:|---:|---|---:|")
    registered: list[set[str]] = []
    for number, (name, file, count, finding) in enumerate(rows):
        database = options.work / f"{number}.db"
        shutil.copy(extracted, database)
        started = time.perf_counter()
        matching = pycolmap.FeatureMatchingOptions(use_gpu=False)
        if file is None:
            pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
        else:
            pairing = pycolmap.ImportedPairingOptions(match_list_path=file)
            pycolmap.match_image_pairs(
                database, matching_options=matching, pairing_options=pairing, device=pycolmap.Device.cpu
            )
        matched = time.perf_counter() - started
        started = time.perf_counter()
        folder = options.work / f"{number}"
        folder.mkdir()
        models = pycolmap.incremental_mapping(
            database, images, folder, options=pycolmap.IncrementalPipelineOptions(min_model_size=3)
        ).values()
        mapped = time.perf_counter() - started
        registered.append({image.name for model in models for image in model.images.values() if image.has_pose})
        sizes = sorted((model.num_reg_images() for model in models), reverse=True)
        print(
            f"| {name} | {count:,} | {finding:.0f} | {matched:.0f} | {mapped:.0f} | {len(registered[-1])} |"
            f" {' + '.join(map(str, sizes))} | {sum(model.num_points3D() for model in models):,} |",
            flush=True,
        )
    for (name, *_), one in zip(rows[1:], registered[1:], strict=True):
        print(f"\n{name}: registered only with all pairs: {sorted(registered[0] - one) or 'none'}")
        print(f"{name}: registered only with these pairs: {sorted(one - registered[0]) or 'none'}")


def quiet(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


if __name__ == "__main__":
    main()
