"""The least that a checkpoint has to say of itself to be read again."""

from dataclasses import asdict
from typing import Any

from reid.config.schema import EvalConfig


def least_meta(classes: int) -> dict[str, Any]:
    """Of a model of so many classes, around a network that no config names."""
    return {
        "model": {
            "backbone": {"name": "tiny"}, "last_stride": 1, "neck": "bnneck", "num_classes": classes,
            "eval_feature": "after",
        },
        "preprocessing": {"height": 16, "width": 16},
        "dataset": {"name": "synthetic"},
        "pids": list(range(1, classes + 1)),
        "eval": asdict(EvalConfig()),
        "config": {},
        "config_hash": "c",
        "resume_hash": "r",
        "train_fingerprint": "t",
    }  # fmt: skip
