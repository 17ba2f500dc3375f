"""The whole model: backbone, global average pooling, BNNeck, classifier."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from reid.models.layout import lay_out, layout_of
from reid.models.trunk import Backbone

_NECKS = ("bnneck", "none")
_FEATURES = ("after", "before")


class ReidModel(nn.Module):
    """Person re-identification model with the BNNeck of Bag of Tricks (arXiv 1903.07071, section 3.5).

    images (N, 3, H, W) -> backbone -> mean over the map -> `before` (N, C) -> BatchNorm1d -> `after`
    (N, C) -> Linear without bias -> logits (N, num_classes).

    neck: `bnneck`, or `none`: no batch norm, so both features are the pooled one.
    train_feature: which feature training mode returns for the metric loss; `after` as published.
    eval_feature: which feature evaluation mode returns; `after` as published.
    freeze_bn: the backbone's batch norms keep the statistics that they have, in training mode too; their
        weights train. The neck's are new with the model (0 and 1), so it goes on learning its own.

    Training mode returns (features, logits), evaluation mode features, never normalised to length 1.
    State-dict names: `backbone.*`, `bottleneck.*` (none without neck), `classifier.*`.

    The map is pooled, and all that follows computed, in the dtype of the parameters (float32) under
    autocast too: with 8 bits of mantissa in bfloat16, the batch statistics of a few dozen features
    and the distances of similar people would lose the digits that tell them apart, while this part
    takes a negligible share of the time.

    Raises ValueError for a neck or feature that is not listed, or fewer than one class.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        neck: str = "bnneck",
        train_feature: str = "after",
        eval_feature: str = "after",
        freeze_bn: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: a classifier needs at least one identity.")
        _check_choice("neck", neck, _NECKS)
        _check_choice("train_feature", train_feature, _FEATURES)
        _check_choice("eval_feature", eval_feature, _FEATURES)
        self.train_feature = train_feature
        self.eval_feature = eval_feature
        self.freeze_bn = freeze_bn
        self.backbone = backbone
        self.bottleneck = _batch_norm(backbone.channels) if neck == "bnneck" else nn.Identity()
        self.classifier = nn.Linear(backbone.channels, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_bn:
            for module in self.backbone.modules():
                # Whatever its class: some norms of timm keep statistics and are no batch norm of torch.
                if getattr(module, "running_var", None) is not None:
                    module.training = False
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        feature_map = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            full = feature_map.to(self.classifier.weight.dtype)
            before = lay_out(full, layout_of(full)).mean(dim=(2, 3))
            after = self.bottleneck(before)
            if self.training:
                return (after if self.train_feature == "after" else before), self.classifier(after)
            return after if self.eval_feature == "after" else before


def _batch_norm(channels: int) -> nn.BatchNorm1d:
    """Batch norm at weight 1 with its bias frozen at 0, so that class boundaries pass through the origin."""
    norm = nn.BatchNorm1d(channels)
    norm.bias.requires_grad_(False)
    return norm


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is not allowed: give one of {', '.join(choices)}.")
