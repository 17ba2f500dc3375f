"""The one error that this package raises on purpose, and what a store's own errors mean."""

from __future__ import annotations

import re

from reid.errors import UsageError

#: MLflow's words for what somebody deleted in its UI.
_DELETED = re.compile(r"The (run|experiment) (\S+) must be in the 'active' state")


class TrackingError(UsageError, RuntimeError):
    """A tracking call that cannot be right: a bad name, a folder in use, a run that is not there."""


class NewerJournalError(TrackingError):
    """A newer version of the suite wrote the journal of a run."""


def reason(error: BaseException) -> str:
    """The answer of a store in one line; of what was deleted, how it is restored."""
    if deleted := _DELETED.search(str(error)):
        return f"the {deleted[1]} {deleted[2]} was deleted in MLflow. {how_to_restore(*deleted.groups())}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def is_deleted(error: BaseException) -> bool:
    """Whether a store refuses because somebody deleted the run or its experiment, which can be restored."""
    return _DELETED.search(str(error)) is not None


def how_to_restore(kind: str, name: str) -> str:
    """kind: `run` or `experiment`. name: its id."""
    return f"To bring it back, with MLFLOW_TRACKING_URI set: mlflow {kind}s restore --{kind}-id {name}"
