"""The run that stands for a whole sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reid.tracking.store import Store
from reid.tracking.tracker import Tracker


def open_parent(
    store: Store,
    experiment: str,
    sweep_dir: Path,
    name: str,
    tags: Mapping[str, object] | None = None,
    description: str = "",
    resume: bool = False,
) -> Tracker:
    """Open the run that stands for a whole sweep; its children are started with `parent=sweep_dir`."""
    parent = Tracker.start(
        store, experiment, sweep_dir, name, tags={**(tags or {}), "reid.kind": "sweep"}, resume=resume
    )
    if description:
        parent.description(description)
    return parent
