"""The graph of a model for a target: written by PyTorch, run by onnxruntime.

PyTorch has two exporters. The newer one (`dynamo=True`) takes 3 to 17 s where the older, which traces, takes
0.2 to 4 s. It is taken nonetheless: the older one is announced to be removed, warns, refuses the spatial
transformer's pooling, and leaves up to six times as many nodes. Differences from PyTorch and sizes are equal
(measured with torch 2.14 over ResNet, IBN, SE, MobileNetV2, ViT and Swin). It writes no opset below 18.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from reid.distance import normalise
from reid.export.target import Target
from reid.judging.stored_threshold import FeatureSpace
from reid.models import ReidModel

OPSET = 18
INPUT, OUTPUT = "images", "output0"


class WholeModel(nn.Module):
    """A model with what the target's program leaves out: from what it gives to the features that it gets.

    model: in evaluation mode, with the feature that the space names.
    forward: (N, 3, H, W) float32 -> (N, D) float32.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: ReidModel, space: FeatureSpace, target: Target) -> None:
        super().__init__()
        self.model = model
        self.flip = space.flip
        self.normalises = space.feature_norm and not target.normalises
        inside = target.inside(model.normalisation)
        self.converts = inside is not None
        if inside is not None:
            for name, channels in zip(("scale", "shift"), inside, strict=True):
                self.register_buffer(name, torch.tensor(channels).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.converts:
            images = images * self.scale + self.shift
        if self.flip:
            both: Tensor = self.model(torch.cat([images, images.flip(3)]))
            features = both.unflatten(0, (2, -1)).mean(0)
        else:
            features = self.model(images)
        return normalise(features) if self.normalises else features


def write_graph(
    model: ReidModel, space: FeatureSpace, target: Target, height: int, width: int, path: Path
) -> None:
    """Write the graph of a model, from `images` (batch, 3, height, width) to `output0` (batch, D).

    The model itself stays as it is.
    """
    network = copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    network.eval_feature = space.neck_feature
    whole = WholeModel(network, space, target).requires_grad_(False)
    # One image alone would make the number of images a constant of the graph.
    example = torch.zeros(2, 3, height, width)
    batch = torch.export.Dim("batch", min=1)
    with _silent():
        torch.onnx.export(
            whole,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            external_data=False,
            optimize=True,
            verbose=False,
        )


def annotate(path: Path, facts: Mapping[str, str]) -> None:
    """Write short facts into the file itself, where every ONNX viewer shows them; what it says of its origin
    in the source code goes."""
    graph = onnx.load(path)
    for node in graph.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.initializer, *graph.graph.input, *graph.graph.output):
        value.doc_string = ""
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del graph.graph.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(facts))
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


class Graph:
    """A graph in onnxruntime, on the CPU.

    threads: that one call takes; 0 for as many as there are cores.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32 -> (N, D) float32."""
        features: np.ndarray = self.session.run([OUTPUT], {INPUT: values})[0]
        return features


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter says of itself to those who develop it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
