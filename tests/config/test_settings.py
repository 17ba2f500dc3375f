"""What the composed config is refused for, in words: wrong values, keys, types and combinations."""

import math
import warnings

import pytest
import torch
from composing import changed, judged, settings_of
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from torch import nn

from reid.config.checks import ConfigError, check_types, nearest, unknown_key
from reid.config.identity import flat
from reid.config.schema import config_folder
from reid.data import DatasetError
from reid.engine.optimizers import build_optimizer
from reid.engine.schedule import learning_rate
from reid.models import BackboneError, HeadError

pytestmark = pytest.mark.usefixtures("own_home")


# ---- what is refused

CHOICE_KEYS = {
    "data.on_bad_image": ("raise", "skip"),
    "tricks.erasing_fill": ("published", "zero", "noise"),
    "tricks.last_stride": (1, 2),
    "schedule.per": ("epoch", "iteration"),
    "schedule.warmup_method": ("linear", "constant"),
    "eval.split": ("test", "val"),
    "eval.protocol": ("cross_camera", "ignore_camera"),
    "eval.metric": ("euclidean", "cosine"),
    "eval.neck_feature": ("after", "before"),
    "loss.neck_feature": ("after", "before"),
    "precision": ("float32", "tf32", "bf16", "fp16"),
}


@pytest.mark.parametrize("key", CHOICE_KEYS)
def test_a_choice_takes_its_choices_and_nothing_else(key: str, recipe: DictConfig) -> None:
    for choice in CHOICE_KEYS[key]:
        assert flat(changed(recipe, key, choice))[key] == choice
    with pytest.raises(ConfigError) as caught:
        changed(recipe, key, 7)
    listed = ", ".join(str(choice) for choice in CHOICE_KEYS[key])
    assert str(caught.value) == f"{key}=7 is not allowed: expected one of {listed}."


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("precision=float23", "Did you mean 'float32'?"),
        ("eval.protocol=ignore_cameras", "Did you mean 'ignore_camera'?"),
        ("tricks.erasing_fill=nois", "Did you mean 'noise'?"),
    ],
)
def test_the_nearest_choice_is_named(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"is not allowed: expected one of .*") as caught:
        settings_of(override)
    assert hint in str(caught.value)


#: key: (the last value that is allowed, a value beyond it)
BOUNDS = {
    "image.height": (16, 15),
    "image.width": (16, 0),
    "image.padding": (0, -1),
    "batch.identities": (1, 0),
    "batch.instances": (1, 0),
    "tricks.warmup": (0, -1),
    "tricks.random_erasing": (1.0, 1.01),
    "tricks.label_smoothing": (0.0, -0.01),
    "image.flip": (0.0, 1.5),
    "schedule.gamma": (0.01, 0.0),
    "schedule.warmup_factor": (0.0, -0.001),
    "eval.period": (0, -1),
    "eval.val_identities": (1, 0),
    "eval.val_seed": (0, -1),
    "eval.batch": (1, 0),
    "epochs": (1, 0),
    "seed": (0, -1),
    "accumulate": (1, 0),
    "loss.id_weight": (0, -1),
    "loss.metric_weight": (0.0, math.nan),
    "optimizer.lr": (1e-9, 0),
    "optimizer.weight_decay": (0, -1e-4),
    "optimizer.bias_lr_factor": (0, -1),
    "optimizer.bias_weight_decay": (0, math.inf),
    "optimizer.layer_decay": (1.0, 1.01),
    "clip_norm": (0.1, 0.0),
}


