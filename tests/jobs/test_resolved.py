"""A run again from its `config_resolved.yaml`: as it is, with other keys, and one of older code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from reid.config.search_path import further_choices
from reid.jobs.resolved import primary_config
from reid.sweeps.cells import plan
from reid.tracking.machine import unseen_by_hydra

TYPED = ["dataset=synthetic", "loss=triplet", "backbone=resnet18"]
#: Keys that the schedule got after commit 1e3f991.
LATER = ("_target_", "per", "floor")


@pytest.fixture
def resolved(tmp_path: Path, own_home: None) -> Iterator[Path]:
    """The resolved config of a run."""
    (settings,) = plan("train", TYPED).settings
    file = tmp_path / "config_resolved.yaml"
    OmegaConf.save(OmegaConf.structured(settings), file)
    yield file
    unseen_by_hydra.clear()
    further_choices.clear()


def config_hash(words: list[str], file: Path) -> str:
    primary = primary_config(
        "train", ["--config-path", str(file.parent), "--config-name", "config_resolved", *words]
    )
    (cell,) = plan(primary.name, primary.words).cells
    return cell.config_hash


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["tricks.bnneck=false"],
        ["loss.neck_feature=after", "eval.neck_feature=before"],
        ["dataset.corrections=a.csv"],
    ],
)
@pytest.mark.parametrize("older", [False, True], ids=["of now", "of 1e3f991"])
def test_it_is_the_same_experiment_and_its_head_follows_what_is_typed(
    words: list[str], older: bool, resolved: Path
) -> None:
    if older:  # without heads, and with fewer keys of the schedule
        config: Any = OmegaConf.load(resolved)
        del config["head"]
        for key in LATER:
            del config.schedule[key]
        OmegaConf.save(config, resolved)
    (expected,) = plan("train", [*TYPED, *words]).cells
    assert config_hash(words, resolved) == expected.config_hash
