"""Quantise the convolutions of a patch network to 8 bits, with ranges calibrated on patches of photographs.

    python benchmarks/quantise.py MODEL.onnx OUT.onnx --photos FOLDER [--pictures N]

Activations and weights are int8 (weights per channel), the rest stays float. Prints the mean cosine between the
descriptors of both networks on patches that calibration did not see, and the CPU time of each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from d2r.features.frames import grey, make_sift, strongest
from d2r.features.hardnet import PatchNetwork, load_patch_network
from d2r.features.patches import cut_patches
from d2r.images import read_image, shrink
from d2r.models.onnx import set_threads
from d2r.sources import find_pictures

BATCH = 256


class Patches(CalibrationDataReader):
    """Hands batches of patches to calibration."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pictures": batch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60)
    options = parser.parse_args()
    set_threads(1)
    network = load_patch_network(options.model)
    paths = [file.path for file in find_pictures(options.photos)]
    chosen = np.random.default_rng(0).permutation(len(paths))[: options.pictures + 10]
    batches = [patches_of(network, paths[row]) for row in chosen]
    unseen, every = batches[:10], np.concatenate(batches[10:])
    seen = list(every[: len(every) // BATCH * BATCH].reshape(-1, BATCH, network.side, network.side))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(options.model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            options.out,
            Patches(seen),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": 99.99},
        )
    model, original = onnx.load(options.out), onnx.load(options.model)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    model.producer_name = original.producer_name
    onnx.save(model, options.out)
    small = load_patch_network(options.out)
    cosines = np.concatenate([(network.run(batch) * small.run(batch)).sum(axis=1) for batch in unseen])
    print(f"cosine: mean {cosines.mean():.4f}, lowest 1 % {np.quantile(cosines, 0.01):.4f}")
    times = [seconds(one, unseen) for one in (network, small)]
    print(f"CPU: {1e6 * times[0]:.1f} and {1e6 * times[1]:.1f} us per patch, {times[1] / times[0]:.2f} times")
    print(f"bytes: {options.model.stat().st_size:,} and {options.out.stat().st_size:,}")


def patches_of(network: PatchNetwork, path: str) -> Any:
    gray = grey(shrink(read_image(path), 1024))
    frames, _ = strongest(make_sift(500, 0.02).detect(gray, None), 500)
    return cut_patches(gray, frames, network.side, network.width)


def seconds(network: PatchNetwork, batches: list[Any]) -> float:
    """Return the median CPU time per patch."""
    network.run(batches[0])
    found = []
    for batch in batches:
        started = time.process_time()
        network.run(batch)
        found.append((time.process_time() - started) / max(1, len(batch)))
    return float(np.median(found))


if __name__ == "__main__":
    main()
