"""What tells two configs apart: hashes of a run's config, and the keys that differ between two of them.

Runs are found again by these hashes, so they may never change for a config that could be written before.
Therefore a key that came later counts only where it is not at its default: a run that was made without the
key is the same experiment as one that leaves the key alone.  `FIRST` lists the keys that the first hashes
were made of, whatever their values, and is never added to.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import MISSING

from reid.config.dataset import without_places
from reid.config.schema import TrainConfig

#: The keys of the schema that enter the hashes also at their defaults.  Frozen: a key that is added to the
#: schema stays out of this list, and nothing else has to be done for it.
_FIRST = """
    epochs seed precision channels_last compile clip_norm accumulate sync_bn freeze_bn init_from
    tricks.warmup tricks.random_erasing tricks.erasing_fill tricks.last_stride tricks.label_smoothing
    tricks.bnneck
    batch.identities batch.instances batch.size image.height image.width image.flip image.padding
    schedule.milestones schedule.gamma schedule.warmup_epochs schedule.warmup_factor schedule.warmup_method
    data.on_bad_image
    eval.period eval.split eval.val_identities eval.val_seed eval.at_start eval.protocol eval.feature_norm
    eval.metric eval.neck_feature eval.batch eval.flip eval.query_expansion eval.rerank eval.rerank_k1
    eval.rerank_k2 eval.rerank_lambda eval.datasets
    """
FIRST = frozenset(_FIRST.split())

#: Keys of the open groups that choices got after runs had been made with them, and the value that is the same
#: as being without the key.  Their defaults lie in the code of the choices, which is not imported for a hash.
LATER: dict[str, Any] = {
    "dataset.distractor": 0, "dataset.null": None, "dataset.corrections": None, "dataset.tracklets": "none",
    "dataset.left_out": None,
    "backbone.ema": False,
    "head._target_": "reid.models.heads.BNNeck", "head.classifier": "linear", "head.scale": None,
    "head.margin": None, "head.embedding": None, "head.norm": "batch",
    "optimizer.classifier_lr_factor": 1.0, "optimizer.norm_weight_decay": None,
    "backbone.drop_path": None, "backbone.cameras": None, "backbone.camera_weight": 3.0,
    "backbone.non_local": None,
}  # fmt: skip

#: Keys that have the value of another one, their owner: they enter no hash and are no difference.
FOLLOWS = {
    "head.neck": "tricks.bnneck",
    "head.train_feature": "loss.neck_feature",
    "head.eval_feature": "eval.neck_feature",
}

#: Of no hash: how a run is tracked, stopped and kept.
_NO_EXPERIMENT = ("tracking", "sweep", "resume", "device", "keep_last")
#: What may change when a run is resumed: keys, and the groups that begin so.
MAY_CHANGE = (
    "tracking.", "sweep.", "resume", "init_from", "device", "data.", "epochs", "dataset.", "backbone.weights",
    "backbone.ema", "ema.raw", "keep_last",
)  # fmt: skip
_SPLIT = ("split", "val_identities", "val_seed")
#: The key that says which epoch's model a run keeps. It is a part of the experiment where that is the best
#: one: the model and its scores are others then.
SELECTION = "tracking.checkpoint"
#: Of `eval`, what changes the mAP of an epoch. Where the best epoch is chosen by it, none may change midway.
_CHOOSES = (
    *_SPLIT, "protocol", "feature_norm", "metric", "neck_feature", "flip", "cameras", "query_expansion",
)  # fmt: skip


def config_hash(settings: TrainConfig) -> str:
    """16 hex digits that tell experiments apart; where things lie and how they are tracked does not count."""
    config = asdict(settings)
    for key in _NO_EXPERIMENT:
        del config[key]
    config |= _selection(settings)
    config["data"] = {"on_bad_image": settings.data.on_bad_image}
    config["dataset"] = without_places(settings.dataset)
    return _hash(config)


def resume_hash(settings: TrainConfig) -> str:
    """The same for what must stay when a run is resumed.

    `epochs` and how it is judged may change; what it began with lies behind it.
    """
    config = asdict(settings)
    for key in (*_NO_EXPERIMENT, "init_from", "data", "epochs", "dataset"):
        del config[key]
    config |= _selection(settings)
    for key in ("weights", "ema"):
        config["backbone"].pop(key, None)
    del config["ema"]["raw"]
    # Where it lies may change: its bytes are compared.
    config["teacher"]["checkpoint"] = None if settings.teacher.checkpoint is None else "there"
    kept = _CHOOSES if selects_best(flat(settings)) else _SPLIT
    config["eval"] = {key: config["eval"][key] for key in kept}
    return _hash(config)


def selects_best(config: Mapping[str, Any]) -> bool:
    """Whether a run of this flat config keeps the model of its best epoch."""
    return config.get(SELECTION) == "best"


def param_now(key: str, value: str) -> str:
    """A tracked parameter of a run of any age as one of today would have it."""
    return {"True": "last", "False": "none"}.get(value, value) if key == SELECTION else value


def _selection(settings: TrainConfig) -> dict[str, Any]:
    """What the hashes hold of `tracking`: nothing, unless the best epoch is chosen."""
    return {"tracking": {"checkpoint": "best"}} if settings.tracking.checkpoint == "best" else {}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys that differ between two flat configs and must not where a run is resumed, with both values."""
    before, now = {**later_defaults(), **before}, {**later_defaults(), **now}
    best = selects_best(before), selects_best(now)
    judged = _CHOOSES if all(best) else _SPLIT
    fixed = [key for key in {**before, **now} if not key.startswith(MAY_CHANGE) and key not in FOLLOWS]
    fixed = [key for key in fixed if not key.startswith("eval.") or key.removeprefix("eval.") in judged]
    fixed += [SELECTION] if best[0] != best[1] else []
    return [
        f"{key} was {before.get(key)}, is {now.get(key)}" for key in fixed if before.get(key) != now.get(key)
    ]


def later_defaults() -> dict[str, Any]:
    """The keys that came after `FIRST`, dotted, each with the value that is the same as being without it."""
    schema = flat(TrainConfig())
    return {key: value for key, value in schema.items() if key not in FIRST and value != MISSING} | LATER


def without_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested config less what follows another key and less the later keys that are at their defaults.

    In the parts of a dataset too. A group of which nothing is left is left out.
    """
    defaults = later_defaults()

    def kept(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in node.items():
            key = prefix + name
            if key in FOLLOWS or (key in defaults and value == defaults[key]):
                continue
            if key == "dataset.parts":
                value = [kept(part, "dataset.") for part in value]
            elif isinstance(value, Mapping) and value:
                value = kept(value, f"{key}.")
                if not value:
                    continue
            values[name] = value
        return values

    return kept(config, "")


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


def _hash(config: dict[str, Any]) -> str:
    text = json.dumps(without_defaults(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
