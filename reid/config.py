"""The typed schema of every run and the checks across its groups.

Four groups are open, since a choice may bring keys of its own: what `loss` and `optimizer` hold beyond the
keys here goes to the class that their `_target_` names, what `dataset` and `backbone` hold beyond `name` to
the function of that name.  `reid.checks` compares them with its signature.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from reid.checks import (
    ConfigError,
    above,
    at_least,
    between,
    check_fields,
    check_options,
    check_present,
    check_types,
    construct,
    one_of,
    trusted_target,
)
from reid.data import dataset_reader
from reid.home import home
from reid.models import backbone_function


@dataclass
class DataConfig:
    root: str = "${oc.env:REID_DATA,${reid.home:}/data}"
    store: str = "${data.root}/.store"
    on_bad_image: str = one_of("raise", "skip")


@dataclass
class ImageConfig:
    height: int = at_least(16, 256)
    width: int = at_least(16, 128)
    flip: float = between(0, 1, 0.5)
    padding: int = at_least(0, 10)


@dataclass
class BatchConfig:
    identities: int = at_least(1, 16)
    instances: int = at_least(1, 4)
    size: int = at_least(2, "${reid.product:${batch.identities},${batch.instances}}")


@dataclass
class TricksConfig:
    warmup: int = at_least(0, 10)
    random_erasing: float = between(0, 1, 0.5)
    erasing_fill: str = one_of("published", "zero", "noise")
    last_stride: int = one_of(1, 2)
    label_smoothing: float = between(0, 1, 0.1)
    bnneck: bool = True


@dataclass
class ScheduleConfig:
    milestones: list[int] = field(default_factory=lambda: [40, 70])
    gamma: float = above(0, 0.1)
    warmup_factor: float = above(0, 0.01)
    warmup_method: str = one_of("linear", "constant")


@dataclass
class EvalConfig:
    period: int = at_least(0, 20)  # epochs; 0 is at the end alone
    split: str = one_of("test", "val")
    val_identities: int = at_least(1, 100)
    val_seed: int = at_least(0, 0)  # apart from `seed`: all seeds of a sweep judge on the same people
    at_start: bool = False  # judge the untrained model too
    protocol: str = one_of("cross_camera", "ignore_camera")
    feature_norm: bool = True
    metric: str = one_of("euclidean", "cosine")
    neck_feature: str = one_of("after", "before")
    batch: int = at_least(1, 128)


@dataclass
class TrackingConfig:
    uri: str | None = None  # MLFLOW_TRACKING_URI, else mlflow.db in the source tree
    experiment: str = "reid"
    run_name: str | None = None
    checkpoint: bool = True
    images: bool = False  # crops of people leave the run's folder only when asked


@dataclass
class SweepConfig:
    fail_fast: bool = False


#: Keys of the open groups that the suite itself uses.
OWN_KEYS: dict[str, frozenset[str]] = {
    "dataset": frozenset({"name", "root"}),  # what a backbone takes, `build_backbone` checks
    "loss": frozenset({"_target_", "id_weight", "metric_weight", "neck_feature"}),
    "optimizer": frozenset({"_target_", "lr", "weight_decay", "bias_lr_factor", "bias_weight_decay"}),
}


@dataclass
class LossKeys:
    id_weight: float = at_least(0.0, 1.0)
    metric_weight: float = at_least(0.0, 0.4)
    neck_feature: str = one_of("after", "before")


@dataclass
class OptimizerKeys:
    lr: float = above(0, 3.5e-4)
    weight_decay: float = at_least(0.0, 5e-4)
    bias_lr_factor: float = at_least(0.0, 1.0)
    bias_weight_decay: float = at_least(0.0, 5e-4)


@dataclass
class TrainConfig:
    """Everything a run is made of; the defaults are the published recipe."""

    dataset: dict[str, Any] = MISSING
    backbone: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    tricks: TricksConfig = field(default_factory=TricksConfig)
    epochs: int = at_least(1, 120)
    seed: int = at_least(0, 0)
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = one_of("float32", "tf32", "bf16")
    channels_last: bool = True
    clip_norm: float | None = None
    accumulate: int = at_least(1, 1)
    resume: str | None = None  # auto | a checkpoint
    batch: BatchConfig = field(default_factory=BatchConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass
class EvaluateConfig:
    """What `reid.evaluate` needs: the rest it reads from the checkpoint."""

    checkpoint: str = MISSING  # a file or an MLflow run id
    dataset: dict[str, Any] | None = None  # the one that it was trained on
    device: str = "auto"
    precision: str = one_of("float32", "tf32", "bf16")
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def register() -> None:
    """Make the schemas and resolvers known to Hydra; safe to call again."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    OmegaConf.register_new_resolver("reid.product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("reid.home", lambda: str(home()), replace=True)


