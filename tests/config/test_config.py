"""Every choice of conf/ composes and builds; the defaults are the recipe; hashes tell experiments apart."""

import copy
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import changed, composed, settings_of
from omegaconf import DictConfig
from torch import nn

from reid.config import identity
from reid.config.identity import config_hash, flat, resume_hash
from reid.config.schema import AugmentConfig, TrainConfig, config_folder
from reid.config.settings import train_settings
from reid.engine.objective import build_metric_loss
from reid.engine.optimizers import build_optimizer
from reid.engine.schedule import scheduled_rate
from reid.models import build_backbone, build_head

GROUPS = ("dataset", "backbone", "head", "loss", "optimizer", "schedule", "tricks", "experiment")
CHOICES = [
    (group, file.relative_to(config_folder() / group).with_suffix("").as_posix())
    for group in GROUPS
    for file in sorted((config_folder() / group).rglob("*.yaml"))
]

#: What a choice of a dataset cannot know.
NEEDED = {
    "folder": ["dataset.root=crops"],
    "folders": ["dataset.root=crops"],
    "table": ["dataset.file=crops.csv"],
    "joint": ["dataset.parts=[market,synthetic_night]"],
}


pytestmark = pytest.mark.usefixtures("own_home")


# ---- every choice composes and builds


@cache
def chosen(group: str, choice: str) -> TrainConfig:
    """The settings of a run with this choice."""
    overrides = [f"{group}={choice}", "backbone.weights=none"]
    overrides += NEEDED.get(choice, []) if group == "dataset" else []
    if (
        group == "experiment"
        and "/dataset: folder" in (config_folder() / group / f"{choice}.yaml").read_text()
    ):
        overrides.append("dataset.root=crops")
    if (group, choice) == ("backbone", "timm"):
        overrides.append("backbone.name=mobilenetv3_small_050")
    return settings_of(*overrides)


every_choice = pytest.mark.parametrize(
    ("group", "choice"), CHOICES, ids=[f"{group}={choice}" for group, choice in CHOICES]
)


@every_choice
def test_every_choice_composes_and_builds(group: str, choice: str) -> None:
    settings = chosen(group, choice)
    if group in ("backbone", "experiment"):
        with torch.device("meta"):  # shapes without random numbers
            backbone = build_backbone(last_stride=settings.tricks.last_stride, **settings.backbone)
        assert backbone.name == settings.backbone["name"]
        assert group == "experiment" or choice == "timm" or backbone.name == choice
    if group in ("head", "experiment"):
        head = build_head(settings.head, channels=8, num_classes=4)
        assert head.train_feature == settings.loss["neck_feature"]
    if group in ("loss", "experiment"):
        loss = build_metric_loss(settings.loss, num_classes=4, embedding_size=8)
        assert (loss is None) == (settings.loss["metric_weight"] == 0)
    if group in ("optimizer", "experiment"):
        optimizer = build_optimizer(nn.Linear(3, 2), settings.optimizer)
        assert [entry["lr"] for entry in optimizer.param_groups] == [
            settings.optimizer["lr"],
            settings.optimizer["lr"] * settings.optimizer["bias_lr_factor"],
        ]
    if group in ("schedule", "experiment"):
        rates = [scheduled_rate(settings, epoch) for epoch in range(1, settings.epochs + 1)]
        assert max(rates) == settings.optimizer["lr"]
    if group == "dataset":
        assert Path(settings.dataset["root"]).is_absolute()


# ---- the published recipe

