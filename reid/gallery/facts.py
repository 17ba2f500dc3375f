"""What the features of an index are: whose, between what a distance is measured, and made of which pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from reid.engine.model_hash import model_hash
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold, stored_threshold

#: How PIL resizes, and what normalises the pixels: keys of a checkpoint's `preprocessing`.
_PIXELS = ("height", "width", "colour", "resize", "mean", "std")


def network_options(backbone: Any, description: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a built network that no tensor shows, as far as they mean something to it.

    description: what a checkpoint says of its model.
    """
    options = description["backbone"]
    found: dict[str, Any] = {}
    if "stem_relu" in options:
        found["stem_relu"] = bool(options["stem_relu"])  # null is none
    if options.get("semantic_weight") is not None:
        found["semantic_weight"] = options["semantic_weight"]
    if backbone.cameras:
        found["camera_weight"] = backbone.camera_weight
    if hasattr(backbone, "layout"):
        found["pooling"] = backbone.layout.kind
    if not any("last_stride" in note for note in backbone.notes):  # which says that it has no meaning
        found["last_stride"] = description["last_stride"]
    return found


@dataclass(frozen=True)
class Facts:
    """Features compare only where all but the threshold agree; what one side does not say fits all.

    Attributes:
        model: the hash of the model's tensors, see `model_hash`.
        size: how many numbers a feature has.
        space: which feature is taken, whether it is normalised, the metric.
        preprocessing: height and width in pixels, colour, resize, mean and std, as a checkpoint says them.
        threshold: what `reid.threshold` measured, or None.
        network: see `network_options`; an index may be older than they are.
    """

    model: str
    size: int
    space: FeatureSpace
    preprocessing: Mapping[str, Any]
    threshold: StoredThreshold | None = None
    network: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        state_dict: Mapping[str, Tensor],
        size: int,
        meta: Mapping[str, Any],
        space: FeatureSpace,
        threshold: StoredThreshold | None,
        network: Mapping[str, Any] | None = None,
    ) -> Facts:
        """Of a model and what its checkpoint says of itself; size: of its embeddings."""
        pixels = {key: meta["preprocessing"][key] for key in _PIXELS if key in meta["preprocessing"]}
        return cls(model_hash(state_dict), size, space, pixels, threshold, network or {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """The facts that `as_json` wrote."""
        space, threshold = (
            FeatureSpace(**values["space"]),
            stored_threshold({"threshold": values["threshold"]}),
        )
        network = values.get("network", {})
        return cls(values["model"], values["size"], space, values["preprocessing"], threshold, network)

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
        for what, keys, one, two in (
            ("images", _PIXELS, self.preprocessing, other.preprocessing),
            ("network", sorted(self.network), self.network, other.network),
        ):
            for key in keys:
                mine, theirs = one.get(key), two.get(key)
                if mine != theirs and None not in (mine, theirs):
                    return f"their {what} had {key} {mine}, not {theirs}"
        return ""
