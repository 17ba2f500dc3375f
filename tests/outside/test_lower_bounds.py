"""The lower bounds of pyproject.toml are true: the suite trains, judges, lists and searches with them.

A bound for which no wheel exists, or with which a command fails, is a wrong promise: raise it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from lowest import NotInstalledError, installed, lowest_pins, run
from trackers import KEPT

#: Runs `python -m …` with the lowest versions.
Lowest = Callable[..., str]


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return installed(KEPT)
    except NotInstalledError as error:
        pytest.skip(f"the lowest versions cannot be installed: {error}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lowest")


@pytest.fixture(scope="module")
def lowest(python: Path, home: Path, tiny_data: Path) -> Lowest:
    def command(*words: str, data: bool = True) -> str:
        done = run(python, [*words, *([f"data.root={tiny_data}"] if data else [])], home)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        return done.stdout

    return command


@pytest.fixture(scope="module")
def trained(lowest: Lowest, home: Path) -> Path:
    lowest("reid.train", *TINY, "epochs=1", f"hydra.run.dir={home}/outputs/one")
    return home / "outputs" / "one"


def test_they_are_what_is_installed(python: Path, home: Path, record_property: Callable[..., None]) -> None:
    listed = json.loads(run(python, ["pip", "list", "--format", "json"], home).stdout)
    found = {one["name"].lower().replace("_", "-"): one["version"].partition("+")[0] for one in listed}
    for pin in lowest_pins():
        name, _, version = pin.partition("==")
        assert found[name.lower()].startswith(version), pin  # 2.6 is 2.6.0
        record_property(name, found[name.lower()])


def test_a_run_is_trained_judged_and_listed(lowest: Lowest, trained: Path, home: Path) -> None:
    told = json.loads((trained / "status.json").read_text())
    assert told["status"] == "FINISHED"
    lowest("reid.evaluate", f"checkpoint={told['run_id']}", "device=cpu", f"hydra.run.dir={home}/judged")
    judged = json.loads((home / "judged" / "scores.json").read_text())
    assert judged["scores"] == told["scores"]
    rows = json.loads(lowest("reid.runs", "list", "--json", data=False))
    assert {row["run_id"]: row["mAP"] for row in rows}[told["run_id"]] == told["scores"]["test/mAP"]


def test_a_sweep_side_by_side_and_a_study(lowest: Lowest, home: Path) -> None:
    beside = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    lowest("reid.train", "-m", *TINY, "epochs=1", "seed=1,2", *beside)
    (sweep,) = (path.parent for path in (home / "multirun").glob("*/sweep.json"))
    assert len([*sweep.glob("*/model.pt")]) == 2
    space = "+study.space.margin={key:loss.margin,low:1.0,high:1.4}"
    words = [word for word in TINY if not word.startswith("eval.")]
    lowest("experiments.tune", *words, "epochs=1", "eval.val_identities=4", space, "study.trials=2")


def test_a_gallery_is_searched_and_a_model_exported(
    lowest: Lowest, trained: Path, home: Path, tiny_data: Path
) -> None:
    (gallery,) = tiny_data.rglob("bounding_box_test")
    (query, *_) = sorted((gallery.parent / "query").glob("*.jpg"))
    words = ["--checkpoint", str(trained), "--device", "cpu"]
    lowest("reid.index", str(gallery), "-o", "gallery", *words, data=False)
    found = json.loads(lowest("reid.search", str(query), "--gallery", "gallery", "--json", data=False))
    assert found["queries"][0]["hits"]
    lowest("reid.export", str(trained), "--for", "onnxruntime", "-o", str(home / "reid.onnx"), data=False)
    assert (home / "reid.onnx").stat().st_size > 1e6
