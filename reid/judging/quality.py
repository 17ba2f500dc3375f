"""How good a crop is, before anybody is looked for: measures of the picture, and a model of them.

What can be seen so: few pixels, blur, little contrast, darkness, a shape that no standing person has (cut
off, or more than one person side by side), and a short feature, which says that little of the crop reminded
the network of a person. **Two people in one crop of the usual shape cannot be seen so**, nor can somebody
who hides
another: that needs a detector or a network that parses bodies, and this is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reid.retrieval.protocol import EvaluationError
from reid.retrieval.verify import Floats

#: The key of a checkpoint's `meta`.
KEY = "quality"
#: Grey from red, green and blue (ITU-R BT.601), as PIL has it.
_GREY = np.array([0.299, 0.587, 0.114])
#: How strongly coefficients are drawn to 0: as if each measure had been seen so many times to say nothing.
RIDGE = 10.0
#: A crop is flagged where a measure lies among this share of those that the model was fitted on.
FLAGGED = 0.05
#: Fewer queries than this fit no model.
FEWEST = 20


class Measures(NamedTuple):
    """What a crop is like.

    Attributes:
        norm: L2 norm of its feature before any normalisation.
        height, width: in pixels, of the file's picture, upright.
        sharpness: variance of the Laplacian of the grey crop at the size that the network sees (grey levels
            squared): a small crop that was enlarged is as blurred as one out of focus.
        contrast, brightness: standard deviation and mean of its grey levels, 0 to 255.
    """

    norm: float
    height: int
    width: int
    sharpness: float
    contrast: float
    brightness: float

    @property
    def aspect(self) -> float:
        """Height by width: about 2 for a standing person."""
        return self.height / self.width


def measure(pixels: npt.NDArray[np.uint8], height: int, width: int, norm: float) -> Measures:
    """The measures of a crop.

    Args:
        pixels: (H, W, 3) RGB, at the size that the network sees.
        height, width: of the picture before it was resized.
        norm: of its feature.

    Raises:
        ValueError: another shape, or a size below 1.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0 or height < 1 or width < 1:
        raise ValueError(
            f"pixels of shape {pixels.shape} of a picture of {height} x {width}; expected (H, W, 3)"
        )
    grey = pixels @ _GREY
    return Measures(norm, height, width, sharpness(grey), float(grey.std()), float(grey.mean()))


def sharpness(grey: Floats) -> float:
    """The variance of the Laplacian (4 neighbours) of a grey picture (H, W), over the pixels that have all.

    0 for a picture of fewer than 3 pixels in height or width.
    """
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var())


def columns(measures: Sequence[Measures]) -> dict[str, Floats]:
    """The inputs of the model by name, (N,) each: logarithms where a measure is a scale, and two distances
    from the middle, since too bright is as bad as too dark, and too wide as bad as too narrow."""
    table = np.array([tuple(one) for one in measures], dtype=np.float64).reshape(-1, len(Measures._fields))
    norm, height, width, sharp, contrast, brightness = table.T
    return {
        "norm": np.log(np.maximum(norm, 1e-12)),
        "size": np.log(height * width),
        "sharpness": np.log1p(sharp),
        "contrast": contrast,
        "brightness": -np.abs(brightness - 127.5),
        "shape": -np.abs(np.log(height / width / 2)),
    }


