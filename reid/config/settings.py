"""From a composed config to checked, typed values."""

import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from reid.config.checks import (
    ConfigError,
    check_fields,
    check_present,
    nearest,
    parameter_names,
    refuse_untrusted,
    required_names,
    trusted_target,
)
from reid.config.dataset import check_dataset, complete_dataset, drawn_people, refuse_missing
from reid.config.identity import FOLLOWS, LATER, flat
from reid.config.mix import MIX, check_margins, check_mix
from reid.config.schema import (
    RUN_ID,
    AugmentConfig,
    EmaConfig,
    EvalConfig,
    EvaluateConfig,
    ImageConfig,
    LossKeys,
    OptimizerKeys,
    ScheduleConfig,
    TeacherConfig,
    ThresholdConfig,
    TrainConfig,
    compose_dataset,
    dataset_choices,
)
from reid.data.sizes import ImageSize, epoch_sizes
from reid.home import from_hydra, literal
from reid.models import SMALLEST_IBN_SIDE, SMALLEST_STN_IMAGE


def train_settings(config: DictConfig) -> TrainConfig:
    """The composed config as typed values, refused where a value or a combination is wrong.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    settings = typed_train_settings(config)
    # Here, since what is typed wrongly is refused before torch is imported.
    from reid.config.trial import check_built

    check_built(settings)
    return settings


def typed_train_settings(config: DictConfig) -> TrainConfig:
    """The same, less what only the loss, the optimizer and the backbone themselves can tell: without torch.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    settings: TrainConfig = _typed(config)
    for group, keys in (("loss", LossKeys), ("optimizer", OptimizerKeys)):
        values, own = getattr(settings, group), set(keys.__dataclass_fields__)
        for key in own:
            if f"{group}.{key}" in LATER:  # a choice of the user's own may be older than the key
                values.setdefault(key, LATER[f"{group}.{key}"])
        check_present(group, values, ("_target_", *own))
        if group == "loss" and values["_target_"] == MIX:
            check_mix(values)
            own = own - {"neck_feature"}
        check_fields(keys(**{key: values[key] for key in own}), group)
        if values["_target_"] is not None:
            refuse_untrusted(group, values["_target_"])
    check_dataset(settings.dataset)
    check_present("backbone", settings.backbone, ("name",))
    if "last_stride" in settings.backbone:
        raise ConfigError("no key backbone.last_stride: it is one of the tricks. Set tricks.last_stride")
    if settings.init_from is not None:
        settings.init_from = _absolute_unless_tracked(settings.init_from)
        settings.backbone["weights"] = "none"  # the checkpoint brings them, so no file is fetched in vain
    if settings.teacher.checkpoint is not None:
        settings.teacher.checkpoint = _absolute_unless_tracked(settings.teacher.checkpoint)
    _check_cameras(settings.backbone)
    _check_head(settings)
    _check_across(settings)
    _check_image(settings)
    _check_augment(settings.augment)
    _check_drawn(settings)
    return settings


def check_identities(identities: int, people: int, dataset: str) -> None:
    """Raises ConfigError where a batch takes more identities than there are `people` to train on."""
    if identities > people:
        raise ConfigError(
            f"batch.identities={identities} is larger than the {people} identities that {dataset} has to "
            f"train on; a batch holds each once at most. Set {people} or less."
        )


def _refuse_closer_look(settings: EvalConfig) -> None:
    """Raises ConfigError for what `reid.evaluate` alone does."""
    if settings.quality or settings.groups:
        raise ConfigError(
            "eval.quality and eval.groups are for a trained model: python -m reid.evaluate checkpoint=… "
            "eval.quality=true eval.groups=[camera_pair,size]"
        )


def evaluate_settings(config: DictConfig) -> EvaluateConfig:
    """As `train_settings`, for the evaluate command."""
    settings: EvaluateConfig = _typed(config)
    if settings.dataset is not None:
        check_dataset(settings.dataset)
        if settings.eval.datasets:
            raise ConfigError("dataset and eval.datasets both say what to judge on: give one of them")
    settings.eval.datasets = _domains(settings.eval.datasets, settings.data.root)
    for name in settings.eval.groups:
        if not isinstance(name, str) or settings.eval.groups.count(name) > 1:
            raise ConfigError(
                f"eval.groups={settings.eval.groups} is not allowed: expected names, each once, of "
                "camera_pair, size, "
                "brightness and columns of the dataset's table"
            )
    return settings


