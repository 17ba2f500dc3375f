"""Backbones against the golden outputs, and the choices that they take."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as tv

from reid.models import BackboneError, backbone_names, build_backbone

GOLDEN = Path(__file__).parents[1] / "golden"
CHANNELS = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
    "se_resnet50": 2048,
    "se_resnet101": 2048,
    "se_resnet152": 2048,
    "se_resnext50": 2048,
    "se_resnext101": 2048,
    "senet154": 2048,
    "resnet50_ibn_a": 2048,
    "resnet101_ibn_a": 2048,
    "mobilenet_v2": 1280,
    "mobilenet_v3_large": 960,
}
PUBLISHED = ("resnet34", "resnet50", "se_resnet50", "se_resnext50", "resnet50_ibn_a")


def fill_by_rule(net: nn.Module) -> None:
    """The filling rule of tests/golden/README.md."""
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        shape = tuple(tensor.shape)
        values: np.ndarray = (
            np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        )
        if name.endswith("running_var"):
            values = 1 + 0.1 * np.abs(values)
        elif name.endswith("running_mean"):
            values = 0.1 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        else:
            values = values * np.sqrt(2 / np.prod(shape[1:]))
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((GOLDEN / "backbones.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_agrees_with_the_published_code(name: str, golden: dict) -> None:
    net = build_backbone(name).eval()
    facts, names = golden[f"{name}_stride1"], golden[f"{name}_state"]
    state = {k: list(v.shape) for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert state == names
    assert sum(parameter.numel() for parameter in net.parameters()) == facts["parameters"]

    fill_by_rule(net)
    images = np.random.default_rng(7).standard_normal((2, 3, 256, 128)).astype(np.float32)
    with torch.inference_mode():
        feature_map = net(torch.from_numpy(images))
    assert list(feature_map.shape) == facts["map_shape"]
    expected = torch.from_numpy(np.load(GOLDEN / "backbones.npz")[f"{name}_stride1"])
    difference = (feature_map.mean(dim=(2, 3)) - expected).abs().max()
    assert difference <= 1e-4 * expected.abs().max()


def test_the_names_are_the_functions_of_the_file() -> None:
    assert backbone_names() == tuple(CHANNELS)


@pytest.mark.parametrize("name", CHANNELS)
def test_map_shape_and_last_stride(name: str) -> None:
    with torch.device("meta"):  # shapes without arithmetic
        one, two = build_backbone(name, last_stride=1).eval(), build_backbone(name, last_stride=2).eval()
        images, small = torch.zeros(2, 3, 256, 128), torch.zeros(1, 3, 64, 32)
    channels = CHANNELS[name]
    assert (one.name, one.channels) == (name, channels)
    assert one(images).shape == (2, channels, 16, 8)
    assert two(images).shape == (2, channels, 8, 4)
    assert one(small).shape == (1, channels, 4, 2)
    assert two(small).shape == (1, channels, 2, 1)
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in two.state_dict().items()
    }


def test_last_stride_one_samples_the_same_map_more_densely() -> None:
    images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    opened = []
    state = build_backbone("mobilenet_v2").state_dict()
    for last_stride in (1, 2):
        net = build_backbone("mobilenet_v2", last_stride=last_stride).eval()
        net.load_state_dict(state)
        features = net.get_submodule("features")
        assert isinstance(features, nn.Sequential)
        with torch.inference_mode():
            opened.append(features[:15](images))  # up to the block that opens the last stage
    torch.testing.assert_close(opened[0][:, :, ::2, ::2], opened[1])


@pytest.mark.parametrize(
    ("name", "options", "original"),
    [("resnet18", {"stem_relu": True}, tv.resnet18), ("mobilenet_v2", {}, tv.mobilenet_v2)],
)
def test_agrees_with_torchvision_where_no_golden_number_is(
    name: str, options: dict[str, Any], original: Callable[[], nn.Module]
) -> None:
    reference = original().eval()
    reference.register_module("fc" if name == "resnet18" else "classifier", nn.Identity())
    net = build_backbone(name, last_stride=2, **options).eval()
    net.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(net(images).mean(dim=(2, 3)), reference(images))


def test_stem_relu_is_off_unless_asked_for() -> None:
    published, trained = build_backbone("resnet18").eval(), build_backbone("resnet18", stem_relu=True).eval()
    explicit = build_backbone("resnet18", stem_relu=False).eval()
    for net in (trained, explicit):
        net.load_state_dict(published.state_dict())
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(published(images), explicit(images))
        assert not torch.allclose(published(images), trained(images))


@pytest.mark.parametrize("name", ["se_resnet50", "se_resnext50", "resnet50_ibn_a", "mobilenet_v2"])
@pytest.mark.parametrize("value", [True, False])
def test_stem_relu_is_refused_where_the_stem_is_fixed(name: str, value: bool) -> None:
    with pytest.raises(
        BackboneError, match=rf"backbone\.stem_relu={value} does not fit.*{name}: only resnet18"
    ):
        build_backbone(name, stem_relu=value)


def test_stem_relu_none_means_the_networks_own() -> None:
    assert build_backbone("mobilenet_v2", stem_relu=None).name == "mobilenet_v2"


def test_unknown_name_gives_choices_and_nearest_spelling() -> None:
    with pytest.raises(
        BackboneError, match=r"resnet_50 .*Did you mean resnet50\?.*se_resnext50.*mobilenet_v2"
    ):
        build_backbone("resnet_50")


def test_helpers_are_no_backbones() -> None:
    for name in ("as_backbone", "_senet", "set_last_stride"):
        with pytest.raises(BackboneError):
            build_backbone(name)


def test_unknown_option_and_last_stride_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"backbone\.stem_rleu=True .*no backbone has this option"):
        build_backbone("resnet18", stem_rleu=True)
    with pytest.raises(BackboneError, match=r"last_stride=3 .*1 \(as published\) or 2"):
        build_backbone("resnet18", last_stride=3)
