"""Heads: what stands between a backbone's feature map and the losses, and what is compared in the test.

A head takes the map (N, C, h, w) and gives two features of each image, `before` and `after` its neck, both
(N, D) with D = `embedding_size`, and logits computed from `after`.

- Training mode returns (features, logits). The metric loss sees the features: `after` or `before`, as
  `train_feature` says; a mix of losses sees `both`, side by side (N, 2 D), `before` first. The cross entropy
  sees the logits: (N, classes), or (N, S, classes) of a head that classifies S parts apart. It is then
  averaged over the images and the parts; an image counts as recognised where the mean of its parts' logits is
  largest at its identity. The logits of a head with a `margin` are cosines (see `reid.models.classifiers`).
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
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from reid.errors import UsageError
from reid.models.classifiers import Classifier, Margin, build_classifier, build_margin
from reid.models.layout import lay_out, layout_of
from reid.trust import HINT, TrustError, is_trusted, trusted_function

Feature = Literal["after", "before"]
TrainFeature = Literal["after", "before", "both"]
Norm = Literal["batch", "layer"]

#: Of the layer from the pooled feature to the embedding.
_MOST_NUMBERS = 8192
_OWN = "reid.models."


class HeadError(UsageError, ValueError):
    """A head that does not exist, or an option or a feature map that does not fit it."""


class Head(nn.Module):
    """What every head has in common.

    A subclass sets `num_classes`, `embedding_size`, `bottleneck` and `classifier` (one, or one a part),
    and has `embed` and `logits`. One whose logits are cosines has the `margin` that they are trained with.

    Raises HeadError for a feature that is not listed.
    """

    num_classes: int
    embedding_size: int
    bottleneck: Any
    classifier: Any
    margin: Margin | None = None

    def __init__(self, train_feature: str = "after", eval_feature: str = "after") -> None:
        super().__init__()
        for name, value, known in (
            ("train_feature", train_feature, get_args(TrainFeature)),
            ("eval_feature", eval_feature, get_args(Feature)),
        ):
            if value not in known:
                raise HeadError(f"{name}={value!r} is not allowed: give one of {', '.join(known)}.")
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
        if self.training and self.train_feature == "both":
            return torch.cat([before, after], dim=1), self.logits(after)
        if self.training:
            return (after if self.train_feature == "after" else before), self.logits(after)
        return after if self.eval_feature == "after" else before


class BNNeck(Head):
    """The head of Bag of Tricks (Luo et al., CVPRW 2019, arXiv 1903.07071, section 3.5).

    Mean over the map -> `before` (N, C) -> BatchNorm1d -> `after` (N, C) -> Linear without bias -> logits.

    channels: C, of the feature map.
    neck: whether there is a norm between them; without it `after` is `before`.
    embedding: d, to which a Linear without bias brings the mean before the neck, as FastReID has it (He et
        al., arXiv 2006.02631); None for no such layer, D = C.
    norm: `batch`, or `layer` for a layer norm (Ba et al., arXiv 1607.06450), whose statistics are those of
        one image.
    classifier, scale, margin: the linear one, or one of cosines with its margin, whose scale and margin are
        those of its paper where they are None (see `reid.models.classifiers`).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        neck: bool = True,
        train_feature: TrainFeature = "after",
        eval_feature: Feature = "after",
        embedding: int | None = None,
        norm: Norm = "batch",
        classifier: Classifier = "linear",
        scale: float | None = None,
        margin: float | None = None,
    ) -> None:
        super().__init__(train_feature, eval_feature)
        _check_whole("embedding", embedding, _MOST_NUMBERS)
        self.margin = _margin(classifier, scale, margin)
        self.num_classes = num_classes
        self.embedding_size = embedding or channels
        self.reduction = _reduction(channels, embedding)
        self.bottleneck = _neck(self.embedding_size, neck, norm)
        self.classifier = _classifier(classifier, self.embedding_size, num_classes)

    def pool(self, feature_map: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C)."""
        return lay_out(feature_map, layout_of(feature_map)).mean(dim=(2, 3))

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        before = self.reduction(self.pool(feature_map))
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
        train_feature: TrainFeature = "after",
        eval_feature: Feature = "after",
        p: float = 3.0,
        eps: float = 1e-6,
        **options: Any,
    ) -> None:
        super().__init__(channels, num_classes, neck, train_feature, eval_feature, **options)
        for name, value in (("p", p), ("eps", eps)):
            if not value > 0:
                raise HeadError(f"{name}={value} is not allowed: expected a number above 0.")
        self.eps = eps
        self.pooling_p = nn.Parameter(torch.tensor([float(p)]))

    def pool(self, feature_map: Tensor) -> Tensor:
        powers = feature_map.clamp(min=self.eps).pow(self.pooling_p)
        return lay_out(powers, layout_of(feature_map)).mean(dim=(2, 3)).pow(1 / self.pooling_p)


class Branches(Head):
    """Several features of one map, each with a neck and a classifier of its own, compared side by side.

    Of each of S features: Linear without bias to d numbers -> `before` -> norm -> `after` -> classifier. The
    features are concatenated, D = S d; the logits are (N, S, classes). A subclass has `pools`.

    count: S. size: d; None for no such layer, d = C. The others are as those of BNNeck.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        count: int,
        size: int | None,
        neck: bool = True,
        train_feature: TrainFeature = "after",
        eval_feature: Feature = "after",
        norm: Norm = "batch",
        classifier: Classifier = "linear",
        scale: float | None = None,
        margin: float | None = None,
    ) -> None:
        super().__init__(train_feature, eval_feature)
        self.margin = _margin(classifier, scale, margin)
        numbers = size or channels
        self.num_classes = num_classes
        self.embedding_size = count * numbers
        self.reduction = nn.ModuleList(_reduction(channels, size) for _ in range(count))
        self.bottleneck = nn.ModuleList(_neck(numbers, neck, norm) for _ in range(count))
        self.classifier = nn.ModuleList(_classifier(classifier, numbers, num_classes) for _ in range(count))

    def pools(self, feature_map: Tensor) -> list[Tensor]:
        """(N, C, h, w) -> S features, (N, C) each."""
        raise NotImplementedError

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        pools = self.pools(lay_out(feature_map, layout_of(feature_map)))
        before = [reduce(pooled) for reduce, pooled in zip(self.reduction, pools, strict=True)]
        after = [neck(feature) for neck, feature in zip(self.bottleneck, before, strict=True)]
        return torch.cat(before, dim=1), torch.cat(after, dim=1)

    def logits(self, after: Tensor) -> Tensor:
        features = after.chunk(len(self.classifier), dim=1)
        scores = [classify(feature) for classify, feature in zip(self.classifier, features, strict=True)]
        return torch.stack(scores, dim=1)