PUBLISHED: dict[str, Any] = {
    "dataset.name": "market",
    "dataset.official": True,
    "backbone.name": "resnet50",
    "backbone.weights": "imagenet",
    "backbone.stem_relu": False,
    "backbone.stn": False,
    "head._target_": "reid.models.heads.BNNeck",
    "head.neck": True,
    "head.train_feature": "after",
    "head.eval_feature": "after",
    "head.embedding": None,
    "head.norm": "batch",
    "head.classifier": "linear",
    "head.scale": None,
    "head.margin": None,
    "loss._target_": "reid.losses.RankedListLoss",
    "loss.alpha": 2.0,
    "loss.margin": 1.3,
    "loss.positive_radius": None,
    "loss.temperature": 1.0,
    "loss.id_weight": 1.0,
    "loss.metric_weight": 0.4,
    "loss.neck_feature": "after",
    "optimizer._target_": "torch.optim.Adam",
    "optimizer.lr": 3.5e-4,
    "optimizer.weight_decay": 5e-4,
    "optimizer.bias_lr_factor": 1.0,
    "optimizer.bias_weight_decay": 5e-4,
    "optimizer.layer_decay": None,
    "tricks.warmup": 10,
    "tricks.random_erasing": 0.5,
    "tricks.erasing_fill": "published",
    "tricks.last_stride": 1,
    "tricks.label_smoothing": 0.1,
    "tricks.bnneck": True,
    "epochs": 120,
    "precision": "float32",
    "clip_norm": None,
    "accumulate": 1,
    "batch.identities": 16,
    "batch.instances": 4,
    "batch.size": 64,
    "batch.cameras": "any",
    "image.height": 256,
    "image.width": 128,
    "image.flip": 0.5,
    "image.padding": 10,
    "schedule._target_": "reid.engine.schedule.step",
    "schedule.per": "epoch",
    "schedule.floor": 0.0,
    "schedule.milestones": [40, 70],
    "schedule.gamma": 0.1,
    "schedule.warmup_epochs": 10,
    "schedule.warmup_factor": 0.01,
    "schedule.warmup_method": "linear",
    "eval.split": "test",
    "eval.protocol": "cross_camera",
    "eval.feature_norm": True,
    "eval.metric": "euclidean",
    "eval.neck_feature": "after",
    "eval.rerank": False,
    "eval.rerank_k1": 20,
    "eval.rerank_k2": 6,
    "eval.rerank_lambda": 0.3,
}
#: Leaves that the recipe says nothing of: where things lie, how they are tracked, our own options.
OURS = {
    "dataset.root",
    "seed",
    "device",
    "channels_last",
    "optimizer.fused",
    "optimizer.classifier_lr_factor",
    "optimizer.norm_weight_decay",
    "compile",
    "deterministic",
    "sync_bn",
    "freeze_bn",
    "freeze_epochs",
    "image.mean",
    "image.std",
    "image.sizes",
    *(f"augment.{key}" for key in vars(AugmentConfig())),
    "resume",
    "keep_last",
    "init_from",
    "backbone.ema",
    "schedule.restarts",
    "schedule.rise",
    "backbone.drop_path",
    "checkpointing",
    "backbone.non_local",
    "ema.decay",
    "ema.warmup",
    "ema.raw",
    "teacher.checkpoint",
    "teacher.kind",
    "teacher.weight",
    "eval.period",
    "eval.val_identities",
    "eval.val_seed",
    "eval.at_start",
    "eval.batch",
    "eval.flip",
    "eval.cameras",
    "eval.query_expansion",
    "eval.datasets",
    "eval.tracklets",
    "eval.tracklet_pooling",
    "eval.quality",
    "eval.groups",
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_config_without_an_override_is_the_published_recipe(key: str, recipe: DictConfig) -> None:
    value = flat(train_settings(copy.deepcopy(recipe)))[key]
    assert value == PUBLISHED[key]
    assert type(value) is type(PUBLISHED[key])


def test_no_leaf_escapes_the_recipe_unseen() -> None:
    leaves = {key for key in flat(settings_of()) if not key.startswith(("data.", "tracking.", "sweep."))}
    assert leaves == set(PUBLISHED) | OURS


@pytest.mark.parametrize("backbone", ["se_resnet50", "se_resnext50"])
def test_se_networks_train_with_48_images_a_batch(backbone: str) -> None:
    settings = settings_of("dataset=duke", f"backbone={backbone}", "loss=ranked")
    assert (settings.batch.identities, settings.batch.instances, settings.batch.size) == (12, 4, 48)
    assert settings.dataset["name"] == "duke"


@pytest.mark.parametrize("backbone", ["se_resnet50", "se_resnext50"])
def test_what_the_user_types_wins_over_what_a_backbone_proposes(backbone: str) -> None:
    assert settings_of(f"backbone={backbone}", "batch.identities=16").batch.size == 64


BAG = {"warmup": 10, "random_erasing": 0.5, "last_stride": 1, "label_smoothing": 0.1, "bnneck": True}
OFF = {"warmup": 0, "random_erasing": 0.0, "last_stride": 2, "label_smoothing": 0.0, "bnneck": False}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("bag_of_tricks", BAG),
        ("none", OFF),
        *((f"no_{trick}", {**BAG, trick: off}) for trick, off in OFF.items()),
        *((f"only_{trick}", {**OFF, trick: on}) for trick, on in BAG.items()),
    ],
)
def test_tricks(choice: str, expected: dict[str, Any]) -> None:
    tricks = flat(settings_of(f"tricks={choice}"))
    assert {trick: tricks[f"tricks.{trick}"] for trick in BAG} == expected


