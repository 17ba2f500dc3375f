"""A warning of the suite's own is a sentence; one of another package keeps its place."""

import warnings

import pytest

from reid.config import checks
from reid.jobs.plain_warnings import show_plainly


def test_only_our_own_warnings_lose_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    show_plainly()
    assert warnings.formatwarning("too small", UserWarning, checks.__file__, 200) == "too small\n"
    theirs = warnings.formatwarning("too old", UserWarning, warnings.__file__, 3, "x = 1")
    assert theirs == f"{warnings.__file__}:3: UserWarning: too old\n  x = 1\n"
    fault = warnings.formatwarning("in ours", DeprecationWarning, checks.__file__, 200, "x = 1")
    assert fault.startswith(f"{checks.__file__}:200: DeprecationWarning: in ours")