def config_folder() -> Path:
    """conf/ of the source tree, or the copy that the wheel carries; absolute, so any directory will do."""
    package = Path(__file__).resolve().parent
    beside = package.parent / "conf"
    return beside if (beside / "train.yaml").exists() else package / "conf"


def train_settings(config: DictConfig) -> TrainConfig:
    """The composed config as typed values, refused where a value or a combination is wrong.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    settings: TrainConfig = _typed(config)
    for group, keys in (("loss", LossKeys), ("optimizer", OptimizerKeys)):
        values, own = getattr(settings, group), keys.__dataclass_fields__
        check_present(group, values, ("_target_", *own))
        check_fields(keys(**{key: values[key] for key in own}), group)
        if values["_target_"] is not None:
            check_options(group, values, OWN_KEYS[group], trusted_target(group, values["_target_"]))
    construct("loss", settings.loss, OWN_KEYS["loss"])
    _check_dataset(settings.dataset)
    check_present("backbone", settings.backbone, ("name",))
    if "last_stride" in settings.backbone:
        raise ConfigError("no key backbone.last_stride: it is one of the tricks. Set tricks.last_stride")
    check_types("backbone", settings.backbone, backbone_function(str(settings.backbone["name"])))
    _check_across(settings)
    return settings


def evaluate_settings(config: DictConfig) -> EvaluateConfig:
    """As `train_settings`, for the evaluate command."""
    settings: EvaluateConfig = _typed(config)
    if settings.dataset is not None:
        _check_dataset(settings.dataset)
    return settings


def _typed(config: DictConfig) -> Any:
    OmegaConf.set_struct(config, False)
    try:
        config.data.root = str(Path(config.data.root).expanduser().absolute())
        settings: Any = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(": ")[2]
        raise ConfigError(f"{key} is not given and has no default: add {key}=… to the command") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{key}{str(error).splitlines()[0]}") from error
    if settings.dataset and isinstance(settings.dataset.get("root"), str):
        settings.dataset["root"] = str(Path(settings.dataset["root"]).expanduser().absolute())
    check_fields(settings)
    return settings


def _check_dataset(dataset: dict[str, Any]) -> None:
    check_present("dataset", dataset, ("name", "root"))
    if not isinstance(dataset["root"], str):
        raise ConfigError(f"dataset.root={dataset['root']} is not allowed: expected a folder")
    check_options("dataset", dataset, OWN_KEYS["dataset"], dataset_reader(str(dataset["name"])))


def _check_across(settings: TrainConfig) -> None:
    batch, loss, milestones = settings.batch, settings.loss, settings.schedule.milestones
    if batch.size != batch.identities * batch.instances:
        raise ConfigError(
            f"batch.size={batch.size} is not batch.identities x batch.instances = {batch.identities} x "
            f"{batch.instances} = {batch.identities * batch.instances}. Set those two; the size follows."
        )
    if milestones != sorted(set(milestones)) or any(epoch < 1 for epoch in milestones):
        raise ConfigError(f"schedule.milestones={milestones}: expected rising epochs from 1, such as [40,70]")
    if settings.clip_norm is not None and settings.clip_norm <= 0:
        raise ConfigError(
            f"clip_norm={settings.clip_norm}: expected a number above 0, or null for no clipping"
        )
    if loss["metric_weight"] > 0 and loss["_target_"] is None:
        raise ConfigError(
            f"loss.metric_weight={loss['metric_weight']} has no metric loss to weigh: this choice is cross "
            "entropy alone. Choose loss=ranked, or set loss.metric_weight=0"
        )
    if loss["id_weight"] == loss["metric_weight"] == 0:
        raise ConfigError("loss.id_weight and loss.metric_weight are both 0: there is nothing to train for")


def config_hash(settings: TrainConfig) -> str:
    """16 hex digits that tell experiments apart; where things lie and how they are tracked does not count."""
    told = asdict(settings)
    for key in ("tracking", "sweep", "resume", "device"):
        del told[key]
    told["data"] = {"on_bad_image": settings.data.on_bad_image}
    told["dataset"].pop("root", None)
    return _hash(told)


def resume_hash(settings: TrainConfig) -> str:
    """The same for what must stay when a run is resumed: `epochs` and how it is judged may change."""
    told = asdict(settings)
    for key in ("tracking", "sweep", "resume", "device", "data", "epochs", "dataset"):
        del told[key]
    told["eval"] = {key: told["eval"][key] for key in ("split", "val_identities", "val_seed")}
    return _hash(told)


def _hash(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def flat(settings: object) -> dict[str, Any]:
    """Every leaf of the config by its dotted name, as the tracker shows it: `loss.alpha`, …"""
    leaves: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            leaves[prefix] = node

    walk("", asdict(settings))  # type: ignore[call-overload]
    return leaves
