"""Figures of same-or-different: drawn whole, and refused where there is nothing to draw."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.figures import (
    Pair,
    Rate,
    compared_pairs,
    hardest_bands,
    pair_distances,
    save,
    verification_roc,
)

pytestmark = pytest.mark.filterwarnings("error")


def test_hardest_bands_show_both_kinds_and_bear_missing_ones(tmp_path: Path) -> None:
    positive, negative = np.full((4, 6), 0.9), np.linspace(1.0, 1.3, 24).reshape(4, 6)
    positive[0, 0] = np.nan
    positive[2] = np.nan  # a batch of people with one image each
    figure = hardest_bands(positive, negative, published={"published": (0.4, 1.3)})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("hardest positive")
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [1, 2, 4]  # type: ignore[union-attr]
    assert "published: about 0.4 to 1.3 (bar)" in labels
    with Image.open(save(figure, tmp_path / "a.png")) as picture:
        assert picture.size[0] == 1080
    with pytest.raises(ValueError, match=r"shape \(4, 6\), negatives \(4, 5\)"):
        hardest_bands(positive, negative[:, :5])
    with pytest.raises(ValueError, match="no anchor"):
        hardest_bands(positive * np.nan, negative)


def test_distances_are_drawn_with_the_threshold() -> None:
    thresholds = np.linspace(0, 2, 201)
    genuine = np.clip(np.arange(201) - 50, 0, 60)
    impostor = np.clip(10 * (np.arange(201) - 100), 0, 600)
    figure = pair_distances(thresholds, genuine, impostor, 1.05, threshold_label="EER")
    upper, lower = figure.axes
    assert [line.get_xdata()[0] for line in upper.lines] == [1.05]  # type: ignore[index]
    assert "EER\n1.0500" in [text.get_text() for text in upper.texts]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["genuine: one person, 60", "impostor: two people, 600"]
    assert names[2:] == ["FAR: impostors accepted", "FRR: genuine rejected"]
    assert lower.get_yscale() == "log"
    with pytest.raises(ValueError, match="no genuine or no impostor pair"):
        pair_distances(thresholds, 0 * genuine, impostor, 1.0)


def test_the_roc_names_its_points_and_leaves_out_the_unknown() -> None:
    far, tar = np.array([0, 0, 0.01, 0.5, 1]), np.array([0, 0.4, 0.8, 0.9, 1])
    rates = [Rate("FAR 1e-2", 0.01, 0.8, (0.7, 0.9)), Rate("FAR 1e-4", np.nan, np.nan)]
    figure = verification_roc(far, tar, rates, impostor_pairs=100, legend_title="EER 11 %")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][1:] == ["FAR 1e-2: TAR 80.0 % [70.0, 90.0]"]
    with pytest.raises(ValueError, match="FAR has 5 points, TAR 4"):
        verification_roc(far, tar[:4], rates, impostor_pairs=100)


def test_compared_pairs_say_their_verdict_in_words() -> None:
    crop = np.zeros((8, 4, 3), np.uint8)
    pairs = [Pair(crop, crop, "a", "b" * 40, 0.5, same) for same in (True, False, None)]
    texts = [text.get_text() for text in compared_pairs(pairs, note="note").axes[0].texts]
    for verdict in ("✓ same person: d = 0.500", "✗ another person: d = 0.500", "no threshold: d = 0.500"):
        assert verdict in texts
    with pytest.raises(ValueError, match="no pair to draw"):
        compared_pairs([])
