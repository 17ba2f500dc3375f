"""The tracking store and the runs that wait for it, the datasets and the image stores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reid.commands.findings import Finding, in_public, size
from reid.commands.machine_state import data_root, is_shared
from reid.config.checks import ConfigError
from reid.config.dataset import dataset_choice
from reid.config.schema import dataset_choices
from reid.data import DatasetError, load_dataset
from reid.data.crops import LeakError
from reid.data.pedestrians.drawing import LABEL
from reid.data.stores import StoredImages, list_stores
from reid.home import home
from reid.jobs.data_commands import store_folder
from reid.tracking import default_store
from reid.tracking.errors import TrackingError
from reid.tracking.health import journals, look_at
from reid.tracking.uris import sqlite_file

#: The name of a drawn set's folder: domain, preset and seed.
_DRAWN = re.compile(r"(day|night)_(tiny|small)_(\d+)")


def tracking(uri: str | None) -> Iterator[Finding]:
    """The store, and the runs on disk."""
    try:
        store = default_store(home(), uri)
    except TrackingError as error:
        yield Finding(
            "store", in_public(error), "problem", "set MLFLOW_TRACKING_URI to a store of these kinds"
        )
    else:
        health = look_at(store)
        text = f"{health.kind}: {health.says}" if health.says else health.kind
        database = sqlite_file(store.uri)
        if health.trouble:
            text += f"{';' if health.says else ':'} {in_public(health.trouble)}"
            yield Finding("store", text, "problem", health.remedy)
        elif database is not None and is_shared(database.parent):
            remedy = (
                "let a server keep the runs (MLFLOW_TRACKING_URI), or put REID_HOME on a disk of this machine"
            )
            yield Finding(
                "store", f"{text}. It lies on a shared file system, where sqlite may lose it", "note", remedy
            )
        elif health.doubt:
            yield Finding("store", f"{text}; {health.doubt}", "note")
        else:
            yield Finding("store", text)
    found = journals([home() / "outputs", home() / "multirun"])
    going = f", {found.under_way:,} still sending" if found.under_way else ""
    if found.waiting:
        text = f"{found.runs:,} on disk{going}, {found.waiting:,} not wholly sent"
        yield Finding("runs", text, "note", "python -m reid.sync sends them")
    else:
        yield Finding("runs", f"{found.runs:,} on disk{going}, none waits to be sent")


def data() -> Iterator[Finding]:
    """Each dataset that lies under the data root, as its reader counts it."""
    root = data_root()
    if not root.is_dir():
        remedy = "set REID_DATA=/path/to/data, or use drawn people: dataset=synthetic needs no data"
        yield Finding("datasets", "there is no data root", "note", remedy)
        return
    absent = []
    try:
        choices = list(dataset_choices())
    except ConfigError:  # a package of REID_TRUST is not there, which the variables tell
        choices = []
    for choice in choices:
        try:
            dataset = dataset_choice(choice, str(root))
        except ConfigError:  # one's own data, whose place is typed each time
            continue
        if dataset["name"] == "synthetic":
            continue
        if not Path(dataset["root"]).is_dir():
            absent.append(choice)
            continue
        yield _counted(choice, dataset)
    for folder in sorted((root / "synthetic").glob("*")):
        parts = _DRAWN.fullmatch(folder.name)
        # What was not drawn to its end would be drawn now.
        if parts and (folder / LABEL).is_file():
            domain, preset, seed = parts.groups()
            options = {"domain": domain, "preset": preset, "seed": int(seed)}
            yield _counted(
                f"synthetic ({domain}, {preset})", {"name": "synthetic", "root": str(folder), **options}
            )
    if absent:
        yield Finding("datasets", f"not there: {', '.join(absent)}")


def _counted(name: str, dataset: dict[str, object]) -> Finding:
    shared = ""
    try:
        found = load_dataset(**dataset)  # type: ignore[arg-type]
    except LeakError as error:
        found, shared = error.dataset, "the same people are trained and tested on"
    except DatasetError as error:
        return Finding(name, in_public(error), "problem", f"python -m reid.data.check {name.split(' ')[0]}")
    counts = " / ".join(f"{len(split):,}" for split in (found.train, found.query, found.gallery))
    text = f"{counts} images (train / query / gallery)"
    if shared:
        return Finding(
            name, f"{text}; {shared}", "problem", "split them by person: python -m reid.data.split"
        )
    return Finding(name, text)


def stores() -> Iterator[Finding]:
    """The decoded images: how many stores, how large, and whether each can be opened."""
    folder = store_folder()
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        yield Finding(
            "image stores", "their folder cannot be read", "problem", "may this user read it? See data.store"
        )
        return
    found = list_stores(folder) if folder.is_dir() else []
    if not found:
        yield Finding("image stores", "none: the first run decodes its images once")
        return
    bad = [store for store in found if not _opens(folder, store)]
    text = f"{len(found)}, {size(sum(store.bytes for store in found))}"
    if bad:
        names = ", ".join(store.name[:12] for store in bad)
        text += f"; {len(bad)} of them cannot be read: {names}"
        yield Finding(
            "image stores", text, "problem", "python -m reid.data.stores prune <name>: it is built again"
        )
    else:
        yield Finding("image stores", text)


def _opens(folder: Path, store: StoredImages) -> bool:
    try:
        pixels = np.load(folder / f"{store.name}.npy", mmap_mode="r")
        if pixels.shape[:3] != (store.images, store.height, store.width):
            return False
        if len(pixels):
            np.array(pixels[0]), np.array(pixels[-1])  # a disk that fails does so here
    except (OSError, ValueError):
        return False
    return True
