"""Gradient checkpointing: less is kept, and every number stays what it was."""

import copy
from typing import Any

import pytest
import torch
from composing import settings_of
from torch import Tensor, nn

from reid.config.checks import ConfigError
from reid.models import Backbone, BackboneError, as_backbone, build_backbone, recompute_blocks
from reid.models.recompute import _Recomputed


def kept_bytes(backbone: Backbone, images: Tensor) -> int:
    """One step of training; how many bytes the forward pass keeps for the backward pass."""
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = backbone.train()(images)
    output.square().sum().backward()
    return kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library", "options"),
    [
        ("resnet18", "reid", {}),
        ("resnet18", "reid", {"non_local": "half"}),
        ("mobilenet_v2", "reid", {"drop_path": 0.3}),
        ("mobilenetv3_small_050", "timm", {"image_size": (32, 32)}),
        ("test_vit", "timm", {"image_size": (32, 32)}),
    ],
)
def test_gradients_and_statistics_are_the_same_to_the_bit(
    name: str, library: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    plain = build_backbone(name, library=library, **options)
    again = copy.deepcopy(plain)
    recompute_blocks(again)
    again = copy.deepcopy(again)  # a moving average is begun so
    images = torch.randn(4, 3, 32, 32)
    assert kept_bytes(again, images) < 0.5 * kept_bytes(plain, images)
    own = again.state_dict()
    assert own.keys() == plain.state_dict().keys()
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, own[key]), key
    for (key, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), key
        assert one.grad is None or torch.equal(one.grad, other.grad), key  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), again.eval()(images))


def test_a_non_local_block_is_computed_again_as_the_residual_blocks_are() -> None:
    backbone = build_backbone("resnet18", non_local="one")
    recompute_blocks(backbone)
    again = [name for name, module in backbone.named_modules() if isinstance(module, _Recomputed)]
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert again == [*blocks, "NL_2.0", "NL_2.1", "NL_3.0", "NL_3.1"]


def test_refuses_a_network_without_blocks_and_a_compiled_one() -> None:
    with pytest.raises(BackboneError, match=r"checkpointing=true does not fit backbone\.name=own"):
        recompute_blocks(as_backbone(nn.Conv2d(3, 4, 1), "own", 4))
    with pytest.raises(ConfigError, match="checkpointing and compile are both true"):
        settings_of("checkpointing=true", "compile=true")