@pytest.mark.parametrize("experiment", [choice for group, choice in CHOICES if group == "experiment"])
def test_an_experiment_leaves_each_trick_to_who_types_it(experiment: str) -> None:
    for choice, expected in (("none", OFF), ("no_warmup", {**BAG, "warmup": 0})):
        tricks = composed("train", f"experiment={experiment}", f"tricks={choice}").tricks
        assert {trick: tricks[trick] for trick in BAG} == expected


# ---- hashes and leaves


def test_the_hash_tells_experiments_apart_and_nothing_else(recipe: DictConfig) -> None:
    plain = config_hash(train_settings(copy.deepcopy(recipe)))
    assert len(plain) == 16
    for same, value in {
        "tracking.experiment": "other",
        "tracking.run_name": "x",
        "tracking.uri": "http://elsewhere",
        "device": "cpu",
        "data.root": "/elsewhere",
        "dataset.root": "/elsewhere",
        "data.store": "/elsewhere",
        "sweep.fail_fast": True,
        "resume": "auto",
        "keep_last": False,
        "tracking.checkpoint": "none",
    }.items():
        assert config_hash(changed(recipe, same, value)) == plain, same
    for other, value in {
        "loss.alpha": 1.2,
        "seed": 1,
        "epochs": 60,
        "dataset.name": "duke",
        "tricks.warmup": 0,
        "eval.split": "val",
        "data.on_bad_image": "skip",
        "init_from": "other/model.pt",
        "teacher.checkpoint": "other/model.pt",
    }.items():
        assert config_hash(changed(recipe, other, value)) != plain, other


#: `config_hash` and `resume_hash` of commit d063546 for every choice that it had.
OF_CHOICES = json.loads((Path(__file__).parents[1] / "golden" / "config_hashes.json").read_text())
#: The same for combinations.
HASHES_OF_D063546 = {
    "": ("e63786a7cb8804d6", "798d6c8c6e09bc74"),
    "experiment=quickstart": ("f4434f8d33811a3f", "8553528ec84718c0"),
    "dataset=duke backbone=se_resnext50 loss=ranked": ("7d3270dd7a762361", "32f507da5fc400d6"),
    "dataset=table dataset.file=crops.csv optimizer=sgd": ("09872d07b5f4a60f", "9e9cc90dba4e7410"),
    "dataset=folders dataset.root=crops": ("c1f93219ba0038ff", "798d6c8c6e09bc74"),
    "dataset=joint dataset.parts=[market,synthetic_night] loss=triplet": (
        "2b61b801a3362353", "14edf8bb0cbb122a",
    ),
    "backbone=timm backbone.name=vit_small_patch16_224 backbone.weights=none optimizer=adamw "
    "optimizer.layer_decay=0.75": ("b1b4d40b674a0d5e", "26dbe78ec1067015"),
}  # fmt: skip


