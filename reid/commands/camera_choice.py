"""Which camera images are of, for a model that has learnt cameras: `--camera` of the commands that embed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reid.config.checks import ConfigError
from reid.inference import TrainedModel

#: Images of cameras that the model has not learnt; and each of the camera that its row names.
MEAN, OWN = "mean", "own"
#: Why a camera has to be named: of images without rows, and of those that have some.
NO_CAMERA_SAID = "an image does not say which camera saw it"
OTHER_CAMERAS = "cameras of other places may have the same numbers"


@dataclass(frozen=True)
class CameraChoice:
    """As images of which camera a model takes those that it embeds.

    learnt: the camids that the model knows.
    camera: one of these, MEAN or OWN; None of a model that has learnt none.
    """

    learnt: tuple[int, ...]
    camera: int | str | None

    def camids(self, rows: Sequence[int | None]) -> list[int | None] | None:
        """As `TrainedModel.embed` takes them, of images whose rows say these; None is the mean."""
        if self.camera is None:
            return None
        if isinstance(self.camera, int):
            return [self.camera] * len(rows)
        return [camid if self.camera == OWN and camid in self.learnt else None for camid in rows]

    def strangers(self, rows: Sequence[int | None]) -> str:
        """How many of the images that were to have their own camera get the mean; "" where none does."""
        strange = sum(camid not in self.learnt for camid in rows) if self.camera == OWN else 0
        if not strange:
            return ""
        return (
            f"{strange:,} of {len(rows):,} images are of no camera that the model has learnt "
            f"({_listed(self.learnt)}): they are embedded with the mean of these"
        )


def choose_camera(model: TrainedModel, camera: str | None, why: str, own: bool | None = None) -> CameraChoice:
    """What `--camera` means for a model.

    why: says why the camera has to be named.
    own: whether rows say the cameras of images, which `own` asks for; None where there are no rows.

    Raises:
        ConfigError: the model has learnt no cameras, or not this one, or none was named; no row says its own.
    """
    learnt = model.cameras
    if not learnt:
        if camera is not None:
            raise ConfigError(f"--camera {camera}: {model.name} has learnt no cameras. Leave --camera out")
        return CameraChoice((), None)
    if camera == OWN and own is False:
        raise ConfigError(
            "--camera own: nothing says which cameras the images are of. Give a table with a column camid, "
            "or --camera N"
        )
    by_name: dict[str | None, int | str] = {MEAN: MEAN, **{str(camid): camid for camid in learnt}}
    if own:
        by_name[OWN] = OWN
    if camera not in by_name:
        typed = f"--camera {camera} is none of them" if camera else "no --camera was given"
        rows = "--camera own for those that their rows say, " if own else ""
        raise ConfigError(
            f"{model.name} has learnt the cameras {_listed(learnt)}, {why}, and {typed}. Give --camera N to "
            f"take all images for those of the camera N, {rows}or --camera mean for images of other cameras"
        )
    return CameraChoice(learnt, by_name[camera])


def _listed(camids: Sequence[int]) -> str:
    return ", ".join(map(str, camids))
