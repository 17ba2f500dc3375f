"""The look that every figure shares, and how a figure reaches the disk.

Only matplotlib's object interface is used: no pyplot, hence no window, no list of open figures, and no
settings that outlive a call. Sizes are in inches; at `DPI` a figure of `WIDTH` is 1080 pixels wide and its
smallest text is still readable when a README shows it at about 900.
"""

import functools
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

WIDTH = 9.0
DPI = 120
SMALL = 8.5

# Okabe and Ito, "Color Universal Design" (2008), without its yellow, which is too faint on white.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
LINE_STYLES = ("-", "--", "-.", ":")
RIGHT, WRONG, QUERY = "#12924F", "#CC1F2F", "#0B5FB0"
INK, MUTED, FAINT = "#222222", "#5F6670", "#EEF1F4"

#: Stands below the chart of a sweep that ran each setting once.
ONE_SEED = "One run a setting (one seed): no spread of the seeds is known."

# `Any`, since matplotlib types this mapping otherwise from version to version.
STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 10,
    "text.parse_math": False,  # a dollar in the name of a run, a file or a key begins no formula
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9AA1A9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E6EA",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.fontsize": 9,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.09,
}

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

P = ParamSpec("P")


class StyledFigure(Figure):
    """A figure drawn, not only built, in the house style: matplotlib makes its ticks while it draws."""

    def draw(self, renderer: RendererBase) -> None:
        with matplotlib.rc_context(STYLE):
            super().draw(renderer)


def styled(build: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function build its figure in the house style, and leave matplotlib's settings as they were."""

    @functools.wraps(build)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return build(*args, **kwargs)

    return wrapper


def new_figure(height: float, width: float = WIDTH, layout: str | None = "constrained") -> Figure:
    """An empty figure of `width` x `height` inches, bound to the Agg canvas (no display is needed)."""
    figure = StyledFigure(figsize=(width, height), dpi=DPI, layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, text: str) -> Text:
    """Write the figure's title at its top left, smaller where it would run out of the figure."""
    size = title_size(text, figure.get_size_inches()[0])
    return figure.suptitle(text, x=0.011, ha="left", fontsize=size, fontweight="bold")


def title_size(text: str, width: float) -> float:
    """Points in which a bold title fits a figure of `width` inches: 13, less where it is long."""
    room = 8.0 * width  # characters of 13 points, bold, on average
    return max(SMALL, 13 * min(1.0, room / max(1, len(text))))


def inch_axes(figure: Figure) -> Axes:
    """Bare axes over the whole figure; data units are inches from the top left corner, y pointing down."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return axes


class Powers(LogFormatterSciNotation):
    """The ticks of a logarithmic axis, `10⁻³` in plain letters where matplotlib writes a formula."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = super().__call__(x, pos)
        plain = re.sub(r"\^\{([-0-9]*)\}", lambda power: power[1].translate(_RAISED), formula)
        return re.sub(r"[${}]|\\mathdefault", "", plain.replace(r"\times", "\N{MULTIPLICATION SIGN}"))


def log_scale(axes: Axes, which: str) -> None:
    """Make the `x` or `y` axis logarithmic."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(Powers())
    axis.set_minor_formatter(Powers(labelOnlyBase=False))


def whole_number_axis(axes: Axes, lowest: float, highest: float) -> None:
    """Let an x axis of counts (ranks, epochs) run from `lowest` to `highest`, with whole ticks only."""
    margin = 0.5 if highest == lowest else 0.02 * (highest - lowest)
    axes.set_xlim(lowest - margin, highest + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write `figure` as PNG to `path`, making its folder if need be, and return the path.

    The file appears whole or not at all: it is written beside its place and renamed into it.

    Raises:
        ValueError: if `path` does not end in `.png`.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"figures are saved as PNG, but the path is {target}; let its name end in .png")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        # In half the time of zlib's default, and a twentieth larger.
        figure.savefig(partial, format="png", pil_kwargs={"compress_level": 4})
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target