def _domains(entries: list[Any], data_root: str) -> list[dict[str, Any]]:
    """Each entry of eval.datasets as the keys of its dataset and `label`, its name in tables and metrics."""
    domains: list[dict[str, Any]] = []
    choices = dataset_choices()
    for entry in entries:
        changes = dict(entry) if isinstance(entry, dict) else {"name": entry}
        choice = changes.pop("name", None)
        label = str(changes.pop("label", choice))
        if choice not in choices:
            raise ConfigError(
                f"eval.datasets: no dataset {choice!r} in {entry!r}. Expected one of {', '.join(choices)}, "
                f"or with its keys as in {{name: folder, root: /crops}}.{nearest(str(choice), choices)}"
            )
        dataset = compose_dataset(choice, data_root, changes)
        if "root" not in dataset:
            raise ConfigError(
                f"eval.datasets: {choice} has no folder of its own. Write {{name: {choice}, root: /crops}}"
            )
        dataset = complete_dataset(dataset, data_root)
        refuse_missing(dataset, f"eval.datasets: {choice}")
        check_dataset(dataset)
        if not re.fullmatch(r"[\w.-]*\w", label) or label in [domain["label"] for domain in domains]:
            raise ConfigError(
                f"eval.datasets: {label!r} cannot name a row. Give each entry a label of letters, digits, _ "
                f"and - that no other has, as in {{name: {choice}, label: site_a, root: /crops}}"
            )
        domains.append({"label": label, **dataset})
    return domains


def threshold_settings(config: DictConfig) -> ThresholdConfig:
    """As `train_settings`, for the threshold command."""
    settings: ThresholdConfig = _typed(config)
    _refuse_closer_look(settings.eval)
    if settings.dataset is not None:
        check_dataset(settings.dataset)
    if settings.output is not None:
        output = Path(settings.output).expanduser().absolute()
        if output.suffix != ".pt" or not output.parent.is_dir():
            raise ConfigError(
                f"output={settings.output} is not allowed: expected a file whose name ends in .pt, in a "
                "folder that is there"
            )
        settings.output = str(output)
    return settings


def _typed(config: DictConfig) -> Any:
    OmegaConf.set_struct(config, False)
    try:
        config.data.root = literal(str(from_hydra(Path(config.data.root).expanduser().absolute())))
        settings: Any = OmegaConf.to_object(config)
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        # Of an interpolation, `full_key` is the key that it stands in.
        interpolated = isinstance(error, InterpolationToMissingValueError)
        named = str(error).splitlines()[0].rpartition(": ")[2]
        key = named if interpolated else error.full_key or named
        raise ConfigError(f"{key} is not given and has no default: add {key}=… to the command") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{key}{str(error).splitlines()[0]}") from error
    if settings.dataset:
        settings.dataset = complete_dataset(settings.dataset, settings.data.root)
    if isinstance(settings.tracking.checkpoint, bool):  # as configs had it before there was `best`
        settings.tracking.checkpoint = "last" if settings.tracking.checkpoint else "none"
    check_fields(settings)
    return settings


def _absolute_unless_tracked(name: str) -> str:
    if RUN_ID.fullmatch(name) or name.startswith("models:/"):
        return name
    return str(Path(name).expanduser().absolute())


def _check_head(settings: TrainConfig) -> None:
    check_present("head", settings.head, ("_target_", "train_feature", "eval_feature"))
    path = str(settings.head["_target_"])
    values = flat(settings)
    for key, owner in FOLLOWS.items():
        if key in values and values[key] != values[owner]:
            raise ConfigError(
                f"{key}={values[key]} differs from {owner}={values[owner]}, which it follows. Set {owner} "
                "alone"
            )
    if "neck" not in settings.head and not settings.tricks.bnneck:
        raise ConfigError(
            f"tricks.bnneck=false does not fit this head: {path} has no key neck, so its neck cannot be left "
            "out. Choose head=bnneck, or leave tricks.bnneck true"
        )
    check_margins(settings.head, settings.loss)


def _check_cameras(backbone: dict[str, Any]) -> None:
    """Of a backbone that can learn cameras; false is null."""
    cameras, weight = backbone.get("cameras"), backbone.get("camera_weight", 3.0)
    numbers = cameras if isinstance(cameras, list) else [cameras]
    if cameras not in (None, False, True) and not all(type(one) is int and one >= 0 for one in numbers):
        raise ConfigError(
            f"backbone.cameras={cameras} is not allowed: expected true (the cameras of the training set), "
            "how many there are, a list of their camids such as [0,1,4], or null"
        )
    if cameras is False:
        backbone["cameras"] = None
    if not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigError(f"backbone.camera_weight={weight} is not allowed: expected a number")
    if not cameras and weight != 3.0:
        raise ConfigError(
            f"backbone.camera_weight={weight} weighs camera embeddings, and backbone.cameras={cameras}: "
            "there are none. Set backbone.cameras=true too"
        )


