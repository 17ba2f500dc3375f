"""Backbones against the golden outputs, and the choices that they take."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision import models as tv

from reid.models import SMALLEST_IBN_SIDE, BackboneError, backbone_names, build_backbone

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
#: Transformers of other projects, whose maps have one place or a 32nd of the image's sides; see
#: test_published_weights.py.
TRANSFORMERS = {
    "personvit_small": 384,
    "personvit_base": 768,
    "transreid_ssl_vit_small": 384,
    "transreid_ssl_vit_small_ics": 384,
    "transreid_ssl_vit_base_ics": 768,
    "clip_vit_base_16": 1280,
    "solider_swin_tiny": 768,
    "solider_swin_small": 768,
    "solider_swin_base": 1024,
}
PUBLISHED = ("resnet34", "resnet50", "se_resnet50", "se_resnext50", "resnet50_ibn_a")


#: Deep networks, each with the library's own that its weight file is for; looked at more sparingly below.
LARGE: dict[str, Callable[[], nn.Module]] = {
    "resnet101": tv.resnet101,
    "resnet152": tv.resnet152,
    "se_resnet101": lambda: timm.create_model("legacy_seresnet101"),
    "se_resnet152": lambda: timm.create_model("legacy_seresnet152"),
    "se_resnext101": lambda: timm.create_model("legacy_seresnext101_32x4d"),
    "senet154": lambda: timm.create_model("legacy_senet154"),
}


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


@pytest.mark.slow
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
    assert backbone_names() == (*CHANNELS, *TRANSFORMERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CHANNELS if name not in (*LARGE, "resnet101_ibn_a")])
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


@pytest.mark.parametrize(("name", "opens"), [("mobilenet_v2", 14), ("mobilenet_v3_large", 13)])
def test_last_stride_one_samples_the_same_map_more_densely(name: str, opens: int) -> None:
    images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    opened = []
    state = build_backbone(name).state_dict()
    for last_stride in (1, 2):
        net = build_backbone(name, last_stride=last_stride).eval()
        net.load_state_dict(state)
        features = net.get_submodule("features")
        assert isinstance(features, nn.Sequential)
        with torch.inference_mode():
            opened.append(features[: opens + 1](images))  # up to the block that opens the last stage
    torch.testing.assert_close(opened[0][:, :, ::2, ::2], opened[1])


@pytest.mark.parametrize(
    ("name", "options", "original"),
    [
        ("resnet18", {"stem_relu": True}, tv.resnet18),
        ("mobilenet_v2", {}, tv.mobilenet_v2),
        ("mobilenet_v3_large", {}, tv.mobilenet_v3_large),
    ],
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if "101" in name else pytest.param(name, marks=pytest.mark.slow) for name in LARGE]
)
def test_a_large_network_is_the_one_that_its_weight_file_is_for(name: str) -> None:
    options: dict[str, Any] = {"stem_relu": True} if name.startswith("resnet") else {}
    head = "fc" if name.startswith("resnet") else "last_linear"
    with torch.device("meta"):
        reference = LARGE[name]().eval()
        net, dense = build_backbone(name, last_stride=2, **options).eval(), build_backbone(name)
        assert dense(torch.zeros(1, 3, 64, 32)).shape == (1, CHANNELS[name], 4, 2)
    reference.register_module(head, nn.Identity())

    generator = torch.Generator().manual_seed(0)
    state = {key: drawn(key, tensor, generator) for key, tensor in reference.state_dict().items()}
    for either in (reference, net, dense):
        either.load_state_dict(state, assign=True)  # the very names and shapes, and one copy of the memory
    images = torch.randn(1, 3, 64, 32, generator=generator)
    with torch.inference_mode():
        feature_map = net(images)
        assert feature_map.shape == (1, CHANNELS[name], 2, 1)
        expected = reference(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(feature_map.mean(dim=(2, 3)), expected)


def drawn(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values that neither fade nor explode in a deep network, for a state dict on the meta device."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    values = torch.rand(tensor.shape, generator=generator)
    if tensor.dim() > 1:
        return (values - 0.5).mul_((24 / tensor[0].numel()) ** 0.5)
    return values.mul_(0.2).add_(0.9 if name.endswith(("weight", "running_var")) else -0.1)


@pytest.mark.slow
def test_resnet101_ibn_a_is_resnet50_ibn_a_with_more_blocks_in_layer3(golden: dict) -> None:
    names = golden["resnet50_ibn_a_state"]
    block = {key: shape for key, shape in names.items() if key.startswith("layer3.1.")}
    more = {
        key.replace("layer3.1.", f"layer3.{i}."): shape for i in range(6, 23) for key, shape in block.items()
    }
    with torch.device("meta"):
        one, two = build_backbone("resnet101_ibn_a"), build_backbone("resnet101_ibn_a", last_stride=2)
        assert one(torch.zeros(2, 3, 64, 32)).shape == (2, 2048, 4, 2)
        assert two(torch.zeros(2, 3, 64, 32)).shape == (2, 2048, 2, 1)
    state = {k: list(v.shape) for k, v in one.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert state == {**names, **more}


@pytest.mark.parametrize("size", [(SMALLEST_IBN_SIDE, 16), (16, SMALLEST_IBN_SIDE)])
def test_the_smallest_image_of_instance_norms_is_that(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build_backbone("resnet50_ibn_a")
        assert network(torch.zeros(2, 3, *size)).shape[:2] == (2, 2048)
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            network(torch.zeros(2, 3, *(side - (side == SMALLEST_IBN_SIDE) for side in size)))


#: The files that PUBLISHED_RECIPE names, by the digits of their hash.
FILES = {
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "se_resnet101": "se_resnet101-7e38fcc6.pth",
    "se_resnet152": "se_resnet152-d17c99b7.pth",
    "se_resnext101": "legacy_se_resnext101_32x4d-37725eac.pth",
    "senet154": "legacy_senet154-e9eb9fe6.pth",
    "resnet101_ibn_a": "resnet101_ibn_a-59ea0ac6.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
}


@pytest.mark.parametrize("name", FILES)
def test_imagenet_weights_are_the_published_file_checked_where_its_hash_is(name: str) -> None:
    with torch.device("meta"):
        file = build_backbone(name).imagenet
    assert file is not None
    assert file.name == FILES[name]
    digits = FILES[name].removesuffix(".pth").rpartition("-")[2]
    assert file.sha256 == ("" if name.startswith("se") else digits)  # timm checks none of its own


def test_stem_relu_is_off_unless_asked_for() -> None:
    published, trained = build_backbone("resnet18").eval(), build_backbone("resnet18", stem_relu=True).eval()
    explicit = build_backbone("resnet18", stem_relu=False).eval()
    for net in (trained, explicit):
        net.load_state_dict(published.state_dict())
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(published(images), explicit(images))
        assert not torch.allclose(published(images), trained(images))


@pytest.mark.parametrize("name", ["se_resnet50", "senet154", "resnet101_ibn_a", "mobilenet_v3_large"])
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
