"""The wheel carries conf/ and its commands work from any directory (of a source tree: test_launch.py)."""

import configparser
import json
import os
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from choices import own_crops, write_package
from conftest import TINY

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "reid" / "gallery"
pytestmark = pytest.mark.slow

#: What pip writes into console scripts: three in one process, since the imports take seconds. A source tree
#: that is installed for editing is put out of reach.
CONSOLE_SCRIPTS = """
import importlib, os, sys
from pathlib import Path
sys.path[:] = [place for place in sys.path if not Path(place, "pyproject.toml").exists()]

def run(name, *words):
    sys.argv = [f"reid-{name}", *words]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # a command sets it for its own process
    try:
        importlib.import_module(f"reid.{name}").main()
    except SystemExit as ended:
        print("# exit", name, ended.code)

import reid.config.schema, reid.home
print("# conf", reid.config.schema.config_folder())
print("# home", reid.home.home())
tiny = sys.argv[1:]
run("train", "--cfg", "job", "seed=7")
print("# written", [path.name for path in Path.cwd().iterdir()])
run("train", *tiny, "epochs=1", "hydra.run.dir=trained")
run("evaluate", "checkpoint=trained", "device=cpu", "hydra.run.dir=judged")
# A package of the user's beside it: its own loss, backbone and dataset.
own = [word for word in tiny if not word.startswith(("dataset", "backbone"))]
own += ["dataset=own", "backbone=own", "loss=own", "epochs=1", "hydra.run.dir=own"]
run("train", *own)
os.environ["REID_TRUST"] = "mypackage"
run("train", *own)
del os.environ["REID_TRUST"]
run("evaluate", "checkpoint=own", "device=cpu")
"""


#: Beginnings of the variables that a developer may have set.
PRIVATE = ("REID_", "PYTHON", "MLFLOW_", "HYDRA_")


def python(*words: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(PRIVATE)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    built = python(
        "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_package_and_every_choice(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    sources = {str(file.relative_to(ROOT)) for file in (ROOT / "reid").rglob("*.py")}
    choices = {f"reid/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    pages = {
        str(file.relative_to(ROOT))
        for place in ("static", "templates")
        for file in GALLERY.glob(f"{place}/*")
    }
    assert "reid/conf/train.yaml" in choices
    assert "reid/gallery/templates/index.html" in pages
    assert "reid/py.typed" in names  # without it, type checkers see nothing of an installed package
    assert sources | pages <= names
    assert choices <= names
    assert not [name for name in names if not name.startswith(("reid/", "reid_suite-"))]


def test_the_wheel_declares_the_commands(wheel: zipfile.ZipFile) -> None:
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    declared = configparser.ConfigParser()
    declared.read_string(wheel.read(entry).decode())
    scripts: Mapping[str, str] = dict(declared["console_scripts"])
    assert scripts == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        file = ROOT / f"{module.replace('.', '/')}.py"
        assert f"def {function}(" in file.read_text()


def test_the_commands_of_the_wheel_run_from_any_directory(
    wheel: zipfile.ZipFile, tiny_data: Path, tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(site)
    write_package(tmp_path / "theirs")
    own_crops(tiny_data, elsewhere / "data" / "mine")
    path = f"{site}{os.pathsep}{tmp_path / 'theirs'}"
    run = python("-c", CONSOLE_SCRIPTS, *TINY, cwd=elsewhere, PYTHONPATH=path, OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr
    assert f"# conf {site}/reid/conf" in run.stdout
    assert f"# home {elsewhere}" in run.stdout
    assert "name: resnet50" in run.stdout
    assert "seed: 7" in run.stdout
    assert "# exit train 0\n# written ['data']" in run.stdout

    # The data are drawn, the run is trained and judged, and everything lies in the working directory.
    assert run.stdout.count("# exit train 0") == 3, run.stdout + run.stderr
    assert "# exit evaluate 0" in run.stdout, run.stdout + run.stderr
    assert "the MLflow UI: reid-ui" in run.stdout  # there is no Makefile
    assert {path.name for path in elsewhere.iterdir()} >= {"data", "trained", "judged", "mlflow.db"}
    trained = json.loads((elsewhere / "trained" / "status.json").read_text())
    judged = json.loads((elsewhere / "judged" / "scores.json").read_text())
    assert trained["status"] == "FINISHED"
    assert judged["scores"] == trained["scores"]
    with sqlite3.connect(elsewhere / "mlflow.db") as store:
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)] * 3

    # What it may run of the user's own code, the environment says.
    assert "# exit train 2" in run.stdout
    assert "=own is no choice" in run.stderr
    theirs = json.loads((elsewhere / "own" / "status.json").read_text())
    assert theirs["status"] == "FINISHED"
    assert "# exit evaluate 2" in run.stdout
    assert "dataset.name=mypackage.crops lies in no package that is trusted" in run.stderr
