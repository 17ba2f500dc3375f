"""How numbers and names are written in what people read: percent, and text within Markdown."""

import re

#: What ends a cell or begins an emphasis, code or a link; an underscore within a word does not.
_MARKS = re.compile(r"[\\`*|\[\]]|~(?=~)|(?<![^\W_])_|_(?![^\W_])")


def percent(fraction: float) -> str:
    """A score or a share as it is printed: 0.759 is `75.9 %`."""
    return f"{100 * fraction:.1f} %"


def as_markdown(text: object) -> str:
    """What somebody typed, within Markdown: shown as it stands, on one line, also in the cell of a table."""
    line = " ".join(str(text).split())
    return _MARKS.sub(r"\\\g<0>", line.replace("&", "&amp;").replace("<", "&lt;"))
