"""Measures of a crop by hand, and a model of them that is judged on other people than it was fitted on."""

import numpy as np
import pytest

from reid.judging.quality import (
    Measures,
    QualityModel,
    columns,
    fit,
    folds_of,
    measure,
    out_of_fold,
    sharpness,
    stored_quality,
)
from reid.retrieval import EvaluationError


def drawn(count: int, seed: int = 0) -> tuple[list[Measures], np.ndarray, np.ndarray]:
    """Crops whose average precision follows their norm and size, of people with four each."""
    generator = np.random.default_rng(seed)
    norms = generator.uniform(5, 20, count)
    heights = generator.integers(40, 200, count)
    measures = [
        Measures(float(norm), int(height), int(height) // 2, float(one), 40.0, 120.0)
        for norm, height, one in zip(norms, heights, generator.uniform(10, 500, count), strict=True)
    ]
    precision = (
        0.2 + 0.25 * np.log(norms / 5) + 0.15 * np.log(heights / 40) + generator.normal(0, 0.05, count)
    )
    return measures, np.clip(precision, 0, 1), np.arange(count) // 4


def test_the_laplacian_by_hand() -> None:
    grey = np.zeros((4, 5))
    grey[1, 2] = 10.0
    # Its 2 x 3 inner pixels: -40 in the place of the spot, 10 beside and below it, 0 at the two others below.
    expected = np.var([10.0, -40.0, 10.0, 0.0, 10.0, 0.0])
    assert sharpness(grey) == pytest.approx(expected)
    assert sharpness(np.zeros((2, 9))) == 0.0


def test_measures_of_a_crop() -> None:
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[:2] = (255, 0, 0)
    found = measure(pixels, 80, 32, 3.5)
    assert found.brightness == pytest.approx(255 * 0.299 / 2)
    assert found.contrast == pytest.approx(255 * 0.299 / 2)
    assert (found.norm, found.height, found.width, found.aspect) == (3.5, 80, 32, 2.5)
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        measure(pixels[:, :, 0], 80, 32, 3.5)


def test_a_blurred_copy_is_less_sharp() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 3)).astype(np.float64)
    blurred = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))) / 4
    sharp, soft = (measure(one.astype(np.uint8), 64, 32, 1.0).sharpness for one in (noise, blurred))
    assert soft < sharp / 4


def test_the_model_is_ridge_regression_and_knows_what_matters() -> None:
    measures, precision, pids = drawn(400)
    model = fit(measures, precision, pids, "drawn")
    table = columns(measures)
    inputs = np.stack([table[name] for name in model.names], axis=1)
    varying = inputs.std(axis=0) > 1e-9
    standard = (inputs[:, varying] - inputs[:, varying].mean(axis=0)) / inputs[:, varying].std(axis=0)
    # The same by another road: ordinary least squares with rows that draw each coefficient to 0.
    below = np.sqrt(10.0) * np.eye(standard.shape[1])
    target = np.concatenate([precision - precision.mean(), np.zeros(standard.shape[1])])
    expected = np.linalg.lstsq(np.vstack([standard, below]), target, rcond=None)[0]
    np.testing.assert_allclose(np.array(model.coefficients)[varying], expected, atol=1e-9)
    strength = dict(zip(model.names, model.coefficients, strict=True))
    assert strength["norm"] > strength["size"] > 5 * abs(strength["sharpness"])
    assert strength["contrast"] == 0  # all alike
    fitted = model.scores(measures)
    assert np.corrcoef(fitted, precision)[0, 1] > 0.85
    assert (model.queries, model.people, model.dataset) == (400, 100, "drawn")


def test_flags_are_words_and_two_people_are_none_of_them() -> None:
    measures, precision, pids = drawn(400)
    model = fit(measures, precision, pids)
    usual = Measures(12.0, 120, 60, 250.0, 40.0, 120.0)
    assert model.flags([usual]) == [()]
    small = usual._replace(height=16, width=8, sharpness=0.5, norm=0.1)
    assert model.flags([small, usual]) == [("weak feature", "too small", "blurred"), ()]
    wide = usual._replace(height=60, width=120)
    assert model.flags([wide]) == [("odd shape: cut off, or several people",)]
    assert 0 <= model.scores([small])[0] < model.scores([usual])[0] <= 1


def test_scores_out_of_fold_come_from_other_people() -> None:
    measures, precision, pids = drawn(200)
    scores = out_of_fold(measures, precision, pids)
    # The scores of a person stay where that person's own average precisions change.
    changed = precision.copy()
    changed[pids == 7] = 1 - changed[pids == 7]
    again = out_of_fold(measures, changed, pids)
    np.testing.assert_array_equal(scores[pids == 7], again[pids == 7])
    assert not np.array_equal(scores, again)
    with pytest.raises(EvaluationError, match="100 queries of 2 people are too few"):
        out_of_fold(measures[:100], precision[:100], pids[:100] % 2)


def test_a_checkpoint_keeps_the_model() -> None:
    measures, precision, pids = drawn(100)
    model = fit(measures, precision, pids)
    assert stored_quality({"quality": model.as_json()}) == model
    assert QualityModel.from_json(model.as_json()) == model
    assert stored_quality({}) is None
    with pytest.raises(ValueError, match="not one of this version"):
        stored_quality({"quality": {"names": []}})


def test_too_few_queries_fit_nothing() -> None:
    measures, precision, pids = drawn(19)
    with pytest.raises(EvaluationError, match="20 queries or more"):
        fit(measures, precision, pids)
    # Nearly all of them are one person's: outside that fold too few are left.
    with pytest.raises(EvaluationError, match="40 queries of 6 people are too few"):
        folds_of(np.array([1] * 35 + [2, 3, 4, 5, 6]))
