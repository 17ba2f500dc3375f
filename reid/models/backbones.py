"""The backbones: one function a name, which is all that `build_backbone` needs to find it.

To add one, write a function here that takes `last_stride` (and options of its own, each with a
default) and returns `as_backbone(...)` of a network whose forward ends with the feature map.
Its name is at once a choice of `build_backbone`; nothing else has to be told.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid.models.ibn import use_ibn_a
from reid.models.trunk import Backbone, ImagenetFile, as_backbone, set_last_stride

_TIMM_RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download"
# Timm itself does not check these two against the digits in their names, so those are not taken for a hash.
_SE_RESNET50 = ImagenetFile(f"{_TIMM_RELEASES}/v0.1-cadene/se_resnet50-ce0d4300.pth")
_SE_RESNEXT50 = ImagenetFile(f"{_TIMM_RELEASES}/v0.1-weights/legacy_se_resnext50_32x4d-f3651bad.pth")
_RESNET50_IBN_A = ImagenetFile(
    "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth",
    sha256="d9d0bb7b2ba34d7e6e12c4616c9d233914762e49fbb9fcb49d7f4d65da6f759c",
)


def resnet18(last_stride: int = 1, stem_relu: bool | None = None) -> Backbone:
    """ResNet-18, 512 channels."""
    net = _ResNet(BasicBlock, (2, 2, 2, 2), last_stride, stem_relu)
    return as_backbone(net, "resnet18", 512, _torchvision_file(tv.ResNet18_Weights.IMAGENET1K_V1))


def resnet34(last_stride: int = 1, stem_relu: bool | None = None) -> Backbone:
    """ResNet-34, 512 channels."""
    net = _ResNet(BasicBlock, (3, 4, 6, 3), last_stride, stem_relu)
    return as_backbone(net, "resnet34", 512, _torchvision_file(tv.ResNet34_Weights.IMAGENET1K_V1))


def resnet50(last_stride: int = 1, stem_relu: bool | None = None) -> Backbone:
    """ResNet-50 with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _ResNet(Bottleneck, (3, 4, 6, 3), last_stride, stem_relu)
    return as_backbone(net, "resnet50", 2048, _torchvision_file(tv.ResNet50_Weights.IMAGENET1K_V1))


def se_resnet50(last_stride: int = 1) -> Backbone:
    """SE-ResNet-50 in Caffe's layout, with the stride on conv1 of a bottleneck, 2048 channels."""
    return as_backbone(_senet("legacy_seresnet50", last_stride), "se_resnet50", 2048, _SE_RESNET50)


def se_resnext50(last_stride: int = 1) -> Backbone:
    """SE-ResNeXt-50 32x4d, with the stride on conv2 of a bottleneck, 2048 channels."""
    net = _senet("legacy_seresnext50_32x4d", last_stride)
    return as_backbone(net, "se_resnext50", 2048, _SE_RESNEXT50)


def resnet50_ibn_a(last_stride: int = 1) -> Backbone:
    """ResNet-50 with IBN-a in layer1 to layer3 and a ReLU in the stem, 2048 channels."""
    net = _ResNet(Bottleneck, (3, 4, 6, 3), last_stride, stem_relu=True)
    for stage in (net.layer1, net.layer2, net.layer3):
        use_ibn_a(stage)
    return as_backbone(net, "resnet50_ibn_a", 2048, _RESNET50_IBN_A)


def mobilenet_v2(last_stride: int = 1) -> Backbone:
    """MobileNetV2 at width 1.0, 1280 channels. Its last stage opens with `features.14`."""
    net = _MobileNetV2()
    set_last_stride(net.features[14], last_stride)
    return as_backbone(net, "mobilenet_v2", 1280, _torchvision_file(tv.MobileNet_V2_Weights.IMAGENET1K_V1))


class _ResNet(tv.ResNet):
    """Torchvision's ResNet up to its feature map.

    stem_relu: a ReLU between bn1 and the max pool. ImageNet weights were trained with it; the published
        re-ID results of plain ResNets were computed without it, which None stands for.
    """

    def __init__(
        self, block: type[nn.Module], blocks: tuple[int, ...], last_stride: int, stem_relu: bool | None
    ) -> None:
        super().__init__(block, list(blocks))
        del self.avgpool, self.fc
        self.stem_relu = bool(stem_relu)
        set_last_stride(self.layer4[0], last_stride)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images))
        if self.stem_relu:
            x = self.relu(x)
        x = self.maxpool(x)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class _MobileNetV2(tv.MobileNetV2):
    """Torchvision's MobileNetV2 up to its feature map."""

    def __init__(self) -> None:
        super().__init__()
        del self.classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


def _senet(timm_name: str, last_stride: int) -> nn.Module:
    import timm  # Here and not above: it would delay every start by a second, and two networks need it.

    net: Any = timm.create_model(timm_name, pretrained=False, num_classes=0, global_pool="", drop_rate=0.0)
    set_last_stride(net.layer4[0], last_stride)
    return cast(nn.Module, net)


def _torchvision_file(weights: Any) -> ImagenetFile:
    """Address of a member of one of torchvision's weight enums; its name ends in the hash's first digits."""
    url: str = weights.url
    return ImagenetFile(url, sha256=url.rsplit("-", 1)[1].removesuffix(".pth"))
