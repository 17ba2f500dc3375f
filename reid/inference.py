"""A trained model, ready to use from Python: images in, features and verdicts out.

from reid.inference import load_model

model = load_model("outputs/<run>/model.pt")
features = model.embed(["a.jpg", "b.jpg"])          # (2, C) float32, as the evaluation uses them
model.distances(features)                           # (2, 2); at most model.threshold.value: one person
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reid.config.schema import RUN_ID
from reid.data import DatasetError, Progress, silent
from reid.data.augment import normalise_pixels
from reid.data.batches import prepared_ahead, to_device
from reid.data.crops import PictureError
from reid.data.files import in_threads
from reid.data.pictures import Picture, name_unreadable, open_picture, read_picture, upright
from reid.distance import distance_function, normalise
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.engine.checkpoint_source import find_checkpoint
from reid.engine.checkpoint_source import newest_model as newest_model
from reid.engine.compute import Compute, choose_device
from reid.engine.describe import rebuild_model
from reid.engine.runtime import library_call
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold, feature_space, stored_threshold
from reid.models import ReidModel

#: A crop smaller than this, in pixels (height, width), shows nobody that one could tell apart.
SMALLEST = (32, 16)
#: How far from the model's height : width an image may be, as a factor.
MOST_STRETCH = 1.6


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model with what a checkpoint says of its use.

    Attributes:
        model: in evaluation mode, on `device`.
        height, width: in pixels, of the images that the model sees.
        space: which feature is taken, whether it is normalised, the metric, and that all is in float32.
        threshold: what `reid.threshold` measured, or None. Call its `check(space)` before applying it.
        meta: everything that the checkpoint says of itself.
        name: what to call the checkpoint by: its file, or the MLflow run id that was asked for.
    """

    model: ReidModel
    device: torch.device
    height: int
    width: int
    space: FeatureSpace
    threshold: StoredThreshold | None
    meta: dict[str, Any]
    name: str

    @torch.inference_mode()
    def embed(
        self,
        images: Iterable[str | PathLike[str] | Image.Image],
        batch: int = 128,
        progress: Progress = silent,
    ) -> Tensor:
        """The features (N, C) of images in their order, float32 on the CPU, as the evaluation uses them.

        An image is the path of a file, or a PIL image, which is made upright RGB by the same rules.

        Raises:
            DatasetError: an image cannot be read; the message names those of its batch.
            CheckpointError: features are not finite.
        """
        named = [
            (f"images[{number}]", image) if isinstance(image, Image.Image) else (str(image), Path(image))
            for number, image in enumerate(images)
        ]
        steps = [named[start : start + batch] for start in range(0, len(named), batch)]

        def prepare(step: int) -> Tensor:
            return normalise_pixels(to_device(self._pixels(steps[step]), self.device))

        parts = [torch.empty(0, self.model.embedding_size, device="cpu")]
        batches = prepared_ahead(prepare, range(len(steps)), self.device)
        with library_call(self.device):
            for pixels in progress(batches, len(steps), "embedding batches of images"):
                features = self.model(pixels).float()
                if self.space.flip:
                    features = (features + self.model(pixels.flip(3)).float()) / 2
                features = features.cpu()
                parts.append(normalise(features) if self.space.feature_norm else features)
        found = torch.cat(parts)
        bad = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise CheckpointError(
                f"{self.name} gives features with NaN or infinity for {len(bad)} of {len(named)} images, "
                f"first {named[bad[0]][0]}: they compare with nothing. Take another checkpoint"
            )
        return found

    def distances(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Distances (N, M) between features (N, C) and (M, C), in float64; among `first` without `second`."""
        other = first if second is None else second
        return distance_function(self.space.metric)(first.double(), other.double())

    def _pixels(self, named: Sequence[tuple[str, Path | Image.Image]]) -> Tensor:
        def decode(source: Path | Image.Image) -> tuple[np.ndarray | None, str | None]:
            try:
                return _picture(source).resized(self.height, self.width), None
            except PictureError as error:
                return None, str(error)

        with in_threads(decode, [source for _, source in named]) as found:
            decoded = list(found)
        bad = {
            name: reason for (name, _), (_, reason) in zip(named, decoded, strict=True) if reason is not None
        }
        if bad:
            raise DatasetError(name_unreadable(bad))
        images = np.stack([image for image, _ in decoded if image is not None])
        return torch.from_numpy(images).permute(0, 3, 1, 2)


def _picture(source: Path | Image.Image) -> Picture:
    if isinstance(source, Image.Image):
        return upright(source)
    found = read_picture(source)
    if found.picture is None:
        raise PictureError(found.reason)
    return found.picture


class _Undrawn(TorchFunctionMode):
    """While it holds, the random weights of a new network are not drawn: a checkpoint's replace them all.

    They would take as long as reading the checkpoint.
    """

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in (Tensor.uniform_, Tensor.normal_):
            return arguments[0]
        return function(*arguments, **(options or {}))


def load_model(
    checkpoint: str | PathLike[str],
    device: str = "auto",
    *,
    metric: str | None = None,
    feature_norm: bool | None = None,
    neck_feature: str | None = None,
) -> TrainedModel:
    """The model of a checkpoint: a file, a run's folder or an MLflow run id.

    What is not given of the last three is as the checkpoint was evaluated. Nothing is changed of the process:
    no switch or seed of torch, nor which GPU is current.

    Raises:
        CheckpointError, TrackingError: there is none, or it cannot be read.
        ConfigError: no such device.
        ValueError: no such metric.
    """
    path = find_checkpoint(str(checkpoint))
    loaded = load_checkpoint(path)
    compute = Compute(choose_device(device))
    arguments = {"metric": metric, "feature_norm": feature_norm, "neck_feature": neck_feature}
    chosen = {key: value for key, value in arguments.items() if value is not None}
    space = feature_space({**loaded.meta["eval"], **chosen})
    distance_function(space.metric)
    with torch.random.fork_rng(devices=[]), _Undrawn():
        model = compute.place(rebuild_model(loaded))
    model.eval()
    model.eval_feature = space.neck_feature
    size = loaded.meta["preprocessing"]
    stored = stored_threshold(loaded.meta)
    by_run = RUN_ID.fullmatch(str(checkpoint)) and path != Path(checkpoint)  # fetched into a temporary folder
    name = str(checkpoint) if by_run else str(path)
    return TrainedModel(
        model, compute.device, size["height"], size["width"], space, stored, loaded.meta, name
    )


def shape_problem(path: Path, height: int, width: int) -> str | None:
    """Why an image is no crop of one person as a `height` x `width` model knows them; None if it may be."""
    wide, high = open_picture(path).image.size
    size = f"{path} is {wide} x {high} pixels (width x height)"
    if high < SMALLEST[0] or wide < SMALLEST[1]:
        return f"{size}: too small to tell anybody apart"
    stretch = (high / wide) / (height / width)
    if 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        return None
    shape = (
        "wider than high" if wide > high else "nearly square" if high < 1.25 * wide else "of another shape"
    )
    return (
        f"{size}, {shape}: the model knows crops of one person, about {width} : {height}, and squeezes it "
        "into that. Cut the person out first; a distance from the whole scene means little"
    )
