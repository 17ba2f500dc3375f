"""Options typed as the other kind of command takes them: the message says how they are typed here."""

import importlib
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
from composing import NO_WORK

from reid.jobs import data_commands
from reid.jobs.launch import launch

#: (module, what is typed, how it is typed there)
PARSED = [
    ("reid.data.check", "folders dataset.root=/people", "Type --root /people"),
    ("reid.data.check", "folders 'dataset.root=/my people/$1'", "Type --root '/my people/$1'"),
    ("reid.data.check", "table 'dataset.file=/my people/a.csv'", "Type --option file='/my people/a.csv'"),
    ("reid.data.check", "dataset=market", "Type market"),
    ("reid.data.check", "synthetic dataset.preset=tiny", "Type --option preset=tiny"),
    ("reid.data.check", "market data.root=/sets", "Type --root"),
    ("reid.data.split", "folders seed=3 -o a.csv", "Type --seed 3"),
    ("reid.compare", "a.jpg b.jpg checkpoint=outputs/x", "Type --checkpoint outputs/x"),
    ("reid.compare", "a.jpg b.jpg eval.metric=cosine", "Type --metric cosine"),
    ("reid.compare", "a.jpg b.jpg eval.feature_norm=false", "Type --no-feature-norm"),
    ("reid.compare", "a.jpg b.jpg device=cpu", "Type --device cpu"),
    ("reid.extract", "crops checkpoint=outputs/x -o f.csv", "Type --checkpoint outputs/x"),
    ("reid.extract", "crops output=f.csv", "Type --output f.csv"),
    ("reid.convert", "a.pth backbone.stem_relu=true -o m.pt", "Type --stem-relu"),
    ("reid.convert", "a.pth image.height=256 -o m.pt", "Type --height 256"),
    ("reid.report", "runs=x name=alpha", "Type --name alpha"),
    ("reid.runs.__main__", "list tracking.experiment=study", "Type --experiment study"),
    ("reid.runs.__main__", "delete experiment=study yes=true", "Type --experiment study"),
    ("reid.sync", "tracking.uri=http://host", "Type --uri http://host"),
    ("reid.sync", "again=true", "Type --again"),
    ("reid.ui", "port=5001", "Type --port 5001"),
    ("reid.ui", "sed=1", "options are typed as --key value here"),
    ("experiments.benchmark.__main__", "all quick=true", "Type --quick"),
]

#: (command, what is typed, how it is typed there)
COMPOSED = [
    ("train", "--epochs 3", "Type epochs=3"),
    ("train", "--epochs=3", "Type epochs=3"),
    ("train", "--margin 1.2", "Type loss.margin=1.2"),
    ("train", "--loss.alpha=1.2", "Type loss.alpha=1.2"),
    ("train", "--loss ranked", "Type loss=ranked"),
    ("train", "--batch-identities 8", "Type batch.identities=8"),
    ("train", "--rerank", "Type eval.rerank=true"),
    ("train", "--no-rerank", "Type eval.rerank=false"),
    ("train", "--rerank epochs=3", "Type eval.rerank=true"),
    ("train", "--zzz 3", "--help lists the keys"),
    ("train", "-m --seed 0,1", "Type seed=0,1"),
    ("evaluate", "--checkpoint outputs/x", "Type checkpoint=outputs/x"),
    ("evaluate", "--metric cosine", "Type eval.metric=cosine"),
    ("evaluate", "dataset=synthetic --option preset=tiny", "Type dataset.preset=tiny"),
    ("threshold", "--checkpoint outputs/x", "Type checkpoint=outputs/x"),
    ("threshold", "checkpoint=outputs/x -o other.pt", "Type output=other.pt"),
    ("tune", "--trials 20", "Type study.trials=20"),
]


def parser_of(module: str) -> ArgumentParser:
    if module.startswith("reid.data."):
        parser = getattr(data_commands, f"{module.rpartition('.')[2]}_parser")()
    else:
        parser = importlib.import_module(module)._parser()
    assert isinstance(parser, ArgumentParser)
    return parser


@pytest.mark.parametrize(("module", "typed", "spelling"), PARSED, ids=[f"{m} {t}" for m, t, _ in PARSED])
def test_a_parsed_command_says_how_an_override_is_typed(
    module: str, typed: str, spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser_of(module).parse_args(shlex.split(typed))
    assert ended.value.code == 2
    assert spelling in capsys.readouterr().err


@pytest.mark.parametrize(("command", "typed", "spelling"), COMPOSED, ids=[f"{c} {t}" for c, t, _ in COMPOSED])
def test_a_composed_command_says_how_an_option_is_typed(
    command: str,
    typed: str,
    spelling: str,
    own_home: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"reid-{command}", *typed.split()])
    with pytest.raises(SystemExit) as ended:
        launch(command, NO_WORK)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --")
    assert message.endswith(f"this command takes its options as key=value. {spelling}\n")


@pytest.mark.parametrize("command", ["evaluate", "threshold"])
@pytest.mark.parametrize("option", ["dataset.distractor=null", "+dataset.null=[nan]"])
def test_an_option_of_a_dataset_that_is_not_named(
    command: str,
    option: str,
    own_home: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `reid.evaluate` itself advises about pid 0; Hydra fails an assertion where the group is null."""

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"reid-{command}", "checkpoint=outputs/x", option])
    with pytest.raises(SystemExit) as ended:
        launch(command, NO_WORK)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {option}: no dataset is named")
    assert message.endswith(f"such as dataset=table dataset.file=crops.csv {option}\n")


def test_what_only_looks_like_an_override_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("device=cpu").touch()
    parse = importlib.import_module("reid.compare")._parser().parse_args
    assert parse(["device=cpu", "x=1.jpg"]).images == [Path("device=cpu"), Path("x=1.jpg")]
    assert parse(["a.jpg", "b.jpg", "-o", "output=b.png"]).output == Path("output=b.png")
    words = ["synthetic", "--option", "root=x", "--option", "preset=tiny"]
    options = data_commands.check_parser().parse_args(words)
    assert options.option == ["root=x", "preset=tiny"]
    listed = (
        importlib.import_module("reid.runs.__main__")
        ._parser()
        .parse_args(["list", "--uri", "sqlite+pysqlite:///file:/a?uri=true", "--experiment", "status=x"])
    )
    assert listed.experiment == "status=x"
