"""What a student is taught by the features of a teacher: the features themselves, or how they lie."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from reid.distance import normalise, unit_euclidean


class FeatureDistillation(nn.Module):
    r"""The features of the student are drawn to those of the teacher, image by image.

    With s_i and t_i the features of image i, W a matrix that is learnt with the student, and n(x) = x / |x|:

        loss = mean over i of |n(W s_i) - n(t_i)|^2

    which is twice the cosine distance. Where both features have the same size, W is the identity.

    Source: the hints of FitNets (Romero et al., ICLR 2015, arXiv 1412.6550, equation 3, with its regressor W)
    on the last feature. It is scaled to length 1 here, since that is how features are compared.

    Args:
        student, teacher: how many numbers a feature of each has, D and E.

    Shapes: (N, D) and (N, E) -> scalar, in float32 or the float64 of the features.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.projection = nn.Identity() if student == teacher else nn.Linear(student, teacher, bias=False)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        difference = normalise(self.projection(student)) - normalise(teacher)
        return difference.square().sum(dim=1).mean()


class RelationalDistillation(nn.Module):
    r"""The distances among the student's features are drawn to those among the teacher's.

    With d_ij the Euclidean distance of the features of images i and j, scaled to length 1 first, and m its
    mean over all pairs i != j of the batch:

        loss = mean over i != j of huber(d^S_ij / m^S - d^T_ij / m^T),

    where huber(x) is x^2 / 2 up to |x| = 1 and |x| - 1/2 beyond. Features of any two sizes compare.

    Source: the distance-wise loss of relational knowledge distillation (Park et al., CVPR 2019, arXiv
    1904.05068, equations 4 to 7). Its angle-wise loss is left out.

    Shapes: (N, D) and (N, E) -> scalar, in float32 or the float64 of the features; 0 for fewer than two rows.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
        pairs = others.sum().clamp(min=1)

        def relative(features: Tensor) -> Tensor:
            distances = unit_euclidean(features) * others
            mean = distances.sum() / pairs
            return distances / mean.clamp(min=torch.finfo(distances.dtype).tiny)

        differences = huber_loss(relative(student), relative(teacher).to(student.dtype), reduction="none")
        return (differences * others).sum() / pairs
