"""The typed schema of every command; `reid.config.settings` checks what was composed from it.

Five groups are open, since a choice may bring keys of its own: what `head`, `loss` and `optimizer` hold
beyond the keys here goes to the class that their `_target_` names, what `dataset` and `backbone` hold beyond
`name` to the function of that name.  `reid.config.checks` compares them with its signature.

Plain dataclasses, since OmegaConf makes Hydra's schema of them, and takes neither pydantic's `Field` nor
`Literal`.
"""

import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import MISSING, DictConfig, OmegaConf

from reid.config.checks import above, at_least, between, one_of, within
from reid.config.search_path import FurtherChoices
from reid.home import for_hydra, home, literal

#: What MLflow calls a run.
RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass
class DataConfig:
    root: str = "${oc.env:REID_DATA,${reid.home:}/data}"
    store: str = "${data.root}/.store"
    on_bad_image: str = one_of("raise", "skip")
    resident: bool | None = None  # training pixels in the device's memory; null: on a GPU where they fit


@dataclass
class ImageConfig:
    height: int = at_least(16, 256)  # below 16 the last map, H/16 x W/16, has not one place
    width: int = at_least(16, 128)
    flip: float = between(0, 1, 0.5)
    padding: int = at_least(0, 10)
    sizes: list[str] = field(default_factory=list)  # progressive resizing: HxW or HxW@length each, in turn
    mean: list[float] | None = None  # of pixels from 0 to 1; null: as a weight file says, else ImageNet's
    std: list[float] | None = None


@dataclass
class AugmentConfig:
    """What a training image goes through beside flip, crop and erasing; all of it is off."""

    draw: str = one_of("image", "batch")  # chance decides for each image, or once for a batch
    colour: float = between(0, 1, 0.0)  # probability of a colour jitter by these four
    brightness: float = between(0, 1, 0.15)
    contrast: float = between(0, 1, 0.15)
    saturation: float = between(0, 1, 0.1)
    hue: float = between(0, 0.5, 0.1)
    grey: float = between(0, 1, 0.0)
    blur: float = between(0, 1, 0.0)
    blur_sigma: float = between(0.1, 16, 1.0)  # the widest, in pixels
    policy: str = one_of("none", "autoaugment", "randaugment")
    policy_probability: float = between(0, 1, 0.1)
    operations: int = at_least(1, 2)  # of randaugment, with the next
    magnitude: int = between(0, 30, 9)
    random_patch: float = between(0, 1, 0.0)


@dataclass
class BatchConfig:
    identities: int = at_least(1, 16)
    instances: int = at_least(1, 4)
    size: int = at_least(2, "${reid.product:${batch.identities},${batch.instances}}")
    cameras: str = one_of("any", "balanced")  # balanced: each person's images from as many as possible


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
    _target_: str = "reid.engine.schedule.step"
    per: str = one_of("epoch", "iteration")  # how often the rate changes
    floor: float = between(0, 1, 0.0)  # of `cosine` and `one_cycle`: the share of the rate that it ends at
    restarts: int = at_least(0, 0)  # of `cosine`: times that the rate jumps back up
    rise: float = between(0, 1, 0.3)  # of `one_cycle`: the share of the run in which the rate rises
    milestones: list[Any] = field(default_factory=lambda: [40, 70])  # of `step`: epochs; below 1: fractions
    gamma: float = above(0, 0.1)  # at 0 nothing would train from the first milestone on
    warmup_epochs: int = at_least(0, 10)  # of the trick, where it is on: short studies have a short one
    warmup_factor: float = at_least(0, 0.01)
    warmup_method: str = one_of("linear", "constant")

    def milestone_epochs(self, epochs: int) -> list[float]:
        """The milestones as epochs, of a run of so many: a fraction falls where that share of it is done."""
        return [one if one >= 1 else round(one * epochs, 6) for one in self.milestones]


@dataclass
class EmaConfig:
    decay: float | None = within(0, 1, None)  # of the moving average of the weights; null: none is kept
    warmup: bool = True  # a smaller decay in the first steps, so that untrained weights leave it soon
    raw: bool = False  # judge the weights themselves too


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
    flip: bool = False  # the mean of the features of each image and its mirror image
    cameras: bool = True  # of a model with camera embeddings: each image's own; false: their mean for all
    query_expansion: int = at_least(0, 0)  # gallery images that each query is averaged with; 0 is off
    rerank: bool = False
    rerank_k1: int = at_least(1, 20)
    rerank_k2: int = at_least(1, 6)
    rerank_lambda: float = between(0, 1, 0.3)
    datasets: list[Any] = field(default_factory=list)  # of reid.evaluate: choices, or {name: choice, …}


