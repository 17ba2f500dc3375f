"""Pairs of images side by side: the same person, or another?"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reid.figures.pictures import CROP_ASPECT, Picture, place
from reid.figures.style import MUTED, RIGHT, SMALL, WIDTH, WRONG, inch_axes, new_figure, styled, title_size

_MARGIN, _HEADER, _CAPTION, _GAP, _BETWEEN, _CROP = 0.2, 0.85, 0.42, 0.3, 0.06, 0.92
_COLUMNS = int((WIDTH - 2 * _MARGIN + _GAP) / (2 * _CROP + _BETWEEN + _GAP))


@dataclass(frozen=True)
class Pair:
    """Two images, their distance, and whether it says one person; None where there is no threshold."""

    first: Picture
    second: Picture
    first_label: str
    second_label: str
    distance: float
    same: bool | None


@styled
def compared_pairs(pairs: Sequence[Pair], *, title: str = "Same person or another", note: str = "") -> Figure:
    """Draw each pair in a frame: green for the same person, red for two people, grey for no verdict.

    The verdict is written below too, for readers who do not see the colours apart. Crops are stretched to
    one shape, as a network sees them.

    Args:
        pairs: in the order in which they are drawn.
        title: opens the header.
        note: small print below it, such as the threshold and its error rates.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("no pair to draw; expected at least one")
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    cell_width = 2 * _CROP + _BETWEEN
    cell_height = CROP_ASPECT * _CROP + _CAPTION + _GAP
    note = "\n".join(line for part in note.splitlines() for line in textwrap.wrap(part, 115))
    header = _HEADER + 0.15 * note.count("\n")
    figure = new_figure(header + rows * cell_height, width=WIDTH, layout=None)
    axes = inch_axes(figure)
    axes.text(_MARGIN, 0.3, title, fontsize=title_size(title, WIDTH), weight="bold", va="center")
    axes.text(_MARGIN, 0.48, note, fontsize=SMALL, color=MUTED, va="top")
    for i, pair in enumerate(pairs):
        row, column = divmod(i, columns)
        _draw(axes, pair, _MARGIN + column * (cell_width + _GAP), header + row * cell_height)
    return figure


def _draw(axes: Axes, pair: Pair, left: float, top: float) -> None:
    height, width = CROP_ASPECT * _CROP, 2 * _CROP + _BETWEEN
    colour, verdict = {
        True: (RIGHT, "✓ same person"),
        False: (WRONG, "✗ another person"),
        None: (MUTED, "no threshold"),
    }[pair.same]
    middle = left + _CROP + _BETWEEN
    for picture, label, x in ((pair.first, pair.first_label, left), (pair.second, pair.second_label, middle)):
        place(axes, picture, x, top, _CROP)
        name = label if len(label) <= 15 else f"…{label[-14:]}"
        axes.text(x + _CROP / 2, top + height + 0.07, name, fontsize=7, color=MUTED, ha="center", va="top")
    frame = Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=2.6)
    axes.add_patch(frame)
    axes.text(
        left + width / 2, top + height + 0.24, f"{verdict}: d = {pair.distance:.3f}",
        fontsize=9, color=colour, weight="bold", ha="center", va="top",
    )  # fmt: skip
