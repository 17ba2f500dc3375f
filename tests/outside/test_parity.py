"""Every backbone, every head and six networks of timm as files: the graph computes what PyTorch computes.

With random weights, and norms that have seen images. `make test` looks at one of each kind.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reid.config.schema import config_folder
from reid.engine.describe import model_description
from reid.export.check import MOST_DIFFERENCE, check_graph
from reid.export.drawn import drawn_crops
from reid.export.graph import Graph, write_graph
from reid.export.pixels import suite_images
from reid.export.target import target_named
from reid.jobs.networks import named_networks
from reid.judging.stored_threshold import FeatureSpace
from reid.models import described_model

TIMM = (
    "convnext_tiny", "mobilenetv3_large_100", "efficientnet_b0", "vit_small_patch16_224",
    "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224",
)  # fmt: skip
#: Where crops of 128 x 64 pixels do not fit: a multiple of 14.
SIZES = {"vit_small_patch14_dinov2": (126, 56)}


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (config_folder() / group).glob("*.yaml"))


NETWORKS = {
    **{name: [f"backbone={name}"] for name in choices("backbone") if name != "timm"},
    **{f"timm, {name}": ["backbone=timm", f"backbone.name={name}"] for name in TIMM},
    **{f"resnet18, head {name}": ["backbone=resnet18", f"head={name}"] for name in choices("head")},
    "resnet18, no neck": ["backbone=resnet18", "tricks=no_bnneck"],
    "resnet18, spatial transformer": ["backbone=resnet18", "backbone.stn=true"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_of_a_network_computes_what_pytorch_does(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    height, width = SIZES.get(name.removeprefix("timm, "), (128, 64))
    (settings,) = named_networks([*NETWORKS[name], f"image.height={height}", f"image.width={width}"])
    torch.manual_seed(0)
    model, crops = described_model(model_description(settings, 7)), drawn_crops(8)
    with torch.no_grad():
        for _ in range(2):
            model((suite_images(crops, height, width).float() - 120) / 60)
    model.eval()
    space, target, file = (
        FeatureSpace("euclidean", True, "after"),
        target_named("ultralytics"),
        tmp_path / "a.onnx",
    )
    write_graph(model, space, target, height, width, file)
    check = check_graph(Graph(file), model, space, target, crops, (height, width))
    record_property("MiB", f"{file.stat().st_size / 2**20:.1f}")
    record_property("largest difference", f"{check.difference:.1e}")
    record_property("mean cosine through the resize", f"{check.cosine_mean:.4f}")
    assert check.difference <= MOST_DIFFERENCE
