"""The parameter groups: published ones, and those of layer-wise learning-rate decay."""

from typing import Any

import pytest
import torch
from composing import composed, settings_of
from omegaconf import OmegaConf
from timm.optim import param_groups_weight_decay
from torch import nn

from reid.config.checks import ConfigError
from reid.config.identity import config_hash
from reid.config.settings import train_settings
from reid.engine.optimizers import (
    build_optimizer,
    load_optimizer,
    restore_optimizer,
    set_learning_rate,
)
from reid.models import BackboneError, Head, ReidModel, as_backbone, build_backbone, layer_depths, undecayed
from reid.models.heads import Parts

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


def test_without_layer_decay_there_are_the_published_groups() -> None:
    optimizer = build_optimizer(ReidModel(build_backbone("resnet18"), num_classes=4), OPTIONS)
    assert [group["lr_factor"] for group in optimizer.param_groups] == [1.0, 2.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def decays(model: ReidModel, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_of_a_network_of_timm_decays_what_timm_lets_decay(vit: ReidModel, layer_decay: float | None) -> None:
    """With Adam's `bias_weight_decay` as well, which is of the published networks."""
    options = {**OPTIONS, "layer_decay": layer_decay, "bias_weight_decay": 5e-4}
    found = decays(vit, build_optimizer(vit, options))
    backbone: Any = vit.backbone
    theirs = param_groups_weight_decay(backbone, 0.05, no_weight_decay_list=backbone.no_weight_decay())
    wanted = {parameter: group["weight_decay"] for group in theirs for parameter in group["params"]}
    assert set(wanted.values()) == {0.0, 0.05}
    for name, parameter in backbone.named_parameters():
        assert found[f"backbone.{name}"] == wanted[parameter], name
    for name in ("cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"):
        assert found[f"backbone.{name}"] == 0
    assert (found["head.bottleneck.weight"], found["head.classifier.weight"]) == (0, 0.05)


def test_tokens_that_timm_lists_by_a_pattern_do_not_decay() -> None:
    net = nn.ModuleDict({"pos_embed": nn.Linear(2, 2, bias=False)})
    backbone: Any = as_backbone(net, "own", 2, library="timm")
    backbone.no_weight_decay = lambda: {"pos_embed.*"}
    assert undecayed(ReidModel(backbone, num_classes=2)) == {
        "backbone.pos_embed.weight", "head.bottleneck.weight", "head.bottleneck.bias"
    }  # fmt: skip


@pytest.mark.parametrize(("library", "groups"), [("reid", 2), ("timm", 3)])
def test_only_networks_of_timm_are_trained_so(library: str, groups: int) -> None:
    """timm's class without its name is one of the published networks: their SE nets are built by timm."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model = ReidModel(as_backbone(net, "own", 4, library=library), num_classes=2)
    assert len(build_optimizer(model, OPTIONS).param_groups) == groups


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_a_run_that_began_when_all_decayed_goes_on_so(vit: ReidModel, layer_decay: float | None) -> None:
    """Its state has one group for each depth and for weights and biases, and names parameters by number."""
    options = {**OPTIONS, "layer_decay": layer_decay, "bias_weight_decay": 0.01}
    proxies = nn.ParameterList([torch.ones(3, 2)])
    parameters = [*vit.parameters(), *proxies]
    depths = {} if layer_decay is None else layer_depths(vit.backbone)
    kinds: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in vit.named_parameters():
        if parameter.requires_grad:
            kind = (depths.get(name.removeprefix("backbone."), 0), name.endswith("bias"))
            kinds.setdefault(kind, []).append(parameter)
    kinds[0, False].extend(proxies)
    older = torch.optim.AdamW(
        [
            {"params": kinds[depth, bias], "weight_decay": 0.01 if bias else 0.05, "lr_factor": 0.5**depth}
            for depth, bias in sorted(kinds)
        ]
    )
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    older.step()

    newer = build_optimizer(vit, options, proxies)
    assert len(newer.param_groups) > len(older.param_groups)
    restore_optimizer(newer, older.state_dict(), parameters)
    assert [group["weight_decay"] for group in newer.param_groups] == [
        group["weight_decay"] for group in older.param_groups
    ]
    for group, same in zip(newer.param_groups, older.param_groups, strict=True):
        assert all(a is b for a, b in zip(group["params"], same["params"], strict=True))
    for parameter in parameters:
        if parameter.requires_grad:
            torch.testing.assert_close(newer.state[parameter]["exp_avg"], 0.1 * parameter.grad)
    # Saved again and taken up again, it is still the same.
    once_more = build_optimizer(vit, options, proxies)
    restore_optimizer(once_more, newer.state_dict(), parameters)
    assert torch.equal(once_more.state[parameters[0]]["exp_avg"], newer.state[parameters[0]]["exp_avg"])
    set_learning_rate(once_more, 0.1)
    for parameter in parameters:
        parameter.grad = None


def test_a_state_of_today_is_taken_up_as_it_is(vit: ReidModel) -> None:
    saved = build_optimizer(vit, {**OPTIONS, "layer_decay": 0.5})
    other = build_optimizer(vit, {**OPTIONS, "layer_decay": 0.5})
    restore_optimizer(other, saved.state_dict(), vit.parameters())
    assert decays(vit, other) == decays(vit, saved)


def test_each_layer_below_the_head_learns_slower_by_the_same_factor(vit: ReidModel) -> None:
    optimizer = build_optimizer(vit, {**OPTIONS, "layer_decay": 0.5})
    share = factors(vit, optimizer)
    assert share.keys() == {name for name, p in vit.named_parameters() if p.requires_grad}
    assert share["head.classifier.weight"] == share["head.bottleneck.weight"] == 1.0
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


@pytest.mark.parametrize(
    ("name", "stem", "first", "third", "last"),
    [
        ("resnet18", "conv1", "layer1.0.bn1", "layer3.1.conv1", "layer4.1.bn2"),
        ("se_resnet50", "layer0.conv1", "layer1.0.bn1", "layer3.1.conv1", "layer4.0.bn1"),
        ("mobilenet_v2", "features.1.conv.1", "features.2.conv.2", "features.13.conv.2", "features.18.0"),
        (
            "mobilenet_v3_large", "features.0.0", "features.3.block.0.0", "features.9.block.0.0",
            "features.16.0",
        ),
        (
            "timm/resnetv2_50", "stem.conv", "stages.0.blocks.0.conv1", "stages.2.blocks.5.conv1",
            "stages.3.blocks.2.conv3",
        ),
    ],
)  # fmt: skip
def test_the_layers_of_a_convolutional_network_are_its_stages(
    name: str, stem: str, first: str, third: str, last: str
) -> None:
    library, _, own_name = f"reid/{name}".rpartition("/")
    size: dict[str, Any] = {"image_size": (32, 32)} if library.endswith("timm") else {}
    with torch.device("cpu" if size else "meta"):
        depths = layer_depths(build_backbone(own_name, library=library.removeprefix("reid/"), **size))
    assert [depths[f"{layer}.weight"] for layer in (stem, first, third, last)] == [5, 4, 2, 1]
    assert max(depths.values()) == 5


def test_what_stands_before_a_network_has_the_rate_of_the_head() -> None:
    backbone = build_backbone("resnet18", stn=True)
    share = factors(
        model := ReidModel(backbone, num_classes=4), build_optimizer(model, {**OPTIONS, "layer_decay": 0.5})
    )
    assert share["backbone.fc_loc.0.weight"] == 1.0
    assert share["backbone.layer4.0.conv1.weight"] == 0.5
    assert share["backbone.conv1.weight"] == 0.5**5


def test_layer_decay_is_refused_where_there_are_no_layers_to_tell_apart() -> None:
    backbone = as_backbone(nn.Conv2d(3, 4, 1), "own", 4)
    with pytest.raises(BackboneError, match=r"layer_decay does not fit backbone\.name=own"):
        build_optimizer(ReidModel(backbone, num_classes=4), {**OPTIONS, "layer_decay": 0.75})


@pytest.mark.parametrize("head", [None, Parts(512, 4, stripes=2)])
def test_the_classifier_has_a_rate_of_its_own(head: Head | None) -> None:
    model = ReidModel(build_backbone("resnet18"), num_classes=4, head=head)
    optimizer = build_optimizer(model, {**OPTIONS, "classifier_lr_factor": 10.0})
    share = factors(model, optimizer)
    classifiers = {name for name in share if "classifier" in name}
    assert len(classifiers) == (1 if head is None else 2)
    biases = {name for name in share if name.endswith("bias")}
    assert share == {name: 10.0 if name in classifiers else 2.0 if name in biases else 1.0 for name in share}
    set_learning_rate(optimizer, 1e-4)
    assert factors(model, optimizer) == pytest.approx({name: 0.1 * factor for name, factor in share.items()})


@pytest.mark.parametrize("library", ["reid", "timm"])
def test_norms_have_a_decay_of_their_own(library: str) -> None:
    """Of batch norms and instance norms of ours; of timm's too, which have none by themselves."""
    if library == "reid":
        model = ReidModel(build_backbone("resnet50_ibn_a"), num_classes=4)
        norms = {"backbone.bn1.weight", "backbone.layer1.0.bn1.IN.bias", "head.bottleneck.weight"}
        others = {"backbone.conv1.weight": 0.05, "head.classifier.weight": 0.05}
    else:
        model = ReidModel(build_backbone("test_vit", library="timm", image_size=(32, 32)), num_classes=4)
        norms = {"backbone.norm.weight", "backbone.blocks.0.norm1.bias", "head.bottleneck.weight"}
        others = {"backbone.blocks.0.mlp.fc1.weight": 0.05, "backbone.blocks.0.mlp.fc1.bias": 0.0}
    found = decays(model, build_optimizer(model, {**OPTIONS, "norm_weight_decay": 0.01}))
    assert {name for name, decay in found.items() if decay == 0.01} >= norms
    assert {name: found[name] for name in others} == others
    weights = [name for name, p in model.named_parameters() if p.ndim == 1 and name.endswith("weight")]
    assert sum(decay == 0.01 for decay in found.values()) == 2 * len(weights) - 1  # the neck's bias is frozen


def test_an_optimizer_of_the_users_own_may_be_older_than_the_keys() -> None:
    config = composed("train", "backbone.weights=none")
    OmegaConf.set_struct(config, False)
    for key in ("classifier_lr_factor", "norm_weight_decay"):
        del config.optimizer[key]
    settings = train_settings(config)
    assert (settings.optimizer["classifier_lr_factor"], settings.optimizer["norm_weight_decay"]) == (
        1.0,
        None,
    )
    assert config_hash(settings) == config_hash(settings_of("backbone.weights=none"))


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


def test_an_optimizer_without_a_fused_form_goes_without_and_fused_true_is_refused() -> None:
    options = {**OPTIONS, "_target_": "torch.optim.RMSprop"}
    build_optimizer(nn.Linear(2, 2), options, device=torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"optimizer\.fused=true: RMSprop has no fused form"):
        build_optimizer(nn.Linear(2, 2), {**options, "fused": True})


def test_a_state_of_another_device_keeps_the_form_of_this_one() -> None:
    """The centres' optimizer is fused on a GPU alone, and fp16 needs to know which it is."""
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    on_cpu, on_gpu = torch.optim.SGD(weights[:1], lr=0.25), torch.optim.SGD(weights[1:], lr=0.5, fused=True)
    load_optimizer(on_gpu, on_cpu.state_dict())
    assert on_gpu.param_groups[0]["fused"] is True
    assert on_gpu.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_backbone_that_is_frozen_at_first_moves_later_in_the_fused_form(name: str) -> None:
    options: dict[str, Any] = {**OPTIONS, "_target_": f"torch.optim.{name}"}
    options |= {"momentum": 0.9} if name == "SGD" else {}
    trained = []
    for fused in (None, False):
        torch.manual_seed(0)
        backbone = as_backbone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "own", 4)
        model = ReidModel(backbone, num_classes=4)
        optimizer = build_optimizer(model, {**options, "fused": fused}, frozen_first=True)
        for frozen in (True, False, False):
            model.freeze_backbone(frozen)
            features, logits = model.train()(torch.ones(2, 3, 5, 5))
            (features.square().sum() + logits.square().sum() + logits.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append(model.state_dict())
    torch.testing.assert_close(*trained)
