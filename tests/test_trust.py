"""Code of the user's own is run where the environment names its package, and by nothing else."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from choices import write_package
from composing import NO_WORK, composed
from hydra.core.global_hydra import GlobalHydra

from reid.config.checks import ConfigError, construct, trusted_target
from reid.config.schema import OWN_KEYS, dataset_choices, register
from reid.config.search_path import further_choices
from reid.config.settings import train_settings
from reid.data import DatasetError, dataset_reader
from reid.jobs.compose_errors import known_keys
from reid.jobs.launch import launch
from reid.jobs.resolved import primary_config
from reid.models import BackboneError, build_backbone
from reid.sweeps.cells import plan
from reid.tracking.sources import code
from reid.trust import TrustError, trusted_choices

CHOSEN = ["loss=own", "backbone=own", "dataset=own"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_home: None) -> Iterator[Path]:
    """`mypackage`, which can be imported and is not trusted."""
    write_package(tmp_path)
    with (tmp_path / "mypackage" / "losses.py").open("a") as file:
        file.write("\n\nfrom os import system\n")
    with (tmp_path / "mypackage" / "nets.py").open("a") as file:
        file.write("\n\ndef remove(last_stride: int = 1) -> None:\n    raise AssertionError('it was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("REID_TRUST", raising=False)
    yield tmp_path / "mypackage"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]
    further_choices.clear()
    GlobalHydra.instance().clear()


def test_nothing_of_it_is_named_before_it_is_trusted(package: Path) -> None:
    for group in ("loss", "optimizer"):
        with pytest.raises(ConfigError, match=r"is refused.*REID_TRUST=<its package> in the environment"):
            trusted_target(group, "mypackage.losses.Mine")
    with pytest.raises(
        DatasetError, match=r"dataset.name=mypackage.crops lies in no package that is trusted"
    ):
        dataset_reader("mypackage.crops")
    with pytest.raises(BackboneError, match=r"backbone.name=mypackage.nets.mine lies in no package"):
        build_backbone("mypackage.nets.mine")
    assert "own" not in dataset_choices()
    assert "mypackage" not in sys.modules


@pytest.mark.slow
def test_its_choices_compose_and_are_built_once_it_is(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_TRUST", "another_one , mypackage")
    with pytest.raises(ConfigError, match="REID_TRUST=another_one: it is not installed"):
        dataset_choices()
    monkeypatch.setenv("REID_TRUST", "mypackage")
    settings = train_settings(composed("train", *CHOSEN, "loss.margin=0.5", "backbone.width=8"))
    loss = construct("loss", settings.loss, OWN_KEYS["loss"])
    assert (type(loss).__module__, loss.margin) == ("mypackage.losses", 0.5)
    assert build_backbone(**{key: settings.backbone[key] for key in ("name", "width")}).channels == 32
    assert dataset_reader("mypackage.crops").__module__ == "mypackage.crops"
    assert trusted_target("optimizer", "mypackage.losses.Mine").__name__ == "Mine"
    assert {"own", "market"} <= set(dataset_choices())
    assert {"loss.margin", "backbone.width"} <= set(known_keys("train", CHOSEN))
    with pytest.raises(ConfigError, match=r"no key loss.margn. Did you mean 'loss.margin'"):
        train_settings(composed("train", *CHOSEN, "+loss.margn=1"))
    # A sweep over them is planned, and told from others, as any.
    register()
    cells = plan("train", ["-m", *CHOSEN, "loss.margin=0.2,0.3", "hydra/launcher=submitit_slurm"]).cells
    assert len({cell.config_hash for cell in cells}) == 2


@pytest.mark.slow
def test_its_code_is_part_of_the_code_that_made_a_run(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished cells of a sweep are taken where they were made by the same code."""
    without = code.__wrapped__()
    monkeypatch.setenv("REID_TRUST", "mypackage")
    before = code.__wrapped__()
    (package / "losses.py").write_text("# changed\n")
    assert len({without, before, code.__wrapped__()}) == 3
    assert "mypackage" not in sys.modules


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mypackage.losses.system", "is no class or function of a package that is trusted"),
        ("mypackage.losses.nn.Module", "there is no mypackage.losses.nn.Module"),
        ("mypackage.losses.Nothing", "there is no mypackage.losses.Nothing"),
        ("mypackage_of_another.losses.Mine", "is refused"),
        ("os.system", "is refused"),
    ],
)
def test_of_a_trusted_package_only_its_own_is_run(
    path: str, message: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_TRUST", "mypackage")
    with pytest.raises(ConfigError, match=message):
        trusted_target("loss", path)


def test_a_checkpoint_can_have_no_function_run_but_a_backbone(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_TRUST", "mypackage")
    with pytest.raises(BackboneError, match="is no function that is annotated to return a Backbone"):
        build_backbone("mypackage.nets.remove")


@pytest.mark.parametrize("value", ["*", "my-package", "..", "a b", "/x"])
def test_the_variable_names_packages(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_TRUST", value)
    with pytest.raises(ConfigError, match="is no name of a package"):
        trusted_target("loss", "x.y")


@pytest.mark.parametrize("value", ["__main__", "sys", "no_such_package"])
def test_what_is_no_package_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_TRUST", value)
    if value == "__main__":
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as of a script
    with pytest.raises(TrustError, match="is not installed") if value != "sys" else nullcontext():
        assert trusted_choices() == []


def test_choices_in_any_folder(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config-dir` finds files; what they name is trusted by the environment alone."""
    folder = package.rename(package.with_name("choices")) / "conf"
    (folder / "dataset" / "ours.yaml").write_text("name: market\nroot: /sets/ours\n")
    primary = primary_config("train", ["--config-dir", str(folder), "dataset=ours", "seed=1"])
    assert (primary.name, primary.words) == ("train", ["dataset=ours", "seed=1"])
    (cell,) = plan(primary.name, primary.words).cells
    assert cell.data_root == "/sets/ours"
    assert "ours" in dataset_choices()
    with pytest.raises(ConfigError, match=r"loss._target_=mypackage.losses.Mine is refused"):
        plan(primary.name, ["dataset=ours", "loss=own"])
    with pytest.raises(ConfigError, match="there is no such folder"):
        primary_config("train", ["--config-dir", "/nowhere"])


@pytest.mark.slow
def test_no_override_says_whom_to_trust(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in ("loss=own", "loss._target_=mypackage.losses.Mine", "seed=1"):
        words = ["+hydra.job.env_set.REID_TRUST=mypackage", "dataset=synthetic", word]
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["reid-train", *words])
        with pytest.raises(SystemExit) as ended:
            launch("train", NO_WORK)
        assert ended.value.code == 2
    refused = capsys.readouterr().err.splitlines()
    assert refused[0].startswith("error: loss=own is no choice")
    assert refused[1].startswith("error: loss._target_=mypackage.losses.Mine is refused")
    assert refused[2] == "error: REID_TRUST is set by a config: only the environment says whom to trust"