def _check_across(settings: TrainConfig) -> None:
    batch, loss = settings.batch, settings.loss
    if batch.size != batch.identities * batch.instances:
        raise ConfigError(
            f"batch.size={batch.size} is not batch.identities x batch.instances = {batch.identities} x "
            f"{batch.instances} = {batch.identities * batch.instances}. Set those two; the size follows."
        )
    _check_schedule(settings)
    _check_selection(settings)
    if settings.clip_norm is not None and settings.clip_norm <= 0:
        raise ConfigError(
            f"clip_norm={settings.clip_norm}: expected a number above 0, or null for no clipping"
        )
    if loss["metric_weight"] > 0 and loss["_target_"] is None:
        raise ConfigError(
            f"loss.metric_weight={loss['metric_weight']} has no metric loss to weigh: this choice is cross "
            "entropy alone. Choose loss=ranked, or set loss.metric_weight=0"
        )
    for key, value in vars(settings.ema).items():
        if settings.ema.decay is None and value != getattr(EmaConfig, key):
            raise ConfigError(
                f"ema.{key}={str(value).lower()} has no moving average to act on: ema.decay is null. Set "
                f"ema.decay=0.999, or leave ema.{key} out"
            )
    for key, value in vars(settings.teacher).items():
        if settings.teacher.checkpoint is None and value != getattr(TeacherConfig, key):
            raise ConfigError(
                f"teacher.{key}={value} has no teacher to act on: teacher.checkpoint is null. Set "
                f"teacher.checkpoint=outputs/<run>, or leave teacher.{key} out"
            )
    if settings.eval.datasets:
        raise ConfigError(
            "eval.datasets is for a trained model: python -m reid.evaluate checkpoint=… eval.datasets=[…]. "
            "Training judges on the dataset that it trains on"
        )
    _refuse_closer_look(settings.eval)
    if settings.checkpointing and settings.compile:
        raise ConfigError(
            "checkpointing and compile are both true: the compiler itself decides what is computed twice. "
            "Set compile=false, or checkpointing=false"
        )
    if settings.sync_bn and settings.freeze_bn:
        raise ConfigError(
            "sync_bn and freeze_bn are both true: frozen batch norms have nothing to share, and the neck's "
            "statistics are of all processes with freeze_bn=true already"
        )
    if settings.freeze_bn and settings.init_from is None and settings.backbone.get("weights") == "none":
        warnings.warn(
            "freeze_bn=true with backbone.weights=none: the batch norms keep the statistics that they begin "
            "with, 0 and 1, which are of no image. Choose backbone.weights=…, init_from=… or freeze_bn=false",
            stacklevel=3,
        )
    if settings.freeze_epochs > settings.epochs:
        raise ConfigError(
            f"freeze_epochs={settings.freeze_epochs} is longer than the run of epochs={settings.epochs}: "
            f"expected {settings.epochs} or less. With as many the backbone never learns"
        )
    if settings.freeze_epochs and settings.init_from is None and settings.backbone.get("weights") == "none":
        warnings.warn(
            f"freeze_epochs={settings.freeze_epochs} with backbone.weights=none: the head is fitted to a "
            "network of random weights. Choose backbone.weights=…, init_from=… or freeze_epochs=0",
            stacklevel=3,
        )
    if loss["id_weight"] == loss["metric_weight"] == 0:
        raise ConfigError("loss.id_weight and loss.metric_weight are both 0: there is nothing to train for")


def _check_selection(settings: TrainConfig) -> None:
    """Refuse to keep the best epoch where none can be chosen, or where it were chosen on the test set."""
    if settings.tracking.checkpoint != "best":
        return
    if settings.eval.split != "val":
        raise ConfigError(
            f"tracking.checkpoint=best chooses an epoch by its score, and eval.split={settings.eval.split}: "
            "then nothing would be left to judge the chosen model on. Set eval.split=val, which holds people "
            "of the training set out, or tracking.checkpoint=last"
        )
    period = settings.eval.period
    if period == 0:
        raise ConfigError(
            "tracking.checkpoint=best chooses among epochs that are judged, and eval.period=0 judges the "
            "last one alone. Set eval.period=1, or tracking.checkpoint=last"
        )
    if period >= settings.epochs:
        warnings.warn(
            f"tracking.checkpoint=best with eval.period={period}: a run of {settings.epochs} epochs is "
            "judged after its last one alone, so there is nothing to choose from. Set a smaller eval.period",
            stacklevel=4,
        )


