"""What the doctor finds: lines with a verdict, from looks that may hang or fail, without names of anybody."""

from __future__ import annotations

import getpass
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reid.home import home, source_root

Verdict = Literal["ok", "note", "problem"]

#: An absolute path, and the address of a server or a store.
_PATH = re.compile(r"(?<![\w.~<>/])/(?:[^\s'\":,;()<>]+/)*[^\s'\":,;()<>]*[^\s'\":,;()<>.]")
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+]*)://[^\s'\",;)]+", re.IGNORECASE)
#: What to do about an error that no look expects.
_UNFORESEEN = "mend what it says; if that does not help, report it with this page"
#: Users that are no people.
_NOBODY = ("", "root")


@dataclass(frozen=True)
class Finding:
    """One line of the page: of what, how it is, and of a problem what to do."""

    subject: str
    text: str
    verdict: Verdict = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Look:
    """One thing to look at.

    patience: how often the time that one answer may take. silent: what to do where it never answers.
    """

    section: str
    subject: str
    take: Callable[[], Iterable[Finding]]
    silent: str
    patience: float = 1.0


@dataclass
class _Watched:
    look: Look
    thread: threading.Thread | None = None
    found: list[Finding] = field(default_factory=list)


def take_all(looks: Sequence[Look], seconds: float) -> list[tuple[str, list[Finding]]]:
    """What each look finds, by section, in their order; none is waited for longer than its time.

    All are taken side by side, each in a thread that does not keep the process: a mount that hangs can not be
    left in any other way. What a look has found before it hung or failed counts.
    """
    watched = [_Watched(look) for look in looks]
    started = time.monotonic()
    for one in watched:
        one.thread = threading.Thread(target=_take, args=(one,), daemon=True, name=one.look.subject)
        one.thread.start()
    sections: dict[str, list[Finding]] = {}
    for one in watched:
        assert one.thread is not None
        limit = one.look.patience * seconds
        one.thread.join(max(0.0, started + limit - time.monotonic()))
        found = list(one.found)
        if one.thread.is_alive():
            text = f"no answer within {limit:g} seconds"
            found.append(Finding(one.look.subject, text, "problem", one.look.silent))
        sections.setdefault(one.look.section, []).extend(found)
    return list(sections.items())


def _take(one: _Watched) -> None:
    try:
        for finding in one.look.take():
            one.found.append(finding)
    except Exception as error:  # such as a broken package, which the page has to show
        text = f"could not be looked at: {in_public(error)}"
        one.found.append(Finding(one.look.subject, text, "problem", _UNFORESEEN))


def in_public(thing: object) -> str:
    """A text that came from elsewhere, such as an error: one line, without folders, addresses and names."""
    text = " ".join(str(thing).split())
    if isinstance(thing, BaseException):
        text = f"{type(thing).__name__}: {text}" if text else type(thing).__name__
    for place, word in _places():
        text = text.replace(place, word)
    text = _ADDRESS.sub(r"<\1 address>", text)
    text = _PATH.sub("<path>", text)
    for name, word in _names():
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", word, text)
    return text if len(text) <= 300 else f"{text[:299]}…"


def _places() -> list[tuple[str, str]]:
    """Folders that a text may name and the words for them, the longest first."""
    known = [(os.environ.get("REID_DATA"), "<data root>"), (str(home() / "data"), "<data root>")]
    known += [(str(home()), "<project>"), (str(source_root() or ""), "<project>")]
    known += [(str(Path.home()), "~"), (os.environ.get("HOME"), "~"), (tempfile.gettempdir(), "<temp>")]
    found: dict[str, str] = {}
    for place, word in known:
        for form in {place, os.path.realpath(place)} if place else ():
            if len(form) > 1:
                found.setdefault(form.rstrip("/"), word)
    return sorted(found.items(), key=lambda item: -len(item[0]))


def _names() -> list[tuple[str, str]]:
    """What machine and user are called, and the packages that the user trusts."""
    host = socket.gethostname()
    names = [(host, "<host>"), (host.partition(".")[0], "<host>")]
    with suppress(Exception):  # a container may know no user of this number
        names.append((getpass.getuser(), "<user>"))
    names += [(name.strip(), "<package>") for name in os.environ.get("REID_TRUST", "").split(",")]
    names += [(os.environ.get(key, ""), "<user>") for key in ("USER", "LOGNAME", "MLFLOW_TRACKING_USERNAME")]
    return sorted({(name, word) for name, word in names if name not in _NOBODY}, key=lambda one: -len(one[0]))


def size(count: float) -> str:
    """Bytes, as people say them."""
    for unit, bytes_ in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= bytes_:
            return f"{count / bytes_:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"
