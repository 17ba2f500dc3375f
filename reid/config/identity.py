"""What a config is told by: its leaves by name, and the hashes that tell experiments apart."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from reid.config.dataset import without_places
from reid.config.schema import TrainConfig

#: Keys that came after runs were made without them, and what those runs did.  A key that says so enters no
#: hash, and is no difference to a config that lacks it: such a run is still found, resumed and taken.
ADDED: dict[str, Any] = {
    "dataset.distractor": 0, "dataset.null": None, "backbone.ema": False, "deterministic": False,
    "head._target_": "reid.models.heads.BNNeck", "schedule._target_": "reid.engine.schedule.step",
    "schedule.per": "epoch", "schedule.floor": 0.0,
}  # fmt: skip

#: Keys that have the value of another one, their owner: they enter no hash and are no difference.
FOLLOWS = {
    "head.neck": "tricks.bnneck",
    "head.train_feature": "loss.neck_feature",
    "head.eval_feature": "eval.neck_feature",
}


def config_hash(settings: TrainConfig) -> str:
    """16 hex digits that tell experiments apart; where things lie and how they are tracked does not count."""
    told = asdict(settings)
    for key in ("tracking", "sweep", "resume", "device"):
        del told[key]
    told["data"] = {"on_bad_image": settings.data.on_bad_image}
    told["dataset"] = without_places(settings.dataset)
    return _hash(told)


#: What may change when a run is resumed: keys, and the groups that begin so.
MAY_CHANGE = (
    "tracking.", "sweep.", "resume", "init_from", "device", "data.", "epochs", "dataset.", "backbone.weights",
    "backbone.ema",
)  # fmt: skip
_SPLIT = ("split", "val_identities", "val_seed")


def changed(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The keys that differ between two flat configs and must not where a run is resumed, with both values."""
    theirs, ours = {**ADDED, **theirs}, {**ADDED, **ours}
    fixed = [key for key in {**theirs, **ours} if not key.startswith(MAY_CHANGE) and key not in FOLLOWS]
    fixed = [key for key in fixed if not key.startswith("eval.") or key.removeprefix("eval.") in _SPLIT]
    return [
        f"{key} was {theirs.get(key)}, is {ours.get(key)}"
        for key in fixed
        if theirs.get(key) != ours.get(key)
    ]


def resume_hash(settings: TrainConfig) -> str:
    """The same for what must stay when a run is resumed.

    `epochs` and how it is judged may change; what it began with lies behind it.
    """
    told = asdict(settings)
    for key in ("tracking", "sweep", "resume", "init_from", "device", "data", "epochs", "dataset"):
        del told[key]
    for key in ("weights", "ema"):
        told["backbone"].pop(key, None)
    told["eval"] = {key: told["eval"][key] for key in _SPLIT}
    return _hash(told)


def without_added(config: dict[str, Any]) -> dict[str, Any]:
    """`config` less what follows another key, and less the keys of `ADDED` that have the value there, in the
    parts of a dataset too.  A group of which nothing is left is none.
    """
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            prefix = f"{key}."
            own = {name.removeprefix(prefix): old for name, old in ADDED.items() if name.startswith(prefix)}
            value = {
                name: item
                for name, item in value.items()
                if prefix + name not in FOLLOWS and (name not in own or item != own[name])
            }
            if "parts" in value:
                value["parts"] = [without_added({key: part})[key] for part in value["parts"]]
            if not value and own:
                continue
        elif key in ADDED and value == ADDED[key]:
            continue
        kept[key] = value
    return kept


def _hash(told: dict[str, Any]) -> str:
    text = json.dumps(without_added(told), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flat(settings: object) -> dict[str, Any]:
    """Every leaf of the config by its dotted name, as the tracker shows it: `loss.alpha`, …"""
    return flat_keys(asdict(settings))  # type: ignore[call-overload]


def flat_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a config as plain data."""
    leaves: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            leaves[prefix] = node

    walk("", dict(config))
    return leaves
