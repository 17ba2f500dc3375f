"""Networks of timm as backbones: the six that are promised, what is refused of others, and their files."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from reid.models import Backbone, BackboneError, WeightsError, build_backbone
from reid.models.timm_nets import release_last_stride
from reid.normalisation import IMAGENET

VIT, SWIN = "vit_small_patch16_224", "swin_tiny_patch4_window7_224"
TINY_VIT = "vit_tiny_patch16_224"
#: name: image size, channels, size of the map at last stride 1, the layer that its last stage opens with
TESTED: dict[str, tuple[tuple[int, int], int, tuple[int, int], str | None]] = {
    "convnext_tiny": ((64, 32), 768, (4, 2), "stages.3.downsample.1"),
    "mobilenetv3_large_100": ((64, 32), 960, (4, 2), "blocks.5.0.conv_dw"),
    "efficientnet_b0": ((64, 32), 1280, (4, 2), "blocks.5.0.conv_dw"),
    VIT: ((64, 32), 384, (1, 1), None),
    "vit_small_patch14_dinov2": ((56, 28), 384, (1, 1), None),
    SWIN: ((64, 32), 768, (2, 1), None),
}
CNNS = [name for name, (*_, opener) in TESTED.items() if opener]
NO_MEANING = "tricks.last_stride has no meaning for this network"


def spec(name: str, size: tuple[int, int] = (64, 32), **options: Any) -> dict[str, Any]:
    """What a checkpoint says of such a backbone."""
    return {"name": name, "library": "timm", "image_size": list(size), **options}


@cache
def built(name: str) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone(**spec(name, TESTED[name][0])).eval()


def noise(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


# ---- the six


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_a_map_comes_out_and_every_parameter_learns(name: str) -> None:
    size, channels, grid, opener = TESTED[name]
    net = copy.deepcopy(built(name)).train()
    feature_map = net(noise(size))
    assert feature_map.shape == (2, channels, *grid)
    assert net.channels == channels
    assert net.name == name
    assert (NO_MEANING in net.weight_report.describe()) == (opener is None)
    feature_map.square().mean().backward()
    learning = {
        key: p.grad is not None and bool(p.grad.isfinite().all()) for key, p in net.named_parameters()
    }
    assert [key for key, learns in learning.items() if not learns] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_a_checkpoint_rebuilds_it(name: str) -> None:
    size = TESTED[name][0]
    rebuilt = build_backbone(last_stride=1, **json.loads(json.dumps(spec(name, size)))).eval()
    rebuilt.load_state_dict(built(name).state_dict())
    with torch.inference_mode():
        assert torch.equal(rebuilt(noise(size)), built(name)(noise(size)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CNNS)
def test_last_stride_one_samples_the_same_map_more_densely(name: str) -> None:
    size, _, grid, opener = TESTED[name]
    assert opener is not None
    published = build_backbone(last_stride=2, **spec(name, size)).eval()
    published.load_state_dict(built(name).state_dict())
    opened: list[Tensor] = []
    for net, rows in ((built(name), grid), (published, tuple(side // 2 for side in grid))):
        hook = net.get_submodule(opener).register_forward_hook(lambda *seen: opened.append(seen[2]))
        with torch.inference_mode():
            assert net(noise(size)).shape[2:] == rows
        hook.remove()
    torch.testing.assert_close(opened[0][:, :, ::2, ::2], opened[1])


@pytest.mark.parametrize("name", [VIT, SWIN])
def test_features_are_those_of_timm(name: str) -> None:
    """Also where timm's weights want images of another mean and deviation than ours are brought to."""
    size = TESTED[name][0]
    reference: Any = timm.create_model(name, num_classes=0, img_size=size).eval()
    reference.load_state_dict(built(name).state_dict())
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))

    def normalised(mean: Any, std: Any) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    config = reference.pretrained_cfg
    with torch.inference_mode():
        expected = reference(normalised(config["mean"], config["std"]))
        ours = built(name)(normalised(*IMAGENET)).mean(dim=(2, 3))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert (config["mean"] != IMAGENET.mean) == (name == VIT)


