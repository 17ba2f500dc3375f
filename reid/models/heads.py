"""Heads: what stands between a backbone's feature map and the losses, and what is compared in the test.

A head takes the map (N, C, h, w) and gives two features of each image, `before` and `after` its neck, both
(N, D) with D = `embedding_size`, and logits computed from `after`.

- Training mode returns (features, logits). The metric loss sees the features: `after` or `before`, as
  `train_feature` says. The cross entropy sees the logits: (N, classes), or (N, S, classes) of a head that
  classifies S stripes apart. It is then averaged over the images and the stripes; an image counts as
  recognised where the mean of its stripes' logits is largest at its identity.
- Evaluation mode returns the features that are compared: `after` or `before`, as `eval_feature` says. Those
  of the stripes are concatenated. Nothing is normalised to length 1 here.
- Without a neck (`neck=False`) both features are the pooled one.

A head is a subclass of `Head` and a file of conf/head/ that names it by `_target_`. What it learns of single
identities lies under `classifier`, since a model that begins with another one's weights leaves that out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reid.errors import UsageError
from reid.models.layout import lay_out, layout_of
from reid.trust import HINT, TrustError, is_trusted, trusted_function

Feature = Literal["after", "before"]

_FEATURES = ("after", "before")
_OWN = "reid.models."


class HeadError(UsageError, ValueError):
    """A head that does not exist, or an option or a feature map that does not fit it."""


class Head(nn.Module):
    """What every head has in common.

    A subclass sets `num_classes`, `embedding_size`, `bottleneck` and `classifier` (one, or one a stripe),
    and has `embed` and `logits`.

    Raises HeadError for a feature that is neither `after` nor `before`.
    """

    num_classes: int
    embedding_size: int
    bottleneck: Any
    classifier: Any

    def __init__(self, train_feature: str = "after", eval_feature: str = "after") -> None:
        super().__init__()
        for name, value in (("train_feature", train_feature), ("eval_feature", eval_feature)):
            if value not in _FEATURES:
                raise HeadError(f"{name}={value!r} is not allowed: give one of {', '.join(_FEATURES)}.")
        self.train_feature = train_feature
        self.eval_feature = eval_feature

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> the features before and after the neck, (N, D) each."""
        raise NotImplementedError

    def logits(self, after: Tensor) -> Tensor:
        """(N, D) -> (N, classes) or (N, S, classes)."""
        raise NotImplementedError

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        before, after = self.embed(feature_map)
        if self.training:
            return (after if self.train_feature == "after" else before), self.logits(after)
        return after if self.eval_feature == "after" else before


class BNNeck(Head):
    """The head of Bag of Tricks (Luo et al., CVPRW 2019, arXiv 1903.07071, section 3.5).

    Mean over the map -> `before` (N, C) -> BatchNorm1d -> `after` (N, C) -> Linear without bias -> logits.

    channels: C, of the feature map.
    neck: whether there is a batch norm; without it `after` is `before`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        neck: bool = True,
        train_feature: Feature = "after",
        eval_feature: Feature = "after",
    ) -> None:
        super().__init__(train_feature, eval_feature)
        self.num_classes = num_classes
        self.embedding_size = channels
        self.bottleneck = _neck(channels) if neck else nn.Identity()
        self.classifier = _classifier(channels, num_classes)

    def pool(self, feature_map: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C)."""
        return lay_out(feature_map, layout_of(feature_map)).mean(dim=(2, 3))

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        before = self.pool(feature_map)
        return before, self.bottleneck(before)

    def logits(self, after: Tensor) -> Tensor:
        logits: Tensor = self.classifier(after)
        return logits