@pytest.mark.parametrize("words", HASHES_OF_D063546)
def test_keys_that_came_later_leave_the_hashes_of_older_runs(words: str) -> None:
    settings = settings_of(*words.split())
    assert (config_hash(settings), resume_hash(settings)) == HASHES_OF_D063546[words]


@every_choice
def test_a_choice_keeps_its_hashes(group: str, choice: str) -> None:
    settings = chosen(group, choice)
    hashes = [config_hash(settings), resume_hash(settings)]
    assert hashes == OF_CHOICES.get(f"{group}={choice}", hashes), (
        "runs that were made with this choice would not be found again. A key that it got belongs into "
        "identity.LATER, with the value that is the same as being without it"
    )


def test_a_key_that_came_later_counts_where_it_is_not_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    older = settings_of("dataset=joint", "dataset.parts=[market,synthetic_night]")
    newer = copy.deepcopy(older)
    newer.dataset["parts"][0]["added"] = 0
    newer.backbone["added"] = {"a": 1}
    monkeypatch.setattr(identity, "LATER", {"dataset.added": 0, "backbone.added.a": 1})
    monkeypatch.setattr(identity, "FIRST", identity.FIRST - {"seed", "tricks.bnneck"})
    assert config_hash(newer) == config_hash(older)
    assert resume_hash(newer) == resume_hash(older)
    leaves = flat(newer)
    del leaves["tricks.bnneck"]
    assert identity.changed(leaves, flat(older)) == identity.changed(flat(older), leaves) == []

    older.tricks.bnneck = False
    assert identity.changed(leaves, flat(older)) == ["tricks.bnneck was True, is False"]
    newer.dataset["parts"][0]["added"] = 1
    assert config_hash(newer) != config_hash(older)


def test_a_resumed_run_may_change_its_length_and_not_its_loss(recipe: DictConfig) -> None:
    settings = train_settings(copy.deepcopy(recipe))
    plain, leaves = resume_hash(settings), flat(settings)
    for same, value in {
        "epochs": 240,
        "eval.period": 5,
        "eval.protocol": "ignore_camera",
        "device": "cpu",
        "data.root": "/elsewhere",
        "init_from": "other/model.pt",
        "backbone.weights": "none",
    }.items():
        assert resume_hash(changed(recipe, same, value)) == plain, same
        assert identity.changed(leaves, flat(changed(recipe, same, value))) == []
    for other, value in {
        "loss.alpha": 1.2,
        "batch.identities": 8,
        "optimizer.lr": 1e-3,
        "eval.split": "val",
    }.items():
        assert resume_hash(changed(recipe, other, value)) != plain, other
        differences = identity.changed(leaves, flat(changed(recipe, other, value)))
        assert f"{other} was {leaves[other]}, is {value}" in differences


def test_flat_names_every_leaf_once(recipe: DictConfig) -> None:
    leaves = flat(train_settings(copy.deepcopy(recipe)))
    assert not [value for value in leaves.values() if isinstance(value, dict)]
    assert leaves["schedule.milestones"] == [40, 70]
    for group in ("data.root", "tracking.uri", "sweep.fail_fast", "tricks.bnneck", "loss.alpha"):
        assert group in leaves
    # Interpolations are resolved.
    assert not [key for key, value in leaves.items() if "${" in str(value)]


@pytest.mark.slow
def test_where_data_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settings_of().dataset["root"] == f"{tmp_path}/data/market1501"
    monkeypatch.setenv("REID_DATA", "/mnt/crops")
    assert settings_of().dataset["root"] == "/mnt/crops/market1501"
    assert settings_of("data.root=here").data.store == f"{os.getcwd()}/here/.store"
    assert settings_of("data.root='~/d'").data.root == str(Path.home() / "d")
