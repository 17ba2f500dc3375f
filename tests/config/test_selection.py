"""`tracking.checkpoint`: its words, those of older configs, what it refuses, and the hashes of runs."""

from pathlib import Path

import pytest
import yaml
from composing import composed, settings_of
from omegaconf import OmegaConf

from reid.config.checks import ConfigError
from reid.config.identity import changed, config_hash, flat, param_now, resume_hash
from reid.jobs.resolved import primary_config
from reid.sweeps.cells import plan

pytestmark = pytest.mark.usefixtures("own_home")

VAL = ("eval.split=val", "eval.period=1")
BEST = (*VAL, "tracking.checkpoint=best")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("true", "last"), ("false", "none"), ("last", "last"), ("none", "none"), ("True", "last")],
)
def test_the_words_of_older_command_lines_are_read(typed: str, meant: str) -> None:
    assert settings_of(f"tracking.checkpoint={typed}").tracking.checkpoint == meant


@pytest.mark.parametrize("older", ["true", "false"])
def test_a_resolved_config_of_an_older_run_is_read(older: str, tmp_path: Path) -> None:
    resolved = OmegaConf.to_container(composed("train", f"tracking.checkpoint={older}"), resolve=True)
    assert isinstance(resolved, dict)
    (tmp_path / "config_resolved.yaml").write_text(yaml.safe_dump(resolved))
    assert f"checkpoint: {older}" in (tmp_path / "config_resolved.yaml").read_text()
    primary = primary_config("train", ["--config-path", str(tmp_path), "--config-name", "config_resolved"])
    (settings,) = plan(primary.name, primary.words).settings
    assert settings.tracking.checkpoint == {"true": "last", "false": "none"}[older]


@pytest.mark.parametrize("wrong", ["beste", "null", "1", "0", "[best]"])
def test_another_word_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking.checkpoint=.* is not allowed: expected one of last, b"):
        settings_of(f"tracking.checkpoint={wrong}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval.period=1",), "eval.split=test: then nothing would be left to judge the chosen model on"),
        (("eval.split=val", "eval.period=0"), "eval.period=0 judges the last one alone"),
    ],
)
def test_nothing_is_chosen_on_the_test_set_or_of_one(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("train", [*words, "tracking.checkpoint=best"])


def test_one_judged_epoch_is_no_choice() -> None:
    short = ("epochs=5", "tricks.warmup=0", "schedule.milestones=[]")
    with pytest.warns(UserWarning, match="nothing to choose from"):
        settings_of("eval.split=val", "eval.period=5", *short, "tracking.checkpoint=best")


def test_it_is_of_the_experiment_where_the_best_epoch_is_kept() -> None:
    last, none, best = (settings_of(*VAL, f"tracking.checkpoint={word}") for word in ("true", "none", "best"))
    assert config_hash(last) == config_hash(none) != config_hash(best)
    assert resume_hash(last) == resume_hash(none) != resume_hash(best)
    assert changed(flat(last), flat(none)) == []
    assert changed(flat(last), flat(best)) == ["tracking.checkpoint was last, is best"]
    # As a checkpoint of an older run has it.
    assert changed({**flat(last), "tracking.checkpoint": True}, flat(last)) == []


@pytest.mark.parametrize(
    ("key", "chooses"),
    [("eval.flip=true", True), ("eval.metric=cosine", True), ("eval.period=2", False)],
)
def test_what_epochs_are_compared_by_may_not_change_midway(key: str, chooses: bool) -> None:
    for words, fixed in ((BEST, chooses), (VAL, False)):
        before, now = settings_of(*words), settings_of(*words, key)
        assert (resume_hash(before) != resume_hash(now)) == fixed
        assert bool(changed(flat(before), flat(now))) == fixed


def test_parameters_of_older_runs_compare_with_those_of_now() -> None:
    found = [param_now("tracking.checkpoint", word) for word in ("True", "False", "best")]
    assert found == ["last", "none", "best"]
    assert param_now("ema.raw", "True") == "True"