class GeM(BNNeck):
    """BNNeck with a generalised mean over the map (Radenović et al., TPAMI 2018, arXiv 1711.02512, eq. 3).

    With x_i the values of one channel at the places of the map, f = (mean_i max(x_i, eps)^p)^(1/p): the mean
    at p = 1, near the maximum for large p. One p serves all channels, and the optimizer learns it as it does
    any other weight. The map should not be negative: what lies below eps counts as eps.

    p: that it begins with.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        neck: bool = True,
        train_feature: Feature = "after",
        eval_feature: Feature = "after",
        p: float = 3.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(channels, num_classes, neck, train_feature, eval_feature)
        for name, value in (("p", p), ("eps", eps)):
            if not value > 0:
                raise HeadError(f"{name}={value} is not allowed: expected a number above 0.")
        self.eps = eps
        self.pooling_p = nn.Parameter(torch.tensor([float(p)]))

    def pool(self, feature_map: Tensor) -> Tensor:
        powers = feature_map.clamp(min=self.eps).pow(self.pooling_p)
        return lay_out(powers, layout_of(feature_map)).mean(dim=(2, 3)).pow(1 / self.pooling_p)


class Parts(Head):
    """Horizontal stripes, each with a neck and a classifier of its own.

    The part-based convolutional baseline, PCB (Sun et al., ECCV 2018, arXiv 1711.09349, section 3).
    The map is cut into S stripes of equal height (by a row, where S does not divide h). Of each: mean ->
    Linear without bias to d numbers -> `before` -> BatchNorm1d -> `after` -> Linear without bias -> logits.
    The features of the stripes are concatenated, D = S d; the logits are (N, S, classes).

    The paper's network has a ReLU after its batch norm, sums the cross entropies and has no metric loss: here
    the neck is that of BNNeck and the mean is taken, so that `loss.id_weight` means the same for every head.

    stripes: S; at least as many rows as that has the map.
    reduction: d; None for no reduction, d = C.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        neck: bool = True,
        train_feature: Feature = "after",
        eval_feature: Feature = "after",
        stripes: int = 6,
        reduction: int | None = 256,
    ) -> None:
        super().__init__(train_feature, eval_feature)
        for name, value, most in (("stripes", stripes, 64), ("reduction", reduction, 8192)):
            if value is not None and not 1 <= value <= most:
                raise HeadError(f"{name}={value} is not allowed: expected a whole number from 1 to {most}.")
        size = reduction or channels
        self.num_classes = num_classes
        self.embedding_size = stripes * size
        self.stripes = stripes
        self.reduction = nn.ModuleList(
            _reduction(channels, reduction) if reduction else nn.Identity() for _ in range(stripes)
        )
        self.bottleneck = nn.ModuleList(_neck(size) if neck else nn.Identity() for _ in range(stripes))
        self.classifier = nn.ModuleList(_classifier(size, num_classes) for _ in range(stripes))

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        height = feature_map.shape[2]
        if height < self.stripes:
            raise HeadError(
                f"head.stripes={self.stripes} does not fit a feature map of {height} rows: take images that "
                f"are higher (image.height), or head.stripes={height} or fewer."
            )
        feature_map = lay_out(feature_map, layout_of(feature_map))
        edges = [number * height // self.stripes for number in range(self.stripes + 1)]
        before, after = [], []
        for number, (reduce, neck) in enumerate(zip(self.reduction, self.bottleneck, strict=True)):
            rows = feature_map[:, :, edges[number] : edges[number + 1]]
            before.append(reduce(rows.mean(dim=(2, 3))))
            after.append(neck(before[-1]))
        return torch.cat(before, dim=1), torch.cat(after, dim=1)

    def logits(self, after: Tensor) -> Tensor:
        stripes = after.chunk(self.stripes, dim=1)
        scores = [classify(part) for classify, part in zip(self.classifier, stripes, strict=True)]
        return torch.stack(scores, dim=1)


def head_class(path: str) -> Callable[..., Head]:
    """The class that `head._target_` names: of this package, or of one that the user trusts.

    Raises HeadError where there is none, or it is no head: a checkpoint may name it, and must run no other
    code.
    """
    key = f"head._target_={path}"
    if path.startswith(_OWN):
        module, _, name = path.rpartition(".")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise HeadError(f"{key}: there is no such class ({error}).") from error
    elif is_trusted(path):
        try:
            found = trusted_function(path, key)
        except TrustError as error:
            raise HeadError(str(error)) from error
    else:
        raise HeadError(f"{key} is refused: a head may come from {_OWN}* alone. {HINT}")
    if not (inspect.isclass(found) and issubclass(found, Head)):
        raise HeadError(f"{key} is no head: expected a class that is derived from reid.models.Head.")
    head: Callable[..., Head] = found
    return head


def build_head(options: Mapping[str, Any], channels: int, num_classes: int) -> Head:
    """The head that the options of conf/head/ describe, on a map of so many channels.

    Raises HeadError where its class is none, or refuses an option.
    """
    arguments = {key: value for key, value in options.items() if key != "_target_"}
    try:
        return head_class(str(options["_target_"]))(channels, num_classes, **arguments)
    except HeadError as error:
        named = str(error).partition("=")[0] in arguments
        raise HeadError(f"head.{error}" if named else str(error)) from error
    except TypeError as error:
        raise HeadError(f"{options['_target_']} does not take what stands in head: {error}") from error


def _neck(size: int) -> nn.BatchNorm1d:
    """Batch norm at weight 1 with its bias frozen at 0, so that class boundaries pass through the origin."""
    norm = nn.BatchNorm1d(size)
    norm.bias.requires_grad_(False)
    return norm


def _classifier(size: int, num_classes: int) -> nn.Linear:
    if num_classes < 1:
        raise HeadError(f"num_classes={num_classes}: a classifier needs at least one identity.")
    classifier = nn.Linear(size, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier


def _reduction(channels: int, size: int) -> nn.Linear:
    layer = nn.Linear(channels, size, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer
