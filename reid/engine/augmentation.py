"""What a config asks for of training images, as the table of operations that does it."""

from reid.config.checks import ConfigError
from reid.config.schema import TrainConfig
from reid.data.augment import Augmentation, Operation
from reid.data.blur import RandomBlur
from reid.data.colour import RandomColour
from reid.data.policies import RandomPolicy
from reid.data.random_patch import RandomPatch
from reid.normalisation import Normalisation


def check_processes(settings: TrainConfig, processes: int) -> None:
    """Refuse random patches where several processes train together.

    Raises:
        ConfigError: so it is.
    """
    share = settings.augment.random_patch
    if share and processes > 1:
        raise ConfigError(
            f"augment.random_patch={share} with {processes} processes: a patch comes from another image of "
            "the batch, and each process has a part of the batch alone. Train in one process, or set "
            "augment.random_patch=0"
        )


def training_augmentation(settings: TrainConfig, normalisation: Normalisation) -> Augmentation:
    """The augmentation of a run.  What is off is not in the table, and draws nothing."""
    augment, for_each = settings.augment, settings.augment.draw == "image"
    first: list[Operation] = []
    coloured: list[Operation] = []
    if augment.random_patch:
        first.append(RandomPatch(augment.random_patch, for_each))
    if augment.policy != "none" and augment.policy_probability:
        first.append(
            RandomPolicy(
                augment.policy, augment.policy_probability, augment.operations, augment.magnitude, for_each
            )
        )
    if augment.colour or augment.grey:
        coloured.append(
            RandomColour(
                augment.colour, augment.brightness, augment.contrast, augment.saturation, augment.hue,
                augment.grey, for_each,
            )
        )  # fmt: skip
    if augment.blur:
        coloured.append(RandomBlur(augment.blur, augment.blur_sigma, for_each))
    return Augmentation(
        settings.image.flip, settings.image.padding, settings.tricks.random_erasing,
        settings.tricks.erasing_fill, normalisation, tuple(first), tuple(coloured),
    )  # fmt: skip
