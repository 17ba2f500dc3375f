"""Which camera images are of, for a model that has learnt cameras: `--camera` of the commands that embed."""

from __future__ import annotations

from reid.config.checks import ConfigError
from reid.inference import TrainedModel

#: Images of cameras that the model has not learnt; and each of the camera that its row names.
MEAN, OWN = "mean", "own"
#: Why a camera has to be named: of images without rows, and of those that have some.
IMAGES = "an image does not say which camera saw it"
OTHERS = "cameras of other places may have the same numbers"


def fix_camera(model: TrainedModel, camera: str | None, why: str, own: bool | None = None) -> bool:
    """Let a model that has learnt cameras take images for those of one, or of none (`mean`).

    why: says why the camera has to be named.
    own: whether rows say the cameras of images, which `own` asks for; None where there are no rows.

    Returns whether each image is to be embedded with the camid of its row.

    Raises:
        ConfigError: the model has learnt no cameras, or not this one, or none was named; no row says its own.
    """
    if not model.cameras:
        if camera is not None:
            raise ConfigError(f"--camera {camera}: {model.name} has learnt no cameras. Leave --camera out")
        return False
    if camera == OWN and own is not None:
        if not own:
            raise ConfigError(
                "--camera own: nothing says which cameras the images are of. Give a dataset, or a table with "
                "a column camid; or --camera N"
            )
        return True
    by_name = {MEAN: None, **{str(camid): camid for camid in model.cameras}}
    if camera not in by_name:
        typed = f"--camera {camera} is none of them" if camera else "no --camera was given"
        rows = "" if own is None else "--camera own for those that a dataset or a table names, "
        raise ConfigError(
            f"{model.name} has learnt the cameras {', '.join(map(str, model.cameras))}, {why}, and {typed}. "
            f"Give --camera N to take all images for those of the camera N, {rows}or --camera mean for "
            "images of other cameras"
        )
    model.model.default_camera = by_name[camera]
    return False


def camids_of(model: TrainedModel, camids: list[int | None]) -> list[int | None]:
    """As `embed` takes them: None for an image that says none, or one that the model has not learnt."""
    return [camid if camid in model.cameras else None for camid in camids]
