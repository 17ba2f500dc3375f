"""Pairwise distances between embeddings: the one place where they are computed.

Everything here runs in float32 at least, also inside an autocast region and whatever torch may round
products of float32 to: squared distances of unit vectors are differences of numbers near 2, and bfloat16
keeps only two or three digits of them, TensorFloat-32 three. float64 input stays float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SMALLEST_SQUARED_DISTANCE = 1e-12
SMALLEST_DISTANCE = SMALLEST_SQUARED_DISTANCE**0.5
SMALLEST_NORM = 1e-12
#: Numbers whose squares lie in memory together; few enough for a cache.
SQUARED_AT_ONCE = 2**19

#: What GPUs and CPUs round the factors of a product to: since torch 2.9 a switch for each.
_SWITCHES: tuple[Any, ...] = tuple(
    switch
    for switch in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    if hasattr(switch, "fp32_precision")
)
_FULL = ("none", "ieee")


def rounds_products() -> bool:
    """Whether torch may round the factors of float32 products, as `precision=tf32` lets a GPU do."""
    if not _SWITCHES:
        return torch.get_float32_matmul_precision() != "highest"
    return any(switch.fp32_precision not in _FULL for switch in _SWITCHES)


@contextmanager
def full_products() -> Iterator[None]:
    """A block whose float32 products are computed from all digits of their factors, whatever is set outside.

    The switches are the process's, not the thread's; a backward pass is not in the block.
    """
    if not rounds_products():
        yield
        return
    kept = [switch.fp32_precision for switch in _SWITCHES]
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody has set the switches alone, and torch will not say
        before = None
    # Both, since torch refuses to compute where the old setting and the switches contradict each other.
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before)
        for switch, precision in zip(_SWITCHES, kept, strict=True):
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision


def normalise(features: Tensor) -> Tensor:
    """Scale each row to unit L2 norm.

    Args:
        features: (N, D) floats.

    Returns:
        (N, D), float32 or the float64 of the input. A row of zeros stays zero.
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        return functional.normalize(_at_least_float32(features), dim=1, eps=SMALLEST_NORM)


def squared_norms(features: Tensor) -> Tensor:
    """Squared L2 norm of each row, (N,), without a temporary copy of (N, D) `features`."""
    with torch.autocast(device_type=features.device.type, enabled=False):
        features = _at_least_float32(features)
        parts = features.split(max(1, SQUARED_AT_ONCE // max(1, features.shape[1])))
        return torch.cat([part.square().sum(dim=1) for part in parts])


def squared_euclidean(
    a: Tensor,
    b: Tensor,
    b_squared_norms: Tensor | None = None,
    out: Tensor | None = None,
    a_squared_norms: Tensor | None = None,
) -> Tensor:
    """Squared Euclidean distance of each row of `a` to each row of `b`: |a|^2 + |b|^2 - 2 a.b.

    Args:
        a: (N, D) floats.
        b: (M, D) floats.
        b_squared_norms: (M,), `squared_norms(b)`, for callers that compare one `b` with many `a`.
        out: (N, M) of the result's dtype to write to, for callers that would allocate many; no gradient then.
        a_squared_norms: (N,), the like for `a`.

    Returns:
        (N, M), float32 or the float64 of the input. Rounding may leave values slightly below zero.
    """
    if a_squared_norms is None:
        a_squared_norms = squared_norms(a)
    return squared_euclidean_less_own(a, b, b_squared_norms, out).add_(a_squared_norms[:, None])


def squared_euclidean_less_own(
    a: Tensor, b: Tensor, b_squared_norms: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """|b|^2 - 2 a.b: `squared_euclidean` without |a|^2, which changes no order within a row."""
    with torch.autocast(device_type=a.device.type, enabled=False):
        a, b = _at_least_float32(a), _at_least_float32(b)
        if b_squared_norms is None:
            b_squared_norms = squared_norms(b)
        if out is None and rounds_products() and (a.requires_grad or b.requires_grad):
            return b_squared_norms - 2 * _Product.apply(a, b)
        with full_products():
            return torch.addmm(b_squared_norms, a, b.t(), alpha=-2, out=out)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of each row of `a` to each row of `b`.

    The squared distance is clamped at 1e-12 before the root, as published. The root's slope is
    infinite at zero; the clamp passes no gradient below its bound, so that equal embeddings give
    a distance of 1e-6 and a finite gradient.

    Args:
        a: (N, D) floats.
        b: (M, D) floats.

    Returns:
        (N, M), float32 or the float64 of the input, at least 1e-6.
    """
    return squared_euclidean(a, b).clamp(min=SMALLEST_SQUARED_DISTANCE).sqrt()


def unit_euclidean(features: Tensor) -> Tensor:
    """Distances among the L2-normalised rows: `euclidean(unit, unit)` with `unit = normalise(features)`.

    The gradient is in closed form. Pairs are symmetric and a unit row's length cannot change, so it takes one
    matrix product where automatic differentiation takes two and several copies of the features.

    Args:
        features: (N, D) floats.

    Returns:
        (N, N), float32 or the float64 of the input, at least 1e-6, which the diagonal is exactly. It can be
        differentiated once.
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        return _UnitEuclidean.apply(_at_least_float32(features))


class _Product(torch.autograd.Function):
    """a @ b.t() of (N, D) and (M, D) in full; its gradient too, which is computed outside of any block."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with full_products():
            return a @ b.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        with torch.autocast(device_type=a.device.type, enabled=False), full_products():
            return gradient @ b, gradient.t() @ a


class _UnitEuclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_(min=SMALLEST_NORM)
        unit = features / length
        with full_products():
            product = unit @ unit.t()
        squares = product.diagonal().clone()
        distance = product.mul_(-2).add_(squares).add_(squares[:, None])
        distance.clamp_(min=SMALLEST_SQUARED_DISTANCE).sqrt_().fill_diagonal_(SMALLEST_DISTANCE)
        ctx.save_for_backward(length, unit, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        length, unit, distance = ctx.saved_tensors
        with torch.autocast(device_type=unit.device.type, enabled=False), full_products():
            # The squared distance moves unit_i by 2 (unit_i - unit_j), of which normalisation passes on
            # what is orthogonal to unit_i.
            slope = (gradient / distance).masked_fill_(distance <= SMALLEST_DISTANCE, 0)
            pulled = (slope + slope.t()) @ unit
            along = (pulled * unit).sum(dim=1, keepdim=True)
            return pulled.addcmul_(unit, along, value=-1).div_(-length)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine distance, 1 - cos, of each row of `a` to each row of `b`.

    Args:
        a: (N, D) floats, of any length; a row of zeros is at distance 1 from everything.
        b: (M, D) floats.

    Returns:
        (N, M), float32 or the float64 of the input, in [0, 2].
    """
    with torch.autocast(device_type=a.device.type, enabled=False):
        a, b = normalise(a), normalise(b)
        if rounds_products():
            return (1 - _Product.apply(a, b)).clamp_(0, 2)
        return (1 - a @ b.t()).clamp_(0, 2)


def distance_function(metric: str) -> Callable[[Tensor, Tensor], Tensor]:
    """`euclidean` or `cosine`, by the name that `eval.metric` takes.

    Raises:
        ValueError: another name.
    """
    functions = {"euclidean": euclidean, "cosine": cosine}
    if metric not in functions:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(functions)}")
    return functions[metric]


def _at_least_float32(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
