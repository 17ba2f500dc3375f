"""Whether `weights` names a file that is there: asked before torch is imported and anything is read."""

from pathlib import Path

from reid.errors import UsageError


class WeightsError(UsageError, ValueError):
    """Weights could not be had, could not be read safely, or belong to another network."""


def check_weights(weights: str) -> None:
    """Raise WeightsError where `weights` names a file, as `load_weights` takes it, that is not there."""
    if weights in ("none", "imagenet"):
        return
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights={path}: there is no such file. Give the path of a weight file, "
            f"`imagenet` or `none`."
        )
