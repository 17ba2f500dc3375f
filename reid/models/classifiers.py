"""Classifiers: the layer from a feature to its logits, and the margins that make its task harder in training.

A margin needs the labels, which no forward pass of a network has. So a cosine classifier gives out plain
cosines, as features of length 1 and class weights of length 1 have them, and the objective turns these into
the logits of the cross entropy by a `Margin`. An image is recognised by its largest cosine, without margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Classifier = Literal["linear", "cosface", "arcface", "circle"]

#: Of each cosine classifier the scale and the margin that its paper sets, and its largest margin.
_PAPERS = {"cosface": (64.0, 0.35, 1.0), "arcface": (64.0, 0.5, math.pi / 2), "circle": (128.0, 0.25, 1.0)}
#: Keeps the gradient of a sine finite where the angle is 0.
_EPSILON = 1e-7


@dataclass(frozen=True)
class Margin:
    r"""What turns cosines into logits that ask for more than the right answer.

    With c_y the cosine of the own class and c_j those of the others, scale s and margin m, the logits are

        cosface   s (c_y - m)                       s c_j                   Wang et al., CVPR 2018,
                                                                            arXiv 1801.09414, equation 4
        arcface   s cos(arccos(c_y) + m)            s c_j                   Deng et al., CVPR 2019,
                                                                            arXiv 1801.07698, equation 3
        circle    s [1 + m - c_y]+ (c_y - 1 + m)    s [c_j + m]+ (c_j - m)  Sun et al., CVPR 2020,
                                                                            arXiv 2002.10857, section 3.3

    The brackets [x]+ = max(0, x) of circle are weights, through which no gradient flows. Beyond an angle of
    pi - m, where cos(arccos(c_y) + m) would rise again, arcface has c_y - m sin m, as its authors' code has
    it. The margin of arcface is in radians.
    """

    kind: str
    scale: float
    margin: float

    def __call__(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Cosines (N, classes) and labels (N,) -> logits (N, classes)."""
        own = labels[:, None] == torch.arange(cosines.shape[1], device=labels.device)
        if self.kind == "circle":
            to_own = (1 + self.margin - cosines.detach()).clamp(min=0) * (cosines - 1 + self.margin)
            to_others = (cosines.detach() + self.margin).clamp(min=0) * (cosines - self.margin)
        else:
            to_own, to_others = self._further(cosines), cosines
        return self.scale * torch.where(own, to_own, to_others)

    def _further(self, cosines: Tensor) -> Tensor:
        if self.kind == "cosface":
            return cosines - self.margin
        sines = (1 - cosines.square()).clamp(min=_EPSILON).sqrt()
        turned = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        beyond = cosines - self.margin * math.sin(self.margin)
        return torch.where(cosines > -math.cos(self.margin), turned, beyond)


class CosineClassifier(nn.Module):
    """Cosines between features and the weight of each class: (N, size) -> (N, classes).

    The weights begin as normal numbers of deviation 0.01 and decay as all others do, as in the published code
    of ArcFace and of FastReID. Their length does not count; it sets how fast a step turns them.
    """

    def __init__(self, size: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, size))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(functional.normalize(features), functional.normalize(self.weight))


def build_classifier(kind: str, size: int, num_classes: int) -> nn.Module:
    """A classifier with `weight` (classes, size) and no bias: linear, or of cosines."""
    if kind != "linear":
        return CosineClassifier(size, num_classes)
    classifier = nn.Linear(size, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier


def build_margin(kind: str, scale: float | None = None, margin: float | None = None) -> Margin | None:
    """The margin of a classifier, None of the linear one; what is None is as its paper has it.

    Raises ValueError: a kind that is none, a value that is out of range, or one that does nothing.
    """
    if kind not in get_args(Classifier):
        raise ValueError(
            f"classifier={kind!r} is not allowed: give one of {', '.join(get_args(Classifier))}."
        )
    if kind == "linear":
        for name, value in (("scale", scale), ("margin", margin)):
            if value is not None:
                raise ValueError(
                    f"{name}={value} does nothing with head.classifier=linear: leave it null, or choose "
                    "head.classifier=cosface, arcface or circle."
                )
        return None
    usual_scale, usual_margin, most = _PAPERS[kind]
    scale = usual_scale if scale is None else scale
    margin = usual_margin if margin is None else margin
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale={scale} is not allowed: expected a number above 0.")
    if not 0 <= margin <= most:
        unit = " radians, unlike the degrees of loss=arcface" if kind == "arcface" else ""
        raise ValueError(f"margin={margin} is not allowed: {kind} takes 0 to {most:.4g}{unit}.")
    return Margin(kind, float(scale), float(margin))
