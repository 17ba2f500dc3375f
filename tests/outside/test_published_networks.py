"""The networks of PersonViT, TransReID-SSL, CLIP-ReID and SOLIDER at their full sizes, by name.

Each takes a file of random weights under the published names, and has to compute what the network of
`published_networks.py` computes. `tests/models/test_published_weights.py` looks at small ones.
"""

from collections.abc import Callable
from pathlib import Path

import published_networks as published
import pytest
import torch
from published_networks import State, draw
from torch import Tensor

from reid.models import build_backbone

Shapes = dict[str, tuple[int, ...]]
Network = Callable[[State, Tensor], Tensor]


def vit(width: int, heads: int, stem: bool) -> tuple[Shapes, Network]:
    def network(state: State, images: Tensor) -> Tensor:
        return published.vit(state, images, heads, grid=(16, 8))[:, 0]

    return published.vit_shapes(width, 12, 128, stem), network


def clip() -> tuple[Shapes, Network]:
    shapes = published.clip_shapes(768, 12, 14 * 14, 512)
    return (
        {f"visual.{name}": shape for name, shape in shapes.items()},
        lambda state, images: published.clip_visual(
            {name.removeprefix("visual."): t for name, t in state.items()}, images, 12, grid=(14, 14)
        ),
    )


def solider(width: int, middle: int, heads: tuple[int, ...]) -> tuple[Shapes, Network]:
    def network(state: State, images: Tensor) -> Tensor:
        return published.solider(state, images, heads, 0.2)

    return published.solider_shapes(width, (2, 2, middle, 2), heads), network


NETWORKS = {
    "personvit_small": vit(384, 6, stem=False),
    "personvit_base": vit(768, 12, stem=False),
    "transreid_ssl_vit_small": vit(384, 6, stem=False),
    "transreid_ssl_vit_small_ics": vit(384, 6, stem=True),
    "transreid_ssl_vit_base_ics": vit(768, 12, stem=True),
    "clip_vit_base_16": clip(),
    "solider_swin_tiny": solider(96, 6, (3, 6, 12, 24)),
    "solider_swin_small": solider(96, 18, (3, 6, 12, 24)),
    "solider_swin_base": solider(128, 18, (4, 8, 16, 32)),
}


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("height", [256, 384])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_published_file_gives_the_published_features(name: str, height: int, tmp_path: Path) -> None:
    shapes, network = NETWORKS[name]
    state = draw(shapes)
    torch.save(state, tmp_path / "file.pth")
    sized = {} if name.startswith("solider") else {"image_size": (height, 128)}
    net = build_backbone(name, weights=str(tmp_path / "file.pth"), **sized).eval()
    assert (net.weight_report.fraction, net.weight_report.used) == (1.0, 1.0)
    images = torch.randn(1, 3, height, 128, generator=torch.Generator().manual_seed(1))
    features, expected = net(images), network(state, images)
    features = features.reshape(expected.shape)
    assert (features - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name: str) -> None:
    net = build_backbone(name).train()
    net(torch.randn(2, 3, 384 if "base_ics" in name else 256, 128)).square().mean().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []
