"""Detectors of the format that :mod:`d2r.regions.network` runs, too small to have learned anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
METADATA = {"d2r": "detector-1", "arch": "toy", "side": str(SIDE)}


def write_detector(
    path: Path,
    boxes: Sequence[Sequence[float]] = ((0.25, 0.25, 0.75, 0.75),),
    scores: Sequence[float] = (0.9,),
    *,
    by_red: bool = False,
    batch: int | str = "N",
    metadata: Mapping[str, str] = METADATA,
    names: Sequence[str] = ("pictures", "boxes", "scores"),
    dtype: int = TensorProto.UINT8,
    shape: Sequence[int] = (SIDE, SIDE, 3),
) -> Path:
    """Write a detector that finds the same boxes, given as shares, in every picture.

    Args:
        path: of the file.
        boxes: K x 4.
        scores: K; with ``by_red`` times the mean of the picture's red channel, as a share of 255.
        by_red: see there.
        batch: pictures at once; text leaves it free.
        metadata: of the file.
        names: of the input and the two outputs.
        dtype: of the input.
        shape: of a picture.
    """
    pictures, found, confidence = names
    constants = {
        "all_boxes": np.array([boxes], np.float32),
        "all_scores": np.array([scores], np.float32),
        "red_channel": np.array(0),
        "last": np.array([1, 2]),
        "white": np.array(255.0, np.float32),
        "nothing": np.array(0.0, np.float32),
        "unit": np.array(1.0, np.float32),
        "deeper": np.array([2]),
        "middle": np.array([1]),
    }
    nodes = [
        helper.make_node("Cast", [pictures], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["numbers", "red_channel"], ["red"], axis=3),
        helper.make_node("ReduceMean", ["red", "last"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "middle"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "unit"], ["ones"]),
        helper.make_node("Mul", ["column" if by_red else "ones", "all_scores"], [confidence]),
        helper.make_node("Unsqueeze", ["ones", "deeper"], ["deep"]),
        helper.make_node("Mul", ["deep", "all_boxes"], [found]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info(pictures, dtype, [batch, *shape])],
        [
            helper.make_tensor_value_info(found, TensorProto.FLOAT, [batch, len(boxes), len(boxes[0])]),
            helper.make_tensor_value_info(confidence, TensorProto.FLOAT, [batch, len(scores)]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return path
