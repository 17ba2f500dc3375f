"""The data of a sweep, looked at before its first job."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reid.config.checks import ConfigError
from reid.config.schema import register
from reid.data import DatasetError, ReidDataset, load_dataset
from reid.jobs.ahead import check_ahead
from reid.sweeps.cells import Plan, expand, plan, refuse_missing

pytestmark = pytest.mark.usefixtures("own_home")


def ahead(words: Sequence[str]) -> Plan:
    """The plan of a training command whose data have been looked at."""
    planned = plan("train", words)
    refuse_missing(planned)
    check_ahead(planned)
    return planned


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the datasets that are read, as they are read."""
    roots: list[str] = []

    def read(root: str, **options: Any) -> ReidDataset:
        roots.append(root)
        return load_dataset(root=root, **options)

    register()
    monkeypatch.setattr("reid.jobs.ahead.load_dataset", read)
    return roots


@pytest.mark.slow
def test_a_sweep_that_no_cell_of_can_train_is_refused(tiny_data: Path, listed: list[str]) -> None:
    root = f"{tiny_data}/synthetic/day_tiny_0"
    words = ["-m", "dataset=folder", f"dataset.root={root}", "seed=0,1", "loss.alpha=1.0,1.2"]
    with pytest.raises(ConfigError, match="identities=13 is larger than the 12 identities"):
        ahead([*words, "batch.identities=13"])
    assert listed == [root]
    with pytest.raises(DatasetError, match="val_identities=12"):
        ahead([*words, "batch.identities=4", "eval.split=val", "eval.val_identities=12"])
    with pytest.raises(DatasetError, match="/nowhere/a"):
        ahead(["-m", "dataset=folder", "dataset.root=/nowhere/a,/nowhere/b", "seed=0,1"])


@pytest.mark.slow
def test_a_sweep_of_which_a_cell_can_train_goes_ahead(tiny_data: Path, listed: list[str]) -> None:
    root = f"{tiny_data}/synthetic/day_tiny_0"
    words = ["-m", "dataset=folder", f"dataset.root=/nowhere,{root}", "seed=0,1"]
    assert len(ahead([*words, "batch.identities=4,13"]).cells) == 8
    assert listed == ["/nowhere", root]


@pytest.mark.slow
def test_data_are_not_looked_for_where_the_jobs_run_elsewhere_or_draw_them(
    tmp_path: Path, listed: list[str]
) -> None:
    for words in (["hydra/launcher=submitit_slurm"], ["dataset=synthetic"]):
        assert ahead(["-m", "seed=0,1", *words]).cells
    assert expand("train", ["seed=0,1"])
    assert listed == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("study.space.alpha.low=-5", "study.space.alpha: loss.alpha is -5.0"),
        (
            "study.space.alpha.key=head.p study.space.alpha.low=-1 head=gem",
            "study.space.alpha: head.p=-1.0 is not allowed",
        ),
    ],
)
def test_both_ends_of_what_a_study_searches_are_tried_before_it_begins(words: str, message: str) -> None:
    planned = plan("tune", ["study=alpha_margin", "dataset=synthetic", *words.split()])
    with pytest.raises(ConfigError, match=message):
        check_ahead(planned)
