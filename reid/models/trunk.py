"""What every backbone has in common: three attributes, and a last stage whose stride can be chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import cast
from urllib.parse import urlsplit

from torch import Tensor, nn

from reid.errors import UsageError
from reid.models.matching import WeightReport
from reid.normalisation import Channels

#: From a file's tensors to those of a backbone, brought to its names and input size; the names that belong to
#: no part of it; and notes of what was changed.
Adapt = Callable[[nn.Module, dict[str, Tensor]], tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]]


class BackboneError(UsageError, ValueError):
    """There is no such backbone, or it does not have an option that is set."""


@dataclass(frozen=True)
class ImagenetFile:
    """Where the published ImageNet weights of a network are.

    url: address of the file.
    sha256: its SHA-256 in lower-case hexadecimal, or as many leading digits as are known; empty: not checked.
    hub: the repository of the Hugging Face hub that it belongs to; it is then kept in that hub's cache.
    """

    url: str
    sha256: str = ""
    hub: str = ""

    @property
    def name(self) -> str:
        """File name, which is also its name in torch's download cache."""
        return PurePosixPath(urlsplit(self.url).path).name


class Backbone(nn.Module):
    """The type of every backbone, for annotations: a module from (N, 3, H, W) to (N, channels, h, w).

    The networks are those of torchvision and timm with these attributes added by `as_backbone` and
    `load_weights`, so that their state-dict keys stay the published ones; `isinstance` does not
    recognise them.

    `pixel_mean` and `pixel_std` are what a weight file or the config states of the images that the network
    takes, of pixels from 0 to 1; where both are None, images are normalised by ImageNet's.
    """

    name: str
    channels: int
    library: str
    imagenet: ImagenetFile | None
    adapt: Adapt | None
    notes: tuple[str, ...]
    pixel_mean: Channels | None
    pixel_std: Channels | None
    distilled: bool
    weight_report: WeightReport
    cameras: tuple[int, ...]
    camera_weight: float
    default_camera: int | None


def as_backbone(
    net: nn.Module,
    name: str,
    channels: int,
    imagenet: ImagenetFile | None = None,
    adapt: Adapt | None = None,
    notes: tuple[str, ...] = (),
    library: str = "reid",
    pixel_mean: Channels | None = None,
    pixel_std: Channels | None = None,
    distilled: bool = False,
) -> Backbone:
    """Give a network whose forward returns a feature map the attributes of a backbone.

    name: the name that `build_backbone` knows it by.
    channels: of the feature map.
    imagenet: the file that `weights="imagenet"` loads; None when there is none.
    adapt: what a file's tensors go through first, where names or shapes depend on the input size.
    notes: what its user should know of how it was built; the weight report repeats them.
    library: whose network it is, `reid` or `timm`, and so whose way of training it is followed.
    pixel_mean, pixel_std: of red, green and blue, from 0 to 1, that its published weights are trained further
        with; None stands for ImageNet's.
    distilled: its published weights are the teacher of a student and a teacher that were trained together, so
        that of a file with both the teacher is taken.
    """
    backbone = cast(Backbone, net)
    backbone.name = name
    backbone.channels = channels
    backbone.library = library
    backbone.imagenet = imagenet
    backbone.adapt = adapt
    backbone.notes = notes
    backbone.pixel_mean, backbone.pixel_std = pixel_mean, pixel_std
    backbone.distilled = distilled
    backbone.cameras = ()  # that it has an embedding of; `add_cameras` gives it some
    return backbone


def set_last_stride(block: nn.Module, stride: int) -> None:
    """Let the block that opens the last stage step by `stride` instead of 2, with the same kernels.

    Bag of Tricks (arXiv 1903.07071, section 3.4): a last stride of 1 doubles the height and width of
    the feature map at no parameter. Every layout (stride on conv1 or conv2 of a bottleneck, on a
    depthwise convolution, on the shortcut) is served, since only its convolutions of stride 2 change.
    """
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            layer.stride = (stride, stride)