def _check_schedule(settings: TrainConfig) -> None:
    """Refuse a schedule that is wrong, and warn of one that reaches beyond the end of the run."""
    schedule, epochs, warmup = settings.schedule, settings.epochs, settings.tricks.warmup
    function = trusted_target("schedule", schedule._target_)
    used = parameter_names(function)
    known = {"elapsed", "epochs", "base_lr", *vars(schedule)} - {"_target_", "per"}
    if unknown := sorted(required_names(function) - known):
        raise ConfigError(
            f"schedule._target_={schedule._target_} is no schedule: it takes {', '.join(unknown)}, and is "
            f"given {', '.join(sorted(known))} alone"
        )
    unused = {
        f"schedule.{name}": getattr(schedule, name)
        for name, default in vars(ScheduleConfig()).items()
        if name not in (*used, "_target_", "per") and getattr(schedule, name) != default
    }
    if "warmup_epochs" not in used and warmup != schedule.warmup_epochs:  # which it follows
        unused["tricks.warmup"] = warmup
    for key, value in unused.items():
        warnings.warn(f"{key}={value} does nothing: {schedule._target_} does not take it", stacklevel=3)
    milestones = schedule.milestones if "milestones" in used else []
    if not all(type(one) is int or (type(one) is float and 0 < one < 1) for one in milestones):
        raise ConfigError(
            f"schedule.milestones=[{','.join(map(str, milestones))}] is not allowed: expected a whole number "
            "of epochs each, such as [40,70], or a fraction of the run above 0 and below 1, such as "
            "[0.33,0.58]"
        )
    reached = schedule.milestone_epochs(epochs) if milestones else []
    if milestones and (min(milestones) <= 0 or reached != sorted(set(reached))):
        raise ConfigError(f"schedule.milestones={milestones}: expected rising epochs from 1, such as [40,70]")
    if schedule.warmup_method == "constant" and schedule.warmup_factor == 0:
        raise ConfigError(
            "schedule.warmup_factor=0 with schedule.warmup_method=constant would train nothing before the "
            "warm-up ends: expected a factor above 0, or warmup_method=linear, which rises from 0"
        )
    if "restarts" in used and schedule.restarts and schedule.restarts + 1 > epochs - warmup:
        raise ConfigError(
            f"schedule.restarts={schedule.restarts} makes {schedule.restarts + 1} cosines, which do not fit "
            f"the {max(0, epochs - warmup)} epochs after the warm-up: each takes an epoch or more. Set "
            f"schedule.restarts={max(0, epochs - warmup - 1)} or fewer, or more epochs"
        )
    if warmup >= epochs and "warmup_epochs" in used:
        key = "schedule.warmup_epochs" if warmup == schedule.warmup_epochs else "tricks.warmup"
        shorter = max(1, round(epochs / 12)) if epochs > 1 else 0
        warnings.warn(
            f"{key}={warmup}: a run of {epochs} epochs ends within its warm-up, before the learning rate has "
            f"reached optimizer.lr. Published are 10 epochs of 120: set {key}={shorter}",
            stacklevel=3,
        )
    if beyond := [epoch for epoch in reached if epoch > epochs - 1]:
        warnings.warn(
            f"schedule.milestones={milestones}: a run of {epochs} epochs ends before the learning rate "
            f"falls, after epoch {' and '.join(map(str, beyond))}. Published are 40 and 70 of 120: set "
            "schedule.milestones=[0.33,0.58], fractions of the run, or [] for a rate that does not fall",
            stacklevel=3,
        )


def _check_drawn(settings: TrainConfig) -> None:
    """Refuse before thousands of crops are drawn what would be refused after it."""
    people, name = drawn_people(settings.dataset), settings.dataset["name"]
    if people is None:
        return
    if settings.eval.split == "val":
        held_out = settings.eval.val_identities
        if held_out >= people:
            raise ConfigError(
                f"eval.val_identities={held_out}: {name} has {people} people to train on. Hold fewer out."
            )
        people -= held_out
    check_identities(settings.batch.identities, people, name)


