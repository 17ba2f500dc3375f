from __future__ import annotations

import pytest
import torch

from reid.distance import (
    cosine,
    distance_function,
    euclidean,
    normalise,
    squared_euclidean,
    squared_norms,
    unit_euclidean,
)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_squared_euclidean_equals_the_sum_of_squared_differences(
    dtype: torch.dtype, tolerance: float
) -> None:
    a, b = random(5, 7, dtype=dtype), random(4, 7, dtype=dtype, seed=1)
    expected = (a[:, None] - b[None]).square().sum(dim=2)
    assert squared_euclidean(a, b).dtype == dtype
    torch.testing.assert_close(squared_euclidean(a, b), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        squared_euclidean(a, b, squared_norms(b)), squared_euclidean(a, b), rtol=0, atol=0
    )


def test_integer_features_give_exact_squared_distances() -> None:
    a = torch.randint(-4, 5, (20, 16), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(squared_euclidean(a, a), (a[:, None] - a[None]).square().sum(dim=2))


def test_normalised_rows_have_unit_norm_and_zero_rows_stay_zero() -> None:
    features = random(4, 6)
    features[2] = 0
    assert normalise(features).norm(dim=1).tolist() == pytest.approx([1, 1, 0, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    a = random(6, 8).to(dtype)
    assert squared_euclidean(a, a).dtype == torch.float32
    torch.testing.assert_close(squared_euclidean(a, a), squared_euclidean(a.float(), a.float()))
    assert normalise(a).dtype == torch.float32


def test_autocast_changes_nothing() -> None:
    a, b = random(6, 64, dtype=torch.float32), random(5, 64, dtype=torch.float32, seed=1)
    expected = euclidean(normalise(a), normalise(b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ b.t()).dtype == torch.bfloat16
        inside = euclidean(normalise(a), normalise(b))
    assert torch.equal(inside, expected)


def test_euclidean_of_duplicates_has_a_finite_gradient() -> None:
    features = random(1, 8).repeat(4, 1).requires_grad_()
    distance = euclidean(features, features)
    distance.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert distance.detach().min() >= 0.999e-6


def test_gradcheck() -> None:
    a, b = random(3, 4).requires_grad_(), random(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(euclidean, (a, b))
    assert torch.autograd.gradcheck(squared_euclidean, (a, b))


def test_cosine_distances_by_hand() -> None:
    a = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert cosine(a, b)[0].tolist() == pytest.approx([0, 1, 2, 1 - 0.5**0.5])
    assert cosine(a, b)[1].tolist() == [1, 1, 1, 1]


def test_a_metric_is_found_by_its_name() -> None:
    assert distance_function("euclidean") is euclidean
    with pytest.raises(ValueError, match="metric is 'l1'; allowed: euclidean, cosine"):
        distance_function("l1")


# ---- distances among unit rows, with their gradient


def by_definition(features: torch.Tensor) -> torch.Tensor:
    unit = normalise(features)
    return euclidean(unit, unit)


def with_odd_rows() -> torch.Tensor:
    """Rows of any length, two that are equal, one of zeros, two that are parallel."""
    features = random(9, 5) * torch.arange(1, 10)[:, None]
    features[3], features[5], features[8] = features[2], 0, 2 * features[7]
    return features.requires_grad_()


def test_unit_distances_and_their_gradient_are_those_of_the_definition() -> None:
    features, weight = with_odd_rows(), random(9, 9, seed=1)
    found, expected = unit_euclidean(features), by_definition(features)
    # A root makes 1e-8 of a rounding error of 1e-16: parallel rows are not quite equal once they are scaled.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert found.diagonal().tolist() == [1e-6] * 9
    apart = expected.detach() > 1e-3
    gradients = [torch.autograd.grad((d * weight)[apart].sum(), features)[0] for d in (found, expected)]
    near_zero = torch.arange(9) == 5  # scaled by 1e12, as its direction is arbitrary
    torch.testing.assert_close(gradients[0][~near_zero], gradients[1][~near_zero], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0][near_zero], gradients[1][near_zero], rtol=1e-9, atol=0)


def test_the_gradient_of_unit_distances_by_differences() -> None:
    features = random(6, 4).requires_grad_()
    assert torch.autograd.gradcheck(unit_euclidean, (features,))


def test_unit_distances_of_equal_rows_have_a_finite_gradient() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    unit_euclidean(features).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unit_distances_of_half_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    features = random(6, 8).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = unit_euclidean(features)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, unit_euclidean(features.detach().float()), rtol=0, atol=0)
    distance.sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == dtype
