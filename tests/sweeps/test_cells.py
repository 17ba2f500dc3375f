"""The cells of a sweep, named before the first one starts, and the folder in which it goes on."""

import os
import shutil
import warnings
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from reid.config.checks import ConfigError
from reid.config.schema import config_folder, register
from reid.sweeps.cells import Plan, _Compositions, expand, plan
from reid.sweeps.sweep_file import SweepFile, read_sweep
from reid.sweeps.sweep_folder import SWEEP_DIR, sweep_arguments
from reid.tracking.journal import Journal
from reid.tracking.sources import NUMBERS, code

pytestmark = pytest.mark.usefixtures("own_home")

#: What runs of these commits say of their code.
D063546, C1E3F991 = "b6731f319247c42b", "b368d3a247bbe3ee"


def folder_of(added: list[str]) -> Path:
    (word,) = (word for word in added if word.startswith(SWEEP_DIR))
    return Path(word.partition("=")[2].strip("'"))


def test_a_grid_is_its_cells_in_the_order_of_hydras_jobs() -> None:
    cells = expand("train", ["dataset=synthetic", "loss.alpha=1.0,1.4", "seed=range(0,2)"])
    assert [cell.overrides[1:] for cell in cells] == [
        ("loss.alpha=1.0", "seed=0"),
        ("loss.alpha=1.0", "seed=1"),
        ("loss.alpha=1.4", "seed=0"),
        ("loss.alpha=1.4", "seed=1"),
    ]
    assert len({cell.config_hash for cell in cells}) == 4
    assert len({cell.data_root for cell in cells}) == 1


@pytest.mark.slow
def test_a_sweep_file_brings_its_values_and_what_is_typed_wins() -> None:
    cells = expand("train", ["sweep=alpha", "dataset=synthetic"])
    alphas = [word for cell in cells for word in cell.overrides if word.startswith("loss.alpha=")]
    assert alphas == [f"loss.alpha={value}" for value in ("1.0", "1.2", "1.4", "1.7", "2.0", "2.4")]
    typed = expand("train", ["sweep=alpha", "dataset=synthetic", "loss.alpha=1.1,1.3"])
    assert [cell.overrides[0] for cell in typed] == ["loss.alpha=1.1", "loss.alpha=1.3"]
    with pytest.raises(ConfigError, match="Add -m"):
        plan("train", ["sweep=alpha"])


@pytest.mark.slow
def test_a_sweep_over_the_tricks_of_an_experiment_has_a_cell_each() -> None:
    cells = expand("train", ["experiment=quickstart", "sweep=tricks"])
    assert len({cell.config_hash for cell in cells}) == len(cells) == 12


@pytest.mark.slow
def test_twins_are_refused_unless_nothing_is_taken() -> None:
    with pytest.raises(
        ConfigError, match=r"same experiment, though device=cpu, device=cuda differ.*take=none"
    ):
        expand("train", ["dataset=synthetic", "device=cpu,cuda"])
    assert len(expand("train", ["dataset=synthetic", "device=cpu,cuda", "sweep.take=none"])) == 2


# ---- the folder of a sweep


@pytest.mark.slow
def test_a_sweep_goes_on_in_its_folder(tmp_path: Path) -> None:
    words = ["-m", "dataset=synthetic", "loss.alpha=1.0,1.4"]
    folder = folder_of(sweep_arguments(plan("train", words), words))
    assert folder.parent == tmp_path / "multirun"
    sweep = read_sweep(folder)
    assert sweep is not None
    assert sweep.code == code()
    assert [overrides[-1] for overrides in sweep.overrides] == ["loss.alpha=1.0", "loss.alpha=1.4"]
    assert folder_of(sweep_arguments(plan("train", words), words)) == folder

    other = ["-m", "dataset=synthetic", "loss.alpha=1.0,1.5"]
    assert folder_of(sweep_arguments(plan("train", other), other)) != folder
    anew = [*words, "sweep.take=none"]
    assert folder_of(sweep_arguments(plan("train", anew), anew)) != folder


@pytest.mark.slow
def test_code_that_changed_begins_a_new_sweep_unless_any_code_will_do(tmp_path: Path) -> None:
    words = ["-m", "dataset=synthetic", "loss.alpha=1.0,1.4"]
    cells = plan("train", words).cells
    old = tmp_path / "multirun" / "old"
    names = [[cell.config_hash, cell.data_root] for cell in cells]
    SweepFile("reid", "another code", names).write(old)
    with pytest.warns(UserWarning, match=r"multirun/old holds this sweep.*sweep.take=any_code"):
        assert folder_of(sweep_arguments(plan("train", words), words)) != old
    os.utime(old / "sweep.json", (2e9, 2e9))  # the newest
    any_code = [*words, "sweep.take=any_code"]
    assert folder_of(sweep_arguments(plan("train", any_code), any_code)) == old