class Parts(Branches):
    """Horizontal stripes, each with a neck and a classifier of its own.

    The part-based convolutional baseline, PCB (Sun et al., ECCV 2018, arXiv 1711.09349, section 3).
    The map is cut into S stripes of equal height (by a row, where S does not divide h), and the mean of each
    is taken.

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
        train_feature: TrainFeature = "after",
        eval_feature: Feature = "after",
        stripes: int = 6,
        reduction: int | None = 256,
        **options: Any,
    ) -> None:
        for name, value, most in (("stripes", stripes, 64), ("reduction", reduction, _MOST_NUMBERS)):
            _check_whole(name, value, most)
        super().__init__(
            channels, num_classes, stripes, reduction, neck, train_feature, eval_feature, **options
        )
        self.stripes = stripes

    def pools(self, feature_map: Tensor) -> list[Tensor]:
        height = feature_map.shape[2]
        if height < self.stripes:
            raise HeadError(
                f"head.stripes={self.stripes} does not fit a feature map of {height} rows: take images that "
                f"are higher (image.height), or head.stripes={height} or fewer."
            )
        edges = [number * height // self.stripes for number in range(self.stripes + 1)]
        return [feature_map[:, :, top:bottom].mean(dim=(2, 3)) for top, bottom in pairwise(edges)]


class MaxAvg(Branches):
    """Mean and maximum over the map: the mean keeps what is everywhere, the maximum what stands out.

    Their sum is one feature, as each stripe of "Horizontal Pyramid Matching" is pooled (Fu et al., AAAI 2019,
    arXiv 1804.05275). With `separate` they stand side by side, D = 2 d.

    embedding: d; None for no such layer, d = C.
    separate: each has a neck and a classifier of its own.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        embedding: int | None = None,
        separate: bool = False,
        **options: Any,
    ) -> None:
        _check_whole("embedding", embedding, _MOST_NUMBERS)
        super().__init__(channels, num_classes, 2 if separate else 1, embedding, **options)
        self.separate = separate

    def pools(self, feature_map: Tensor) -> list[Tensor]:
        mean, largest = feature_map.mean(dim=(2, 3)), feature_map.amax(dim=(2, 3))
        return [mean, largest] if self.separate else [mean + largest]


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


def _neck(size: int, neck: bool = True, norm: Norm = "batch") -> nn.Module:
    """A norm at weight 1 with its bias frozen at 0, so that class boundaries pass through the origin."""
    if norm not in get_args(Norm):
        raise HeadError(f"norm={norm!r} is not allowed: give one of {', '.join(get_args(Norm))}.")
    if not neck:
        if norm != "batch":
            raise HeadError(f"norm={norm} does nothing without a neck: leave tricks.bnneck true.")
        return nn.Identity()
    layer = nn.BatchNorm1d(size) if norm == "batch" else nn.LayerNorm(size)
    layer.bias.requires_grad_(False)
    return layer


def _classifier(kind: str, size: int, num_classes: int) -> nn.Module:
    if num_classes < 1:
        raise HeadError(f"num_classes={num_classes}: a classifier needs at least one identity.")
    return build_classifier(kind, size, num_classes)


def _margin(kind: str, scale: float | None, margin: float | None) -> Margin | None:
    try:
        return build_margin(kind, scale, margin)
    except ValueError as error:
        raise HeadError(str(error)) from error


def _reduction(channels: int, size: int | None) -> nn.Module:
    """A layer without bias from `channels` to `size` numbers; None for none."""
    if size is None:
        return nn.Identity()
    layer = nn.Linear(channels, size, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer


def _check_whole(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise HeadError(f"{name}={value} is not allowed: expected a whole number from 1 to {most}.")
