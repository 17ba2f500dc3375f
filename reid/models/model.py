"""The whole model: a backbone and a head, and the plain data that it is rebuilt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from reid.models.build import build_backbone
from reid.models.heads import BNNeck, Feature, Head, HeadError, build_head
from reid.models.trunk import Backbone
from reid.normalisation import IMAGENET, Normalisation

_NECKS = ("bnneck", "none")
_HEAD = "head."


class ReidModel(nn.Module):
    """Person re-identification model: images (N, 3, H, W) -> backbone -> feature map -> head.

    Where the backbone has learnt `cameras`, it is called with (images, camids), see `add_cameras`; other
    backbones take no notice of camids.

    neck, train_feature, eval_feature: of the published head, `BNNeck`; `neck` is `bnneck` or `none`.
    head: another head of that many classes, which brings these three with it.
    freeze_bn: the backbone's batch norms keep the statistics that they have, in training mode too; their
        weights train. The neck's are new with the model (0 and 1), so it goes on learning its own.

    Training mode returns (features (N, D), logits), evaluation mode features (N, D), never normalised to
    length 1; see `reid.models.heads`. D is `embedding_size`.
    State-dict names: `backbone.*`, and those of the head without a prefix: `bottleneck.*`, `classifier.*`.

    The head is computed in the dtype of its parameters (float32) under autocast too: with 8 bits of mantissa
    in bfloat16, the batch statistics of a few dozen features and the distances of similar people would lose
    the digits that tell them apart, while this part takes a negligible share of the time.

    Raises HeadError (a ValueError) for a neck or feature that is not listed, or fewer than one class.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        neck: str = "bnneck",
        train_feature: str = "after",
        eval_feature: str = "after",
        freeze_bn: bool = False,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        if neck not in _NECKS:
            raise HeadError(f"neck={neck!r} is not allowed: give one of {', '.join(_NECKS)}.")
        if head is None:
            # The head checks them.
            trained, tested = cast(Feature, train_feature), cast(Feature, eval_feature)
            head = BNNeck(backbone.channels, num_classes, neck == "bnneck", trained, tested)
        elif head.num_classes != num_classes:
            raise HeadError(f"num_classes={num_classes}: the head has {head.num_classes} classes.")
        self.freeze_bn = freeze_bn
        self._frozen: list[nn.Parameter] = []
        self.backbone = backbone
        self.head = head
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def embedding_size(self) -> int:
        """D, how many numbers a feature has."""
        return self.head.embedding_size

    @property
    def normalisation(self) -> Normalisation:
        """What images go through before this model: as it was stated, else by ImageNet's numbers; it may be
        set."""
        backbone = self.backbone
        return Normalisation(backbone.pixel_mean or IMAGENET.mean, backbone.pixel_std or IMAGENET.std)

    @normalisation.setter
    def normalisation(self, stated: Normalisation) -> None:
        self.backbone.pixel_mean, self.backbone.pixel_std = stated

    @property
    def states_normalisation(self) -> bool:
        """Whether the config, a weight file or a checkpoint stated the normalisation. Networks of timm then
        take images as they are; else they bring them from ImageNet's numbers to those of their weights."""
        return self.backbone.pixel_mean is not None or self.backbone.pixel_std is not None

    @property
    def eval_feature(self) -> str:
        """Which feature evaluation mode returns, `after` or `before` the neck; it may be set."""
        return self.head.eval_feature

    @eval_feature.setter
    def eval_feature(self, feature: str) -> None:
        self.head.eval_feature = feature

    @property
    def cameras(self) -> tuple[int, ...]:
        """The camids whose embeddings the backbone has learnt; () where it has none."""
        return getattr(self.backbone, "cameras", ())

    @property
    def default_camera(self) -> int | None:
        """The one of `cameras` that images without camids are taken to be of; None: the mean of all."""
        return self.backbone.default_camera if self.cameras else None

    @default_camera.setter
    def default_camera(self, camid: int | None) -> None:
        if camid is not None and camid not in self.cameras:
            known = ", ".join(map(str, self.cameras)) or "none"
            raise ValueError(f"camid {camid} is no camera that the model has learnt: it knows {known}")
        if self.cameras:
            self.backbone.default_camera = camid

    def freeze_backbone(self, frozen: bool) -> None:
        """Freeze the backbone, or let what was frozen learn again.

        A frozen backbone gives in training the features that it gives in a test: no parameter has a gradient,
        batch norms go by the statistics that they have and keep them, and nothing is dropped. So the head is
        fitted to the network as its weights came (FastReID's backbone freezing, arXiv 2006.02631).
        """
        if frozen and not self._frozen:
            self._frozen = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(not frozen)
        if not frozen:
            self._frozen = []

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        if self.freeze_bn:
            for module in self.backbone.modules():
                # Whatever its class: some norms of timm keep statistics and are no batch norm of torch.
                if getattr(module, "running_var", None) is not None:
                    module.training = False
        return self

    def forward(self, images: Tensor, camids: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        feature_map = self.backbone(images, camids) if self.cameras else self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            output: tuple[Tensor, Tensor] | Tensor = self.head(feature_map.to(_dtype(self.head)))
        return output


def described_model(description: Mapping[str, Any], freeze_bn: bool = False) -> ReidModel:
    """The model of a description, which is all that a checkpoint says of it:

        backbone: {name: resnet50, weights: none, …}     what `build_backbone` takes
        last_stride: 1
        num_classes: 751
        head: {_target_: reid.models.heads.BNNeck, …}    what stands in conf/head/

    Raises BackboneError, HeadError, WeightsError: it names what there is not, or what does not fit.
    """
    backbone = build_backbone(last_stride=description["last_stride"], **description["backbone"])
    classes = description["num_classes"]
    head = build_head(described_head(description), backbone.channels, classes)
    return ReidModel(backbone, classes, freeze_bn=freeze_bn, head=head)


def described_head(description: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a description; older ones have BNNeck's `neck` and `eval_feature` in its place."""
    if "head" in description:
        return dict(description["head"])
    neck = description["neck"] == "bnneck"
    return {"_target_": BNNECK, "neck": neck, "eval_feature": description["eval_feature"]}


#: The `_target_` of the published head.
BNNECK = f"{BNNeck.__module__}.{BNNeck.__qualname__}"


def _dtype(head: Head) -> torch.dtype:
    return next(head.parameters()).dtype


def _without_prefix(_: nn.Module, state: dict[str, Tensor], prefix: str, __: Mapping[str, object]) -> None:
    """Name the head's tensors as the published files do, which know no `head.`: `classifier.weight`."""
    for name in [name for name in state if name.startswith(prefix + _HEAD)]:
        state[prefix + name.removeprefix(prefix + _HEAD)] = state.pop(name)


def _with_prefix(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    """The way back, where such names are loaded."""
    for name in [name for name in state if name.startswith(prefix)]:
        own = name.removeprefix(prefix)
        if not own.startswith(("backbone.", _HEAD)):
            state[f"{prefix}{_HEAD}{own}"] = state.pop(name)
