"""What is said beside a graph and inside it: all that its user needs, and nobody's crops or folders."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from reid.export.check import Check
from reid.export.graph import INPUT, OPSET, OUTPUT
from reid.export.target import Target
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold
from reid.normalisation import IMAGENET, Normalisation


@dataclass(frozen=True)
class Origin:
    """Where a graph comes from: what a checkpoint says of its model.

    model_hash: sha256 over its tensors. card: Markdown.
    """

    model_hash: str
    description: dict[str, Any]
    config_hash: str
    threshold: StoredThreshold | None = None
    card: str = ""


def facts_of(
    file: str,
    target: Target,
    space: FeatureSpace,
    size: tuple[int, int],
    features: int,
    precision: str,
    origin: Origin,
    check: Check,
    normalisation: Normalisation = IMAGENET,
) -> dict[str, Any]:
    """The content of the JSON file beside a graph; `normalisation` is what the model takes images by."""
    inside = ["normalisation of the pixels"] if target.inside(normalisation) else []
    inside += ["mean with the mirror image"] if space.flip else []
    inside += ["division by the L2 norm"] if space.feature_norm and not target.normalises else []
    threshold = _threshold(origin.threshold, space)
    return {
        "file": file,
        "made_for": target.name,
        "use": target.note,
        "precision": precision,
        "input": {
            "name": INPUT, "shape": ["batch", 3, *size], "height": size[0], "width": size[1],
            "type": "float32", "values": target.pixels,
            "resize": "bilinear (PIL)" if target.resize == "pil" else "bilinear (OpenCV, INTER_LINEAR)",
        },
        "output": {"name": OUTPUT, "shape": ["batch", features], "size": features, "type": "float32"},
        "inside_the_graph": inside,
        "normalised_by_the_program": target.normalises,
        "feature_space": asdict(space),
        "compare_by": _comparison(target, space),
        "threshold": threshold,
        "model": {
            "normalisation": normalisation._asdict(),
            "sha256_of_its_tensors": origin.model_hash,
            "config_hash": origin.config_hash,
            **origin.description,
        },
        "self_check": asdict(check),
        "opset": OPSET,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("reid-suite", "torch", "onnx", "onnxruntime")},
        },
        "card": origin.card,
    }  # fmt: skip


def short_facts(facts: dict[str, Any]) -> dict[str, str]:
    """The part of them that is written into the file itself, as text."""
    space = facts["feature_space"]
    return {
        "made_for": facts["made_for"],
        "precision": facts["precision"],
        "input": f"{facts['input']['values']}; {facts['input']['resize']}",
        "inside_the_graph": ", ".join(facts["inside_the_graph"]) or "nothing beside the model",
        "feature_space": ", ".join(f"{key}={value}" for key, value in space.items()),
        "model_sha256": facts["model"]["sha256_of_its_tensors"],
        "config_hash": facts["model"]["config_hash"],
        "reid_suite": facts["versions"]["reid-suite"],
    }


def _comparison(target: Target, space: FeatureSpace) -> str:
    if not target.normalises:
        norm = "of length 1" if space.feature_norm else "as they are"
        return f"{space.metric} distance of features {norm}"
    plain = f"{target.program} divides features by their L2 norm and compares by cosine"
    if space.feature_norm:
        return plain
    return f"{plain}; the model was judged on raw features, and no threshold of it holds for that"


def _threshold(stored: StoredThreshold | None, space: FeatureSpace) -> dict[str, Any] | None:
    """The stored threshold where it holds for these features, with what it is as a cosine distance."""
    if stored is None or stored.space != space:
        return None
    # Of the data the reader alone: what follows names the user's folder or table.
    values = {**asdict(stored), "dataset": stored.dataset.partition(" ")[0]}
    if space.feature_norm:
        euclidean = space.metric == "euclidean"
        values["as_cosine_distance"] = stored.value**2 / 2 if euclidean else stored.value
    return values
