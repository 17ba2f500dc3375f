"""Stochastic depth: which images a block passes by, how often, and that nothing else changes."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from reid.models import BackboneError, ReidModel, build_backbone
from reid.models.stochastic_depth import add_stochastic_depth


class Block(nn.Module):
    def __init__(self, use_res_connect: bool = True) -> None:
        super().__init__()
        self.use_res_connect = use_res_connect
        self.conv = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


def test_a_branch_is_left_out_for_its_share_of_the_images() -> None:
    """A kept branch is divided by the share that stays: of ones come 1, or 1 + 1 / (1 - rate)."""
    torch.manual_seed(0)
    first, second = Block(), Block()
    add_stochastic_depth([first, second], 0.4)
    ones = torch.ones(4000, 2, 3, 3)
    for block, rate in ((first, 0.2), (second, 0.4)):
        output = block.train()(ones)
        assert torch.equal(output, output[:, :1, :1, :1].expand_as(output))
        dropped = output[:, 0, 0, 0] == 1
        assert float(dropped.float().mean()) == pytest.approx(rate, abs=0.03)
        torch.testing.assert_close(output[~dropped], torch.full_like(output[~dropped], 1 + 1 / (1 - rate)))
        assert torch.equal(block.eval()(ones), 2 * ones)


def test_a_block_without_a_shortcut_is_never_left_out() -> None:
    block = Block(use_res_connect=False)
    add_stochastic_depth([block], 0.9)
    assert torch.equal(block.train()(torch.ones(9, 1, 1, 1)), torch.full((9, 1, 1, 1), 2.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("resnet18", "reid"), ("resnet50_ibn_a", "reid"), ("se_resnet50", "reid"), ("mobilenet_v2", "reid"),
        ("mobilenet_v3_large", "reid"), ("test_vit", "timm"), ("mobilenetv3_small_050", "timm"),
    ],
)  # fmt: skip
def test_it_acts_in_training_alone_and_leaves_the_tensors_names(name: str, library: str) -> None:
    size: dict[str, Any] = {"image_size": (32, 32)} if library == "timm" else {}
    torch.manual_seed(0)
    plain = build_backbone(name, library=library, **size)
    deep = build_backbone(name, library=library, drop_path=0.5, **size)
    deep.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), deep.eval()(images))
        plain.train()
        torch.manual_seed(1)
        drawn = [deep.train()(images) for _ in range(2)]
        assert not torch.equal(drawn[0], plain(images))
        assert not torch.equal(*drawn)
        before = torch.get_rng_state()
        plain(images)  # what is off draws nothing
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_it_acts_where_batch_norms_keep_their_statistics(name: str) -> None:
    model = ReidModel(build_backbone(name, drop_path=0.5), 2, freeze_bn=True)
    twin = copy.deepcopy(model)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.equal(model.train().backbone(images), model.backbone(images))
        twin.eval()  # a copy, as a moving average is, goes by its own mode
        assert torch.equal(twin.backbone(images), twin.backbone(images))


def test_refuses_what_is_no_share_and_a_network_that_has_no_branches() -> None:
    with pytest.raises(BackboneError, match=r"drop_path=1 does not fit backbone\.name=resnet18"):
        build_backbone("resnet18", drop_path=1)
    with pytest.raises(BackboneError, match=r"drop_path=0\.1 .*vgg11"):
        build_backbone("vgg11", library="timm", image_size=(32, 32), drop_path=0.1)
