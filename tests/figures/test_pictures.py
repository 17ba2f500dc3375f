"""Ranked lists and contact sheets: what stands where, in which frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from reid.figures import Hit, RankedList, contact_sheet, ranked_lists
from reid.figures.pictures import pixels
from reid.figures.style import QUERY, RIGHT, WRONG

pytestmark = pytest.mark.filterwarnings("error")


def crop(seed: int, height: int = 32, width: int = 16) -> np.ndarray:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, height // 4, axis=0)[:, None], width, axis=1)


def ranked(ap: float, correct: str) -> RankedList:
    hits = [Hit(crop(i), letter == "y", f"cam {i}\n0.{i}") for i, letter in enumerate(correct)]
    return RankedList(crop(99), ap, "pid 0012\ncam 1", hits)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def outside(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for axes in figure.axes for text in axes.texts]
    return [t for t, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1]


def frames(figure: Figure) -> list[str]:
    """Colours of the frames of crops, in the order drawn (the legend's small boxes left out)."""
    patches = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_height() > 0.3]
    return [to_hex(patch.get_edgecolor()) for patch in patches]


def test_ranked_lists_frame_query_right_and_wrong() -> None:
    figure = ranked_lists([ranked(0.1, "nyn"), ranked(0.8, "yn")], "worst")
    right, wrong, query = RIGHT.lower(), WRONG.lower(), QUERY.lower()
    assert frames(figure) == [query, wrong, right, wrong, query, right, wrong]
    assert len(figure.axes[0].images) == 7
    assert "Ranked lists: 2 queries, worst first" in texts(figure)
    assert {"AP 10.0 %", "AP 80.0 %", "✓ cam 1\n0.1", "✗ cam 0\n0.0"} <= set(texts(figure))


@pytest.mark.parametrize("hits", [0, 1, 10])
@pytest.mark.parametrize("order", ["best", "random"])
def test_ranked_lists_of_one_query_keep_all_text_on_the_page(hits: int, order: str) -> None:
    figure = ranked_lists([ranked(1.0, "y" * hits)], order)
    assert outside(figure) == []
    assert ("no gallery image" in texts(figure)) == (hits == 0)
    assert figure.get_size_inches()[0] <= 9.0 + 1e-9


def test_a_first_match_that_comes_late_stands_after_the_hits() -> None:
    late = Hit(crop(50), True, "rank 12,345\ncam 3, d 0.81")
    entry = replace(
        ranked(0.01, "n" * 8), first_match=late, query_label="id 5\n2 matches\nfirst: rank 12,345"
    )
    figure = ranked_lists(
        [entry, ranked(0.5, "ny")], "worst", title="a name of sixty characters, as long" * 2
    )
    assert outside(figure) == []
    assert {"…", "✓ rank 12,345\ncam 3, d 0.81"} <= set(texts(figure))
    colours = frames(figure)
    assert colours[:10] == [QUERY.lower(), *[WRONG.lower()] * 8, RIGHT.lower()]
    rights = [image.get_extent()[1] for image in figure.axes[0].images[:10]]
    assert rights == sorted(rights)
    assert rights[9] - rights[8] > 1.5 * (rights[8] - rights[7])  # a gap with dots


def test_ranked_lists_say_how_they_were_made() -> None:
    figure = ranked_lists(
        [ranked(1.0, "y")], "best", note="a list ends at its last match; one query a person"
    )
    note = "gallery images, nearest first, without junk; a list ends at its last match; one query a person"
    assert note in texts(figure)
    assert outside(figure) == []


def test_ranked_lists_put_crops_nowhere_over_each_other() -> None:
    late = replace(ranked(0.05, "n" * 8), first_match=Hit(crop(50), True, "rank 12"))
    figure = ranked_lists([late, ranked(0.1, "n" * 8), ranked(0.2, "n" * 8)], "worst")
    spans = sorted(tuple(image.get_extent()) for image in figure.axes[0].images)
    for i, (left, right, bottom, top) in enumerate(spans):
        for other_left, other_right, other_bottom, other_top in spans[:i]:
            apart = other_right <= left or right <= other_left or other_bottom <= top or bottom <= other_top
            assert apart


def test_ranked_lists_refuse_a_header_that_would_not_be_true() -> None:
    with pytest.raises(ValueError, match=r"'worst first', but the APs are 0\.800, 0\.100"):
        ranked_lists([ranked(0.8, "y"), ranked(0.1, "n")], "worst")
    with pytest.raises(ValueError, match="one of worst, best, random"):
        ranked_lists([ranked(0.8, "y")], "sorted")
    with pytest.raises(ValueError, match="at least one query"):
        ranked_lists([], "worst")
    with pytest.raises(ValueError, match="AP of query 'pid 0012"):
        ranked_lists([replace(ranked(0.8, "y"), ap=float("nan"))], "best")


def test_contact_sheet_labels_rows_and_columns() -> None:
    cells = [[[crop(0), crop(1)], [crop(2)]], [[], [crop(3)]]]
    figure = contact_sheet(cells, ["0001", "0002"], ["camera 1", "camera 2"], title="Synthetic")
    assert outside(figure) == []
    assert texts(figure) == ["Synthetic", "camera 1", "camera 2", "0001", "0002", "not seen"]
    assert len(figure.axes[0].images) == 4
    tops = {round(image.get_extent()[3], 6) for image in figure.axes[0].images}
    assert len(tops) == 2


@pytest.mark.parametrize(("columns", "deep"), [(1, 1), (4, 3), (8, 2)])
def test_contact_sheet_fits_the_page(columns: int, deep: int) -> None:
    cells = [[[crop(k) for k in range(deep)]] * columns] * 2
    figure = contact_sheet(cells, ["0001", "0002"], [f"cam {j}" for j in range(columns)])
    width = figure.get_size_inches()[0]
    assert width <= 9.0 + 1e-9
    assert max(image.get_extent()[1] for image in figure.axes[0].images) <= width


def test_contact_sheet_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="1 row and 2 column labels for 1 rows"):
        contact_sheet([[[crop(0)]]], ["0001"], ["camera 1", "camera 2"])
    with pytest.raises(ValueError, match="no crop"):
        contact_sheet([[[]]], ["0001"], ["camera 1"])


def test_pictures_come_from_paths_and_arrays(tmp_path: Path) -> None:
    path = tmp_path / "0001_c1s1_000001_00.png"
    Image.fromarray(crop(5)).convert("P").save(path)
    assert pixels(path).shape == pixels(crop(5)).shape == (32, 16, 3)
    assert pixels(str(path)).dtype == np.uint8


@pytest.mark.parametrize("wrong", [crop(0).transpose(2, 0, 1), crop(0) / 255.0, crop(0)[..., 0]])
def test_pictures_refuse_other_arrays(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        pixels(wrong)
