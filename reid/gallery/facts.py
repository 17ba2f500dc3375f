"""What the features of an index are: whose, between what a distance is measured, and made of which pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from reid.engine.model_hash import model_hash
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold, stored_threshold

#: How PIL resizes, and what normalises the pixels: keys of a checkpoint's `preprocessing`.
_PIXELS = ("height", "width", "colour", "resize", "mean", "std")


@dataclass(frozen=True)
class Facts:
    """Features compare only where all but the threshold agree.

    Attributes:
        model: the hash of the model's tensors, see `model_hash`.
        size: how many numbers a feature has.
        space: which feature is taken, whether it is normalised, the metric.
        preprocessing: height and width in pixels, colour, resize, mean and std, as a checkpoint says them.
        threshold: what `reid.threshold` measured, or None.
    """

    model: str
    size: int
    space: FeatureSpace
    preprocessing: Mapping[str, Any]
    threshold: StoredThreshold | None = None

    @classmethod
    def of(
        cls,
        state_dict: Mapping[str, Tensor],
        size: int,
        meta: Mapping[str, Any],
        space: FeatureSpace,
        threshold: StoredThreshold | None,
    ) -> Facts:
        """Of a model and what its checkpoint says of itself; size: of its embeddings."""
        pixels = {key: meta["preprocessing"][key] for key in _PIXELS if key in meta["preprocessing"]}
        return cls(model_hash(state_dict), size, space, pixels, threshold)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """The facts that `as_json` wrote."""
        space, threshold = (
            FeatureSpace(**values["space"]),
            stored_threshold({"threshold": values["threshold"]}),
        )
        return cls(values["model"], values["size"], space, values["preprocessing"], threshold)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def difference(self, other: Facts) -> str:
        """Why features of `other` cannot be compared with these, in words; "" where they can."""
        if self.model != other.model:
            return f"another model made them ({self.model[:12]}…, not {other.model[:12]}…)"
        if self.space != other.space:
            return f"they are compared by the {self.space.describe()}, not by the {other.space.describe()}"
        if self.size != other.size:
            return f"they have {self.size} numbers each, not {other.size}"
        for key in _PIXELS:
            mine, theirs = self.preprocessing.get(key), other.preprocessing.get(key)
            if mine != theirs and None not in (mine, theirs):
                return f"their images had {key} {mine}, not {theirs}"
        return ""
