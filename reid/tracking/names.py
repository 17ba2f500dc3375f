"""What MLflow accepts as names and values, checked here so that a mistake shows where it is made."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

from reid.tracking.errors import TrackingError

MAX_PARAM = 6000
MAX_TAG = 5000
_MAX_NAME = 250

#: How the scores of the model that a run keeps begin, where those of another epoch may be later; and the tag
#: with the epoch of that model.
KEPT, KEPT_EPOCH = "kept/", "reid.kept_epoch"


def check_names(names: Iterable[str], what: str) -> None:
    """Raise TrackingError for the first name that MLflow would refuse (`what`: "metric", "param", …)."""
    for name in names:
        plain = re.fullmatch(r"[\w\-./ ]+", name) and len(name) <= _MAX_NAME
        # A name doubles as a path in MLflow: no "..", no "//", no leading or trailing "/".
        path = posixpath.normpath(name) == name and name != "." and not name.startswith(("/", ".."))
        if not (plain and path):
            raise TrackingError(
                f"{what} name {name!r} is not allowed. Use letters, digits, '_', '-', '.', ' ' and '/' "
                f"between them, at most {_MAX_NAME} characters, as in 'market/rank-1'"
            )


def as_text(values: Mapping[str, object], limit: int) -> dict[str, str]:
    """The values as text of at most `limit` characters; a cut value ends by saying how long it was."""
    return {name: cut(str(value), limit) for name, value in values.items()}


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning and a marker, `limit` characters in all."""
    if len(text) <= limit:
        return text
    marker = f" … [cut, {len(text)} characters in all]"
    return text[: limit - len(marker)] + marker
