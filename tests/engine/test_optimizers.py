"""The parameter groups: published ones, and those of layer-wise learning-rate decay."""

from typing import Any

import pytest
import torch
from torch import nn

from reid.checks import ConfigError
from reid.engine.optimizers import build_optimizer, set_learning_rate
from reid.models import BackboneError, ReidModel, build_backbone, layer_depths

OPTIONS: dict[str, Any] = {
    "_target_": "torch.optim.AdamW",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "bias_lr_factor": 2.0,
    "bias_weight_decay": 0.0,
    "layer_decay": None,
}


@pytest.fixture(scope="module")
def vit() -> ReidModel:
    backbone = build_backbone("vit_tiny_patch16_224", library="timm", image_size=(32, 16))
    return ReidModel(backbone, num_classes=4)


def factors(model: ReidModel, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The share of the learning rate that each parameter has, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["lr"] / 1e-3 for group in optimizer.param_groups for p in group["params"]}


def test_without_layer_decay_there_are_the_published_groups(vit: ReidModel) -> None:
    optimizer = build_optimizer(vit, OPTIONS)
    assert [group["lr_factor"] for group in optimizer.param_groups] == [1.0, 2.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_each_layer_below_the_head_learns_slower_by_the_same_factor(vit: ReidModel) -> None:
    optimizer = build_optimizer(vit, {**OPTIONS, "layer_decay": 0.5})
    share = factors(vit, optimizer)
    assert share.keys() == {name for name, p in vit.named_parameters() if p.requires_grad}
    assert share["classifier.weight"] == share["bottleneck.weight"] == 1.0
    assert share["backbone.norm.weight"] == share["backbone.blocks.11.mlp.fc2.weight"] == 0.5
    assert share["backbone.blocks.11.mlp.fc2.bias"] == 2 * 0.5
    for block in range(12):
        assert share[f"backbone.blocks.{block}.attn.qkv.weight"] == pytest.approx(0.5 ** (12 - block))
    for stem in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert share[f"backbone.{stem}"] == pytest.approx(0.5**13)

    set_learning_rate(optimizer, 1e-3 * 0.1)
    assert factors(vit, optimizer) == pytest.approx({name: 0.1 * value for name, value in share.items()})


def test_the_layers_of_a_swin_are_its_blocks() -> None:
    net = build_backbone("swin_tiny_patch4_window7_224", library="timm", image_size=(32, 32))
    depths = layer_depths(net)
    assert depths["patch_embed.proj.weight"] == 2 + 2 + 6 + 2 + 1
    assert depths["layers.2.blocks.5.mlp.fc1.weight"] == 3
    assert depths["layers.3.blocks.1.mlp.fc1.weight"] == depths["norm.weight"] == 1


def test_layer_decay_is_refused_where_there_are_no_layers_to_tell_apart() -> None:
    for backbone in (
        build_backbone("resnet18"),
        build_backbone("mobilenetv3_small_050", library="timm", image_size=(32, 32)),
    ):
        with pytest.raises(BackboneError, match=rf"layer_decay does not fit backbone\.name={backbone.name}"):
            build_optimizer(ReidModel(backbone, num_classes=4), {**OPTIONS, "layer_decay": 0.75})


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_a_fused_optimizer_takes_the_same_steps_and_a_cpu_or_gpu_has_it_by_itself(name: str) -> None:
    options = {**OPTIONS, "_target_": f"torch.optim.{name}"}
    moved = []
    for fused in (None, False):
        torch.manual_seed(0)
        net = nn.Linear(8, 4)
        optimizer = build_optimizer(net, {**options, "fused": fused})
        assert bool(optimizer.defaults["fused"]) is (fused is None)
        for _ in range(5):
            net(torch.ones(3, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        moved.append(torch.cat([net.weight.flatten(), net.bias]).detach())
    torch.testing.assert_close(moved[1], moved[0])
    there = build_optimizer(nn.Linear(8, 4), options, device=torch.device("cuda"))
    assert there.defaults["fused"]


@pytest.mark.parametrize("option", ["foreach", "differentiable"])
def test_an_option_that_no_fused_form_has_goes_without_it(option: str) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), {**OPTIONS, "_target_": "torch.optim.Adam", option: True})
    assert optimizer.defaults[option]
    assert not optimizer.defaults["fused"]
    with pytest.raises(ConfigError, match=rf"optimizer: .*{option}"):
        build_optimizer(
            nn.Linear(2, 2), {**OPTIONS, "_target_": "torch.optim.Adam", option: True, "fused": True}
        )


def test_an_optimizer_without_a_fused_form_goes_without_and_refuses_to_be_asked() -> None:
    options = {**OPTIONS, "_target_": "torch.optim.RMSprop"}
    build_optimizer(nn.Linear(2, 2), options, device=torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"optimizer\.fused=true: RMSprop has no fused form"):
        build_optimizer(nn.Linear(2, 2), {**options, "fused": True})
