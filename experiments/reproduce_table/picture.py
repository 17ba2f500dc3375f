"""The table as a picture."""

import textwrap

from matplotlib.figure import Figure

from experiments.reproduce_table.table import Table
from experiments.reproduce_table.words import ABOVE, BELOW, cells, notes
from reid.figures.style import FAINT, INK, MUTED, SMALL, WRONG, headline, inch_axes, new_figure, styled

#: Inches: where the table begins, a line's height, the widths of the first column and of a dataset's three.
_TOP, _LINE = 0.75, 0.34
_NETWORK, _PARTS = 2.3, (2.15, 1.2, 1.5)


@styled
def picture(table: Table) -> Figure:
    """Draw the table in the published form, with its notes and the commit that it was made with."""
    columns = table.profile.columns
    width = _NETWORK + len(columns) * sum(_PARTS) + 0.3
    note_lines = [line for note in notes(table) for line in textwrap.wrap(note, int(width * 14))]
    if "commit" in table.provenance:
        note_lines.append(f"commit {table.provenance['commit']}, {table.provenance.get('date', '')}")
    rows = list(dict.fromkeys(entry.row for entry in table.entries))
    figure = new_figure(_TOP + _LINE * (len(rows) + 0.9) + 0.2 * len(note_lines) + 0.1, width, layout=None)
    axes = inch_axes(figure)
    headline(figure, table.profile.title)
    right = [_NETWORK + at for at in _right_edges(len(columns))]

    for number, column in enumerate(columns):
        axes.text(right[3 * number], _TOP, column.label, ha="right", va="center", fontweight="bold")
        for text, at in zip(table.profile.beside, right[3 * number + 1 : 3 * number + 3], strict=True):
            axes.text(at, _TOP, text, ha="right", va="center", color=MUTED)
    axes.plot([0.12, width - 0.12], [_TOP + 0.5 * _LINE] * 2, color=MUTED, lw=1)
    for line, row in enumerate(rows):
        y = _TOP + (line + 1) * _LINE
        if line % 2:
            axes.axhspan(y - _LINE / 2, y + _LINE / 2, color=FAINT, lw=0)
        axes.text(0.12, y, row.label, va="center")
        texts = [text for entry in table.row(row) for text in cells(entry, table.profile.comparable)]
        for place, (text, at) in enumerate(zip(texts, right, strict=True)):
            outside = ABOVE in text or BELOW in text
            colour = WRONG if outside else INK if place % 3 == 0 else MUTED
            weight = "bold" if outside or place % 3 == 0 else "normal"
            axes.text(at, y, text, ha="right", va="center", color=colour, fontweight=weight)
    below = _TOP + (len(rows) + 0.9) * _LINE
    for line, text in enumerate(note_lines):
        colour = INK if table.complete or line else WRONG
        axes.text(0.12, below + 0.2 * line, text, va="center", fontsize=SMALL, color=colour)
    return figure


def _right_edges(columns: int) -> list[float]:
    edges, at = [], 0.0
    for part in _PARTS * columns:
        at += part
        edges.append(at)
    return edges
