"""The networks that keys of the training config stand for, outside any training."""

from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from reid.config.checks import ConfigError
from reid.config.schema import TrainConfig
from reid.jobs.compose_errors import explain
from reid.sweeps.cells import plan


def named_networks(overrides: Sequence[str]) -> list[TrainConfig]:
    """The training configs of `backbone=resnet50,resnet18 image.height=256`, as `reid.train -m` takes it.

    No weights are loaded. Nothing here imports torch.

    Raises:
        ConfigError: a key, a value or a choice that there is not.
    """
    try:
        settings = plan("train", ["-m", "sweep.take=none", *overrides, "backbone.weights=none"]).settings
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, "train", list(overrides))) from error
    if not settings:
        raise ConfigError(
            f"{' '.join(overrides)}: expected keys with values or lists of them, such as "
            "backbone=resnet50,resnet18"
        )
    return settings
