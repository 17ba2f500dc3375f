"""Figures of open-set searches and of probabilities: drawn whole, refused where there is nothing to draw."""

import numpy as np
import pytest

from reid.figures import (
    GallerySizes,
    IdentificationPoint,
    ReliabilityPoints,
    gallery_sizes,
    identification_curve,
    reliability_diagrams,
)

pytestmark = pytest.mark.filterwarnings("error")


def test_a_curve_is_drawn_for_each_fusion_with_its_threshold() -> None:
    false, missed = np.array([0.0, 0.01, 0.1, 1.0]), np.array([0.6, 0.3, 0.0, 0.0])
    point = IdentificationPoint("best", 0.0, 0.3, (0.0, 0.02), (0.2, 0.4))
    figure = identification_curve({"best": (false, missed), "mean": (false, missed / 2)}, [point])
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["best", "mean", "best: threshold fixed on other people"]
    for wrong in ({}, {"best": (false, missed[:2])}, {"best": (false[:0], missed[:0])}):
        with pytest.raises(ValueError, match="expected curves"):
            identification_curve(wrong)


def test_sizes_show_what_is_measured_and_modelled() -> None:
    nothing = (np.nan, np.nan)
    sizes = GallerySizes(
        [10, 100], [0.001, 0.01], [(0.0, 0.002), (0.005, 0.02)], [0.001, 0.03], [0.8, np.nan],
        [(0.7, 0.9), nothing],
    )  # fmt: skip
    figure = gallery_sizes(sizes, wanted=0.01)
    left, right = figure.axes
    modelled = [line for line in left.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in modelled] == [[0.1, 3.0]]  # type: ignore[arg-type]
    assert list(right.lines[0].get_xdata()) == [10]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected as many of each"):
        gallery_sizes(GallerySizes([1], [0.1], [], [], [], []), wanted=0.01)


def test_reliability_is_drawn_beside_the_diagonal() -> None:
    one = ReliabilityPoints("logistic", [0.1, 0.9], [0.2, 0.8], [(0.1, 0.3), (0.7, 0.9)], [0.5, 0.5])
    unknown = ReliabilityPoints("before", [0.5], [0.5], [(np.nan, np.nan)], [1.0])
    figure = reliability_diagrams([unknown, one], note="at a prior of 50 %")
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == ["before", "logistic"]
    assert figure.legends[0].get_title().get_text() == "at a prior of 50 %"
    with pytest.raises(ValueError, match="there is no diagram"):
        reliability_diagrams([])
    with pytest.raises(ValueError, match="expected as many, at least one"):
        reliability_diagrams([ReliabilityPoints("x", [0.1], [], [], [])])
