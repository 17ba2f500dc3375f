"""The backbones: one function a name, which is all that `build_backbone` needs to find it.

To add one, write a function here that takes `last_stride` (and options of its own, each with a
default) and returns `as_backbone(...)` of a network whose forward ends with the feature map.
Its name is then a choice of `build_backbone`; no other file has to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid.models.ibn import use_ibn_a
from reid.models.non_local import Inner, NonLocal
from reid.models.stochastic_depth import add_stochastic_depth
from reid.models.trunk import Backbone, BackboneError, ImagenetFile, as_backbone, set_last_stride

# Timm itself does not check its files against the digits in their names, so those are not taken for a hash.
_TIMM_FILES = "https://github.com/rwightman/pytorch-image-models/releases/download"
_SE_RESNET50 = ImagenetFile(f"{_TIMM_FILES}/v0.1-cadene/se_resnet50-ce0d4300.pth")
_SE_RESNET101 = ImagenetFile(f"{_TIMM_FILES}/v0.1-cadene/se_resnet101-7e38fcc6.pth")
_SE_RESNET152 = ImagenetFile(f"{_TIMM_FILES}/v0.1-cadene/se_resnet152-d17c99b7.pth")
_SE_RESNEXT50 = ImagenetFile(f"{_TIMM_FILES}/v0.1-weights/legacy_se_resnext50_32x4d-f3651bad.pth")
_SE_RESNEXT101 = ImagenetFile(f"{_TIMM_FILES}/v0.1-weights/legacy_se_resnext101_32x4d-37725eac.pth")
_SENET154 = ImagenetFile(f"{_TIMM_FILES}/v0.1-weights/legacy_senet154-e9eb9fe6.pth")

_IBN_FILES = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0"
_RESNET50_IBN_A = ImagenetFile(
    f"{_IBN_FILES}/resnet50_ibn_a-d9d0bb7b.pth",
    sha256="d9d0bb7b2ba34d7e6e12c4616c9d233914762e49fbb9fcb49d7f4d65da6f759c",
)
_RESNET101_IBN_A = ImagenetFile(f"{_IBN_FILES}/resnet101_ibn_a-59ea0ac6.pth", sha256="59ea0ac6")


def resnet18(
    last_stride: int = 1,
    stem_relu: bool | None = None,
    drop_path: float | None = None,
    non_local: Inner | None = None,
) -> Backbone:
    """ResNet-18, 512 channels."""
    net = _ResNet(BasicBlock, (2, 2, 2, 2), last_stride, stem_relu, drop_path, non_local)
    return as_backbone(net, "resnet18", 512, _torchvision_file(tv.ResNet18_Weights.IMAGENET1K_V1))


def resnet34(
    last_stride: int = 1,
    stem_relu: bool | None = None,
    drop_path: float | None = None,
    non_local: Inner | None = None,
) -> Backbone:
    """ResNet-34, 512 channels."""
    net = _ResNet(BasicBlock, (3, 4, 6, 3), last_stride, stem_relu, drop_path, non_local)
    return as_backbone(net, "resnet34", 512, _torchvision_file(tv.ResNet34_Weights.IMAGENET1K_V1))


def resnet50(
    last_stride: int = 1,
    stem_relu: bool | None = None,
    drop_path: float | None = None,
    non_local: Inner | None = None,
) -> Backbone:
    """ResNet-50 with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _ResNet(Bottleneck, (3, 4, 6, 3), last_stride, stem_relu, drop_path, non_local)
    return as_backbone(net, "resnet50", 2048, _torchvision_file(tv.ResNet50_Weights.IMAGENET1K_V1))


def resnet101(
    last_stride: int = 1,
    stem_relu: bool | None = None,
    drop_path: float | None = None,
    non_local: Inner | None = None,
) -> Backbone:
    """ResNet-101 with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _ResNet(Bottleneck, (3, 4, 23, 3), last_stride, stem_relu, drop_path, non_local)
    return as_backbone(net, "resnet101", 2048, _torchvision_file(tv.ResNet101_Weights.IMAGENET1K_V1))


def resnet152(
    last_stride: int = 1,
    stem_relu: bool | None = None,
    drop_path: float | None = None,
    non_local: Inner | None = None,
) -> Backbone:
    """ResNet-152 with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _ResNet(Bottleneck, (3, 8, 36, 3), last_stride, stem_relu, drop_path, non_local)
    return as_backbone(net, "resnet152", 2048, _torchvision_file(tv.ResNet152_Weights.IMAGENET1K_V1))


