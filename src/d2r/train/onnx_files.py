"""ONNX files: exported by tracing, optionally with weights in 16 bits to make the file smaller."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from d2r.support.files import GENERATOR, is_our_onnx, writing

_OPSET: Final = 18
_HALF_FROM: Final = 64  # values; smaller arrays stay unchanged, as some of them are shapes and scales


def to_onnx(
    graph: nn.Module,
    example: Tensor,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]] | None,
) -> onnx.ModelProto:
    """Return a network as ONNX.

    Args:
        graph: the network, with one input.
        example: an example of the input.
        inputs: name of the input.
        outputs: names of the outputs.
        axes: for each name, its axes of free length and their names; None if there are none.
    """
    buffer = io.BytesIO()
    # By tracing: the other exporter does not support a number of proposals that depends on the picture, as in Faster
    # R-CNN, and takes 12 s for an SSD instead of half a second.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (example,),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=_OPSET,
        )
    return onnx.load_from_string(buffer.getvalue())


def write_onnx(model: onnx.ModelProto, path: Path, *, force: bool = False) -> None:
    """Check a graph and write it, with this program as its producer.

    Raises:
        d2r.support.files.OutputError: there is a file that this program did not export,
            see :func:`d2r.support.files.writing`.
    """
    model.producer_name = GENERATOR
    onnx.checker.check_model(model, full_check=True)
    with writing(path, is_our_onnx, force=force) as part:
        part.write_bytes(model.SerializeToString())


def store_half(model: onnx.ModelProto) -> None:
    """Round the weights of a graph to 16 bits, each followed by a cast to 32 bits, which is done on loading."""
    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _HALF_FROM or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