@dataclass(frozen=True)
class QualityModel:
    """A ridge regression of average precision on measures.

    Attributes:
        names: of the inputs, see `columns`.
        means, deviations: (M,) of the inputs that it was fitted on.
        coefficients: (M,) of the standardised inputs.
        intercept: the mean of the average precisions.
        low, high: (M,) the quantiles of the inputs below and above which a crop is flagged.
        queries, people: how many it was fitted on.
        dataset: on what.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    queries: int
    people: int
    dataset: str = ""

    def scores(self, measures: Sequence[Measures]) -> Floats:
        """The average precision that crops lead one to expect, (N,), from 0 to 1: comparable among crops,
        and a promise on data like those that the model was fitted on alone."""
        table = columns(measures)
        inputs = np.stack([table[name] for name in self.names], axis=1)
        standard = (inputs - np.array(self.means)) / np.array(self.deviations)
        # A crop beyond all that was seen is no better or worse than the best or worst of those.
        expected = self.intercept + np.clip(standard, -4, 4) @ np.array(self.coefficients)
        return np.clip(expected, 0.0, 1.0)

    def flags(self, measures: Sequence[Measures]) -> list[tuple[str, ...]]:
        """What is amiss with each crop, in words: a measure among the lowest FLAGGED of those fitted on."""
        table = columns(measures)
        words = {
            "norm": "weak feature", "size": "too small", "sharpness": "blurred", "contrast": "little "
            "contrast",
            "brightness": "too dark or too bright", "shape": "odd shape: cut off, or several people",
        }  # fmt: skip
        low = {name: table[name] < limit for name, limit in zip(self.names, self.low, strict=True)}
        return [
            tuple(word for name, word in words.items() if name in low and low[name][row])
            for row in range(len(measures))
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> QualityModel:
        """The model that a checkpoint carries.

        Raises:
            TypeError: it is not one of this version.
        """
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


def stored_quality(meta: dict[str, Any]) -> QualityModel | None:
    """The model that a checkpoint's `meta` carries, or None.

    Raises:
        ValueError: it is not one of this version.
    """
    values = meta.get(KEY)
    if values is None:
        return None
    try:
        return QualityModel.from_json(values)
    except TypeError as error:
        raise ValueError(
            f"the model of quality in the checkpoint is not one of this version ({error}): measure it "
            "again with "
            "python -m reid.evaluate checkpoint=… eval.quality=true card=true"
        ) from error


def fit(
    measures: Sequence[Measures], precision: Floats, pids: npt.NDArray[np.int64], dataset: str = ""
) -> QualityModel:
    """Fit the model to queries (Q,) with their average precisions.

    Raises:
        EvaluationError: lengths differ, or there are fewer than FEWEST queries.
        ValueError: a number is not finite.
    """
    if not len(measures) == len(precision) == len(pids) or len(measures) < FEWEST:
        raise EvaluationError(
            f"{len(measures)} crops, {len(precision)} average precisions and {len(pids)} people; "
            "expected one each "
            f"for {FEWEST} queries or more"
        )
    table = columns(measures)
    inputs = np.stack(list(table.values()), axis=1)
    if not (np.isfinite(inputs).all() and np.isfinite(precision).all()):
        raise ValueError("a measure or an average precision is NaN or infinite; leave such queries out")
    means, deviations = inputs.mean(axis=0), inputs.std(axis=0)
    constant = deviations < 1e-9
    deviations = np.where(constant, 1.0, deviations)
    standard = np.where(constant, 0.0, (inputs - means) / deviations)
    intercept = float(precision.mean())
    gram = standard.T @ standard + RIDGE * np.eye(inputs.shape[1])
    coefficients = np.linalg.solve(gram, standard.T @ (precision - intercept))
    low, high = np.quantile(inputs, [FLAGGED, 1 - FLAGGED], axis=0)
    return QualityModel(
        tuple(table), tuple(means.tolist()), tuple(deviations.tolist()), tuple(coefficients.tolist()),
        intercept, tuple(low.tolist()), tuple(high.tolist()), len(measures), len(np.unique(pids)), dataset,
    )  # fmt: skip


def folds_of(pids: npt.NDArray[np.int64], folds: int = 5, seed: int = 0) -> npt.NDArray[np.int64]:
    """The fold of each query (Q,), all of a person in one.

    Raises:
        EvaluationError: there are fewer people than folds, or outside one of them fewer than FEWEST queries.
    """
    people, person = np.unique(pids, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(people)) % folds)[person]
    outside = len(pids) - int(np.bincount(fold, minlength=folds).max(initial=0))
    if len(people) < folds or outside < FEWEST:
        raise EvaluationError(
            f"a model of quality is fitted on some of the people and judged on others, {folds} times: "
            f"{len(pids)} "
            f"queries of {len(people)} people are too few. {folds} people are needed, and {FEWEST} "
            "queries beside "
            "those of each fifth of them"
        )
    return fold


def out_of_fold(
    measures: Sequence[Measures],
    precision: Floats,
    pids: npt.NDArray[np.int64],
    folds: int = 5,
    seed: int = 0,
) -> Floats:
    """The score of each query (Q,) by a model that was fitted on other people alone.

    So what the score promises is judged on people whom it has not seen.

    Raises:
        EvaluationError, ValueError: as `fit` and `folds_of`.
    """
    fold = folds_of(pids, folds, seed)
    scores = np.empty(len(pids))
    for number in range(folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        model = fit([measures[row] for row in outside.tolist()], precision[outside], pids[outside])
        scores[inside] = model.scores([measures[row] for row in inside.tolist()])
    return scores
