"""Networks of the format that :mod:`d2r.features.hardnet` runs, of one layer that nobody trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
METADATA = {"d2r": "patch-descriptors-1", "arch": "toy", "width": "6"}


def write_patches(
    path: Path,
    dim: int = 40,
    *,
    metadata: Mapping[str, str] = METADATA,
    sides: Sequence[int | str] = ("N", SIDE, SIDE),
    outputs: Sequence[int | str] | None = None,
    broken: bool = False,
) -> Path:
    """Write a network that describes a patch by its pixels less their mean, turned at random to ``dim`` values."""
    turned = np.random.default_rng(0).standard_normal((SIDE * SIDE, dim)).astype(np.float32)
    turned -= turned.mean(axis=0)
    constants = {
        "shape": np.array([-1, SIDE * SIDE], np.int64),
        "turned": turned,
        "axes": np.array([1], np.int64),
        "least": np.float32(np.nan if broken else 1e-6),
    }
    nodes = [
        helper.make_node("Cast", ["pictures"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "turned"], ["values"]),
        helper.make_node("ReduceL2", ["values", "axes"], ["lengths"]),
        helper.make_node("Add", ["lengths", "least"], ["safe"]),
        helper.make_node("Div", ["values", "safe"], ["descriptors"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, list(sides))],
        [helper.make_tensor_value_info("descriptors", TensorProto.FLOAT, list(outputs or ("N", dim)))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path
