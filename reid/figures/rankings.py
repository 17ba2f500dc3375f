"""Ranked lists: queries, and what the gallery answered."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reid.figures.pictures import CROP_ASPECT, Picture, place
from reid.figures.style import (
    MUTED,
    QUERY,
    RIGHT,
    SMALL,
    WIDTH,
    WRONG,
    inch_axes,
    new_figure,
    styled,
    title_size,
)


@dataclass(frozen=True)
class Hit:
    """A gallery image of a ranked list; `label` is written below it, such as "cam 3\\n0.81"."""

    image: Picture
    correct: bool
    label: str


@dataclass(frozen=True)
class RankedList:
    """A query, its average precision (0..1), and its first gallery images, nearest first, without junk.

    `first_match`: the first right one, where it comes after the `hits`.
    """

    query_image: Picture
    ap: float
    query_label: str
    hits: Sequence[Hit]
    first_match: Hit | None = None


@dataclass(frozen=True)
class FoundImage:
    """A gallery image that a search found: None where its file has gone.

    `same` is what a threshold says, None without one; `label` is written below it.
    """

    image: Picture | None
    same: bool | None
    label: str


@dataclass(frozen=True)
class SearchResult:
    """The images of one person who was looked for, who it is, and the gallery images, nearest first."""

    query_images: Sequence[Picture]
    conclusion: str
    hits: Sequence[FoundImage]


_ORDERS = {"worst": "worst first", "best": "best first", "random": "in random order"}

_MARGIN, _ROW_LABEL, _HEADER = 0.15, 1.1, 1.15
_GAP, _CAPTION, _MAX_CROP, _MIN_WIDTH = 0.09, 0.42, 0.95, 6.8


@styled
def ranked_lists(
    entries: Sequence[RankedList], order: str, *, title: str = "Ranked lists", note: str = ""
) -> Figure:
    """Draw one row for each query: the query framed in blue, then its hits, right in green, wrong in red.

    A tick or a cross also marks right and wrong, for readers who do not see the colours apart. Where
    no hit is right, the first match stands after a gap.

    Args:
        entries: the queries, in the order in which they are drawn. Lists may differ in length.
        order: `worst` (lowest AP first), `best` (highest first) or `random`; the header states it.
        title: opens the header, before the order.
        note: ends the small print below it, such as where a list ends.

    Raises:
        ValueError: if there is no entry, `order` is unknown, an AP is not in 0..1, or the entries are not
            in the order that the header would state.
    """
    _check(entries, order)
    # A first match takes two places: dots stand in the one before it.
    longest = max(1, *(len(entry.hits) + (2 if entry.first_match else 0) for entry in entries))
    crop = min(_MAX_CROP, (WIDTH - 2 * _MARGIN - _ROW_LABEL - _GAP) / (longest + 1) - _GAP)
    row = CROP_ASPECT * crop + _CAPTION + _GAP
    hits_left = _MARGIN + _ROW_LABEL + crop + 2 * _GAP
    width = max(_MIN_WIDTH, hits_left + longest * (crop + _GAP) + _MARGIN)
    figure = new_figure(_HEADER + row * len(entries), width=width, layout=None)
    axes = inch_axes(figure)

    count = "1 query" if len(entries) == 1 else f"{len(entries)} queries"
    header = f"{title}: {count}, {_ORDERS[order]}"
    size = title_size(header, width)
    axes.text(_MARGIN, 0.3, header, fontsize=size, weight="bold", va="center")
    _legend(axes, 0.62)
    subtitle = "; ".join(part for part in ("gallery images, nearest first, without junk", note) if part)
    axes.text(_MARGIN, 0.86, subtitle, fontsize=SMALL, color=MUTED, va="center")
    for i, entry in enumerate(entries):
        top = _HEADER + i * row
        axes.text(_MARGIN, top + 0.02, f"AP {100 * entry.ap:.1f} %", fontsize=10.5, weight="bold", va="top")
        label = "\n".join(line for part in entry.query_label.splitlines() for line in textwrap.wrap(part, 15))
        axes.text(_MARGIN, top + 0.24, label, fontsize=SMALL, color=MUTED, va="top")
        _framed(axes, entry.query_image, (_MARGIN + _ROW_LABEL, top), crop, QUERY, "query")
        for rank, hit in enumerate(entry.hits):
            _draw_hit(axes, hit, (hits_left + rank * (crop + _GAP), top), crop)
        if entry.first_match is not None:
            gap = hits_left + len(entry.hits) * (crop + _GAP)
            axes.text(gap + crop / 2, top + crop, "…", fontsize=16, color=MUTED, ha="center", va="center")
            _draw_hit(axes, entry.first_match, (gap + crop + _GAP, top), crop)
        if not entry.hits:
            axes.text(hits_left + _GAP, top + crop, "no gallery image", color=MUTED, va="center")
    return figure


#: Hits in a line, and images of a query that are drawn.
_IN_A_LINE, _QUERY_IMAGES = 10, 4


@styled
def search_results(results: Sequence[SearchResult], *, title: str = "Who is this?", note: str = "") -> Figure:
    """Draw each query framed in blue and its hits in lines of ten, as `ranked_lists` does.

    Within the threshold is green with a tick, beyond it red with a cross, and without one grey.

    Args:
        results: in the order in which they are drawn.
        title: opens the figure.
        note: the small print below it, such as what the threshold was measured on.

    Raises:
        ValueError: there is none.
    """
    if not results:
        raise ValueError("no search to draw; expected at least one query")
    crop = (WIDTH - 2 * _MARGIN - 2 * _GAP) / (_IN_A_LINE + 1) - _GAP
    line = CROP_ASPECT * crop + _CAPTION + _GAP
    left = _MARGIN + crop + 3 * _GAP
    small_print = textwrap.wrap(note, 128)
    header = 1.0 + 0.15 * len(small_print)
    lines = [
        max(1, min(len(one.query_images), _QUERY_IMAGES), -(-len(one.hits) // _IN_A_LINE)) for one in results
    ]
    block = 0.3
    figure = new_figure(header + sum(block + count * line for count in lines), width=WIDTH, layout=None)
    axes = inch_axes(figure)
    axes.text(_MARGIN, 0.3, title, fontsize=title_size(title, WIDTH), weight="bold", va="center")
    kinds = {hit.same for one in results for hit in one.hits}
    entries = [(QUERY, "query")]
    entries += [(RIGHT, "✓ within the threshold"), (WRONG, "✗ beyond it")] if kinds - {None} else []
    _legend(axes, 0.62, [*entries, (MUTED, "no threshold")] if None in kinds else entries)
    axes.text(_MARGIN, 0.8, "\n".join(small_print), fontsize=SMALL, color=MUTED, va="top")
    top = header
    for one, count in zip(results, lines, strict=True):
        axes.text(_MARGIN, top + 0.02, one.conclusion, fontsize=10.5, weight="bold", va="top")
        top += block
        more = len(one.query_images) - _QUERY_IMAGES
        for number, picture in enumerate(one.query_images[:_QUERY_IMAGES]):
            caption = f"query, {more} more" if more > 0 and number == _QUERY_IMAGES - 1 else "query"
            _framed(axes, picture, (_MARGIN, top + number * line), crop, QUERY, caption)
        for number, hit in enumerate(one.hits):
            corner = (
                left + number % _IN_A_LINE * (crop + _GAP),
                top + number // _IN_A_LINE * line,
            )
            mark, colour = {None: ("", MUTED), True: ("✓ ", RIGHT), False: ("✗ ", WRONG)}[hit.same]
            _framed(axes, hit.image, corner, crop, colour, f"{mark}{hit.label}")
        if not one.hits:
            axes.text(left + _GAP, top + crop, "no gallery image", color=MUTED, va="center")
        top += count * line
    return figure


def _check(entries: Sequence[RankedList], order: str) -> None:
    if not entries:
        raise ValueError("no ranked list to draw; expected at least one query")
    if order not in _ORDERS:
        raise ValueError(f"order is {order!r}; expected one of {', '.join(_ORDERS)}")
    for entry in entries:
        if not 0 <= entry.ap <= 1:
            raise ValueError(
                f"the AP of query {entry.query_label!r} is {entry.ap}; expected a fraction in 0..1"
            )
    precisions = [entry.ap for entry in entries]
    if order != "random" and precisions != sorted(precisions, reverse=order == "best"):
        shown = ", ".join(f"{ap:.3f}" for ap in precisions[:6])
        raise ValueError(
            f"the header would say {_ORDERS[order]!r}, but the APs are {shown}; sort the entries by AP"
        )


def _draw_hit(axes: Axes, hit: Hit, corner: tuple[float, float], crop: float) -> None:
    mark, colour = ("✓", RIGHT) if hit.correct else ("✗", WRONG)
    _framed(axes, hit.image, corner, crop, colour, f"{mark} {hit.label}")


def _framed(
    axes: Axes, picture: Picture | None, corner: tuple[float, float], width: float, colour: str, caption: str
) -> None:
    x, y = corner
    if picture is not None:
        place(axes, picture, x, y, width)
    else:
        axes.text(
            x + width / 2, y + CROP_ASPECT * width / 2, "file\ngone", color=MUTED, ha="center", va="center"
        )
    frame = Rectangle(corner, width, CROP_ASPECT * width, fill=False, edgecolor=colour, linewidth=2.6)
    axes.add_patch(frame)
    axes.text(
        x + width / 2, y + CROP_ASPECT * width + 0.05, caption,
        fontsize=SMALL, color=colour, ha="center", va="top", linespacing=1.15,
    )  # fmt: skip


_PEOPLE = ((QUERY, "query"), (RIGHT, "✓ same person"), (WRONG, "✗ another person"))


def _legend(axes: Axes, y: float, entries: Sequence[tuple[str, str]] = _PEOPLE) -> None:
    x = _MARGIN
    for colour, text in entries:
        axes.add_patch(Rectangle((x, y - 0.08), 0.12, 0.16, fill=False, edgecolor=colour, linewidth=2.2))
        axes.text(x + 0.19, y, text, fontsize=9, color=colour, va="center")
        x += 0.42 + 0.072 * len(text)
