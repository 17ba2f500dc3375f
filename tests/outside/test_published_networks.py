"""The networks of PersonViT, TransReID-SSL, CLIP-ReID and SOLIDER at their full sizes, by name.

Each takes a file of random weights under the published names, and has to compute what the network of
`published_networks.py` computes. `tests/models/test_published_weights.py` looks at small ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_networks as published
import pytest
import torch
from published_networks import State, draw
from torch import Tensor, nn

from reid.convert import main as convert
from reid.engine.checkpoint import load_checkpoint
from reid.engine.describe import rebuild_model
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
    sized: dict[str, Any] = {} if name.startswith("solider") else {"image_size": (height, 128)}
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
    net(torch.randn(2, 3, 256, 128)).square().mean().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


class Tree(nn.Module):
    """A network that holds these tensors and computes nothing with them."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, tensor in state.items():
            path, _, leaf = name.rpartition(".")
            place: nn.Module = self
            for part in filter(None, path.split(".")):
                if part not in place._modules:
                    place.add_module(part, Tree({}))
                place = place.get_submodule(part)
            place.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))

    def forward(self, images: Tensor) -> Tensor:
        return images + 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@torch.inference_mode()
def test_the_archive_of_openai_becomes_a_weight_file(tmp_path: Path) -> None:
    shapes = published.clip_shapes(768, 12, 14 * 14, 512)
    state = {name: tensor.half() for name, tensor in draw(shapes).items()}
    texts = {"positional_embedding": torch.zeros(77, 512), "logit_scale": torch.zeros(())}
    whole = Tree({f"visual.{name}": tensor for name, tensor in state.items()} | texts)
    torch.jit.save(torch.jit.trace(whole, torch.zeros(1)), str(tmp_path / "ViT-B-16.pt"))
    assert convert([str(tmp_path / "ViT-B-16.pt"), "-o", str(tmp_path / "clip.pt"), "--trust"]) == 0
    net = build_backbone("clip_vit_base_16", weights=str(tmp_path / "clip.pt")).eval()
    assert net.weight_report.fraction == 1
    images = torch.randn(1, 3, 256, 128, generator=torch.Generator().manual_seed(1))
    expected = published.clip_visual({n: t.float() for n, t in state.items()}, images, 12, grid=(14, 14))
    assert (net(images).flatten(1) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("after", [False, True], ids=["before the necks", "after the necks"])
def test_a_trained_clip_reid_becomes_a_checkpoint(after: bool, tmp_path: Path) -> None:
    """With overlapping patches and cameras. Its two normed features are the model's one."""
    state = draw(published.clip_shapes(768, 12, 21 * 10, 512))
    norms = {
        name: draw(dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (size,)))
        for name, size in (("bottleneck", 768), ("bottleneck_proj", 512))
    }
    trained = {
        **{f"image_encoder.{name}": tensor for name, tensor in state.items()},
        **{f"{name}.{key}": tensor for name, norm in norms.items() for key, tensor in norm.items()},
        "classifier.weight": torch.zeros(751, 768),
        "classifier_proj.weight": torch.zeros(751, 512),
        "cv_embed": (cameras := torch.randn(6, 768, generator=torch.Generator().manual_seed(2))),
        "prompt_learner.cls_ctx": torch.zeros(751, 4, 512),
    }
    torch.save(trained, tmp_path / "ViT-B-16_60.pth")
    options = ["--neck-feature", "after"] if after else []
    assert convert([str(tmp_path / "ViT-B-16_60.pth"), "-o", str(tmp_path / "out.pt"), *options]) == 0
    model = rebuild_model(load_checkpoint(tmp_path / "out.pt")).eval()
    images = torch.randn(1, 3, 256, 128, generator=torch.Generator().manual_seed(1))
    expected = published.clip_visual(state, images, 12, stride=12, camera=cameras[[4]])
    if after:
        expected = torch.cat(
            [
                (part - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"]
                + norm["bias"]
                for part, norm in zip(expected.split((768, 512), 1), norms.values(), strict=True)
            ],
            dim=1,
        )
    assert (model(images, torch.tensor([4])) - expected).abs().max() <= 1e-5 * expected.abs().max()