@pytest.mark.parametrize("network", [["backbone=resnet18"], ["backbone=timm", "backbone.name=resnet10t"]])
def test_a_sweep_goes_on_by_newer_code_where_that_computes_the_same(
    tmp_path: Path, network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reid.tracking.sources.code", lambda: f"numbers-{NUMBERS}")
    words = ["-m", "dataset=synthetic", *network, "loss.alpha=1.0,1.4"]
    found = plan("train", words)
    old = tmp_path / "multirun" / "old"
    names = [[cell.config_hash, cell.data_root] for cell in found.cells]
    for commit, same in {D063546: "backbone=resnet18" in network, C1E3F991: True}.items():
        SweepFile("reid", commit, names).write(old)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = folder_of(sweep_arguments(found, words))
        assert (folder == old) == same, commit
        if folder != old:
            shutil.rmtree(folder)


@pytest.mark.slow
def test_a_folder_that_was_typed_may_not_hold_another_sweep_nor_one_under_way(tmp_path: Path) -> None:
    folder = tmp_path / "mine, and only mine"
    words = ["-m", "dataset=synthetic", "loss.alpha=1.0,1.4", f"{SWEEP_DIR}='{folder}'"]
    assert sweep_arguments(plan("train", words), words) == []
    other = ["-m", "dataset=synthetic", "loss.alpha=1.0,1.5", f"{SWEEP_DIR}='{folder}'"]
    with pytest.raises(ConfigError, match="holds another sweep, of 2 cells"):
        sweep_arguments(plan("train", other), other)
    journal = Journal(folder)
    journal.acquire()
    try:
        with pytest.raises(ConfigError, match="under way in another process"):
            sweep_arguments(plan("train", words), words)
    finally:
        journal.release()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "key"),
    [("joblib", "hydra.launcher.n_jobs"), ("submitit_local", "hydra.sweeper.max_batch_size")],
)
def test_a_launcher_that_runs_jobs_side_by_side_is_told_how_many_fit(launcher: str, key: str) -> None:
    words = ["-m", "dataset=synthetic", "seed=0,1", f"hydra/launcher={launcher}"]
    found = plan("train", words)
    assert found.launcher == launcher
    assert any(word.startswith(f"{key}=") for word in sweep_arguments(found, words))
    typed = [*words, f"{key}=1"]
    assert not any(word.startswith(key) for word in sweep_arguments(plan("train", typed), typed))


@pytest.mark.slow
def test_submitit_on_this_machine_ends_no_job_for_its_length() -> None:
    words = ["-m", "dataset=synthetic", "seed=0,1", "hydra/launcher=submitit_local"]
    added = sweep_arguments(plan("train", words), words)
    assert "hydra.launcher.timeout_min=525600" in added
    typed = [*words, "hydra.launcher.timeout_min=5"]
    assert not any("timeout_min" in word for word in sweep_arguments(plan("train", typed), typed))


@pytest.mark.slow
def test_slurm_takes_its_own_keys() -> None:
    keys = ["partition=gpu", "gpus_per_node=1", "cpus_per_task=8", "mem_gb=32", "timeout_min=720"]
    keys += ["max_num_timeout=3", "array_parallelism=4", "account=lab", "qos=low"]
    options = [f"hydra.launcher.{key}" for key in keys]
    words = ["-m", "dataset=synthetic", "seed=0,1", "hydra/launcher=submitit_slurm", *options]
    found = plan("train", words)
    assert (found.launcher, len(found.cells)) == ("submitit_slurm", 2)
    assert [found.launcher_keys[key] for key in ("partition", "mem_gb", "qos")] == ["gpu", 32, "low"]
    with pytest.raises(HydraException, match="partitions"):
        plan("train", [*words, "hydra.launcher.partitions=gpu"])


@pytest.mark.slow
def test_a_killed_worker_is_replaced_as_often_as_a_failed_job_is_tried_again() -> None:
    words = ["-m", "dataset=synthetic", "seed=0,1"]
    assert plan("train", words).retry == 1
    assert plan("train", [*words, "sweep.retry=3"]).retry == 3
    assert plan("train", [*words, "sweep.retry=3", "sweep.fail_fast=true"]).retry == 0


def test_what_is_no_multirun_or_trains_nothing_gets_no_folder() -> None:
    assert sweep_arguments(Plan(multirun=False), []) == []
    assert plan("train", ["--cfg", "job"]) == Plan(multirun=False)
    assert sweep_arguments(Plan(multirun=True), ["-m"]) == []


GROUPS = ("backbone", "dataset", "experiment", "head", "loss", "optimizer", "schedule", "tricks")


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.alpha=1.4", "seed=3"],
        ["loss=triplet", "loss.margin=0.2", "+loss.squared=true"],
        ["experiment=quickstart", "head=parts", "head.stripes=2", "optimizer=sgd", "~loss.neck_feature"],
        ["dataset=folders", "dataset.root=/x y", "backbone.weights=null", "schedule=cosine"],
        ["tricks=none", "+loss={extra: 1}", "eval.datasets=[market,duke]", "++backbone.ema=true"],
    ],
)
def test_a_cell_that_shares_files_with_others_is_composed_as_by_hydra(overrides: list[str]) -> None:
    """In whatever order they come: the files that another cell has read are as good as new."""
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        compositions = _Compositions("train")
        files = [word for word in overrides if word.lstrip("+~").partition("=")[0] in GROUPS]
        compositions.job([*files, "seed=99", "epochs=7"])
        shared = compositions.job(overrides)
        alone = compose("train", overrides=overrides)
    assert OmegaConf.to_container(shared) == OmegaConf.to_container(alone)
    assert OmegaConf.get_type(shared) is OmegaConf.get_type(alone)
