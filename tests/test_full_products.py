"""Distances are computed from all digits, whatever torch may round the factors of a product to."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reid.distance import cosine, euclidean, full_products, squared_euclidean, unit_euclidean
from reid.losses import ClusteredRankedListLoss, RankedListLoss, TripletLoss, pair_statistics
from reid.losses.kmeans import kmeans
from reid.retrieval import Embeddings, evaluate, expand_queries, rerank
from reid.retrieval.bootstrap import GroupCounts, replicate_counts

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear"}


def rounds() -> bool:
    """Whether a GPU would round the factors to TensorFloat-32 now."""
    return bool(torch.backends.cuda.matmul.allow_tf32)


class Products(TorchDispatchMode):
    """Notes at each matrix product of floats whether it would be rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.rounded.append(rounds())
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["allow_tf32", "matmul_precision"])
def tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    """TensorFloat-32 as `precision=tf32` sets it, and as a user's program may."""
    if request.param == "allow_tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
    else:
        torch.set_float32_matmul_precision("medium")
    before = rounds(), torch.get_float32_matmul_precision()
    yield
    assert (rounds(), torch.get_float32_matmul_precision()) == before
    torch.set_float32_matmul_precision("highest")


def features(count: int = 24, requires_grad: bool = False) -> Tensor:
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return drawn.requires_grad_(requires_grad)


PIDS = torch.arange(24) // 4
DRAWS = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))


def everything() -> Embeddings:
    return Embeddings(features(), PIDS, torch.arange(24) % 4)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: squared_euclidean(features(), features(), out=torch.empty(24, 24)),
        lambda: euclidean(features(requires_grad=True), features()).sum().backward(),
        lambda: cosine(features(requires_grad=True), features()).sum().backward(),
        lambda: unit_euclidean(features(requires_grad=True)).sum().backward(),
        lambda: RankedListLoss()(features(requires_grad=True), PIDS).backward(),
        lambda: ClusteredRankedListLoss()(features(requires_grad=True), PIDS).backward(),
        lambda: TripletLoss()(features(requires_grad=True), PIDS).backward(),
        lambda: pair_statistics(features(), PIDS),
        lambda: kmeans(squared_euclidean(features(), features()), DRAWS),
        lambda: rerank(features()[:8], features()[8:], k1=3, k2=2),
        lambda: evaluate(everything(), everything(), protocol="ignore_camera"),
        lambda: expand_queries(features()[:8], features()[8:], 2),
        lambda: replicate_counts(
            GroupCounts(torch.arange(2.0), torch.ones(2, 3).long(), torch.ones(2, 3, 3).long()),
            torch.ones(5, 3).long(),
        ),
    ],
    ids=[
        "squared", "euclidean", "cosine", "unit", "ranked", "clustered", "triplet", "watched", "kmeans",
        "rerank", "evaluate", "expand", "bootstrap",
    ],
)  # fmt: skip
def test_no_product_of_distances_is_rounded(tf32: None, compute: Callable[[], object]) -> None:
    """The gradient's neither: the backward pass runs outside of any block of the forward one."""
    with Products() as products:
        compute()
    assert products.rounded
    assert not any(products.rounded)


@pytest.mark.parametrize("distance", [euclidean, cosine])
def test_values_and_gradients_are_those_without_rounding(
    distance: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """A CPU computes in full either way, so that the two ways can be compared."""
    results = []
    for rounded in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = rounded
        a, b = features(requires_grad=True), features(9).add(1).requires_grad_()
        distance(a, b).square().sum().backward()
        results.append((distance(a, b).detach(), a.grad, b.grad))
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has these switches since 2.9"
)
def test_switches_set_alone_are_put_back() -> None:
    """After that torch refuses to say what the old setting is."""
    matmul = torch.backends.cuda.matmul
    matmul.fp32_precision = "tf32"
    try:
        with full_products():
            assert matmul.fp32_precision == "ieee"
            assert not matmul.allow_tf32
        assert matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
