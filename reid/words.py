"""How numbers and names are written in what people read: percent, and text within Markdown."""

import re

#: What ends a cell or begins an emphasis, code or a link; an underscore within a word does not.
_MARKS = re.compile(r"[\\`*|\[\]]|~(?=~)|(?<![^\W_])_|_(?![^\W_])")


def percent(fraction: float) -> str:
    """A score or a share as it is printed: 0.759 is `75.9 %`."""
    return f"{100 * fraction:.1f} %"


def chance(probability: float) -> str:
    """A probability above 0 and below 1, never printed as 0 % or 100 %: 0.99993 is `99.993 %`."""
    digits = 1
    while digits < 12 and float(f"{100 * probability:.{digits}f}") in (0.0, 100.0):
        digits += 1
    return f"{100 * probability:.{digits}f} %"


def as_markdown(text: object) -> str:
    """What somebody typed, within Markdown: shown as it stands, on one line, also in the cell of a table."""
    line = " ".join(str(text).split())
    return _MARKS.sub(r"\\\g<0>", line.replace("&", "&amp;").replace("<", "&lt;"))
