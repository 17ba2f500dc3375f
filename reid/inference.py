"""A trained model, ready to use from Python: images in, features and verdicts out.

from reid.inference import load_model

model = load_model("outputs/<run>/model.pt")
features = model.embed(["a.jpg", "b.jpg"])          # (2, C) float32, as the evaluation uses them
model.distances(features)                           # (2, 2)
model.same("a.jpg", "b.jpg")                        # by the threshold that `python -m reid.threshold` stored
model.search("gallery", "a.jpg", top=5)             # a frame; `python -m reid.index` makes the gallery
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reid.data import DatasetError, Progress, silent
from reid.data.augment import normalise_pixels
from reid.data.batches import to_device
from reid.data.image_inputs import ImageInput, decoded_batches, is_one, named_images
from reid.data.pictures import ORIENTATION, open_picture, upright_size
from reid.distance import distance_function, normalise
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.engine.checkpoint_meta import WITHOUT_CAMIDS
from reid.engine.checkpoint_source import find_checkpoint, is_tracked
from reid.engine.checkpoint_source import newest_model as newest_model
from reid.engine.compute import Compute, choose_device
from reid.engine.describe import rebuild_model
from reid.engine.runtime import library_call
from reid.gallery.facts import Facts, network_options
from reid.judging.quality import Measures, measure, stored_quality
from reid.judging.stored_threshold import (
    FeatureSpace,
    StoredThreshold,
    ThresholdError,
    feature_space,
    stored_threshold,
)
from reid.models import ReidModel
from reid.words import percent

if TYPE_CHECKING:
    import pandas

    from reid.gallery import Index

log = logging.getLogger(__name__)

#: What `embed` gives, also as an array, as it is stored.
Features: TypeAlias = Tensor | npt.NDArray[np.floating[Any]]

#: A crop smaller than this, in pixels (height, width), shows nobody that one could tell apart.
SMALLEST = (32, 16)
#: How far from the model's height : width an image may be, as a factor.
MOST_STRETCH = 1.6


@dataclass(frozen=True)
class Verdict:
    """Whether two images show one person, as far as a distance tells: true where they do.

    Attributes:
        distance: in the model's metric; at most `threshold.value` means the same person.
        threshold: what decided, with the error rates that it was measured to have (`far`, `tar`).
    """

    distance: float
    threshold: StoredThreshold

    def __bool__(self) -> bool:
        return self.distance <= self.threshold.value

    def __repr__(self) -> str:
        kind, sign = ("same", "<=") if self else ("different", ">")
        limit = self.threshold
        return (
            f"Verdict({kind}: distance {self.distance:.3f} {sign} {limit.value:.3f}; "
            f"FAR {percent(limit.far)}, FRR {percent(1 - limit.tar)} on {limit.dataset})"
        )


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

    def __repr__(self) -> str:
        threshold = f"{self.threshold.value:.3f}" if self.threshold else "none"
        network = f"{self.meta['model']['backbone']['name']}, {self.height} x {self.width}"
        space = (
            f"{self.space.metric} {'unit' if self.space.feature_norm else 'raw'} {self.space.neck_feature}"
        )
        flip = " flip" if self.space.flip else ""
        size = self.model.embedding_size
        return f"TrainedModel({network} -> {size}, {space}{flip}, threshold {threshold}, {self.device})"

    @property
    def cameras(self) -> tuple[int, ...]:
        """The camids that the model has learnt an embedding of; () for a model that knows no cameras."""
        return self.model.cameras

    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        batch: int = 128,
        progress: Progress = silent,
        *,
        camids: int | Iterable[int | None] | None = None,
    ) -> Tensor:
        """The features (N, C) of images in their order, float32 on the CPU, as the evaluation uses them.

        images: one (N is 1) or many; `reid.data.image_inputs` says what an image may be. A generator is read
            as its images are needed, and about two batches of them are held at a time. Of none, as of a frame
            without people, the features are (0, C).
        progress: shows nothing for a generator, whose end nobody knows.
        camids: of a model that has learnt `cameras`: the one that saw all images, or one for each image.
            Where it is None, the mean of the learnt camera embeddings stands in; the log says once what that
            costs. Other models take no notice of camids.

        Raises:
            ValueError: a camid that is none of `cameras`, or not as many as images.
            DatasetError: an image cannot be used; the message names those of its batch.
            CheckpointError: features are not finite.
        """
        if batch < 1:
            raise ValueError(f"batch={batch}: expected 1 or more")
        batches: Iterable[tuple[list[str], Tensor]] = decoded_batches(images, batch, self.height, self.width)
        count = 1 if is_one(images) else len(images) if isinstance(images, Sized) else None
        if count is not None:
            batches = progress(batches, -(-count // batch), "embedding batches of images")
        nothing = torch.empty(0, self.model.embedding_size, dtype=torch.float32, device="cpu")
        cameras = self._cameras(camids)
        parts = [self._features(names, pixels, cameras(names)) for names, pixels in batches]
        cameras([])
        return torch.cat([nothing, *parts])

    def _cameras(
        self, camids: int | Iterable[int | None] | None
    ) -> Callable[[Sequence[str]], list[int] | None]:
        """What gives the camids of the next images, by name; None where they are of no camera.

        Raises:
            ValueError: as `embed`; of too many camids where it is asked for those of no images, at the end.
        """
        if not self.cameras:
            return lambda names: None
        if camids is None:
            if self.model.default_camera is None:
                self._say_without_camids  # noqa: B018
            return lambda names: None
        nobody = min(self.cameras) - 1
        known = iter(itertools.repeat(camids) if isinstance(camids, int) else camids)

        def following(names: Sequence[str]) -> list[int]:
            some = list(itertools.islice(known, len(names)))
            if len(some) < len(names):
                raise ValueError(f"camids: none is left for {names[len(some)]}; expected one for each image")
            for camid, name in zip(some, names, strict=True):
                if camid is not None and camid not in self.cameras:
                    raise ValueError(
                        f"camid {camid} of {name} is no camera that the model has learnt: expected one of "
                        f"{', '.join(map(str, self.cameras))}, or None where it is another"
                    )
            if not names and not isinstance(camids, int) and next(known, self) is not self:
                raise ValueError("camids: there are more of them than images; expected one for each image")
            return [nobody if camid is None else int(camid) for camid in some]

        return following

    @cached_property
    def _say_without_camids(self) -> None:
        measured = self.meta.get(WITHOUT_CAMIDS)
        log.warning(
            "%s has learnt the cameras %s, and images come without camids: they are embedded with the mean "
            "of the learnt camera embeddings%s",
            self.name,
            ", ".join(map(str, self.cameras)),
            f". That gave mAP {percent(measured['mAP_without'])} in place of {percent(measured['mAP'])} on "
            f"the {measured['split']} split of its own data"
            if measured
            else "",
        )

    @torch.inference_mode()
    def _features(
        self, names: Sequence[str], pixels: Tensor, camids: list[int] | None = None, unit: bool | None = None
    ) -> Tensor:
        """The features (B, C) of a batch of images, (B, 3, H, W) uint8; `unit` normalises them, None: as the
        space has it."""
        unit = self.space.feature_norm if unit is None else unit
        with library_call(self.device):
            images = normalise_pixels(to_device(pixels, self.device), self.model.normalisation)
            cameras = None if camids is None else torch.tensor(camids, device=self.device)
            features = self.model(images, cameras).float()
            if self.space.flip:
                features = (features + self.model(images.flip(3), cameras).float()) / 2
            features = features.cpu()
            if unit:
                features = normalise(features)
        bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise CheckpointError(
                f"{self.name} gives features with NaN or infinity for {len(bad)} of {len(names)} images, "
                f"first {names[bad[0]]}: they compare with nothing. Take another checkpoint"
            )
        return features

    @cached_property
    def facts(self) -> Facts:
        """What an index has to know of its features: `Index.create(folder, model.facts)`."""
        size = self.model.embedding_size
        network = network_options(self.model.backbone, self.meta["model"])
        return Facts.of(self.model.state_dict(), size, self.meta, self.space, self.threshold, network)

    def search(
        self,
        index: "Index | str | PathLike[str]",
        images: ImageInput | Iterable[ImageInput],
        top: int = 20,
        *,
        camids: int | Iterable[int | None] | None = None,
    ) -> "pandas.DataFrame":
        """The nearest images of a gallery: for each image its `top` hits, nearest first, a row each.

        The columns are `query` (the image's place, from 0), `rank` (from 1), `distance`, `same` (what the
        model's threshold says, None without one), and `path`, `pid`, `name`, `camid`, `time` of the hit, as
        far as they are known. An image of the gallery, known by its path, does not find itself.

        Args:
            index: an index, or the folder of one, as `python -m reid.index` makes it.
            images, camids: as `embed` takes them.

        Raises:
            IndexFault: there is no such index, or another model made it.
            ValueError, DatasetError, CheckpointError: as `embed`.
        """
        import pandas  # heavy, as is pyarrow, which the index reads; most uses of a model do without

        from reid.gallery import Index, Row

        gallery = index if isinstance(index, Index) else Index.open(index)
        gallery.check(self.facts)
        names: list[str] = []

        def remembered() -> Iterator[ImageInput]:
            for name, image in named_images(images):
                is_file = isinstance(image, str | PathLike)
                names.append(os.path.abspath(os.path.expanduser(name)) if is_file else "")
                yield image

        features = self.embed(remembered(), camids=camids)
        own = {path: row for row, path in enumerate(gallery.paths())} if any(names) else {}
        without = [[own[name]] if name in own else [] for name in names]
        hits = gallery.search(features.numpy(), top, without=without)
        query, rank = (hits.rows >= 0).nonzero()
        distances = hits.distances[query, rank]
        fits = self.threshold is not None and self.threshold.space == self.space
        found = pandas.DataFrame({"query": query, "rank": rank + 1, "distance": distances})
        found["same"] = distances <= self.threshold.value if fits and self.threshold else None
        columns = ["path", "pid", "name", "camid", "time"]
        rows = [gallery.row(int(row)) for row in hits.rows[query, rank]]
        return found.join(pandas.DataFrame(rows, columns=Row._fields)[columns])

    def quality(
        self,
        images: ImageInput | Iterable[ImageInput],
        batch: int = 128,
        *,
        camids: int | Iterable[int | None] | None = None,
    ) -> "pandas.DataFrame":
        """How good crops are for finding somebody: a row for each, in their order.

        The columns are `norm` (L2 norm of the feature before it is normalised), `height`, `width` (pixels of
        the picture), `sharpness`, `contrast`, `brightness`, `quality` and `flags`. `quality` is the average
        precision that the crop leads one to expect, from 0 to 1, by the model that `python -m reid.evaluate
        eval.quality=true card=true` has fitted; None where the checkpoint carries none. `flags` says in
        words what is amiss, as far as pictures tell: `reid.judging.quality` says what they do not.

        Raises:
            ValueError: as `embed`, or a model of quality of another version.
            DatasetError, CheckpointError: as `embed`.
        """
        import pandas

        fitted = stored_quality(self.meta)
        sizes: list[tuple[int, int] | None] = []

        def measured() -> Iterator[ImageInput]:
            for _, image in named_images(images):
                sizes.append(_size_of(image))
                yield image

        found: list[Measures] = []
        cameras = self._cameras(camids)
        for names, pixels in decoded_batches(measured(), batch, self.height, self.width):
            norms = self._features(names, pixels, cameras(names), unit=False).double().norm(dim=1).tolist()
            shown = pixels.permute(0, 2, 3, 1).numpy()
            known = sizes[len(found) : len(found) + len(names)]
            for one, size, norm in zip(shown, known, norms, strict=True):
                height, width = size or one.shape[:2]
                found.append(measure(one, height, width, norm))
        cameras([])
        frame = pandas.DataFrame(found, columns=Measures._fields)
        frame["quality"] = None if fitted is None else fitted.scores(found)
        frame["flags"] = [()] * len(found) if fitted is None else fitted.flags(found)
        return frame

    def distances(self, first: Features, second: Features | None = None) -> Tensor:
        """Distances (N, M) between features (N, C) and (M, C), in float64; among `first` without `second`.

        Raises:
            ValueError: other shapes.
        """
        one = torch.as_tensor(first).double()
        other = one if second is None else torch.as_tensor(second).double()
        if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
            raise ValueError(
                f"features of the shapes {tuple(one.shape)} and {tuple(other.shape)}: expected (N, C) and "
                "(M, C), as embed gives them; of one image features[:1], not features[0]"
            )
        return distance_function(self.space.metric)(one, other)

    def same(self, first: ImageInput, second: ImageInput) -> Verdict:
        """Whether two images, one each as `embed` takes them, show the same person.

        Raises:
            ThresholdError: the model has no threshold, or one that was measured on other features.
            DatasetError: what is given is more than one image, or none that can be used.
        """
        if self.threshold is None:
            raise ThresholdError(
                f"{self.name} carries no threshold, so nothing says which distance is small. Measure one: "
                f"python -m reid.threshold checkpoint={self.name}"
            )
        self.threshold.check(self.space)
        for place, image in (("first", first), ("second", second)):
            if not is_one(image):
                raise DatasetError(
                    f"the {place} argument holds many images, and same() compares one with one. For many: "
                    "model.distances(model.embed(images)) <= model.threshold.value"
                )
        features = self.embed([first, second])
        return Verdict(self.distances(features[:1], features[1:]).item(), self.threshold)


def _size_of(image: ImageInput) -> tuple[int, int] | None:
    """Height and width of a picture before it is resized; None where that cannot be told."""
    if isinstance(image, str | PathLike):
        return upright_size(Path(os.path.expanduser(image)))
    if isinstance(image, Image.Image):
        turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)
    if isinstance(image, Tensor):
        return (int(image.shape[1]), int(image.shape[2])) if image.ndim == 3 else None
    return (int(image.shape[0]), int(image.shape[1])) if image.ndim == 3 else None


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
    """The model of a checkpoint: a file, a run's folder, an MLflow run id, or `models:/<name>@<alias>`.

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
    # Images come one by one here, whatever it was judged on.
    space = feature_space({**loaded.meta["eval"], **chosen, "tracklets": None})
    distance_function(space.metric)
    with torch.random.fork_rng(devices=[]), _Undrawn():
        model = compute.place(rebuild_model(loaded))
    model.eval()
    model.eval_feature = space.neck_feature
    size = loaded.meta["preprocessing"]
    stored = stored_threshold(loaded.meta)
    # What a store has is fetched into a temporary folder.
    name = str(checkpoint) if is_tracked(str(checkpoint)) else str(path)
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
