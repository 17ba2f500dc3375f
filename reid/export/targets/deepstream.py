"""DeepStream's NvDCF and NvDeepSORT: y = netScaleFactor x (pixel - offset), one scale for three channels.

Three different deviations do not fit into one scale, so that all of the normalisation is in the graph: the
offsets are 0 and the scale is 1. Written from NVIDIA's documentation; no DeepStream was at hand to run it.
"""

from collections.abc import Mapping
from typing import Any

from reid.export.target import Target


def _files(facts: Mapping[str, Any]) -> dict[str, str]:
    height, width = facts["input"]["height"], facts["input"]["width"]
    mode = 1 if facts["precision"] == "float16" else 0
    text = f"""\
# The section ReID of a tracker's config; what it does not name stays as your tracker has it.
ReID:
  reidType: 2                  # features for association again and for matching
  onnxFile: "{facts["file"]}"
  batchSize: 100
  workspaceSize: 1000
  reidFeatureSize: {facts["output"]["size"]}
  reidHistorySize: 100
  inferDims: [3, {height}, {width}]
  networkMode: {mode}               # 0 float32, 1 float16
  inputOrder: 0                # NCHW
  colorFormat: 0               # RGB
  offsets: [0.0, 0.0, 0.0]     # the normalisation is inside the graph
  netScaleFactor: 1.0
  keepAspc: 0                  # the model was trained on crops that are squeezed, not padded
  addFeatureNormalization: 1
"""
    return {".yaml": text}


TARGET = Target(
    name="deepstream",
    program="DeepStream",
    divisor=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    resize="opencv",
    normalises=True,
    note="Put the section ReID of the YAML file into the tracker's config.",
    files=_files,
)