def check_normalisation(image: ImageConfig) -> None:
    """Raises ConfigError where image.mean or image.std is no mean or deviation of pixels from 0 to 1."""
    for key, values in (("mean", image.mean), ("std", image.std)):
        if values is None:
            continue
        if len(values) != 3 or not all(math.isfinite(one) for one in values):
            raise ConfigError(
                f"image.{key}={values} is not allowed: expected three numbers, of red, green and blue pixels "
                f"from 0 to 1, such as image.{key}=[0.5,0.5,0.5]; or null"
            )
        if max(values) > 1 or min(values) < 0 or (key == "std" and min(values) == 0):
            raise ConfigError(
                f"image.{key}={values} is not allowed: pixels are numbers from 0 to 1 here, so expected "
                f"numbers {'above 0' if key == 'std' else 'from 0'} to 1. Divide numbers of pixels from 0 to "
                "255 by 255"
            )


def _check_image(settings: TrainConfig) -> None:
    check_normalisation(settings.image)
    for size in {(size.height, size.width) for size in training_sizes(settings)}:
        _check_size(settings, *size, f"image.sizes with {size[0]}x{size[1]}")
    height, width = settings.image.height, settings.image.width
    _check_size(settings, height, width, f"image.height={height} image.width={width}")


def _check_augment(augment: AugmentConfig) -> None:
    """Warn of keys that are set beside an operation that is off."""
    belonging = {
        "colour": ("brightness", "contrast", "saturation", "hue"),
        "blur": ("blur_sigma",),
        "policy": ("policy_probability", "operations", "magnitude"),
    }
    unused = [
        key for owner, keys in belonging.items() if getattr(augment, owner) in (0, "none") for key in keys
    ]
    if augment.policy == "autoaugment":
        unused += ["operations", "magnitude"]
    on = (augment.colour, augment.grey, augment.blur, augment.random_patch, augment.policy != "none")
    if augment.draw != AugmentConfig.draw and not any(on):
        warnings.warn(
            f"augment.draw={augment.draw} does nothing: no operation of augment is on, and flip, crop and "
            "erasing are drawn for each image always",
            stacklevel=4,
        )
    for key in unused:
        value = getattr(augment, key)
        if value != getattr(AugmentConfig(), key):
            owner = next(owner for owner, keys in belonging.items() if key in keys)
            warnings.warn(
                f"augment.{key}={value} does nothing with augment.{owner}={getattr(augment, owner)}",
                stacklevel=4,
            )


def training_sizes(settings: TrainConfig) -> tuple[ImageSize, ...]:
    """The size of each epoch; () where all are image.height x image.width.

    Raises:
        ConfigError: image.sizes is written wrongly, or does not fill the run.
    """
    image = settings.image
    try:
        return epoch_sizes(image.sizes, settings.epochs, image.height, image.padding)
    except ValueError as error:
        raise ConfigError(f"image.sizes: {error}") from error


def _check_size(settings: TrainConfig, height: int, width: int, size: str) -> None:
    """Refuse a size of images that the backbone or the head does not take; `size` names it."""
    backbone = settings.backbone
    if backbone.get("stn") and min(height, width) < SMALLEST_STN_IMAGE:
        raise ConfigError(
            f"backbone.stn=True does not fit {size}: it takes {SMALLEST_STN_IMAGE} x {SMALLEST_STN_IMAGE} "
            "pixels or more"
        )
    stripes, rows = settings.head.get("stripes", 1), math.ceil(height / 16 / settings.tricks.last_stride)
    if backbone.get("library", "reid") == "reid" and isinstance(stripes, int) and stripes > rows:
        raise ConfigError(
            f"head.stripes={stripes} does not fit {size} tricks.last_stride={settings.tricks.last_stride}: "
            f"the feature map has {rows} rows, and each stripe takes one. Set head.stripes={rows} or fewer, "
            "or higher images"
        )
    if str(backbone["name"]).endswith("_ibn_a") and max(height, width) < SMALLEST_IBN_SIDE:
        raise ConfigError(
            f"backbone.name={backbone['name']} does not fit {size}: its "
            f"instance norms take {SMALLEST_IBN_SIDE} pixels or more in height or width"
        )


def as_trained(typed: EvalConfig, trained: dict[str, Any], overrides: list[str]) -> EvalConfig:
    """The evaluation settings of the run that made the checkpoint, where the command names no others."""
    named = {word.lstrip("+").partition("=")[0].removeprefix("eval.") for word in overrides}
    kept = {key: value for key, value in trained.items() if key not in named and hasattr(typed, key)}
    if kept.get("tracklets"):  # of its own data; others may have none
        kept["tracklets"] = None
    return replace(typed, **kept)
