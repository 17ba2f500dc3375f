"""What the files of a store are called, and what they say of it."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Raised when the pixels that a store holds change for the same file and size.
FORMAT = 3

#: Stands for the hash of a file that cannot be opened.
UNREADABLE = b"unreadable"


def store_key(digests: Iterable[bytes | None], height: int, width: int) -> str:
    """The name of the store of files with these hashes, in this order."""
    content = b"".join(digest or UNREADABLE for digest in digests)
    return hashlib.sha256(f"{FORMAT} {height}x{width} ".encode() + content).hexdigest()[:24]


def read_facts(file: Path) -> dict[str, Any] | None:
    """What `<key>.json` says of its store; None where the store is not whole, or of another format."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
        whole = facts["format"] == FORMAT
        whole = whole and file.with_suffix(".npy").stat().st_size > math.prod(facts["shape"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if whole else None
