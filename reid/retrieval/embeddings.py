"""Embeddings of a set of images with what is known about each image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reid.distance import normalise
from reid.retrieval.protocol import NonFiniteFeaturesError


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Features of N images, one row each, on one device.

    Attributes:
        features: (N, D) floats, all finite.
        pids: (N,) int64, identity; 0 is a distractor.
        camids: (N,) int64, camera, from 0.
        tracklets: (N,) int64, the tracklet that each image is a frame of, -1 for an image of none; None where
            no image is of one.  Query and gallery count tracklets together.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        NonFiniteFeaturesError: a feature is not finite (the message names the rows).
    """

    features: Tensor
    pids: Tensor
    camids: Tensor
    tracklets: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not self.features.is_floating_point():
            raise ValueError(
                f"features are {self.features.dtype} of shape {tuple(self.features.shape)}; "
                "expected floats of shape (N, D)"
            )
        for name, values in (("pids", self.pids), ("camids", self.camids), ("tracklets", self.tracklets)):
            if values is None:
                continue
            if values.dtype != torch.int64 or values.shape != self.features.shape[:1]:
                raise ValueError(
                    f"{name} are {values.dtype} of shape {tuple(values.shape)}; expected torch.int64 of "
                    f"shape ({len(self.features)},), one for each row of features"
                )
            if values.device != self.features.device:
                raise ValueError(
                    f"{name} are on {values.device}, features on {self.features.device}; move them first"
                )
        # A sum is not finite where an element is not, and needs no (N, D) temporary.
        sums = self.features.sum(dim=1, dtype=torch.promote_types(self.features.dtype, torch.float32))
        if not bool(sums.isfinite().all()):
            rows = (~sums.isfinite()).nonzero().flatten().tolist()
            shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
            raise NonFiniteFeaturesError(
                f"{len(rows)} of {len(self)} feature rows hold NaN, infinity or values too large to sum: "
                f"rows {shown}. Look at these images, and at whether the model's weights are finite."
            )

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        people, cameras = (len(values.unique()) for values in (self.pids, self.camids))
        count, width = self.features.shape
        return f"Embeddings({count:,} x {width}, {people:,} people, {cameras} cameras)"

    def to(self, device: torch.device | str) -> Embeddings:
        """The same embeddings on another device."""
        tracklets = None if self.tracklets is None else self.tracklets.to(device)
        return Embeddings(self.features.to(device), self.pids.to(device), self.camids.to(device), tracklets)

    def select(self, indices: Tensor) -> Embeddings:
        """The rows that `indices` (positions or a boolean mask) name, in that order."""
        tracklets = None if self.tracklets is None else self.tracklets[indices]
        return Embeddings(self.features[indices], self.pids[indices], self.camids[indices], tracklets)

    def normalised(self) -> Embeddings:
        """With features of unit L2 norm, in float32 or the float64 of the features."""
        return replace(self, features=normalise(self.features))