@pytest.mark.parametrize("key", BOUNDS)
def test_a_bound_is_kept(key: str, recipe: DictConfig) -> None:
    allowed, beyond = BOUNDS[key]
    assert flat(changed(recipe, key, allowed))[key] == allowed
    with pytest.raises(ConfigError) as caught:
        changed(recipe, key, beyond)
    assert str(caught.value).startswith(f"{key}=")
    assert "expected a number" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (["batch.size=60"], ["batch.size=60", "16 x 4 = 64", "Set those two"]),
        (["schedule.milestones=[70,40]"], ["schedule.milestones=[70, 40]", "rising", "[40,70]"]),
        (["schedule.milestones=[0,40]"], ["schedule.milestones=[0, 40]", "from 1"]),
        (["schedule.milestones=[40,x]"], ["schedule.milestones=[40,x]", "whole number", "[0.33,0.58]"]),
        (["schedule.milestones=[40,true]"], ["schedule.milestones=[40,True]", "whole number"]),
        (["schedule.milestones=[40.0,70]"], ["schedule.milestones=[40.0,70]", "whole number"]),
        (["schedule.milestones=[0.5,0.4]"], ["schedule.milestones=[0.5, 0.4]", "rising"]),
        (["schedule.milestones=[0.5,40]"], ["schedule.milestones=[0.5, 40]", "rising"]),
        (["schedule.warmup_factor=0", "schedule.warmup_method=constant"], ["train nothing", "linear"]),
        (["loss=softmax", "loss.metric_weight=0.4"], ["loss.metric_weight=0.4", "loss=ranked"]),
        (["loss.id_weight=0", "loss.metric_weight=0"], ["both 0", "nothing to train for"]),
        (["loss=triplet", "loss.margin=soft"], ["loss.margin='soft'", "a number or null"]),
        (["loss=triplet_center", "+loss.num_classes=9"], ["no key loss.num_classes", "loss has center_lr"]),
        (["loss=arcface", "+loss.embedding_size=9"], ["no key loss.embedding_size"]),
        (["loss=cosface", "+loss.scle=9"], ["no key loss.scle", "Did you mean 'loss.scale'?"]),
        (["loss=supcon", "loss.temperature=x"], ["no finite number", "TypeError", "loss.temperature=x"]),
        (["loss=multi_similarity", "loss.base=x"], ["no finite number", "TypeError", "loss.base=x"]),
        (["loss=clustered_ranked", "loss.clusters=0"], ["loss.clusters is 0"]),
        (["loss.metric_weight=true"], ["loss.metric_weight=True", "0.0 or more"]),
        (["loss.alpha=abc"], ["loss.alpha='abc'", "expected a number"]),
        (["+loss.alhpa=1"], ["no key loss.alhpa", "Did you mean 'loss.alpha'?", "loss has alpha"]),
        (["+optimizer.moment=1", "optimizer=sgd"], ["no key optimizer.moment", "'optimizer.momentum'"]),
        (["optimizer=sgd", "optimizer.momentum=x"], ["optimizer.momentum='x'", "expected a number"]),
        (["backbone.stem_relu=3"], ["backbone.stem_relu=3", "true or false"]),
        (["backbone.stn=3"], ["backbone.stn=3", "true or false"]),
        (["backbone.weights=null"], ["backbone.weights=None", "expected text"]),
        (["backbone.stn=true", "image.width=17"], ["image.width=17", "18 x 18 pixels or more"]),
        (["backbone=resnet101_ibn_a", "image.height=16", "image.width=16"],
         ["backbone.name=resnet101_ibn_a", "17 pixels or more in height or width"]),
        (["backbone=timm"], ["backbone.name is not given", "add backbone.name=…"]),
        (["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pooling=max"],
         ["backbone.pooling='max'", "one of cls, patch or null"]),
        (["+backbone.last_stride=2"], ["backbone.last_stride", "Set tricks.last_stride"]),
        (["dataset=synthetic", "dataset.preset=tny"], ["expected one of tiny, small.", "mean 'tiny'?"]),
        (["dataset.official=maybe"], ["dataset.official='maybe'", "true or false"]),
        (["+dataset.offical=true"], ["no key dataset.offical", "Did you mean 'dataset.official'?"]),
        (["dataset=folder"], ["dataset.root is not given", "add dataset.root=…"]),
        (["dataset.root=null"], ["dataset.root=None", "expected a folder"]),
        (["~dataset.name"], ["dataset.name is not given"]),
        (["~backbone.name"], ["backbone.name is not given"]),
        (["~loss.metric_weight"], ["loss.metric_weight is not given"]),
        (["~optimizer.lr"], ["optimizer.lr is not given"]),
        (["~loss"], ["loss is not given", "add loss=…"]),
        (["+foo=1"], ["no key foo", "dataset, backbone, head, loss"]),
        (["+ephocs=1"], ["no key ephocs", "Did you mean 'epochs'?"]),
        (["++batch.sise=1"], ["no key batch.sise", "Did you mean 'batch.size'?", "identities"]),
        (["batch.identities=${oops}"], ["batch.identities", "'oops' not found"]),
        (["data.root=${oops}"], ["data.root", "'oops' not found"]),
    ],
)  # fmt: skip
def test_a_wrong_value_or_combination_is_refused_in_words(overrides: list[str], fragments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(*overrides)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there() -> None:
    with pytest.raises(DatasetError, match=r"no dataset 'markt'.*Did you mean 'market'"):
        settings_of("dataset.name=markt")
    with pytest.raises(DatasetError, match="no dataset 'None'"):
        settings_of("dataset.name=null")
    with pytest.raises(BackboneError, match=r"backbone.name=resnet51 is no backbone.*resnet50"):
        settings_of("backbone.name=resnet51")


@pytest.mark.parametrize("option", ["gem head.p=-1", "parts head.stripes=0", "parts head.reduction=0"])
def test_what_a_head_refuses_is_refused_before_any_work(option: str) -> None:
    words = f"head={option}".split()
    with pytest.raises(HeadError, match=f"^{words[-1]} is not allowed: expected"):
        settings_of(*words)


@pytest.mark.parametrize(
    "override", ["epochs=abc", "epochs=1.5", "epochs=true", "image.height=[1]", "seed=null"]
)
def test_a_wrong_type_is_refused_while_composing(override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        settings_of(override)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "is refused: this one may come from"),
        ("builtins.eval", "is refused"),
        ("reidentify.Loss", "is refused"),
        ("torch.load", "is refused"),
        ("subprocess.Popen", "is refused"),
        (5, "is refused"),
        ("reid.engine.session.Session", "is refused"),
    ],
)
@pytest.mark.parametrize("group", ["loss", "optimizer"])
def test_a_target_outside_the_trusted_packages_is_refused(
    group: str, target: object, message: str, recipe: DictConfig
) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(recipe, f"{group}._target_", target)
    assert f"{group}._target_={target}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("loss", "reid.losses.NoSuchLoss"),
        ("loss", "reid.losses.nowhere.Loss"),
        ("optimizer", "torch.optim.NoSuchOptimizer"),
    ],
)
def test_a_target_that_is_not_there_is_refused(group: str, target: str, recipe: DictConfig) -> None:
    with pytest.raises(ConfigError, match=f"{group}._target_={target}: there is no such class or function"):
        changed(recipe, f"{group}._target_", target)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss.alpha", 0, "loss.alpha is 0"),
        ("loss.alpha", -1, "loss.alpha is -1"),
        ("loss.temperature", -1, "loss.temperature is -1; a finite number from 0 on"),
        ("loss.margin", math.inf, "loss.margin is inf"),
    ],
)
def test_what_the_loss_refuses_is_named_by_its_key(
    key: str, value: float, message: str, recipe: DictConfig
) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(recipe, key, value)


