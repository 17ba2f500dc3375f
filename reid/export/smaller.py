"""Graphs in fewer bits: float16, half the size; int8, a quarter of it and several times as quick on a CPU."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from reid.export.graph import INPUT, Graph

#: What is computed in 8 bits: layers with weights, and what lies between two of them. The neck is not among
#: them, whose batch norm over 2,048 numbers costs nothing in float32.
_IN_INT8 = (
    "Conv", "MatMul", "Gemm", "Add", "Mul", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Concat", "Reshape", "Transpose",
)  # fmt: skip
#: Images that pass at once through the graph whose values are recorded.
_AT_ONCE = 16
#: How many of the first layers may stay in float32, tried in this order, until the mean cosine to the float32
#: features of so many images is as high as this.
_LEFT_FLOAT, _COMPARED, _CLOSE = (0, 8, 16, 32), 64, 0.99
#: The share of the values of an activation that its scale covers.
_COVERED = 0.9999


def to_float16(path: Path) -> None:
    """Compute in float16 what a graph computes in float32; what goes in and comes out stays float32."""
    graph = onnx.load(path)
    with _silent():
        graph = convert_float_to_float16(graph, keep_io_types=True, node_block_list=_ends(graph.graph))
    model = OnnxModel(graph)
    model.topological_sort()
    onnx.save(model.model, path)


def to_int8(path: Path, values: np.ndarray) -> dict[str, int]:
    """Compute in 8 bits what costs most: QDQ, weights signed with a scale a channel, activations unsigned.

    Unsigned activations and signed weights are what the VNNI units of CPUs multiply: with both signed, a
    ResNet18 took five times as long. The scale of an activation covers all but a ten-thousandth of its
    values.

    The first layers of a small network have few channels of very different ranges. As many of them stay in
    float32 as it takes for the features to keep their direction from the mean of all. A MobileNetV2 on the
    Market train-half split lost 1.5 points of mAP with none of them and 0.1 with eight; with the scales of
    the largest values it lost 2.1 and 0.6.

    values: (N, 3, H, W) float32, typical inputs of the graph, 16 or more.

    Returns what a reader of the file wants to know: how many images, and how many layers stayed in float32.
    """
    prepared = path.with_suffix(".prepared.onnx")
    with _silent():
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        ranges = _ranges(prepared, values)
    seen = values[:_COMPARED]
    features = Graph(prepared)(seen)
    mean = features.mean(0)
    expected = _unit(features - mean)
    for layers in _LEFT_FLOAT:
        model = onnx.load(prepared)
        ends = _ends(model.graph, layers)
        with _silent():
            quantizer = QDQQuantizer(
                model, True, False, QuantType.QInt8, QuantType.QUInt8, ranges, [], ends, list(_IN_INT8), {}
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(path)
        cosine = float((_unit(Graph(path)(seen) - mean) * expected).sum(1).mean())
        if cosine >= _CLOSE:
            break
    prepared.unlink()
    return {"calibrated_on": len(values), "first_layers_in_float32": layers}


def _ranges(path: Path, values: np.ndarray) -> TensorsData:
    """The range of each activation: its least and largest value, within what covers the magnitudes of a
    batch, in the mean of all batches. onnxruntime's own percentiles fail where one hardly varies."""
    augmented = path.with_suffix(".augmented.onnx")
    calibrator = create_calibrator(
        path, list(_IN_INT8), augmented.as_posix(), CalibrationMethod.Percentile, extra_options={}
    )
    names = [output.name for output in calibrator.infer_session.get_outputs()]
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calibrator.tensors_to_calibrate}
    for start in range(0, len(values), _AT_ONCE):
        found = calibrator.infer_session.run(None, {INPUT: values[start : start + _AT_ONCE]})
        for name, activation in zip(names, found, strict=True):
            if name in seen:
                covered = np.quantile(np.abs(activation), _COVERED)
                seen[name].append((activation.min(), activation.max(), covered))
    augmented.unlink()
    ranges = {}
    for name, rows in seen.items():
        least, largest, covered = zip(*rows, strict=True)
        most = np.float32(np.mean(covered))
        ranges[name] = (max(np.min(least), -most), min(np.max(largest), most))
    return TensorsData(CalibrationMethod.MinMax, ranges)


def _unit(features: np.ndarray) -> np.ndarray:
    found: np.ndarray = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return found


def _ends(graph: Any, layers: int = 0) -> list[str]:
    """The nodes before the first layer with weights, or so many layers later, and after the last one: they
    bring pixels from one scale to another and divide by norms, which 8 bits, or the range of float16, would
    spoil."""
    weighted = [i for i, node in enumerate(graph.node) if node.op_type in ("Conv", "MatMul", "Gemm")]
    first = weighted[min(layers, len(weighted) - 1)]
    ends = [*graph.node[:first], *graph.node[weighted[-1] + 1 :]]
    return [node.name for node in ends]


@contextmanager
def _silent() -> Iterator[None]:
    """Without what onnxruntime logs to the root and prints of its steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
