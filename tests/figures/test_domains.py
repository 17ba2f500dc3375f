"""The bars of one model on many datasets show the numbers that they were given."""

from pathlib import Path

import pytest

from reid.figures import domain_bars, save

SCORES = {"market": {"mAP": 0.872, "rank-1": 0.95}, "duke": {"mAP": 0.251, "rank-1": 0.413}}


def test_a_bar_for_each_number(tmp_path: Path) -> None:
    figure = domain_bars(SCORES, own="market")
    (axes,) = figure.axes
    assert [round(bar.get_height(), 1) for bar in axes.patches] == [87.2, 25.1, 95.0, 41.3]  # type: ignore[attr-defined]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True, False, True]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["market\n(trained here)", "duke"]
    assert axes.get_ylabel() == "Score (%)"
    assert save(figure, tmp_path / "domains.png").stat().st_size > 5_000


def test_nothing_is_hatched_where_no_dataset_is_the_own() -> None:
    assert not [bar for bar in domain_bars(SCORES).axes[0].patches if bar.get_hatch()]


@pytest.mark.parametrize(
    ("scores", "own", "message"),
    [
        ({}, None, "no score"),
        (SCORES, "cuhk03", "expected one of market, duke"),
        ({**SCORES, "msmt17": {"mAP": 0.1}}, None, "msmt17 has the scores"),
    ],
)
def test_refuses(scores: dict[str, dict[str, float]], own: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        domain_bars(scores, own)