# ---- pooling of tokens


def test_patch_pooling_gives_the_map_of_the_patches() -> None:
    net = build_backbone(**spec(TINY_VIT, pooling="patch")).eval()
    cls = build_backbone(**spec(TINY_VIT, pooling="cls")).eval()
    cls.load_state_dict(net.state_dict())
    seen: list[Tensor] = []
    net.get_submodule("norm").register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        feature_map, token = net(noise((64, 32))), cls(noise((64, 32)))
    (tokens,) = seen  # (N, 1 + 4 x 2, C): the class token, then the patches row by row
    assert feature_map.shape == (2, 192, 4, 2)
    assert torch.equal(feature_map[:, :, 3, 1], tokens[:, 1 + 3 * 2 + 1])
    assert torch.equal(feature_map[:, :, 0, 1], tokens[:, 2])
    assert token.shape == (2, 192, 1, 1)
    assert torch.equal(token[:, :, 0, 0], tokens[:, 0])


def test_pooling_follows_how_the_network_was_trained() -> None:
    averaged = build_backbone(**spec("vit_wee_patch16_reg1_gap_256"))  # one register, no class token
    assert averaged(noise((64, 32))).shape[2:] == (4, 2)
    with pytest.raises(BackboneError, match=r"pooling=cls does not fit .*no class token.*pooling=patch"):
        build_backbone(**spec("vit_wee_patch16_reg1_gap_256", pooling="cls"))


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "swin_tiny"}, rf"swin_tiny is no network of timm .*Did you mean {SWIN}"),
        ({"name": "vit_smal_patch16_224"}, r"Did you mean vit_small_patch16_224"),
        ({"name": "mobilenetv3_small_050.nobody"}, r"no weights nobody of .* It has lamb_in1k"),
        ({"name": "mobilenetv3_small_050", "pooling": "cls"}, r"pooling=cls does not fit .*a feature map"),
        ({"name": TINY_VIT, "stem_relu": True}, rf"stem_relu=True does not fit .*{TINY_VIT}: only resnet18"),
        ({"name": "resnet18", "library": "reid", "pooling": "cls", "image_size": None},
         r"pooling=cls does not fit .*resnet18: only personvit_small, .* the networks of backbone=timm"),
        ({"name": TINY_VIT, "stn": True}, rf"stn=true does not fit .*{TINY_VIT}"),
        ({"name": "resnet18", "library": "tim"}, r"library=tim is not allowed: expected reid or timm"),
        ({"name": "vit_small_patch14_dinov2", "image_size": [256, 128]},
         r"patches of 14x14, .* = 256x128\. .*image\.height=252 image\.width=126"),
        ({"name": "coat_tiny"}, r"into list, neither a feature map nor tokens"),
        ({"name": "hrnet_w18_small"}, r"tricks\.last_stride=1 does not fit .*Give tricks\.last_stride=2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        build_backbone(**{**spec(""), **options})


# ---- the last stride of networks that nobody listed


class Stages(nn.Module):
    """The second stage halves the map, at which the first looks at half the size too, as a PVT's keys do."""

    def __init__(self, opener: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))
        self.keys = nn.Sequential(nn.Conv2d(4, 4, 2, stride=2))
        self.layer4 = nn.ModuleList([nn.ModuleDict({"conv": opener, "shortcut": shortcut})])

    def forward_features(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = x + self.keys(x).mean(dim=(2, 3), keepdim=True)
        block = self.layer4[0]
        assert isinstance(block, nn.ModuleDict)
        return block["conv"](x) + block["shortcut"](x)


def conv(kernel: int, padding: int) -> nn.Module:
    return nn.Conv2d(4, 4, kernel, stride=2, padding=padding)


@pytest.mark.parametrize(
    "opener", [conv(3, 1), conv(2, 0), conv(4, 1), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.AvgPool2d(2)]
)
@pytest.mark.parametrize("side", [16, 4])
def test_kernels_and_pools_of_any_size_step_by_one(opener: nn.Module, side: int) -> None:
    before = Stages(opener, conv(1, 0)).eval()
    after = copy.deepcopy(before)
    images = noise((side, side))
    assert release_last_stride(before, "stages", images, 2)
    assert release_last_stride(after, "stages", images, 1)
    small, large = before.forward_features(images), after.forward_features(images)
    assert large.shape[2:] == (side // 2, side // 2)
    torch.testing.assert_close(large[:, :, ::2, ::2], small)
    assert isinstance(after.keys[0], nn.Conv2d)
    assert after.keys[0].stride == (2, 2)


class Interpolating(nn.Sequential):
    """A stem of stride 2, then a last stage that is opened by no convolution and no pool."""

    def forward_features(self, images: Tensor) -> Tensor:
        halved: Tensor = self(images)
        return halved


def test_a_stride_that_opens_an_earlier_stage_is_left_alone() -> None:
    net = Interpolating(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=0.5)).eval()
    assert not release_last_stride(net, "interpolating", noise((16, 16)), 1)
    assert net.forward_features(noise((16, 16))).shape[2:] == (4, 4)


# ---- weight files


def test_position_embeddings_of_a_file_are_resized(tmp_path: Path) -> None:
    published = timm.create_model(TINY_VIT).state_dict()
    published["pos_embed"][:, 0] = 3.0  # of the class token
    published["pos_embed"][:, 1:] = 0.5
    save_file(published, tmp_path / "vit.safetensors")
    net = build_backbone(weights=str(tmp_path / "vit.safetensors"), **spec(TINY_VIT))
    positions = net.state_dict()["pos_embed"]
    assert positions.shape == (1, 1 + 4 * 2, 192)
    torch.testing.assert_close(positions[:, 1:], torch.full((1, 8, 192), 0.5))
    assert positions[:, 0].eq(3.0).all()
    assert torch.equal(net.state_dict()["blocks.7.mlp.fc1.weight"], published["blocks.7.mlp.fc1.weight"])
    report = net.weight_report
    assert report.fraction == report.used == 1.0
    assert set(report.dropped) == {"head.weight", "head.bias"}
    assert "1 resized to the input: pos_embed" in report.describe()


@pytest.mark.slow
def test_windows_of_a_file_are_resized_and_stages_stay_what_they_are(tmp_path: Path) -> None:
    """Swin's files tell an older numbering of the stages by a head, which a backbone of ours has not."""
    published = timm.create_model(SWIN).state_dict()
    other = {key: tensor for key, tensor in published.items() if not key.startswith("head.")}
    torch.save({f"backbone.{key}": tensor for key, tensor in other.items()}, tmp_path / "swin.pt")
    net = build_backbone(weights=str(tmp_path / "swin.pt"), **spec(SWIN))
    assert net.weight_report.fraction == net.weight_report.used == 1.0
    assert "relative_position_bias_table" in net.weight_report.describe()
    for key in ("layers.1.downsample.reduction.weight", "layers.3.blocks.1.mlp.fc1.weight"):
        assert torch.equal(net.state_dict()[key], other[key])


@pytest.mark.slow
def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(WeightsError, match=rf"does not fit backbone\.name={TINY_VIT}: 0 of"):
        build_backbone(weights=str(tmp_path / "resnet18.pt"), **spec(TINY_VIT))


def test_timms_own_weights_come_from_the_hub_or_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    options = spec("mobilenetv3_small_050")
    with pytest.raises(WeightsError) as caught:
        build_backbone(weights="imagenet", **options)
    for fragment in ("could not be downloaded", "https://huggingface.co/timm/mobilenetv3_small_050.",
                     str(tmp_path), "backbone.weights=none"):  # fmt: skip
        assert fragment in str(caught.value)

    stored = timm.create_model("mobilenetv3_small_050").state_dict()
    folder = tmp_path / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(stored, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    net = build_backbone(weights="imagenet", **options)
    assert torch.equal(net.state_dict()["conv_stem.weight"], stored["conv_stem.weight"])
    assert net.weight_report.source == "timm/mobilenetv3_small_050.lamb_in1k"
    assert {name.partition(".")[0] for name in net.weight_report.dropped} == {"conv_head", "classifier"}
