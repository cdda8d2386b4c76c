"""Networks of local features of the format that :mod:`d2r.features.network` runs, of one layer that nobody trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDE = 8
FIELD = 16
METADATA = {
    "d2r": "local-features-1",
    "arch": "toy",
    "stride": str(STRIDE),
    "offset": str(STRIDE / 2),
    "field": str(FIELD),
    "scales": "0.5,1,2",
    "threshold": "0.01",
}


def write_features(
    path: Path,
    dim: int = 24,
    *,
    seed: int = 0,
    metadata: Mapping[str, str] = METADATA,
    names: Sequence[str] = ("pictures", "descriptors", "attention"),
    sides: Sequence[int | str] = ("N", "H", "W"),
    named: bool = True,
    dtype: int = TensorProto.UINT8,
    sign: float = 1.0,
    length: float = 1.0,
    step: int = STRIDE,
    backbone: int | str | None = None,
    lift: float = 0.0,
) -> Path:
    """Write a network that describes each cell by fixed random filters of no sum, and attends where they answer.

    A flat cell has no attention and a descriptor of zeros. The filters of cell i reach from pixel 8 i - 4 to 8 i + 12.

    Args:
        path: of the file.
        dim: D.
        seed: of the filters.
        metadata: of the file.
        names: of the input and the two outputs.
        sides: N, H and W of the input.
        named: its shape names D; otherwise D comes out only when it runs.
        dtype: of the input.
        sign: of the attention.
        length: of the descriptors.
        step: stride of the filters.
        backbone: what the shape says of the channels of the map, the answers above 0: D, or a name where they come out
            only when it runs; None has no such output.
        lift: is added to the map.
    """
    pictures, descriptors, attention = names
    filters = np.random.default_rng(seed).standard_normal((dim, 3, FIELD, FIELD))
    filters -= filters.mean(axis=(1, 2, 3), keepdims=True)
    constants = {
        "filters": (filters / 255.0 / FIELD**2).astype(np.float32),
        "channels": np.array([1]),
        "dim": np.array([dim]),
        "nothing": np.array(0.0, np.float32),
        "almost_nothing": np.array(1e-6, np.float32),
        "length": np.array(length, np.float32),
        "sign": np.array(sign, np.float32),
        "lift": np.array(lift, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [pictures], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "filters"], ["answers"], strides=[step, step], pads=[STRIDE // 2] * 4),
        helper.make_node("ReduceL2", ["answers", "channels"], ["norms"], keepdims=1),
        helper.make_node("Sub", ["norms", "almost_nothing"], ["above"]),
        helper.make_node("Relu", ["above"], ["positive"]),
        helper.make_node("Sign", ["positive"], ["there"]),
        helper.make_node("Max", ["norms", "almost_nothing"], ["divisors"]),
        helper.make_node("Div", ["answers", "divisors"], ["units"]),
        helper.make_node("Mul", ["units", "there"], ["seen"]),
        helper.make_node("Mul", ["seen", "length"], ["sized"]),
        helper.make_node("Transpose", ["sized"], ["deep"], perm=[0, 2, 3, 1]),
        helper.make_node("Identity", ["deep"], [descriptors])
        if named
        else helper.make_node("Compress", ["deep", "every"], [descriptors], axis=3),
        helper.make_node("ReduceMax", ["norms"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "dim"], ["most_each"]),
        helper.make_node("GreaterOrEqual", ["most_each", "nothing"], ["every"]),
        helper.make_node("Squeeze", ["positive", "channels"], ["flat"]),
        helper.make_node("Mul", ["flat", "sign"], [attention]),
    ]
    if backbone is not None:
        nodes += [
            helper.make_node("Relu", ["answers"], ["map"]),
            helper.make_node("Add", ["map", "lift"], ["lifted"]),
            helper.make_node("Identity", ["lifted"], ["features"])
            if isinstance(backbone, int)
            else helper.make_node("Compress", ["lifted", "every"], ["features"], axis=1),
        ]
    cells = [sides[0], "h", "w"]
    graph = helper.make_graph(
        nodes,
        "local features",
        [helper.make_tensor_value_info(pictures, dtype, [*sides, 3])],
        [
            helper.make_tensor_value_info(descriptors, TensorProto.FLOAT, [*cells, dim if named else "D"]),
            helper.make_tensor_value_info(attention, TensorProto.FLOAT, cells),
            *(
                []
                if backbone is None
                else [helper.make_tensor_value_info("features", TensorProto.FLOAT, [cells[0], backbone, *cells[1:]])]
            ),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return path
