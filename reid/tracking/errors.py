"""The one error that this package raises on purpose, and what a store's own errors mean."""

from __future__ import annotations

import os
import re

from reid.errors import UsageError

#: MLflow's words for what somebody deleted in its UI.
_DELETED = re.compile(r"The (run|experiment) (\S+) must be in the 'active' state")
#: An answer 401 or 403, as MLflow tells it of its API and of artifacts.
_REFUSED = re.compile(r"error code (401|403) != |\b(401|403) Client Error")
_REFUSED_BY_DATABASE = re.compile(
    r"password authentication failed|no password supplied|Access denied for user"
)
_IN_URI = re.compile(r"(://[^:/@\s]*):\S*@")
#: Variables whose values no message may show.
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
#: A shorter one is as likely to be part of a word.
_SHORTEST_SECRET = 6


class TrackingError(UsageError, RuntimeError):
    """A tracking call that cannot be right: a bad name, a folder in use, a run that is not there."""


class NewerJournalError(TrackingError):
    """A newer version of the suite wrote the journal of a run."""


def reason(error: BaseException) -> str:
    """The answer of a store in one line, without passwords; of what has a remedy, in our words."""
    text = str(error)
    if deleted := _DELETED.search(text):
        return f"the {deleted[1]} {deleted[2]} was deleted in MLflow. {how_to_restore(*deleted.groups())}"
    if refused := _REFUSED.search(text):
        return _login_refused() if "401" in refused.groups() else _right_refused()
    first = hide_passwords(next(iter(text.splitlines()), "") or type(error).__name__)
    if _REFUSED_BY_DATABASE.search(text):
        return f"{first}. Put the password into the environment: PGPASSWORD, or within MLFLOW_TRACKING_URI"
    return first


def has_remedy(error: BaseException) -> bool:
    """Whether `reason` says in our words what a store refuses."""
    return is_deleted(error) or _REFUSED.search(str(error)) is not None


def hide_passwords(text: str) -> str:
    """`text` without the password of a URI in it, and without those of the environment."""
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return without_password(text)


def without_password(uri: str) -> str:
    """A URI without its password: the same whatever the environment holds, since stores are known by it."""
    return _IN_URI.sub(r"\1:***@", uri)


def _login_refused() -> str:
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    tried = (
        f"the name {name!r} with its password"
        if name
        else "a request without a name and a password in the environment"
    )
    return (
        f"the tracking server refuses {tried} (401). Set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD in the environment, as its administrator gave them to you"
    )


def _right_refused() -> str:
    name = os.environ.get("MLFLOW_TRACKING_USERNAME", "this user")
    return (
        f"the tracking server lets {name} in, but not do this (403): the right is missing for this "
        "experiment. Its administrator can give it, or name another one by tracking.experiment=…"
    )


def is_deleted(error: BaseException) -> bool:
    """Whether a store refuses because somebody deleted the run or its experiment, which can be restored."""
    return _DELETED.search(str(error)) is not None


def how_to_restore(kind: str, name: str) -> str:
    """kind: `run` or `experiment`. name: its id."""
    return f"To bring it back, with MLFLOW_TRACKING_URI set: mlflow {kind}s restore --{kind}-id {name}"
