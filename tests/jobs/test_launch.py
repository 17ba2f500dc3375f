"""Wrong command lines end with exit code 2 and one readable message, before any work and any file."""

import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from composing import NO_WORK
from conftest import Runner
from hydra.core.global_hydra import GlobalHydra

from reid.config import settings
from reid.config.checks import ConfigError
from reid.config.schema import register
from reid.jobs.compose_errors import explain
from reid.jobs.launch import launch
from reid.sweeps.cells import plan

ROOT = Path(__file__).parents[1]

#: (command, what is typed, fragments of the answer)
REFUSED: list[tuple[str, str, list[str]]] = [
    # keys
    ("train", "sed=3", ["the train command has no key sed. Did you mean 'seed'?"]),
    ("train", "alpha=1.2", ["no key alpha. Did you mean 'loss.alpha'?"]),
    ("train", "loss.alhpa=1", ["no key loss.alhpa. Did you mean 'loss.alpha'?", "loss has alpha, margin"]),
    ("train", "loss=softmax loss.alpha=1", ["no key loss.alpha", "loss has id_weight"]),
    ("train", "losss=ranked", ["no key losss. Did you mean 'loss'?"]),
    ("train", "+foo=1", ["no key foo. The keys here: dataset, backbone, head, loss"]),
    ("train", "+sed=3", ["no key sed. Did you mean 'seed'?"]),
    ("train", "++batch.foo=1", ["no key batch.foo. batch has identities, instances, size, cameras."]),
    ("train", "dataset=synthetic +loss.alhpa=1", ["no key loss.alhpa. Did you mean 'loss.alpha'?"]),
    ("train", "optimizer.momentum=0.5", ["no key optimizer.momentum", "takes a +: +optimizer.momentum=…"]),
    ("train", "backbone.last_stride=2", ["Did you mean 'tricks.last_stride'?"]),
    ("train", "~seeed", ["no key seeed. Did you mean 'seed'?"]),
    ("train", "+seed=3", ["An item is already at 'seed'", "seed=3"]),
    ("evaluate", "loss.alhpa=1", ["the evaluate command has no key loss.alhpa", "checkpoint, card, dataset"]),
    ("evaluate", "loss=ranked", ["the evaluate command has no key loss."]),
    # a password would go into checkpoints that are given away
    (
        "train",
        "tracking.uri=https://ann:s3cret@tracking.org",
        ["tracking.uri=https://ann:***@tracking.org holds a password", "MLFLOW_TRACKING_PASSWORD"],
    ),
    # choices
    (
        "train",
        "loss=rankd",
        ["loss=rankd is no choice: expected one of arcface, circle, clustered_ranked, ", "mean 'ranked'?"],
    ),
    ("train", "backbone=resnet51", ["backbone=resnet51 is no choice", "se_resnext50", "mean 'resnet50'?"]),
    ("train", "experiment=nowhere", ["experiment=nowhere is no choice", "quickstart"]),
    (
        "train",
        "experiment=paper/market_resnet51",
        ["experiment=paper/market_resnet51 is no choice", "quickstart", "mean 'paper/market_resnet50'?"],
    ),
    ("train", "experiment=market_resnet50", ["experiment=market_resnet50 is", "'paper/market_resnet50'?"]),
    ("train", "hydra/launcher=slurm", ["hydra/launcher=slurm is no choice", "basic"]),
    ("train", "loss=null", ["loss=null"]),
    ("train", "precision=fp8", ["precision=fp8", "float32, tf32, bf16, fp16"]),
    ("train", "dataset.name=markt", ["no dataset 'markt'", "Did you mean 'market'?"]),
    (
        "train",
        "dataset=synthetic backbone.name=resnet51",
        ["backbone.name=resnet51", "Did you mean resnet50?"],
    ),
    # types
    ("train", "epochs=abc", ["epochs=abc is not allowed: expected a whole number."]),
    ("train", "epochs=1.5", ["epochs=1.5 is not allowed: expected a whole number."]),
    ("train", "epochs=null", ["epochs=null is not allowed: expected a value, not null."]),
    ("train", "epochs=", ["epochs= is not allowed: expected a whole number."]),
    ("train", "clip_norm=abc", ["clip_norm=abc is not allowed: expected a number."]),
    ("train", "tricks.bnneck=maybe", ["tricks.bnneck=maybe is not allowed: expected true or false."]),
    ("train", "schedule.milestones=40", ["schedule.milestones=40 is not allowed: expected a list"]),
    ("train", "schedule.milestones=[40,x]", ["schedule.milestones=[40,x]", "expected a whole number"]),
    ("train", "device=[1]", ["device=[1] is not allowed: expected text."]),
    ("train", "batch=64", ["batch=64 is not allowed", "it is a group"]),
    ("train", "loss.alpha=abc", ["loss.alpha='abc' is not allowed: expected a number."]),
    # values and combinations
    ("train", "image.height=0", ["image.height=0 is not allowed: expected a number 16 or more."]),
    ("train", "batch.size=60", ["batch.size=60", "16 x 4 = 64"]),
    ("train", "loss._target_=os.system", ["loss._target_=os.system is refused"]),
    ("train", "dataset=folder", ["dataset.root is not given", "add dataset.root=…"]),
    ("evaluate", "dataset=duke", ["checkpoint is not given", "add checkpoint=…"]),
    ("train", "loss.positive_radius=0.5 loss.margin=0.4", ["loss.positive_radius=0.5 and loss.margin=0.4"]),
    ("train", "-m +loss.positive_radius=0.5 sweep=alpha_margin", ["cannot both be", "Leave one out"]),
    # what is there, and how much of it
    ("train", "dataset=synthetic batch.identities=500", ["batch.identities=500", "Set 180 or less."]),
    ("train", "dataset=synthetic backbone.weights=/no/file.pt", ["/no/file.pt: there is no such file"]),
    ("train", "dataset=synthetic init_from=/no/model.pt", ["init_from=/no/model.pt", "no such file"]),
    (
        "train",
        "dataset=synthetic teacher.checkpoint=/no/model.pt",
        ["teacher.checkpoint=/no/model.pt", "no such"],
    ),
    (
        "train",
        "dataset=synthetic teacher.kind=relations",
        ["teacher.kind=relations has no teacher to act on"],
    ),
    ("train", "-m dataset=synthetic backbone.weights=/no/file.pt,none", ["/no/file.pt: there is no such"]),
    # grammar
    ("train", "loss.alpha", ["'loss.alpha' is not understood: expected key=value"]),
    ("train", "schedule.milestones=[40", ["'schedule.milestones=[40' is not understood", "[40,70]"]),
    ("train", "data.root=~/crops", ["needs quotes: 'data.root=\"~/crops\"'"]),
    ("train", "data.root=~/crops${x}", ["needs quotes: 'data.root=\"~/crops\\${x}\"'"]),
    ("train", "loss.alpha=1,2", ["loss.alpha=1,2", "--multirun"]),
    # sweeps: every job is looked at before the first one starts
    ("train", "-m sed=1,2", ["no key sed. Did you mean 'seed'?"]),
    ("train", "-m loss.alpha=x,y", ["loss.alpha='x' is not allowed"]),
    ("train", "--multirun loss.alpha=1.0,1.2,l.4", ["loss.alpha='l.4' is not allowed"]),
    ("train", "-m backbone=resnet51,resnet50", ["backbone=resnet51 is no choice"]),
    (
        "train",
        "-m loss=ranked,softmax loss.metric_weight=0.4",
        ["loss.metric_weight=0.4", "Choose loss=ranked"],
    ),
    ("train", "-m batch.identities=range(0,3)", ["batch.identities=0 is not allowed"]),
]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty home; what `launch` sets for its process is put back."""
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    monkeypatch.delenv("REID_DATA", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    yield tmp_path
    logging.captureWarnings(False)
    GlobalHydra.instance().clear()


def assert_readable(message: str, fragments: list[str]) -> None:
    assert message.startswith("error: ")
    assert message.count("error: ") == 1
    assert "Traceback" not in message
    assert "full_key" not in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(("command", "typed", "fragments"), REFUSED, ids=[f"{c} {t}" for c, t, _ in REFUSED])
def test_a_wrong_command_line_is_refused(
    command: str,
    typed: str,
    fragments: list[str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [f"reid-{command}", *typed.split()])
    with pytest.raises(SystemExit) as exit_:
        launch(command, NO_WORK)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert_readable(printed.err, fragments)
    assert list(home.iterdir()) == []


def test_the_developer_gets_the_traceback_when_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["reid-train", "epochs=0"])
    with pytest.raises(ValueError, match="epochs=0"):
        launch("train", NO_WORK)


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        "",
        "loss.alpha=1.2 seed=3",
        "dataset=duke backbone=se_resnext50 loss=ranked",
        "+optimizer.betas=[0.8,0.9]",
        "+loss.positive_radius=0.3",
        "loss.positive_radius=null loss.margin=0.4",
        "-m dataset=synthetic loss.alpha=1.0,1.2,1.4",
        "resume=auto backbone.weights=/no/file.pt",
        "init_from=0123456789abcdef0123456789abcdef backbone.weights=/no/file.pt",
        "~backbone.weights",
        "-m dataset=synthetic loss=ranked,softmax seed=range(0,2)",
        "-m dataset=synthetic backbone=glob(resnet*)",
        "hydra.run.dir=/tmp/there",
        "tracking.run_name='alpha 1.2'",
        # left to Hydra
        "--cfg job",
        "--help",
        "-m loss.alpha=interval(1,2)",
        "tracking.run_name=${hydra:job.num}",
    ],
)
def test_right_command_lines_pass(typed: str, home: Path) -> None:
    register()
    words = [typed] if "'" in typed else typed.split()
    plan("train", words)
    assert list(home.iterdir()) == []
    assert not GlobalHydra.instance().is_initialized()


def test_help_lists_the_groups_and_their_choices(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reid-train", "--help"])
    with pytest.raises(SystemExit) as exit_:
        launch("train", NO_WORK)
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for group in ("backbone", "dataset", "experiment", "head", "loss", "optimizer", "schedule", "tricks"):
        choices = sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))
        assert f"{group}: {', '.join(choices)}" in printed
    assert "alpha: 2.0" in printed
    assert list(home.iterdir()) == []


def test_what_a_config_warns_of_is_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["reid-train", "sed=3"])
    with pytest.raises(SystemExit):
        launch("train", NO_WORK)
    assert warnings.formatwarning("too long", UserWarning, settings.__file__, 79) == "too long\n"


def test_what_is_warned_of_before_the_first_job_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin_anew(*_: object) -> list[str]:
        warnings.warn("it begins anew", stacklevel=1)
        raise ConfigError("enough")

    monkeypatch.setattr("reid.sweeps.sweep_folder.sweep_arguments", begin_anew)
    words = ["-m", "dataset=synthetic", "dataset.preset=tiny", "batch.identities=4", "seed=0,1"]
    monkeypatch.setattr(sys, "argv", ["reid-train", *words])
    with pytest.warns(UserWarning, match="anew"), pytest.raises(SystemExit):
        launch("train", NO_WORK)


def test_explain_passes_on_what_it_does_not_know() -> None:
    assert explain(ValueError("something else\nConfig search path: a"), "train", []) == "something else"


# ---- the commands themselves, as a user starts them


def test_a_slip_leaves_nothing_behind(run_command: Runner, tmp_path: Path) -> None:
    run = run_command("reid.train", "sed=3", home=tmp_path)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == "error: the train command has no key sed. Did you mean 'seed'?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_dataset_says_where_it_was_looked_for_and_what_needs_none(
    run_command: Runner, tmp_path: Path
) -> None:
    run = run_command("reid.train", "dataset=duke", "backbone=se_resnext50", "loss=ranked", home=tmp_path)
    assert run.returncode == 2
    fragments = [
        "dataset 'duke' is not there",
        f"{tmp_path}/data/dukemtmc-reid/DukeMTMC-reID/bounding_box_train",
        "0001_c2_f0046182.jpg",
        "withdrawn by its authors in 2019",
        "dataset.root=",
        "`make quickstart` needs no data",
    ]
    assert_readable(run.stderr, fragments)
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "data").exists()


def test_a_sweep_without_data_is_refused_once_and_leaves_nothing(run_command: Runner, tmp_path: Path) -> None:
    run = run_command("reid.train", "-m", "loss.alpha=1.0,1.2,1.4", home=tmp_path)
    assert run.returncode == 2
    assert run.stdout == ""
    assert_readable(run.stderr, ["dataset 'market' is not there", f"{tmp_path}/data/market1501"])
    assert run.stderr.count("is not there") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_is_named(run_command: Runner, tmp_path: Path) -> None:
    run = run_command("reid.evaluate", "checkpoint=nowhere.pt", home=tmp_path)
    assert run.returncode == 2
    assert_readable(run.stderr, ["nowhere.pt"])
    assert not (tmp_path / "mlflow.db").exists()
