"""What MLflow holds of one trained run: its data, its model and card, and nobody of those in the pictures.

The run is trained on crops with telling names in a telling folder, so that each can be looked for.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from reid.engine.checkpoint import load_checkpoint
from reid.engine.checkpoint_source import check_checkpoint, find_checkpoint
from reid.engine.errors import CheckpointError
from reid.inference import load_model
from reid.runs import __main__ as runs
from reid.tracking import (
    DataInput,
    Store,
    Tracker,
    TrackingError,
    default_store,
    fetch_checkpoint,
    fetch_registered,
    open_parent,
    register,
    replace_model,
    send_late,
)
from reid.tracking.logged_model import find_model
from reid.tracking.system_metrics import SystemMetrics

pytestmark = pytest.mark.slow
Runner = Callable[..., "subprocess.CompletedProcess[str]"]

#: In the name of the folder, of its table, and of every crop.
FOLDER, TABLE, CROP = "whistleblowers", "informants", "mallory"
#: What a config says of the folder of one's data is stored, and the README says so.
PLACES = {
    "dataset.root", "dataset.file", "data.root", "data.store", "reid.command", "reid.overrides",
    "reid.data.name", "mlflow.runName",
}  # fmt: skip


class Trained(NamedTuple):
    """A home with one run in its store: its folder, id, crops and LoggedModel's folder."""

    home: Path
    folder: Path
    run_id: str
    crops: list[Path]
    model: Path

    @property
    def store(self) -> Store:
        return default_store(self.home, f"sqlite:///{self.home / 'mlflow.db'}")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: list[str],
    tiny_data: Path,
    template_db: Path,
    run_command: Runner,
) -> Trained:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp(FOLDER)
    shutil.copy(template_db, home)
    splits = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
    rows, crops = [], []
    drawn = tiny_data / "synthetic" / "day_tiny_0"
    for name, split in splits.items():
        for number, picture in enumerate(sorted((drawn / name).glob("*.jpg"))):
            found = re.match(r"(\d+)_c(\d+)", picture.name)
            if found is None:
                continue  # junk
            crop = data / f"{CROP}-{split}-{number}.jpg"
            shutil.copy(picture, crop)
            crops.append(crop)
            rows.append([crop.name, found[1], found[2], split])
    with (data / f"{TABLE}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "pid", "camid", "split"], *rows])
    words = [word for word in tiny if not word.startswith(("dataset", "data."))]
    done = run_command(
        "reid.train", *words, "dataset=table", f"dataset.file={data / TABLE}.csv", f"data.root={data}",
        "epochs=2", "schedule.milestones=[]", "tracking.system_metrics=true", home=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (home / "outputs").iterdir()
    run_id = json.loads((folder / "status.json").read_text())["run_id"]
    (model,) = (home / "mlartifacts" / "models").glob("*/artifacts")
    return Trained(home, folder, run_id, crops, model)


@pytest.fixture
def at_home(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setenv("REID_HOME", str(trained.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return trained


def texts_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and those of its members where it is an archive."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def values_of(database: Path) -> Iterator[tuple[str, str, str]]:
    """Table, key (of a param or tag) and value of everything that a database holds as text."""
    with sqlite3.connect(database) as connection:
        tables = [
            name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")
        ]
        for table in tables:
            rows = connection.execute(f'select * from "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                named = dict(zip(columns, row, strict=True))
                yield from ((table, str(named.get("key", "")), str(value)) for value in row)


def test_nobody_leaves_by_this_door(trained: Trained) -> None:
    words = {name: name.encode() for name in (FOLDER, TABLE, CROP)}
    # While this file is changed, its words are in the diff.
    everything = (trained.home / "mlartifacts").rglob("*")
    stored = [path for path in everything if path.is_file() and path.name != "git.diff"]
    assert {"model.pt", "MLmodel", "model_card.md", "input_example.json", "queries.csv"} <= {
        p.name for p in stored
    }
    holds = {
        word: {path.name for path in stored if any(written in text for text in texts_of(path))}
        for word, written in words.items()
    }
    # The config names the folder of the data, in the run and in the checkpoint.
    assert holds[FOLDER] == holds[TABLE] == {"config_resolved.yaml", "model.pt"}
    assert holds[CROP] == set()
    found: dict[str, set[tuple[str, str]]] = {word: set() for word in words}
    for table, key, value in values_of(trained.home / "mlflow.db"):
        for word in words:
            if word in value:
                found[word].add((table, key))
    assert found[CROP] == set()
    assert {table for table, _ in found[FOLDER] | found[TABLE]} <= {"params", "tags", "runs"}
    assert {key for table, key in found[FOLDER] | found[TABLE] if table != "runs"} <= PLACES
    meta = load_checkpoint(trained.folder / "model.pt").meta
    beside_the_config = {key: value for key, value in meta.items() if key not in ("config", "dataset")}
    assert FOLDER not in json.dumps(beside_the_config)
    # What stands beside the checkpoint names no place of this machine at all.
    beside = [path for path in trained.model.iterdir() if path.name != "model.pt"]
    for path in beside:
        assert str(trained.home) not in path.read_text(), path
        assert str(Path(__file__).parents[2]) not in path.read_text(), path


def test_the_data_are_inputs_with_the_digests_of_the_suite(trained: Trained) -> None:
    run = trained.store.client.get_run(trained.run_id)
    assert run.inputs is not None
    inputs = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    meta = load_checkpoint(trained.folder / "model.pt").meta
    assert inputs["training"].digest == meta["train_fingerprint"]
    assert inputs["eval"].digest == meta["scores"][0]["data_fingerprint"]
    assert {one.name for one in inputs.values()} == {"table"}
    assert json.loads(str(inputs["training"].profile)) == {"images": 69, "people": 12, "cameras": 3}


def test_the_run_says_how_sure_its_scores_are_and_shows_its_card(trained: Trained) -> None:
    run = trained.store.client.get_run(trained.run_id)
    (row,) = load_checkpoint(trained.folder / "model.pt").meta["scores"]
    assert row["values"]["mAP"] == run.data.metrics["test/mAP"]
    low, high = row["intervals"]["mAP"]
    assert low <= row["values"]["mAP"] <= high
    card = (trained.folder / "model_card.md").read_text()
    assert f"| table, test split | {100 * row['values']['mAP']:.1f} [{100 * low:.1f}, " in card
    assert run.data.tags["mlflow.note.content"] == card
    assert (trained.model / "model_card.md").read_text() == card


def test_system_metrics_are_points_of_the_epochs(trained: Trained) -> None:
    client = trained.store.client
    points = client.get_metric_history(trained.run_id, "system/process_memory_megabytes")
    assert [point.step for point in points] == [1, 2]
    assert all(point.value > 50 for point in points)
    assert set(SystemMetrics().since_last()) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_percentage",
    }


def test_a_gpu_that_tells_no_load_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        """As pynvml raises it for a part of a GPU."""

    def refuse(number: int) -> int:
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (3_000_000, 4_000_000))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    points = {name: value for name, value in SystemMetrics().since_last().items() if "gpu" in name}
    assert points == {
        "system/gpu_0_memory_usage_megabytes": 1.0,
        "system/gpu_0_memory_usage_percentage": 25.0,
    }


def test_the_model_is_stored_once_and_sending_all_again_changes_nothing(trained: Trained) -> None:
    client = trained.store.client
    before = client.get_run(trained.run_id)
    stored = list((trained.home / "mlartifacts").rglob("model.pt"))
    assert stored == [trained.model / "model.pt"]
    assert stored[0].read_bytes() == (trained.folder / "model.pt").read_bytes()
    late = send_late(trained.folder, trained.store, again=True)
    assert late.delivery.error is None
    assert not late.delivery.left
    again = client.get_run(trained.run_id)
    assert again.to_dictionary() == before.to_dictionary()
    assert again.outputs is not None
    assert len(again.outputs.model_outputs) == 1
    (model,) = client.search_logged_models([again.info.experiment_id])
    assert (str(model.status), model.source_run_id) == ("READY", trained.run_id)
    assert fetch_checkpoint(trained.store, trained.run_id) == trained.model / "model.pt"


def test_a_pyfunc_in_a_process_of_its_own_gives_the_bits_of_embed(
    trained: Trained, run_command: Runner
) -> None:
    store = trained.store
    model = find_model(store.client, store.client.get_run(trained.run_id))
    assert model is not None
    pictures = trained.crops[:3]
    (trained.home / "loads_a_pyfunc.py").write_text(
        "import sys, mlflow, numpy, pandas\n"
        "from pathlib import Path\n"
        "uri, model, output, *pictures = sys.argv[1:]\n"
        "mlflow.set_tracking_uri(uri)\n"
        "loaded = mlflow.pyfunc.load_model(model)\n"
        "images = pandas.DataFrame({'image': [Path(picture).read_bytes() for picture in pictures]})\n"
        "numpy.save(output, loaded.predict(images))\n"
        "assert loaded.predict(loaded.input_example).shape[0] == 1\n"
        "try:\n"
        "    loaded.predict(pandas.DataFrame({'image': [b'no picture']}))\n"
        "except mlflow.exceptions.MlflowException as error:\n"
        "    assert 'image 0' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
    )
    output = trained.home / "features.npy"
    done = run_command(
        "loads_a_pyfunc",
        store.uri,
        f"models:/{model.model_id}",
        str(output),
        *map(str, pictures),
        home=trained.home,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = load_model(trained.folder / "model.pt").embed(pictures).numpy()
    assert np.array_equal(np.load(output), expected)
    description = yaml.safe_load((trained.model / "MLmodel").read_text())
    assert description["model_id"] == model.model_id
    assert "cloudpickle" not in json.dumps(description)
    assert pd.DataFrame(**json.loads((trained.model / "input_example.json").read_text())).shape == (1, 1)


def test_a_registered_model_is_a_checkpoint_by_its_alias_and_its_version(
    at_home: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    register = ["register", at_home.run_id[:8], "--name", "reid-own", "--alias", "champion"]
    for _ in range(2):  # the second time it is registered already
        assert runs.main(register) == 0
        assert "checkpoint=models:/reid-own@champion or models:/reid-own/1" in capsys.readouterr().out
    expected = (at_home.folder / "model.pt").read_bytes()
    for name in ("models:/reid-own@champion", "models:/reid-own/1"):
        check_checkpoint(name)
        assert find_checkpoint(name).read_bytes() == expected
    # Of the model's folder nothing else is needed: no code of it is run.
    aside = tmp_path / "served_model.py"
    shutil.move(at_home.model / "served_model.py", aside)
    try:
        assert load_model("models:/reid-own@champion").name == "models:/reid-own@champion"
    finally:
        shutil.move(aside, at_home.model / "served_model.py")
    with pytest.raises(TrackingError, match=r"there are: models:/reid-own@champion, models:/reid-own/1"):
        find_checkpoint("models:/reid-own@challenger")
    with pytest.raises(TrackingError, match="Registered are: reid-own"):
        find_checkpoint("models:/reid-market@champion")
    with pytest.raises(TrackingError, match="expected models:/<name>@<alias>"):
        check_checkpoint("models:/reid-own")
    assert runs.main(["show", at_home.run_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["registered"] == ["models:/reid-own/1"]
    assert runs.main(["delete", at_home.run_id, "--yes"]) == 1
    assert "it is registered as models:/reid-own/1" in capsys.readouterr().err


def test_scores_on_other_data_go_into_the_card_of_a_registered_model(
    at_home: Trained, tiny_data: Path, run_command: Runner
) -> None:
    evaluate = ["reid.evaluate", "checkpoint=models:/reid-own@champion", "card=true", "device=cpu"]
    other = ["dataset=synthetic", "dataset.preset=tiny", f"data.root={tiny_data}"]
    refused = run_command(*evaluate, *other, "eval.flip=true", home=at_home.home)
    assert refused.returncode == 2
    assert "mean with the mirror image" in refused.stderr
    judged = run_command(*evaluate, *other, home=at_home.home)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert f"as the model of run {at_home.run_id}" in judged.stdout
    assert "| synthetic, test split, **never trained on** |" in (at_home.model / "model_card.md").read_text()
    own, new = load_checkpoint(at_home.model / "model.pt").meta["scores"]
    assert (own["dataset"], own["own"], new["dataset"], new["own"]) == ("table", True, "synthetic", False)
    run = at_home.store.client.get_run(at_home.run_id)
    assert "never trained on" in run.data.tags["mlflow.note.content"]
    assert len(list((at_home.home / "mlartifacts").rglob("model.pt"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "a/b"], "--name 'a/b'"),
        (["--name", "own", "--alias", "latest"], "keeps for versions"),
        (["--name", "own", "--alias", "v3"], "keeps for versions"),
    ],
)
def test_names_that_no_reference_could_hold_are_refused(
    at_home: Trained, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert runs.main(["register", at_home.run_id, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there_names_all_that_a_checkpoint_may_be() -> None:
    with pytest.raises(CheckpointError, match="a registered model"):
        check_checkpoint("nowhere.pt")


def test_a_run_of_older_code_is_registered_from_its_own_artifacts(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "old") as run:
        run.text("weights", "checkpoints/model.pt")
    assert register(store, str(run.run_id), "older") == 1
    assert fetch_registered(store, "models:/older/1").read_text() == "weights"


def test_a_model_that_a_store_missed_arrives_later(store: Store, tmp_path: Path) -> None:
    assert store.artifact_root is not None
    home, away = store.artifact_root.parent, tmp_path / "away"
    run_folder = tmp_path / "run"
    with Tracker.start(store, "e", run_folder, "n") as run:
        shutil.move(home, away)
        home.write_text("in the way")
        checkpoint, card = run_folder / "model.pt", run_folder / "model_card.md"
        checkpoint.write_text("weights")
        card.write_text("card")
        run.inputs([DataInput("market", "a" * 16, "training", 3, 2, 1, 64, 32)])
        run.model(checkpoint, card, height=64, width=32, embedding_size=8, step=3)
    home.unlink()
    shutil.move(away, home)
    assert send_late(run_folder, store).delivery.error is None
    found = store.client.get_run(str(run.run_id))
    assert found.inputs is not None
    assert [one.dataset.digest for one in found.inputs.dataset_inputs] == ["a" * 16]
    assert fetch_checkpoint(store, str(run.run_id)).read_text() == "weights"
    # Sent again it leaves what the store has got since, such as a threshold.
    measured = tmp_path / "model.pt"
    measured.write_text("weights with a threshold")
    replace_model(store, str(run.run_id), measured, card)
    assert send_late(run_folder, store, again=True).delivery.error is None
    assert fetch_checkpoint(store, str(run.run_id)).read_text() == "weights with a threshold"
    # Resumed and ended again it is the same model, with the new file.
    checkpoint.write_text("more weights")
    with Tracker.start(store, "e", run_folder, "n", resume=True) as run:
        run.inputs([DataInput("market", "a" * 16, "training", 3, 2, 1, 64, 32)])
        run.model(checkpoint, card, height=64, width=32, embedding_size=8, step=4)
    found = store.client.get_run(str(run.run_id))
    assert found.outputs is not None
    assert found.inputs is not None
    assert len(found.outputs.model_outputs) == len(found.inputs.dataset_inputs) == 1
    assert fetch_checkpoint(store, str(run.run_id)).read_text() == "more weights"
    with open_parent(store, "e", tmp_path / "sweep", "sweep") as parent:
        pass
    assert parent.run_id is not None
    with pytest.raises(TrackingError, match="nor a model; it has no checkpoint"):
        fetch_checkpoint(store, parent.run_id)
