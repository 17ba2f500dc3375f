"""What a checkpoint says of itself, as one table: every key with the values that it may have.

A checkpoint may come from anywhere, and each command reads other keys of it.  So all of them are compared
once, when the file is read; keys that are not in the table are let through.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from reid.config.schema import EvalConfig
from reid.data.sizes import LARGEST_SIDE, SMALLEST_SIDE
from reid.models.weights import not_finite

#: Of a model that has learnt cameras: its mAP, and the one where it does not know which of them saw an image.
WITHOUT_CAMIDS = "without_camids"
_MOST = 2**31 - 1
#: Bytes. A tensor that is larger than what the file holds of it would fill the memory once it is copied.
_LARGE = 2**26
#: Of a head with one classifier, or with one a stripe.
_CLASSIFIER = re.compile(r"classifier\.(\d+\.)?weight")


class MetaError(ValueError):
    """A key is missing, or its value is not one that it may have; the message names both."""


@dataclass(frozen=True)
class Entry:
    """A key of the table: what its value has to fulfil, the same in words, and whether it has to be there."""

    test: Callable[[Any], bool]
    expected: str
    required: bool = True

    @property
    def optional(self) -> "Entry":
        return Entry(self.test, self.expected, required=False)

    @property
    def or_null(self) -> "Entry":
        return Entry(lambda value: value is None or self.test(value), f"{self.expected} or null", False)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _whole(low: int, high: int = _MOST) -> Entry:
    return Entry(
        lambda value: _is_whole(value) and low <= value <= high, f"a whole number from {low} to {high}"
    )


def _number(low: float = -math.inf, high: float = math.inf) -> Entry:
    bounds = "" if math.isinf(low) else f" from {low} to {high}"
    return Entry(
        lambda value: _is_number(value) and math.isfinite(value) and low <= value <= high,
        f"a finite number{bounds}",
    )


def _choice(*choices: object) -> Entry:
    # By type too: True is 1.
    allowed = [(type(choice), choice) for choice in choices]
    return Entry(
        lambda value: (type(value), value) in allowed,
        f"one of {', '.join(str(choice) for choice in choices)}",
    )


def _of_channels(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(test, value))


def _above_zero(value: object) -> bool:
    return _number().test(value) and value > 0  # type: ignore[operator]


def _list(test: Callable[[Any], bool], what: str) -> Entry:
    return Entry(lambda value: isinstance(value, list) and all(map(test, value)), f"a list of {what}")


def _interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_rate.test, value))


def _size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_pixels.test, value))


def _epoch_row(value: object) -> bool:
    named = isinstance(value, dict) and all(map(_is_number, value.values()))
    return named and _is_whole(value.get("epoch"))  # type: ignore[attr-defined]


def _score_row(value: object) -> bool:
    """A row of `reid.judging.stored_scores`."""
    if not isinstance(value, dict):
        return False
    tests = {
        "dataset": _text.test, "split": _text.test, "protocol": _text.test, "data_fingerprint": _text.test,
        "own": _flag.test, "reranked": _flag.test,
        "queries": _count.test, "people": _count.test, "gallery": _count.test,
        "values": _of(_rate.test), "intervals": _of(_interval),
    }  # fmt: skip
    return all(test(value.get(key)) for key, test in tests.items())


def _group_row(value: object) -> bool:
    """A row of the groups that `reid.evaluate` keeps for the card."""
    if not isinstance(value, dict):
        return False
    tests = {
        "grouping": _text.test, "group": _text.test, "score": _text.test, "value": _rate.test,
        "remains": _flag.test, "people": _count.test,
        "interval": lambda one: one is None or _interval(one),
    }  # fmt: skip
    return all(test(value.get(key)) for key, test in tests.items())


def _of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


_text = Entry(lambda value: isinstance(value, str) and value != "", "a text")
_flag = Entry(lambda value: isinstance(value, bool), "true or false")
_mapping = Entry(lambda value: isinstance(value, dict), "a mapping")
_pixels = _whole(SMALLEST_SIDE, LARGEST_SIDE)
_count = _whole(0)
_rate = _number(0, 1)


def _evaluation() -> dict[str, Entry]:
    """The keys of `eval`, as the schema of the configs has them; older files lack some that came later."""
    plain = {
        bool: _flag, str: _text, int: _whole(0), float: _number(),
        bool | None: Entry(lambda value: value is None or isinstance(value, bool), "true, false or null"),
        list[Any]: Entry(lambda value: value == [], "an empty list"),  # of reid.evaluate alone
    }  # fmt: skip
    entries = {}
    for key in fields(EvalConfig):
        entry = _choice(*key.metadata["choices"]) if "choices" in key.metadata else plain[key.type]  # type: ignore[index]
        if "test" in key.metadata:
            entry = Entry(_both(entry.test, key.metadata["test"]), f"a number {key.metadata['allowed']}")
        needed = key.name in ("metric", "feature_norm", "neck_feature")
        entries[f"eval.{key.name}"] = entry if needed else entry.optional
    return entries


def _both(first: Callable[[Any], bool], second: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: first(value) and second(value)


#: Parents stand before their children. What is optional was not in every file of this format, or is not in
#: all: a converted file knows no run, one of a training no threshold.
TABLE: dict[str, Entry] = {
    "model": _mapping,
    "model.backbone": _mapping,
    "model.backbone.name": _text,
    "model.backbone.library": _choice("reid", "timm").optional,
    "model.backbone.weights": _choice("none").optional,  # they are in the file
    "model.backbone.cameras": _list(_is_whole, "camids").or_null,
    "model.backbone.camera_weight": _number().optional,
    "model.backbone.image_size": Entry(_size, f"two numbers, each {_pixels.expected}").or_null,
    "model.last_stride": _choice(1, 2),
    "model.num_classes": _whole(1),
    "model.head": _mapping.optional,  # older files have the two keys below in its place
    "model.head._target_": _text,
    "model.head.neck": _flag.optional,
    "model.head.train_feature": _choice("after", "before", "both").optional,
    "model.head.eval_feature": _choice("after", "before").optional,
    "model.neck": _choice("bnneck", "none").optional,
    "model.eval_feature": _choice("after", "before").optional,
    "preprocessing": _mapping,
    "preprocessing.height": _pixels,
    "preprocessing.width": _pixels,
    "preprocessing.colour": _choice("RGB").optional,
    "preprocessing.resize": _choice("bilinear (PIL)").optional,
    "preprocessing.mean": Entry(_of_channels(_number().test), "three finite numbers").optional,
    "preprocessing.std": Entry(_of_channels(_above_zero), "three finite numbers above 0").optional,
    "preprocessing.stated": _flag.optional,
    "dataset": _mapping,
    "dataset.name": _text,
    "dataset.root": _text.optional,
    "dataset.file": _text.or_null,
    "dataset.parts": _list(
        lambda part: isinstance(part, dict) and all(_text.test(part.get(key)) for key in ("name", "root")),
        "mappings with name and root",
    ).optional,
    "pids": _list(lambda value: _is_whole(value) and abs(value) < 2**63, "whole numbers"),
    "eval": _mapping,
    **_evaluation(),
    "config": _mapping,
    "config.epochs": _whole(0).optional,
    "config_hash": _text,
    "resume_hash": _text.optional,
    "train_fingerprint": _text.optional,
    "begun": _mapping.optional,
    "teacher": _mapping.optional,
    "teacher.sha256": _text,
    "teacher.backbone": _text,
    "teacher.run_id": _text.or_null,
    "teacher.trained_on": _list(_text.test, "texts"),
    "run_id": _text.or_null,
    "run_key": _text.or_null,
    "progress": _mapping.optional,
    "progress.epoch": _whole(0),
    "progress.judged": _flag.optional,
    "progress.history": _list(_epoch_row, "mappings from names to numbers, one with its epoch").optional,
    "progress.best": _mapping.optional,
    "progress.best.epoch": _whole(1),
    "progress.best.score": _text,
    "progress.best.value": _rate,
    "selected": _mapping.optional,
    "selected.epoch": _whole(1),
    "selected.of_epochs": _whole(1),
    "selected.score": _text,
    "selected.value": _rate,
    "converted": _mapping.optional,
    WITHOUT_CAMIDS: _mapping.optional,
    f"{WITHOUT_CAMIDS}.mAP": _rate,
    f"{WITHOUT_CAMIDS}.mAP_without": _rate,
    f"{WITHOUT_CAMIDS}.split": _text,
    "scores": _list(_score_row, "rows of scores from 0 to 1, each with its data").optional,
    "groups": _mapping.optional,
    "groups.dataset": _text,
    "groups.split": _text,
    "groups.threshold": _number().or_null,
    "groups.rows": _list(_group_row, "rows of shares from 0 to 1, each with its group"),
    "quality": _mapping.optional,
    "threshold": _mapping.or_null,
    "threshold.value": _number().optional,
    "threshold.target": _text.optional,
    "threshold.metric": _choice("euclidean", "cosine").optional,
    "threshold.feature_norm": _flag.optional,
    "threshold.neck_feature": _choice("after", "before").optional,
    "threshold.flip": _flag.optional,
    "threshold.precision": _choice("float32", "tf32", "bf16", "fp16").optional,
    "threshold.pooling": _choice("none", "mean", "max", "quality").optional,
    "threshold.protocol": _choice("cross_camera", "ignore_camera").optional,
    "threshold.dataset": _text.optional,
    "threshold.split": _text.optional,
    "threshold.data_fingerprint": _text.optional,
    "threshold.identities": _whole(0).optional,
    "threshold.genuine_pairs": _whole(0, 2**63).optional,
    "threshold.impostor_pairs": _whole(0, 2**63).optional,
    "threshold.far": _rate.optional,
    "threshold.tar": _rate.optional,
    "threshold.far_interval": Entry(_interval, "two numbers from 0 to 1").optional,
    "threshold.tar_interval": Entry(_interval, "two numbers from 0 to 1").optional,
}  # fmt: skip


def check_meta(meta: object) -> None:
    """Compare all that a checkpoint says of itself with the table.

    Raises:
        MetaError: at the first key that is missing or has a value that it may not have.
    """
    if not isinstance(meta, dict):
        raise MetaError(f"what it says of itself is a {type(meta).__name__}, expected a mapping")
    for key, entry in TABLE.items():
        parent, _, name = key.rpartition(".")
        holder = _found(meta, parent)
        if not isinstance(holder, dict):  # optional, and not there
            continue
        if name not in holder:
            if entry.required:
                raise MetaError(f"{key} is missing, expected {entry.expected}")
        elif not entry.test(holder[name]):
            raise MetaError(f"{key} is {_short(holder[name])}, expected {entry.expected}")
    model = meta["model"]
    if "head" not in model:
        lacking = {"neck", "eval_feature"} - model.keys()
        if lacking:
            missing = f"model.{lacking.pop() if len(lacking) == 1 else 'head'}"
            raise MetaError(f"{missing} is missing, expected {TABLE[missing].expected}")


def check_tensors(model: object, meta: Mapping[str, Any]) -> None:
    """Compare the tensors of a model with what stands in `meta`, which is checked, and with being numbers.

    Raises:
        MetaError: there are none, they belong to another number of classes, or some hold NaN or infinity.
    """
    named = isinstance(model, dict) and all(isinstance(name, str) for name in model)
    if not named or not all(isinstance(value, torch.Tensor) for value in model.values()):  # type: ignore[attr-defined]
        raise MetaError("model holds something else than named tensors")
    assert isinstance(model, dict)
    for name, tensor in model.items():
        if not _is_weight(tensor):
            kind = f"{tensor.layout}, {tensor.dtype} on {tensor.device}"
            raise MetaError(f"{name} is {kind}, expected dense floats, or whole numbers of 64 bits")
        size = tensor.numel() * tensor.element_size()
        if size > _LARGE and size > tensor.untyped_storage().nbytes():  # a small buffer may be one expanded
            raise MetaError(
                f"{name} has the shape {tuple(tensor.shape)}, and its numbers share one place: expected a "
                "number for each"
            )
    classifiers = {name: tensor for name, tensor in model.items() if _CLASSIFIER.fullmatch(name)}
    if not classifiers or any(tensor.ndim != 2 for tensor in classifiers.values()):
        raise MetaError("model lacks classifier.weight, expected a matrix with one row a class")
    classes = meta["model"]["num_classes"]
    for name, tensor in classifiers.items():
        if len(tensor) != classes:
            raise MetaError(f"model.num_classes is {classes}, expected {len(tensor)}, the rows of {name}")
    bad = not_finite(model)
    if bad:
        raise MetaError(
            f"{len(bad)} of its {len(model)} tensors hold NaN or infinity ({', '.join(bad[:3])}), expected "
            "finite numbers"
        )


def _is_weight(tensor: torch.Tensor) -> bool:
    """Whether a network takes it up as it stands: what is cast loses its imaginary part or its scale."""
    kept = tensor.is_floating_point() or tensor.dtype in (torch.int64, torch.bool)
    return kept and tensor.layout == torch.strided and not tensor.is_meta


def _found(meta: dict[str, Any], key: str) -> Any:
    """What stands under a dotted key, None where there is none."""
    node: Any = meta
    for part in key.split(".") if key else ():
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