def se_resnet50(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """SE-ResNet-50 in Caffe's layout, with the stride on conv1 of a bottleneck, 2048 channels."""
    net = _senet("legacy_seresnet50", last_stride, drop_path)
    return as_backbone(net, "se_resnet50", 2048, _SE_RESNET50)


def se_resnet101(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """SE-ResNet-101 in Caffe's layout, with the stride on conv1 of a bottleneck, 2048 channels."""
    net = _senet("legacy_seresnet101", last_stride, drop_path)
    return as_backbone(net, "se_resnet101", 2048, _SE_RESNET101)


def se_resnet152(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """SE-ResNet-152 in Caffe's layout, with the stride on conv1 of a bottleneck, 2048 channels."""
    net = _senet("legacy_seresnet152", last_stride, drop_path)
    return as_backbone(net, "se_resnet152", 2048, _SE_RESNET152)


def se_resnext50(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """SE-ResNeXt-50 32x4d, with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _senet("legacy_seresnext50_32x4d", last_stride, drop_path)
    return as_backbone(net, "se_resnext50", 2048, _SE_RESNEXT50)


def se_resnext101(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """SE-ResNeXt-101 32x4d, with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _senet("legacy_seresnext101_32x4d", last_stride, drop_path)
    return as_backbone(net, "se_resnext101", 2048, _SE_RESNEXT101)


def senet154(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """SENet-154: 64 groups, three 3x3 convolutions as its stem, stride on conv2; 2048 channels."""
    net = _senet("legacy_senet154", last_stride, drop_path)
    return as_backbone(net, "senet154", 2048, _SENET154)


def resnet50_ibn_a(
    last_stride: int = 1, drop_path: float | None = None, non_local: Inner | None = None
) -> Backbone:
    """ResNet-50 with IBN-a in layer1 to layer3 and a ReLU in the stem, 2048 channels."""
    net = _ibn_a((3, 4, 6, 3), last_stride, drop_path, non_local)
    return as_backbone(net, "resnet50_ibn_a", 2048, _RESNET50_IBN_A)


def resnet101_ibn_a(
    last_stride: int = 1, drop_path: float | None = None, non_local: Inner | None = None
) -> Backbone:
    """ResNet-101 with IBN-a in layer1 to layer3 and a ReLU in the stem, 2048 channels."""
    net = _ibn_a((3, 4, 23, 3), last_stride, drop_path, non_local)
    return as_backbone(net, "resnet101_ibn_a", 2048, _RESNET101_IBN_A)


def mobilenet_v2(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """MobileNetV2 at width 1.0, 1280 channels. Its last stage opens with `features.14`."""
    net = _MobileNet(tv.mobilenet_v2(weights=None), stages=(2, 4, 7, 14), drop_path=drop_path)
    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = False  # In place, torch copies the input first, for the gradient.
    set_last_stride(net.features[14], last_stride)
    return as_backbone(net, "mobilenet_v2", 1280, _torchvision_file(tv.MobileNet_V2_Weights.IMAGENET1K_V1))


def mobilenet_v3_large(last_stride: int = 1, drop_path: float | None = None) -> Backbone:
    """MobileNetV3-Large at width 1.0, 960 channels. Its last stage opens with `features.13`.

    It is torchvision's. The published suite's own variant had no weight file and ignored the last stride.
    """
    net = _MobileNet(
        tv.mobilenet_v3_large(weights=None),
        stages=(2, 4, 7, 13),
        drop_path=drop_path,
    )
    set_last_stride(net.features[13], last_stride)
    file = _torchvision_file(tv.MobileNet_V3_Large_Weights.IMAGENET1K_V1)
    return as_backbone(net, "mobilenet_v3_large", 960, file)


def personvit_small(
    last_stride: int = 1,
    image_size: Sequence[int] = (256, 128),
    pooling: Literal["cls", "patch"] | None = None,
    drop_path: float | None = None,
    stride: int | None = None,
) -> Backbone:
    """PersonViT's ViT-S/16, 384 channels (hustvl/PersonViT, arXiv 2408.05398)."""
    return _vit("personvit_small", _SMALL, image_size, pooling, drop_path, stride)


def personvit_base(
    last_stride: int = 1,
    image_size: Sequence[int] = (256, 128),
    pooling: Literal["cls", "patch"] | None = None,
    drop_path: float | None = None,
    stride: int | None = None,
) -> Backbone:
    """PersonViT's ViT-B/16, 768 channels (hustvl/PersonViT, arXiv 2408.05398)."""
    return _vit("personvit_base", _BASE, image_size, pooling, drop_path, stride)


def transreid_ssl_vit_small(
    last_stride: int = 1,
    image_size: Sequence[int] = (256, 128),
    pooling: Literal["cls", "patch"] | None = None,
    drop_path: float | None = None,
    stride: int | None = None,
) -> Backbone:
    """TransReID-SSL's ViT-S/16, 384 channels (damo-cv/TransReID-SSL, arXiv 2111.12084), as PersonViT's."""
    return _vit("transreid_ssl_vit_small", _SMALL, image_size, pooling, drop_path, stride)


def transreid_ssl_vit_small_ics(
    last_stride: int = 1,
    image_size: Sequence[int] = (256, 128),
    pooling: Literal["cls", "patch"] | None = None,
    drop_path: float | None = None,
) -> Backbone:
    """The same with a convolutional stem of instance and batch norms (ICS), 384 channels."""
    return _vit("transreid_ssl_vit_small_ics", _SMALL, image_size, pooling, drop_path, stem=True)


def transreid_ssl_vit_base_ics(
    last_stride: int = 1,
    image_size: Sequence[int] = (256, 128),
    pooling: Literal["cls", "patch"] | None = None,
    drop_path: float | None = None,
) -> Backbone:
    """TransReID-SSL's ViT-B/16 with that stem, 768 channels."""
    return _vit("transreid_ssl_vit_base_ics", _BASE, image_size, pooling, drop_path, stem=True)


def clip_vit_base_16(
    last_stride: int = 1,
    image_size: Sequence[int] = (256, 128),
    drop_path: float | None = None,
    stride: int | None = None,
) -> Backbone:
    """CLIP-ReID's visual tower, CLIP's ViT-B/16: 768 channels and their projection onto 512, 1280 in all."""
    from reid.models.people_vit import PATCH, ClipVisual, check_size, clip_adapter

    name, step = "clip_vit_base_16", PATCH if stride is None else stride
    check_size(name, image_size, step)
    net = ClipVisual(**_BASE, projection=512, image_size=image_size, drop_path=drop_path or 0.0, stride=step)
    return as_backbone(
        net, name, 768 + 512, adapt=clip_adapter(name), notes=_NO_STRIDE, pixel_mean=_HALF, pixel_std=_HALF
    )


def solider_swin_tiny(
    last_stride: int = 1, semantic_weight: float = 0.2, drop_path: float | None = None
) -> Backbone:
    """SOLIDER's Swin-T, 768 channels (tinyvision/SOLIDER, arXiv 2303.17602)."""
    return _solider("solider_swin_tiny", 96, (2, 2, 6, 2), (3, 6, 12, 24), semantic_weight, drop_path)


def solider_swin_small(
    last_stride: int = 1, semantic_weight: float = 0.2, drop_path: float | None = None
) -> Backbone:
    """SOLIDER's Swin-S, 768 channels."""
    return _solider("solider_swin_small", 96, (2, 2, 18, 2), (3, 6, 12, 24), semantic_weight, drop_path)


def solider_swin_base(
    last_stride: int = 1, semantic_weight: float = 0.2, drop_path: float | None = None
) -> Backbone:
    """SOLIDER's Swin-B, 1024 channels."""
    return _solider("solider_swin_base", 128, (2, 2, 18, 2), (4, 8, 16, 32), semantic_weight, drop_path)


class _ResNet(tv.ResNet):
    """Torchvision's ResNet up to its feature map.

    stem_relu: a ReLU between bn1 and the max pool. ImageNet weights were trained with it; the published
        re-ID results of plain ResNets were computed without it, which None stands for.
    non_local: the inner channels of non-local blocks after the last two residual blocks of layer2 and the
        last three of layer3, where AGW has them (arXiv 2001.04193); None for no such block.
    """

    def __init__(
        self,
        block: type[nn.Module],
        blocks: tuple[int, ...],
        last_stride: int,
        stem_relu: bool | None,
        drop_path: float | None,
        non_local: Inner | None = None,
    ) -> None:
        super().__init__(block, list(blocks))
        del self.avgpool, self.fc
        self.stem_relu = bool(stem_relu)
        set_last_stride(self.layer4[0], last_stride)
        add_stochastic_depth(_blocks(self), drop_path)
        self.non_local = non_local is not None
        if non_local is not None:
            wide = block.expansion  # type: ignore[attr-defined]
            self.NL_2, self.NL_3 = (
                nn.ModuleList(NonLocal(channels * wide, non_local) for _ in range(min(most, depth)))
                for channels, most, depth in ((128, 2, blocks[1]), (256, 3, blocks[2]))
            )

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images))
        if self.stem_relu:
            x = self.relu(x)
        x = self.layer1(self.maxpool(x))
        if not self.non_local:
            return self.layer4(self.layer3(self.layer2(x)))
        for layer, added in ((self.layer2, self.NL_2), (self.layer3, self.NL_3)):
            for number, block in enumerate(layer, start=len(added) - len(layer)):
                x = block(x)
                if number >= 0:
                    x = added[number](x)
        return self.layer4(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameters' names, as timm writes them, that tell stages or blocks apart."""
        if coarse:
            return {"stem": r"^conv1|^bn1", "blocks": r"^(?:layer|NL_)(\d+)"}
        # A non-local block is no part of the residual block that has its number.
        blocks = [(r"^layer(\d+)\.(\d+)", None), (r"^NL_(\d+)\.(\d+)", (1,))]
        return {"stem": r"^conv1|^bn1", "blocks": blocks}


class _MobileNet(nn.Module):
    """A torchvision MobileNet up to its feature map, the names of its tensors kept.

    stages: the numbers of the layers that open each stage after the stem.
    """

    def __init__(
        self, net: tv.MobileNetV2 | tv.MobileNetV3, stages: tuple[int, ...], drop_path: float | None
    ) -> None:
        super().__init__()
        self.features = net.features
        self.stages = stages
        add_stochastic_depth([part for part in net.features if hasattr(part, "use_res_connect")], drop_path)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """As that of `_ResNet`."""
        if not coarse:
            return {"blocks": r"^features\.(\d+)"}
        edges = (0, *self.stages, len(self.features))
        layers = ["|".join(map(str, range(*pair))) for pair in pairwise(edges)]
        return {"blocks": [(rf"^features\.(?:{of})\.", (number,)) for number, of in enumerate(layers)]}

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


def _ibn_a(
    blocks: tuple[int, ...],
    last_stride: int,
    drop_path: float | None = None,
    non_local: Inner | None = None,
) -> nn.Module:
    net = _ResNet(Bottleneck, blocks, last_stride, True, drop_path, non_local)
    for stage in (net.layer1, net.layer2, net.layer3):
        use_ibn_a(stage)
    return net


def _senet(timm_name: str, last_stride: int, drop_path: float | None) -> nn.Module:
    import timm  # Here and not above: it would delay every start by a second, and few networks need it.

    net: Any = timm.create_model(timm_name, pretrained=False, num_classes=0, global_pool="", drop_rate=0.0)
    set_last_stride(net.layer4[0], last_stride)
    add_stochastic_depth(_blocks(net), drop_path)
    return cast(nn.Module, net)


def _blocks(net: Any) -> list[nn.Module]:
    """The residual blocks of a ResNet, from the images to the head."""
    return [*net.layer1, *net.layer2, *net.layer3, *net.layer4]


def _torchvision_file(weights: Any) -> ImagenetFile:
    """Address of a member of one of torchvision's weight enums; its name ends in the hash's first digits."""
    url: str = weights.url
    return ImagenetFile(url, sha256=url.rsplit("-", 1)[1].removesuffix(".pth"))


_SMALL = {"width": 384, "depth": 12, "heads": 6}
_BASE = {"width": 768, "depth": 12, "heads": 12}
_HALF = (0.5, 0.5, 0.5)
_NO_STRIDE = ("tricks.last_stride has no meaning for this network",)


def _vit(
    name: str,
    sizes: dict[str, int],
    image_size: Sequence[int],
    pooling: Literal["cls", "patch"] | None,
    drop_path: float | None,
    stride: int | None = None,
    stem: bool = False,
) -> Backbone:
    from reid.models.people_vit import PATCH, PeopleViT, check_size, vit_adapter  # Here, as it imports timm.

    step = PATCH if stride is None else stride
    check_size(name, image_size, step)
    net = PeopleViT(
        **sizes,
        image_size=image_size,
        pooling=pooling or "cls",
        drop_path=drop_path or 0.0,
        stride=step,
        stem=stem,
    )
    return as_backbone(
        net,
        name,
        sizes["width"],
        adapt=vit_adapter(name),
        notes=_NO_STRIDE,
        pixel_mean=_HALF,
        pixel_std=_HALF,
        distilled=True,
    )


def _solider(
    name: str,
    width: int,
    depths: tuple[int, int, int, int],
    heads: tuple[int, int, int, int],
    semantic_weight: float,
    drop_path: float | None,
) -> Backbone:
    from reid.models.solider import SoliderSwin, solider_adapter  # Here, as it imports timm.

    if not 0 <= semantic_weight <= 1:
        raise BackboneError(
            f"backbone.semantic_weight={semantic_weight} does not fit backbone.name={name}: it is a share of "
            "semantics, from 0 to 1. Give 0.2, as published for re-identification."
        )
    net = SoliderSwin(width, depths, heads, semantic_weight, drop_path or 0.0)
    return as_backbone(
        net,
        name,
        8 * width,
        adapt=solider_adapter(name),
        notes=_NO_STRIDE,
        pixel_mean=_HALF,
        pixel_std=_HALF,
        distilled=True,
    )