@dataclass
class TeacherConfig:
    checkpoint: str | None = None  # a trained model to learn from, named as `init_from` names one
    kind: str = one_of("features", "relations")  # what is learnt: the features, or the distances among them
    weight: float = above(0, 1.0)  # of that in the loss


@dataclass
class TrackingConfig:
    uri: str | None = None  # MLFLOW_TRACKING_URI, else mlflow.db in the source tree
    experiment: str = "reid"
    run_name: str | None = None
    checkpoint: bool = True
    images: bool = False  # crops of people leave the run's folder only when asked
    system_metrics: bool = False  # load and memory of the machine, an epoch each


@dataclass
class SweepConfig:
    fail_fast: bool = False
    retry: int = at_least(
        0, 1
    )  # times that a failed cell is tried again at once, and a killed worker replaced
    take: str = one_of("same_code", "any_code", "none")  # finished cells that are not run again
    name: str | None = None  # of the folder of its report


#: Keys of the open groups that the suite itself uses.
OWN_KEYS: dict[str, frozenset[str]] = {
    "dataset": frozenset({"name", "root", "corrections"}),  # what a backbone takes, `build_backbone` checks
    "head": frozenset({"_target_"}),
    "loss": frozenset({"_target_", "id_weight", "metric_weight", "neck_feature"}),
    "optimizer": frozenset(
        {"_target_", "lr", "weight_decay", "bias_lr_factor", "bias_weight_decay", "layer_decay", "fused"}
        | {"classifier_lr_factor", "norm_weight_decay"}
    ),
}


