"""MLflow's registry of models: a trained model gets a name, a version and an alias, and is found by these.

`models:/<name>@<alias>` and `models:/<name>/<version>` name a checkpoint wherever one is named. What is
fetched is the checkpoint alone; a pyfunc is never loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reid.tracking.errors import TrackingError, reason
from reid.tracking.logged_model import fetch_from_model, find_model
from reid.tracking.records import fetch_checkpoint
from reid.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

SCHEME = "models:/"
_WORD = r"[\w.-]+"
_REFERENCE = re.compile(rf"{SCHEME}({_WORD})(?:/(\d+)|@({_WORD}))")
_LOGGED = re.compile(rf"{SCHEME}(m-[0-9a-f]{{32}})")
_DEFAULT_STORE = "MLFLOW_TRACKING_URI"
#: What the store says of something that is not there.
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def check_reference(name: str) -> None:
    """Refuse what begins with `models:/` and names no version. Raises TrackingError."""
    if not _REFERENCE.fullmatch(name):
        raise TrackingError(
            f"{name} names no registered model: expected {SCHEME}<name>@<alias>, such as "
            f"{SCHEME}reid-market@champion, or {SCHEME}<name>/<version>, such as {SCHEME}reid-market/3"
        )


def check_names_to_register(name: str, alias: str | None) -> None:
    """Refuse a name or an alias that no reference could hold. Raises TrackingError."""
    if not re.fullmatch(_WORD, name):
        raise TrackingError(f"--name {name!r}: expected letters, digits, '_', '-' and '.'")
    if alias is not None and (not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"(?i)latest|v?\d+", alias)):
        raise TrackingError(
            f"--alias {alias!r}: expected letters, digits, '_' and '-', and neither a number nor `latest`, "
            "which MLflow keeps for versions"
        )


def register(store: Store, run_id: str, name: str, alias: str | None = None) -> int:
    """Register the model of a run under `name`, and give that version the alias; the number of the version.

    A run that is registered there already keeps its version. An alias moves from the version that had it.

    Raises TrackingError when the store does not answer, or the run has no model.
    """
    fetch_checkpoint(store, run_id)  # or there is nothing to register
    client = store.client
    try:
        run = client.get_run(run_id)
        known = client.search_registered_models(f"name = '{name}'")
        if not known:
            client.create_registered_model(name)
        versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        if versions:
            version = max(int(one.version) for one in versions)
        else:
            model = find_model(client, run)
            model_id = model.model_id if model else None
            source = f"{SCHEME}{model_id}" if model_id else f"{run.info.artifact_uri}/checkpoints"
            with _as_default(store):
                created = client.create_model_version(name, source, run_id, model_id=model_id)
            version = int(created.version)
        if alias is not None:
            client.set_registered_model_alias(name, alias, str(version))
    except Exception as error:
        raise TrackingError(f"run {run_id} could not be registered as {name}: {reason(error)}") from error
    return version


@contextmanager
def _as_default(store: Store) -> Iterator[None]:
    """While it holds, MLflow's own lookups go to `store`: it looks for a LoggedModel in its default store."""
    before = os.environ.get(_DEFAULT_STORE)
    os.environ[_DEFAULT_STORE] = store.uri
    try:
        yield
    finally:
        if before is None:
            del os.environ[_DEFAULT_STORE]
        else:
            os.environ[_DEFAULT_STORE] = before


def fetch_registered(store: Store, reference: str) -> Path:
    """A local path of the checkpoint that `models:/…` names, downloaded where the store is a server.

    Raises TrackingError when the store does not answer, or has no such version; then it names what there is.
    """
    check_reference(reference)
    if store.is_unwritten:
        raise TrackingError(f"{reference}: no model is registered in {store.public_uri}, which is empty")
    version = _version(store, reference)
    try:
        logged = _LOGGED.fullmatch(version.source or "")
        if logged:
            return fetch_from_model(store, store.client.get_logged_model(logged[1]))
    except Exception as error:
        raise TrackingError(f"{reference} could not be fetched: {reason(error)}") from error
    if not version.run_id:
        raise TrackingError(
            f"{reference} was registered from {version.source}, and names no run of this suite. Register "
            "one by python -m reid.runs register"
        )
    return fetch_checkpoint(store, version.run_id)


def run_registered_as(store: Store, reference: str) -> str:
    """The id of the run whose model `models:/…` names. Raises TrackingError as `fetch_registered`."""
    check_reference(reference)
    run_id = _version(store, reference).run_id
    if not run_id:
        raise TrackingError(f"{reference} was not registered from a run")
    return str(run_id)


def _version(store: Store, reference: str) -> ModelVersion:
    match = _REFERENCE.fullmatch(reference)
    assert match is not None
    name, number, alias = match.groups()
    try:
        if number:
            return store.client.get_model_version(name, number)
        return store.client.get_model_version_by_alias(name, alias)
    except Exception as error:
        if getattr(error, "error_code", "") not in _MISSING:
            raise TrackingError(f"{reference} could not be looked up: {reason(error)}") from error
    raise TrackingError(f"{reference}: there is none in {store.public_uri}. {_there_are(store, name)}")


def _there_are(store: Store, name: str) -> str:
    """What could have been meant, in words."""
    try:
        models = {one.name: one for one in store.client.search_registered_models(max_results=100)}
    except Exception as error:
        return f"What there is could not be listed: {reason(error)}"
    if name in models:
        return f"Of {name} there are: {', '.join(_references(store, models[name])) or 'no versions'}"
    listed = ", ".join(sorted(models))
    return f"Registered are: {listed}" if listed else "Register a run by python -m reid.runs register"


def _references(store: Store, model: RegisteredModel) -> list[str]:
    found = store.client.search_model_versions(f"name = '{model.name}'", max_results=100)
    numbers = sorted(int(one.version) for one in found)
    aliases = [f"{SCHEME}{model.name}@{alias}" for alias in sorted(model.aliases)]
    return aliases + [f"{SCHEME}{model.name}/{number}" for number in numbers]


def registered_runs(store: Store) -> dict[str, list[str]]:
    """For the id of each run that is registered, what names its versions: `models:/reid-market/3`.

    Raises TrackingError when the store cannot tell.
    """
    found: dict[str, list[str]] = {}
    try:
        for one in store.client.search_model_versions(max_results=10_000):
            found.setdefault(str(one.run_id), []).append(f"{SCHEME}{one.name}/{one.version}")
    except Exception as error:
        raise TrackingError(f"the registry could not be read: {reason(error)}") from error
    return found
