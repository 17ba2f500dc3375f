"""Everything about one tracked run, as `reid.runs show` tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from reid.config.schema import default_config
from reid.home import home
from reid.runs.selection import code_version, died, differing, families
from reid.runs.tables import age, duration, is_share, run_row
from reid.tracking import RunRecord, Store, artifact_paths, model_paths, registered_runs, run_folders
from reid.tracking.logged_model import CHECKPOINT
from reid.words import percent

#: Where things lie and what is drawn says nothing about a run's recipe.
_PLACES = ("data.root", "data.store", "dataset.root", "tracking.")


def details(store: Store, run: RunRecord, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """What is known of `run`, one of `runs`, as plain data.

    Raises:
        TrackingError: the store does not list its artifacts.
    """
    run_id = str(run.run_id)
    artifacts = artifact_paths(store, run_id)
    model = model_paths(store, run_id)
    folder = run_folders([home() / "outputs", home() / "multirun"]).get(run.tags.get("reid.run_key", ""))
    kin = next((kin for head, kin in families(runs) if head.run_id == run_id), [])
    siblings = [other for other in runs if run.parent is not None and other.parent == run.parent]
    prefix = "reid.data.fingerprint"
    status = run.status
    if died([run]):
        status = "RUNNING, but its process is gone: `python -m reid.sync` marks it FAILED"
    return {
        **run_row(run),
        "status": status,
        "age": age(run.started),
        "took": duration(run.ended - run.started) if run.ended and run.started else None,
        "error": run.tags.get("reid.error"),
        "typed": run.tags.get("reid.overrides"),
        "differs_from": f"its {len(siblings)} siblings" if len(siblings) > 1 else "the defaults",
        "differs": _from_siblings(run, siblings) if len(siblings) > 1 else _from_defaults(run),
        "metrics": dict(sorted(run.metrics.items())),
        "data": run.tags.get("reid.data.name"),
        "data_fingerprint": {
            key.removeprefix(prefix).lstrip("/") or "all": value
            for key, value in sorted(run.tags.items())
            if key.startswith(prefix)
        },
        "code": code_version(run),
        "command": run.tags.get("reid.command"),
        "machine": f"{run.tags.get('reid.host', '?')}, {run.tags.get('reid.cpu', '?')}, "
        f"GPU {run.tags.get('reid.gpu', '?')}",
        "folder": str(folder) if folder else None,
        "checkpoint": _checkpoint(run_id, [*artifacts, *model]),
        "registered": registered_runs(store).get(run_id, []) if model else [],
        "artifacts": artifacts,
        "children": [run_row(child) for child in kin],
    }


def show_details(console: Console, facts: dict[str, Any]) -> None:
    """The same for people; what is not known is left out."""

    def line(name: str, value: object) -> None:
        if value not in (None, "", []):
            console.print(f"{name:<12}{value}", soft_wrap=True)

    line("run", facts["run_id"])
    line("name", facts["name"])
    line("experiment", facts["experiment"])
    line("kind", facts["kind"] + (f", child of {facts['parent']}" if facts["parent"] else ""))
    took = f", took {facts['took']}" if facts["took"] else ""
    line("status", facts["status"])
    line("started", f"{facts['started']} ({facts['age']} ago{took})")
    line("error", facts["error"])
    line("typed", facts["typed"])
    if facts["differs"]:
        console.print(f"differs from {facts['differs_from']}:")
        for key, value in facts["differs"].items():
            console.print(f"    {key} = {value}", soft_wrap=True)
    if facts["metrics"]:
        console.print(f"last values (its own split is {facts['split']}):")
        for name, value in facts["metrics"].items():
            console.print(f"    {name:<32}{percent(value) if is_share(name) else f'{value:.5g}'}")
    line("data", facts["data"])
    for label, value in facts["data_fingerprint"].items():
        line("", f"fingerprint of {label}: {value}")
    line("code", facts["code"])
    line("command", facts["command"])
    line("machine", facts["machine"])
    line("folder", facts["folder"] or "none on this machine")
    line("checkpoint", facts["checkpoint"])
    line("registered", ", ".join(facts["registered"]))
    if facts["artifacts"]:
        console.print("artifacts:")
        for path in facts["artifacts"]:
            console.print(f"    {path}", soft_wrap=True)
    if facts["children"]:
        console.print(f"{len(facts['children'])} children:")
        for child in facts["children"]:
            score = "" if child["mAP"] is None else f"  mAP {percent(child['mAP'])} on {child['split']}"
            console.print(f"    {child['run_id']}  {child['status']:<9} {child['name']}{score}")


def _from_siblings(run: RunRecord, siblings: Sequence[RunRecord]) -> dict[str, str]:
    position = [other.run_id for other in siblings].index(run.run_id)
    return {key: values[position] for key, values in differing(siblings).items()}


def _from_defaults(run: RunRecord) -> dict[str, str]:
    """The params of a training run that are not those of `python -m reid.train` without an override."""
    if run.tags.get("reid.kind") != "run":
        return {}
    from reid.config.identity import SELECTION, flat
    from reid.config.settings import (
        train_settings,  # it imports torch, which the other subcommands do without
    )

    defaults = {key: str(value) for key, value in flat(train_settings(default_config())).items()}
    return {
        key: value
        for key, value in sorted(run.params.items())
        if defaults.get(key) != value and (not key.startswith(_PLACES) or (key, value) == (SELECTION, "best"))
    }


def _checkpoint(run_id: str, artifacts: Sequence[str]) -> str | None:
    kept = [path for path in artifacts if path.startswith("checkpoints/") or path == CHECKPOINT]
    return f"{', '.join(kept)}: checkpoint={run_id} names it to the commands" if kept else None