#: Parameters of the classes of those groups that the suite supplies: no key sets them.
SUPPLIED: dict[str, frozenset[str]] = {
    "head": frozenset({"channels", "num_classes"}),
    "loss": frozenset({"num_classes", "embedding_size"}),
    "optimizer": frozenset({"params"}),
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
    classifier_lr_factor: float = at_least(0.0, 1.0)
    norm_weight_decay: float | None = at_least(0.0, None)  # null: as that of other weights and biases
    layer_decay: float | None = between(0, 1, None)
    fused: bool | None = None  # all parameters in one kernel; null: on a GPU or CPU


@dataclass
class TrainConfig:
    """Everything a run is made of; the defaults are the published recipe."""

    dataset: dict[str, Any] = MISSING
    backbone: dict[str, Any] = MISSING
    head: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    tricks: TricksConfig = field(default_factory=TricksConfig)
    epochs: int = at_least(1, 120)
    seed: int = at_least(0, 0)
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = one_of("float32", "tf32", "bf16", "fp16")
    deterministic: bool = False  # a GPU gives the same numbers each time, or the run is refused
    channels_last: bool = True
    compile: bool = False  # the network by torch.compile: minutes at the start for a faster step
    checkpointing: bool = False  # the backbone's blocks are computed twice a step: less memory, more time
    clip_norm: float | None = None
    accumulate: int = at_least(1, 1)
    sync_bn: bool = False  # under torchrun, batch norms take their statistics over all processes; CUDA alone
    freeze_bn: bool = False  # the backbone's batch norms keep the statistics they have
    freeze_epochs: int = at_least(0, 0)  # at the beginning, in which the head alone learns
    resume: str | None = None  # auto | a checkpoint
    init_from: str | None = None  # a checkpoint, a run's folder, an MLflow run id
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass
class Dimension:
    """One searched key: a range from `low` to `high`, in steps or by orders of magnitude, or `choices`."""

    key: str = MISSING
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: list[Any] | None = None


@dataclass
class StudyConfig:
    space: dict[str, Any] = MISSING  # a Dimension by a short name: study.space.alpha.low=1
    name: str | None = None  # of the study to begin or go on with; by default it follows from the config
    trials: int = at_least(1, 20)  # in all, those of earlier starts included
    jobs: int = at_least(1, 1)  # processes
    timeout: float | None = above(0, None)  # seconds of this start after which no further trial begins
    seed: int = at_least(0, 0)  # of the sampler; every trial trains with `seed`
    startup: int = at_least(
        1, 5
    )  # trials drawn at random before the sampler learns, and before any is pruned
    prune: str = one_of("median", "none")
    prune_after: int = at_least(1, 1)  # epochs that every trial gets


@dataclass
class TuneConfig(TrainConfig):
    """A training config and where to search around it."""

    study: StudyConfig = field(default_factory=StudyConfig)


@dataclass
class AdaptKeys:
    """How `reid.adapt` groups a target's crops and when it stops; `reid.commands.adapt` says where the
    numbers come from."""

    rounds: int = at_least(1, 20)  # at most: of clustering and training, `epochs` each
    steps: int = at_least(1, 100)  # batches of a round, at least: a few clusters make short epochs
    patience: int = at_least(1, 2)  # rounds in a row with stable clusters, after which it stops
    stability: float = within(0, 1, 0.97)  # adjusted mutual information with the clusters of the round before
    eps: float = within(0, 1, 0.4)  # of DBSCAN: the Jaccard distance within which crops are neighbours
    min_samples: int = at_least(2, 4)  # of DBSCAN: crops within eps, itself included, around a cluster's core
    k1: int = at_least(1, 20)  # of the Jaccard distance: neighbours that may be reciprocal
    k2: int = at_least(1, 6)  # of the same: neighbours that a description is averaged over
    camera_aware: bool | None = None  # features less their camera's mean, to cluster; null: where it is known
    labels: str = one_of("auto", "none")  # none: the target's labels are not even judged by
    batch_norm_first: bool = True  # the statistics of the batch norms on the target, before the first round
    batch_norm_only: bool = False  # the statistics of the batch norms on the target, and no training


@dataclass
class AdaptConfig(TrainConfig):
    """A trained model and the target that it is adapted to; the network is the checkpoint's."""

    backbone: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = MISSING  # a file, a run's folder, an MLflow run id, models:/<name>@<alias>
    adapt: AdaptKeys = field(default_factory=AdaptKeys)


@dataclass
class EvaluateConfig:
    """What `reid.evaluate` needs: the rest it reads from the checkpoint."""

    checkpoint: str = MISSING  # a file, a run's folder, an MLflow run id, models:/<name>@<alias>
    card: bool = False  # write the scores into the checkpoint and its model card
    dataset: dict[str, Any] | None = None  # the one that it was trained on
    device: str = "auto"
    precision: str = one_of("float32", "tf32", "bf16", "fp16")
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class ThresholdConfig:
    """What `reid.threshold` needs: the rest it reads from the checkpoint."""

    checkpoint: str = MISSING  # a file, a run's folder, an MLflow run id
    dataset: dict[str, Any] | None = None  # the one that it was trained on: its query and gallery
    target: str = one_of("far_1e-3", "far_1e-2", "far_1e-4", "eer", "f1")
    output: str | None = None  # a file; the checkpoint itself
    replicates: int = at_least(1, 1000)  # of the bootstrap
    seed: int = at_least(0, 0)
    batches: int = at_least(1, 100)  # of the figure of hardest pairs
    batch: BatchConfig = field(default_factory=BatchConfig)
    device: str = "auto"
    precision: str = one_of("float32", "tf32", "bf16", "fp16")
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def register() -> None:
    """Make the schemas and resolvers known to Hydra; safe to call again."""
    Plugins.instance().register(FurtherChoices)
    # Hydra copies it, with all that it holds, for each composition and each group of `--help`; what is read
    # from it is copied once more.
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="threshold_schema", node=ThresholdConfig)
    store.store(name="tune_schema", node=TuneConfig)
    store.store(name="adapt_schema", node=AdaptConfig)
    OmegaConf.register_new_resolver("reid.product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("reid.home", lambda: str(for_hydra(home())), replace=True)


def default_config() -> DictConfig:
    """The config of `python -m reid.train` without an override."""
    register()
    with _composing():
        return compose("train")


def dataset_choices() -> list[str]:
    """The choices of the group `dataset`."""
    register()
    with _composing():
        return sorted(GlobalHydra.instance().config_loader().get_group_options("dataset"))


def compose_dataset(choice: str, data_root: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What `dataset=<choice>` gives, one of `dataset_choices`, with `changes` to its keys.

    A key without a value is left out.
    """
    register()
    with _composing():
        config = compose("evaluate", overrides=[f"dataset={choice}"])
    config.data.root = literal(data_root)
    for key, value in changes.items():
        text = literal(value) if isinstance(value, str) else value
        OmegaConf.update(config, f"dataset.{key}", text, force_add=True)
    OmegaConf.set_struct(config, False)
    for key in [key for key in config.dataset if OmegaConf.is_missing(config.dataset, key)]:
        del config.dataset[key]
    composed: Any = OmegaConf.to_container(config.dataset, resolve=True)
    return {str(key): value for key, value in composed.items()}


def _composing() -> AbstractContextManager[object]:
    """A command that runs has its folders open already; a library call and a test have not."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(config_folder()), version_base="1.3")


def config_folder() -> Path:
    """conf/ of the source tree, or the copy that the wheel carries; absolute, so any directory will do."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "conf"
    return beside if (beside / "train.yaml").exists() else package / "conf"
