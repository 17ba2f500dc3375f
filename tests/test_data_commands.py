"""`reid.data.check` and `reid.data.split` as a user runs them, and training on what they made."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY

from reid.config.schema import EvalConfig
from reid.data import ReidDataset, load_dataset, silent
from reid.jobs.data_commands import check, split
from reid.judging.domains import read_domain
from reid.retrieval import EvaluationError

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def people(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny synthetic people, one folder each."""
    drawn = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")
    for crop in drawn.train + drawn.query + drawn.gallery:
        folder = tmp_path / "people" / f"person_{crop.pid:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(crop.path, folder)
    return tmp_path / "people"


def table(file: Path, **options: object) -> ReidDataset:
    return load_dataset("table", file.parent, file=str(file), **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_split_is_read_as_it_was_written(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = people.parent / "split.csv"
    assert split([str(people), "-o", str(out), "--train", "0.5", "--val", "0.2", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"paths relative to {people.parent}; seed 3" in printed
    dataset = table(out)
    everyone = len(list(people.iterdir()))
    found = [{crop.pid for crop in crops} for crops in (dataset.train, dataset.val, dataset.query)]
    assert [len(pids) for pids in found[1:]] == [round(0.2 * (everyone - 1)), 5]
    assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]
    written = out.read_text()
    assert "people/person_" in written

    assert split([str(people), "-o", str(out), "--train", "0.5", "--val", "0.2", "--seed", "3"]) == 0
    assert out.read_text() == written
    assert (
        split(
            [str(out), "-o", str(people / "x" / "again.csv"), "--train", "0.5", "--val", "0.2", "--seed", "3"]
        )
        == 0
    )
    assert "paths absolute" in capsys.readouterr().out
    again = table(people / "x" / "again.csv")
    assert (again.train, again.query, again.names) == (dataset.train, dataset.query, dataset.names)

    assert check([str(out)]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out


def test_the_check_says_what_a_set_without_queries_is_good_for(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = people.parent / "train.csv"
    lines = [f"{path.relative_to(people.parent)},{path.parent.name},train" for path in people.glob("*/*")]
    out.write_text("\n".join(["path,pid,split", *lines]))
    assert check([str(out)]) == 0
    assert "no query: fit to train on as a part of dataset=joint" in capsys.readouterr().out


@pytest.mark.slow
def test_findings_are_printed_and_are_json_too(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = sorted(people.iterdir())[:2]
    shutil.copy(next(one.iterdir()), other / "copied_c1.png")
    assert check([str(people)]) == 1
    assert "the same bytes under two identities" in capsys.readouterr().out
    assert check([str(people), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["cameras_known"]
    assert report["counts"]["train"]["cameras"] == 3
    (finding,) = (finding for finding in report["findings"] if finding["kind"] == "two_people")
    assert str(other / "copied_c1.png") in finding["cases"][0]


def test_people_trained_and_tested_on_are_a_finding(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = sorted(people.iterdir())[0]
    for part in ("train", "query", "gallery"):
        shutil.copytree(first, people.parent / "parted" / part / first.name)
    assert check([str(people.parent / "parted")]) == 1
    assert "identities in more than one of train, val and test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["markt"], "Did you mean 'market'"),
        (["no/where"], "no folder no/where"),
        (["nowhere.csv"], "no table"),
        (["market", "--root", "/nowhere"], "not there: looked for /nowhere"),
        (["synthetic", "--option", "presett=tiny"], "Did you mean 'dataset.preset'"),
        (["synthetic", "--option", "preset"], "expected KEY=VALUE"),
    ],
)
def test_wrong_options_are_refused_in_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0.9", "--val", "0.1"], "--train 0.9 --val 0.1"),
        (["--query", "0"], "--query 0"),
        (["--train", "0.01"], "each part needs one at least"),
        (["-o", "out.txt"], "ends in .csv"),
    ],
)
def test_a_split_that_cannot_be_had_is_refused(
    people: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split([str(people), "-o", str(people.parent / "out.csv"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(people.parent.glob("out.*"))


def test_the_real_command_checks_a_dataset_by_its_name(
    run_command: Run, tiny_data: Path, tmp_path: Path
) -> None:
    root = tiny_data / "synthetic" / "day_tiny_0"
    words = ("synthetic", "--root", str(root), "--option", "preset=tiny", "--json")
    done = run_command("reid.data.check", *words, home=tmp_path, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["counts"]["train"]["identities"] == 12


def test_without_cameras_the_protocol_changes_unless_one_was_typed(people: Path) -> None:
    keys = {"name": "folders", "root": str(people), "cameras": "none"}
    evaluation = EvalConfig()
    assert read_domain(keys, keys, evaluation, silent).evaluation.protocol == "ignore_camera"
    with pytest.raises(EvaluationError, match=r"their own camera.*use eval\.protocol=ignore_camera"):
        read_domain(keys, keys, evaluation, silent, ["eval.protocol=cross_camera"])
    with_cameras = {**keys, "cameras": "name"}
    assert read_domain(with_cameras, keys, evaluation, silent).evaluation is evaluation


def tags(home: Path) -> dict[str, str]:
    with sqlite3.connect(home / "mlflow.db") as connection:
        return dict(connection.execute("select key, value from tags").fetchall())


@pytest.mark.usefixtures("tables")
@pytest.mark.slow
def test_training_on_a_split_without_cameras_says_so_and_tags_the_run(
    run_command: Run, people: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "split.csv"
    assert split([str(people), "-o", str(out), "--option", "cameras=none"]) == 0
    words = [word for word in TINY if not word.startswith("dataset")]
    words += ["dataset=table", f"dataset.file={out}", f"data.root={tiny_data}", "epochs=1"]
    done = run_command("reid.train", *words, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has no camera ids" in done.stdout + done.stderr
    assert "ignore_camera protocol" in done.stdout
    assert tags(tmp_path)["reid.data.cameras"] == "unknown; judged by ignore_camera"


@pytest.mark.usefixtures("tables")
@pytest.mark.slow
def test_training_on_two_domains_at_once(run_command: Run, tiny_data: Path, tmp_path: Path) -> None:
    parts = "[{name:synthetic,preset:tiny},{name:synthetic_night,preset:tiny}]"
    words = [word for word in TINY if not word.startswith("dataset")]
    words += ["dataset=joint", f"dataset.parts={parts}", f"data.root={tiny_data}", "epochs=1"]
    done = run_command("reid.train", *words, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 identities" in tags(tmp_path)["reid.data.training"]
    assert tags(tmp_path)["reid.data.name"] == "synthetic+synthetic_night"
    (model,) = (tmp_path / "outputs").glob("*/model.pt")
    again = run_command("reid.evaluate", f"checkpoint={model}", f"data.root={tiny_data}", home=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