def warnings_of(*overrides: str) -> list[str]:
    """What is warned of in two jobs of one process, such as a sweep's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for seed in (1, 2):
            settings_of(*overrides, f"seed={seed}")
    return [str(warning.message) for warning in caught]


@pytest.mark.slow
def test_a_schedule_that_the_run_never_reaches_is_warned_of_once() -> None:
    warm_up, milestones = warnings_of("epochs=6")
    assert "schedule.warmup_epochs=10" in warm_up
    assert "a run of 6 epochs ends within its warm-up" in warm_up
    assert warm_up.endswith("set schedule.warmup_epochs=1")
    assert "a run of 6 epochs ends before the learning rate falls, after epoch 40 and 70." in milestones
    assert "set schedule.milestones=[0.33,0.58]" in milestones
    (after,) = warnings_of("epochs=70")  # epoch 71 would be the first at the lower rate
    assert "falls, after epoch 70." in after
    (typed,) = warnings_of("epochs=8", "tricks.warmup=9", "schedule.milestones=[]")
    assert "tricks.warmup=9" in typed
    for fits in (["epochs=71"], ["epochs=6", "schedule.warmup_epochs=1", "schedule.milestones=[0.33,0.58]"]):
        assert warnings_of(*fits) == []


@pytest.mark.parametrize(
    "experiment", sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
)
def test_no_recipe_of_the_project_has_a_schedule_beyond_its_end(experiment: str) -> None:
    assert warnings_of(f"experiment={experiment}", "dataset.root=/crops", "backbone.weights=/w.pth") == []


def test_milestones_below_1_are_fractions_of_the_run() -> None:
    rate = settings_of("epochs=30", "schedule.milestones=[0.1,20]", "tricks.warmup=0")
    schedule = rate.schedule
    assert schedule.milestones == [0.1, 20]

    def rates(epochs: int) -> list[float]:
        reached = schedule.milestone_epochs(epochs)
        return [learning_rate(epoch, 1.0, reached, 0.5, 0, 1.0, "linear") for epoch in range(1, epochs + 1)]

    assert rates(30) == 3 * [1.0] + 17 * [0.5] + 10 * [0.25]
    assert rates(25) == 3 * [1.0] + 17 * [0.5] + 5 * [0.25]  # 2.5 of 25 are done after the third
    published = settings_of("schedule.milestones=[0.33,0.58]").schedule.milestone_epochs(120)
    for epoch in range(1, 121):
        wanted = learning_rate(epoch, 1.0, [40, 70], 0.1, 10, 0.01, "linear")
        assert learning_rate(epoch, 1.0, published, 0.1, 10, 0.01, "linear") == wanted


@pytest.mark.slow
def test_statistics_that_are_of_no_image_are_warned_of() -> None:
    (message,) = warnings_of("freeze_bn=true", "backbone.weights=none")
    assert "keep the statistics that they begin with, 0 and 1" in message
    assert warnings_of("freeze_bn=true") == []
    assert warnings_of("freeze_bn=true", "init_from=/model.pt") == []


@pytest.mark.slow
def test_a_frozen_backbone_has_weights_and_a_run_to_be_frozen_in() -> None:
    (message,) = warnings_of("freeze_epochs=2", "backbone.weights=none")
    assert "fitted to a network of random weights" in message
    assert warnings_of("freeze_epochs=2") == []
    with pytest.raises(ConfigError, match=r"freeze_epochs=121 is longer .* expected 120 or less"):
        settings_of("freeze_epochs=121")


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        ("schedule=one_cycle schedule.warmup_epochs=5", "schedule.warmup_epochs=5"),
        ("schedule=one_cycle tricks.warmup=5", "tricks.warmup=5"),
        ("schedule=one_cycle tricks=no_warmup", "tricks.warmup=0"),
        ("schedule=one_cycle schedule.restarts=1", "schedule.restarts=1"),
        ("schedule=cosine schedule.rise=0.5", "schedule.rise=0.5"),
    ],
)
def test_a_key_that_the_schedule_does_not_take_is_warned_of(words: str, unused: str) -> None:
    (message,) = warnings_of(*words.split())
    assert message.startswith(f"{unused} does nothing: reid.engine.schedule.")
    assert warnings_of(words.split()[0]) == []


def test_a_way_to_draw_what_is_off_is_warned_of() -> None:
    (message,) = warnings_of("augment.draw=batch")
    assert "augment.draw=batch does nothing" in message
    assert warnings_of("augment.draw=batch", "augment.grey=0.1") == []


def test_a_warm_up_of_no_epochs_is_none() -> None:
    assert settings_of("schedule.warmup_epochs=0").tricks.warmup == 0


@pytest.mark.parametrize("loss", ["ranked", "clustered_ranked"])
def test_a_temperature_of_0_weighs_all_negatives_alike(loss: str) -> None:
    assert settings_of(f"loss={loss}", "loss.temperature=0").loss["temperature"] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss=ranked_paper loss.imbalance=2", "loss: Imbalance must be between 0 and 1"),
        ("loss=supcon loss.temperature=0", "loss.temperature=0 is not allowed: expected a number above 0"),
        ("loss=arcface loss.scale=-1", "loss.scale=-1 is not allowed"),
        ("loss=softmax loss._target_=reid.losses.kmeans.torch", "neither a class nor a function"),
        (
            "loss=softmax loss._target_=pytorch_metric_learning.losses.BaseMetricLossFunction",
            "NotImplementedError: without a word",
        ),
    ],
)
def test_what_a_library_does_not_check_itself_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Values of Tp or Tn")
        settings_of(*override.split())


@pytest.mark.parametrize("alpha", [1.0, 1.2, 1.3])
def test_an_alpha_up_to_the_margin_is_legal_and_warned_of(alpha: float, recipe: DictConfig) -> None:
    with pytest.warns(UserWarning, match="every positive is always pulled"):
        changed(recipe, "loss.alpha", alpha)


def test_what_the_optimizer_refuses_is_a_config_error() -> None:
    settings = settings_of("+optimizer.betas=[2.0,0.9]")
    with pytest.raises(ConfigError, match=r"optimizer: .*beta"):
        build_optimizer(nn.Linear(2, 2), settings.optimizer)


# ---- evaluate


@pytest.mark.slow
def test_evaluate_takes_its_dataset_from_the_checkpoint_unless_one_is_named() -> None:
    assert judged("checkpoint=a.pt").dataset is None
    named = judged("checkpoint=a.pt", "dataset=duke").dataset
    assert named is not None
    assert named["name"] == "duke"


def test_evaluate_judges_as_training_does() -> None:
    train, evaluate = flat(settings_of()), flat(judged("checkpoint=a.pt"))
    shared = [key for key in evaluate if key.startswith("eval.")]
    assert {key: train[key] for key in shared} == {key: evaluate[key] for key in shared}


@pytest.mark.slow
def test_datasets_are_choices_with_changes() -> None:
    entries = "[market,{name:synthetic_night,preset:tiny},{name:folder,root:/crops,label:site_a}]"
    datasets = judged("checkpoint=a.pt", f"eval.datasets={entries}", "data.root=/d").eval.datasets
    assert datasets == [
        {"label": "market", "name": "market", "root": "/d/market1501", "official": True},
        {
            "label": "synthetic_night",
            "name": "synthetic",
            "root": "/d/synthetic/night_tiny_0",
            "preset": "tiny",
            "domain": "night",
            "seed": 0,
        },
        {"label": "site_a", "name": "folder", "root": "/crops", "distractor": 0},
    ]


def test_training_judges_on_its_own_dataset_alone() -> None:
    with pytest.raises(ConfigError, match=r"python -m reid\.evaluate"):
        settings_of("eval.datasets=[duke]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "checkpoint is not given and has no default: add checkpoint=…"),
        (["checkpoint=a", "dataset=folder"], "dataset.root is not given"),
        (["checkpoint=a", "eval.metric=cosin"], "Did you mean 'cosine'?"),
        (["checkpoint=a", "+seed=1"], "no key seed"),
        (["checkpoint=a", "dataset=duke", "+dataset.foo=1"], "no key dataset.foo"),
        (["checkpoint=a", "dataset=duke", "eval.datasets=[market]"], "give one of them"),
        (["checkpoint=a", "eval.datasets=[markt]"], "Did you mean 'market'?"),
        (["checkpoint=a", "eval.datasets=[folder]"], "{name: folder, root: /crops}"),
        (["checkpoint=a", "eval.datasets=[market,market]"], "'market' cannot name a row"),
        (["checkpoint=a", "eval.datasets=[{name:market,label:a/b}]"], "'a/b' cannot name a row"),
        (["checkpoint=a", "eval.datasets=[{name:market,offical:true}]"], "no key dataset.offical"),
    ],
)
def test_evaluate_refuses(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        judged(*overrides)
    assert message in str(caught.value)


# ---- the words themselves


def test_nearest() -> None:
    assert nearest("rankd", ["ranked", "softmax"]) == " Did you mean 'ranked'?"
    assert nearest("zzz", ["ranked", "softmax"]) == ""


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sed", "no key sed. Did you mean 'seed'?"),
        ("alpha", "no key alpha. Did you mean 'loss.alpha'?"),
        ("loss.alhpa", "no key loss.alhpa. Did you mean 'loss.alpha'? loss has alpha, margin."),
        ("optimizer.alpha", "no key optimizer.alpha. Did you mean 'loss.alpha'?"),
        ("loss.zzz", "no key loss.zzz. loss has alpha, margin."),
        ("zzz", "no key zzz. The keys here: seed, loss."),
    ],
)
def test_an_unknown_key_is_answered_by_what_is_near_and_what_is_beside(key: str, message: str) -> None:
    known = ["seed", "loss", "loss.alpha", "loss.margin"]
    assert unknown_key(key, known) == message
    assert unknown_key(key, known, "train") == f"the train command has {message}"


def test_types_are_compared_with_annotations() -> None:
    def takes(ratio: float, count: int, name: str | None = None, flag: bool = False) -> None: ...

    check_types("g", {"ratio": 1, "count": 2, "name": None, "flag": True}, takes)
    for key, value, expected in (
        ("ratio", "x", "a number"),
        ("ratio", True, "a number"),
        ("count", 1.5, "a whole number"),
        ("name", 3, "text or null"),
        ("flag", 1, "true or false"),
    ):
        with pytest.raises(ConfigError, match=f"g.{key}=.* expected {expected}"):
            check_types("g", {key: value}, takes)


@pytest.mark.slow
def test_batch_norm_over_several_gpus_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settings_of("sync_bn=true").sync_bn
    with pytest.raises(ConfigError, match=r"sync_bn=true with device=cpu .* CUDA alone"):
        settings_of("sync_bn=true", "device=cpu")
    with pytest.raises(ConfigError, match="sync_bn and freeze_bn"):
        settings_of("sync_bn=true", "freeze_bn=true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sync_bn=true with device=auto"):
        settings_of("sync_bn=true")
