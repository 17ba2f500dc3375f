"""Contact sheets: identities down, cameras across."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from reid.figures.pictures import CROP_ASPECT, Picture, place
from reid.figures.style import FAINT, INK, MUTED, PALETTE, WIDTH, inch_axes, new_figure, styled, title_size

_MARGIN, _ROW_LABEL, _TITLE, _COLUMN_LABELS = 0.15, 0.95, 0.42, 0.42
_CROP_GAP, _CELL_GAP, _ROW_GAP, _MAX_CROP = 0.05, 0.2, 0.14, 1.1


@styled
def contact_sheet(
    images: Sequence[Sequence[Sequence[Picture]]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw crops in a grid, one identity a row and one camera a column.

    Args:
        images: images[i][j] holds the crops of identity i by camera j: one, several, or none (an identity
            that this camera never saw).
        row_labels: one for each identity, such as "0012".
        column_labels: one for each camera, such as "camera 1".
        title: written above, if given.

    Raises:
        ValueError: if there is no crop, or the labels do not fit the grid.
    """
    if len(row_labels) != len(images) or any(len(row) != len(column_labels) for row in images):
        shape = sorted({len(row) for row in images})
        raise ValueError(
            f"{len(row_labels)} row and {len(column_labels)} column labels for {len(images)} rows of {shape} "
            "cells; expected one label for each row, one for each column, and rows of equal length"
        )
    deepest = max((len(cell) for row in images for cell in row), default=0)
    if deepest == 0:
        raise ValueError("no crop to draw; expected at least one in images[row][column]")

    columns = len(column_labels)
    room = WIDTH - 2 * _MARGIN - _ROW_LABEL - (columns - 1) * _CELL_GAP
    crop = min(_MAX_CROP, (room / columns - (deepest - 1) * _CROP_GAP) / deepest)
    cell_width = deepest * crop + (deepest - 1) * _CROP_GAP
    row_height = CROP_ASPECT * crop + _ROW_GAP
    header = _MARGIN + (_TITLE if title else 0) + _COLUMN_LABELS
    left = _MARGIN + _ROW_LABEL
    width = left + columns * cell_width + (columns - 1) * _CELL_GAP + _MARGIN
    figure = new_figure(header + len(images) * row_height + _MARGIN, width=width, layout=None)
    axes = inch_axes(figure)
    if title:
        axes.text(
            _MARGIN, _MARGIN + 0.16, title, fontsize=title_size(title, width), weight="bold", va="center"
        )

    lefts = [left + j * (cell_width + _CELL_GAP) for j in range(columns)]
    for j, (x, label) in enumerate(zip(lefts, column_labels, strict=True)):
        axes.text(x, header - 0.2, label, fontsize=10, weight="bold", va="bottom")
        colour = PALETTE[j % len(PALETTE)]
        axes.add_patch(Rectangle((x, header - 0.14), cell_width, 0.04, color=colour, linewidth=0))
    for i, (row, label) in enumerate(zip(images, row_labels, strict=True)):
        y = header + i * row_height
        axes.text(_MARGIN, y + 0.02, label, fontsize=9.5, color=INK, va="top")
        for x, cell in zip(lefts, row, strict=True):
            for k, picture in enumerate(cell):
                corner = (x + k * (crop + _CROP_GAP), y)
                outline = _rounded(corner, crop)
                outline.set_transform(axes.transData)
                place(axes, picture, *corner, crop).set_clip_path(outline)
            if not cell:
                axes.add_patch(_rounded((x, y), cell_width, CROP_ASPECT * crop))
                axes.text(
                    x + cell_width / 2,
                    y + crop,
                    "not seen",
                    fontsize=9,
                    color=MUTED,
                    ha="center",
                    va="center",
                )
    return figure


def _rounded(corner: tuple[float, float], width: float, height: float | None = None) -> FancyBboxPatch:
    tall = CROP_ASPECT * width if height is None else height
    return FancyBboxPatch(
        corner, width, tall, boxstyle="round,pad=0,rounding_size=0.06", facecolor=FAINT, edgecolor="none"
    )
