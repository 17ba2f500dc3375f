"""`loss=mix`: composed, checked, swept, and the same experiment however it is written."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from composing import settings_of
from omegaconf import OmegaConf

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, flat
from reid.config.mix import construct_loss
from reid.config.search_path import further_choices
from reid.jobs.resolved import primary_config
from reid.sweeps.cells import plan
from reid.tracking.machine import unseen_by_hydra

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def command_line() -> Iterator[None]:
    """What a command line with a config of its own leaves in the process is gone after the test."""
    yield
    unseen_by_hydra.clear()
    further_choices.clear()


def test_each_part_is_a_choice_with_its_keys_and_not_the_weight_of_the_cross_entropy() -> None:
    leaves = flat(
        settings_of(
            "loss=mix", "loss@loss.second=circle", "loss.second.m=0.3", "+loss@loss.third=triplet",
            "loss.first.metric_weight=0.2",
        )
    )  # fmt: skip
    assert leaves["loss.first._target_"] == "reid.losses.RankedListLoss"
    assert (leaves["loss.first.metric_weight"], leaves["loss.first.neck_feature"]) == (0.2, "after")
    assert (leaves["loss.second.m"], leaves["loss.second.neck_feature"]) == (0.3, "after")
    assert (leaves["loss.third.margin"], leaves["loss.third.neck_feature"]) == (0.3, "before")
    assert leaves["head.train_feature"] == "both"
    assert [key for key in leaves if key.endswith("id_weight")] == ["loss.id_weight"]


def test_a_weight_of_the_cross_entropy_that_a_config_file_gives_a_part_is_warned_of() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings_of("loss=mix", "loss@loss.second=arcface")
        assert not caught
        settings_of("loss=mix", "loss.first={id_weight: 0.5}", "loss@loss.second=arcface")
    assert [str(one.message) for one in caught] == [
        "loss.first.id_weight=0.5 does nothing: a loss of a mix has no weight of the cross entropy. That of "
        "the whole is loss.id_weight=1.0"
    ]


def test_the_weights_that_its_parts_draw_do_not_depend_on_the_order_of_the_keys() -> None:
    options = settings_of("loss=mix", "loss@loss.first=triplet_center", "loss@loss.second=arcface").loss
    states = []
    for ordered in (options, dict(reversed(options.items()))):
        torch.manual_seed(0)
        states.append(construct_loss(ordered, {"num_classes": 3, "embedding_size": 4}).state_dict())
    first, second = states
    assert list(first) == list(second) == ["losses.first.centers", "losses.second.W"]
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_sweep_varies_the_choice_and_the_keys_of_a_part() -> None:
    cells = plan(
        "train", ["-m", "loss=mix", "loss@loss.second=triplet,circle", "loss.first.metric_weight=0.4,1"]
    ).settings
    seen = [
        (one.loss["second"]["_target_"].rpartition(".")[2], one.loss["first"]["metric_weight"])
        for one in cells
    ]
    assert seen == [("TripletLoss", 0.4), ("TripletLoss", 1), ("CircleLoss", 0.4), ("CircleLoss", 1)]
    assert len({config_hash(one) for one in cells}) == 4


@pytest.mark.usefixtures("command_line")
def test_its_resolved_config_is_the_same_experiment(tmp_path: Path) -> None:
    words = ["loss=mix", "loss.second.margin=0.5", "loss@loss.first=clustered_ranked"]
    (settings,) = plan("train", words).settings
    OmegaConf.save(OmegaConf.structured(settings), tmp_path / "config_resolved.yaml")
    primary = primary_config(
        "train", ["--config-path", str(tmp_path), "--config-name", "config_resolved", "seed=0"]
    )
    (again,) = plan(primary.name, primary.words).settings
    assert config_hash(again) == config_hash(settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("loss.neck_feature=before", r"loss.neck_feature=before is not for a mix"),
        (
            "loss.first.neck_feature=both",
            r"loss.first.neck_feature=both is not allowed: expected one of after",
        ),
        ("loss.first.metric_weight=-1", r"loss.first.metric_weight=-1 is not allowed"),
        ("loss.first.alpha=x", r"loss.first.alpha='x' is not allowed: expected a number"),
        ("+loss.first.alfa=1", r"no key loss.first.alfa. Did you mean 'loss.first.alpha'"),
        ("loss.second.margin=-1", r"loss.second.margin is -1; a finite number from 0 on"),
        ("loss.first._target_=os.system", r"loss.first._target_=os.system is refused"),
        ("loss.first._target_=reid.losses.Triplet", r"there is no such class or function"),
        ("loss@loss.first=softmax", r"loss.first is cross entropy alone: expected a metric loss"),
        ("loss@loss.first=mix", r"loss.first is a mix: expected a metric loss"),
        ("+loss.third=5", r"loss.third=5 is no loss of a mix: .* \+loss@loss.third=triplet"),
        ("loss.first.id_weight=0.5", r"loss.first.id_weight=0.5: a loss of a mix has no weight"),
        ("loss@loss.second=supcon loss.second.temperature=0", r"loss.second.temperature=0 is not allowed"),
        ("loss@loss.first=triplet_center loss@loss.second=triplet_center", r"both bring an optimizer"),
        ("loss.id_weight=0 loss.first.metric_weight=0 loss.second.metric_weight=0", r"nothing to train for"),
        ("loss.first.positive_radius=0.6 loss.first.margin=1", r"cannot both be"),
        ("loss@loss.second=circle head.classifier=circle", r"and loss.second._target_=.*CircleLoss are both"),
    ],
)
def test_what_is_no_mix_is_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed = ["loss=mix", *words.split()]
        plan("train", typed)
        settings_of(*typed)


@pytest.mark.parametrize("loss", ["arcface", "cosface", "circle"])
def test_a_loss_with_a_margin_beside_a_classifier_with_one_is_refused(loss: str) -> None:
    with pytest.raises(ConfigError, match=r"head.classifier=cosface and loss._target_=.* are both a margin"):
        plan("train", [f"loss={loss}", "head.classifier=cosface"])
    assert settings_of(f"loss={loss}").head["classifier"] == "linear"


def test_a_classifier_with_a_margin_that_nothing_trains_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"head.classifier=circle is trained by the cross entropy alone"):
        plan("train", ["head.classifier=circle", "loss.id_weight=0"])
    with pytest.raises(ConfigError, match=r"head.classifier='cosine' is not allowed: expected one of linear"):
        settings_of("head.classifier=cosine")
