"""What older code left is read by the code of today: `tests/fixtures/<commit>`, unpacked at another place."""

import json
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reid.config.schema import register
from reid.engine.checkpoint import load_checkpoint
from reid.home import source_root
from reid.sweeps.cells import plan
from reid.sweeps.sweep_folder import sweep_arguments
from reid.tracking import Store, environment, fetch_checkpoint, read_record

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIXTURE = Path(__file__).parent / "fixtures" / "d063546"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text())

TINY = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=timm", "backbone.name=test_efficientnet",
    "backbone.weights=none", "image.height=32", "image.width=16", "image.padding=2", "batch.identities=4",
    "tricks.warmup=1", "eval.period=2", "device=cpu",
)  # fmt: skip
KILLED = ("epochs=6", "loss=triplet_center")
SWEEP = ("epochs=4", "optimizer=sgd", "optimizer.momentum=0", "loss.margin=1.1,1.3")


def unpack(home: Path) -> Path:
    """The home of the older runs, as it is, at another place: a project that was moved."""
    with tarfile.open(FIXTURE / "home.tar.xz") as archive:
        archive.extractall(home, filter="data")
    return home


@pytest.fixture(autouse=True)
def old_place() -> Iterator[None]:
    """No command makes the old home again."""
    assert not Path(EXPECTED["home"]).exists(), "left by a test that failed here: delete it"
    yield
    assert not Path(EXPECTED["home"]).exists()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("moved") / "home")


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def run_status(home: Path, run_id: str) -> str:
    with sqlite3.connect(home / "mlflow.db") as database:
        (found,) = database.execute("SELECT status FROM runs WHERE run_uuid = ?", (run_id,)).fetchall()
    return str(found[0])


def assert_finished(home: Path, name: str, printed: str) -> None:
    """The run went on where it was cut off, in its folder and under its id, and scores as it would have."""
    expected = EXPECTED[name]
    folder = home / expected["folder"]
    assert "resumed after epoch 2" in printed
    found = status(folder)
    assert (found["status"], found["run_id"]) == ("FINISHED", expected["run_id"])
    assert found["config_hash"] == expected["config_hash"]
    assert found["data_fingerprint"] == EXPECTED["data_fingerprint"]
    # What was trained anew is rounded by this CPU.
    assert found["scores"]["test/mAP"] == pytest.approx(expected["scores"]["test/mAP"], abs=0.03)
    losses = pd.read_csv(folder / "history.csv")["train/loss"].tolist()
    assert losses[:2] == pytest.approx(expected["losses"][:2], rel=1e-12)
    assert losses == pytest.approx(expected["losses"], rel=0.02)
    assert run_status(home, expected["run_id"]) == "FINISHED"
    assert fetch_checkpoint(Store(f"sqlite:///{home / 'mlflow.db'}"), expected["run_id"]).is_file()


def test_model_is_read_to_the_last_bit(home: Path) -> None:
    checkpoint = load_checkpoint(home / EXPECTED["finished"]["folder"] / "model.pt")
    total = sum(tensor.double().abs().sum().item() for tensor in checkpoint.model.values())
    assert total == pytest.approx(EXPECTED["finished"]["sum_of_weights"], rel=1e-12)


def test_the_tracker_gets_the_machine_and_the_command_by_the_names_of_then(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.db") as database:
        names = {name for (name,) in database.execute("SELECT DISTINCT key FROM tags")}
    assert environment(source_root()).tags.keys() <= names


def test_journal_tells_the_run(home: Path) -> None:
    expected = EXPECTED["finished"]
    record = read_record(home / expected["folder"])
    assert (record.run_id, record.status) == (expected["run_id"], "FINISHED")
    assert record.metrics["test/mAP"] == expected["scores"]["test/mAP"]
    assert record.params["backbone.name"] == "test_efficientnet"
    assert read_record(home / EXPECTED["killed"]["folder"]).status == "RUNNING"


@pytest.mark.parametrize("named", ["folder", "run_id"])
def test_finished_run_is_evaluated(run_command: Run, home: Path, named: str, tmp_path: Path) -> None:
    name = EXPECTED["finished"][named]
    checkpoint = str(home / name) if named == "folder" else name
    words = [f"checkpoint={checkpoint}", f"hydra.run.dir={tmp_path}", "device=cpu"]
    done = run_command("reid.evaluate", *words, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = EXPECTED["finished"]["scores"]["test/mAP"]
    assert status(tmp_path)["scores"]["test/mAP"] == pytest.approx(expected, abs=0.01)


def test_killed_run_is_found_and_finished(run_command: Run, home: Path, tmp_path: Path) -> None:
    own = unpack(tmp_path / "home")
    done = run_command("reid.train", *TINY, *KILLED, "resume=auto", home=own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 1 of the next" in done.stdout
    assert_finished(own, "killed", done.stdout)


def test_killed_run_is_finished_by_folder(run_command: Run, home: Path) -> None:
    folder = home / EXPECTED["killed"]["folder"]
    done = run_command("reid.train", *TINY, *KILLED, f"resume={folder}", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_finished(home, "killed", done.stdout)
    # It goes on as it began, with decay on all parameters of a network of timm.
    groups = load_checkpoint(folder / "last.pt").training["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [5e-4, 5e-4]


def test_sweep_of_other_numbers_is_named_and_gone_on_with_where_any_code_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = unpack(tmp_path / "home")
    monkeypatch.setenv("REID_HOME", str(own))
    register()
    words, folder = ["-m", *TINY, *SWEEP], own / EXPECTED["sweep"]["folder"]
    # Since that commit the biases of timm's networks do not decay.
    with pytest.warns(UserWarning, match=rf"{folder} holds this sweep.*take=any_code"):
        (anew,) = sweep_arguments(plan("train", words), words)
    assert str(folder) not in anew
    shutil.rmtree(anew.partition("=")[2].strip("'"))
    words.append("sweep.take=any_code")
    assert sweep_arguments(plan("train", words), words) == [f"hydra.sweep.dir='{folder}'"]


def test_sweep_goes_on(run_command: Run, home: Path) -> None:
    # As commit 1e3f991 would have left it, which computes what today's code does.
    for name in ("sweep.json", "0/status.json", "1/status.json"):
        file = home / EXPECTED["sweep"]["folder"] / name
        file.write_text(file.read_text().replace("b6731f319247c42b", "b368d3a247bbe3ee"))
    done = run_command("reid.train", "-m", *TINY, *SWEEP, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loss.margin=1.1: finished already" in done.stdout
    assert_finished(home, "cell_1", done.stdout)
    sweep = EXPECTED["sweep"]
    assert [path.name for path in (home / "multirun").iterdir()] == [Path(sweep["folder"]).name]
    assert run_status(home, sweep["run_id"]) == "FINISHED"
    assert status(home / EXPECTED["cell_0"]["folder"])["scores"] == pytest.approx(
        EXPECTED["cell_0"]["scores"] | {"test/valid_queries": 18.0}, rel=1e-12
    )
