"""The wheel carries conf/ and its commands work from any directory (of a source tree: test_launch.py)."""

import configparser
import email
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from choices import own_crops, write_package
from conftest import TINY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
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


#: What somebody may have left in the tree, and must not be given away: none of it is ignored by git.
STRAYS = (
    "reid/model.pt", "reid/gallery/0001_c1s1_000001_00.jpg", "reid/engine/weights.pth", "reid/notes.txt",
    "reid/gallery/static/sub/crop.png", "reid/__pycache__/train.cpython-311.pyc", "conf/crops.csv",
    "conf/dataset/0002_c1.jpg", "conf/outputs/last.pt", "reid.onnx", "mlflow.db", "tests/test_own.py",
    "experiments/own/results.csv", "notebooks/own.ipynb",
)  # fmt: skip


def files_of(*folders: str) -> set[str]:
    """What git knows there, or would take, by the name relative to the tree."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", *folders]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist of the tree, in which also lies what does not belong into them."""
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in (*files_of("reid", "conf"), "README.md", "LICENSE", "pyproject.toml", ".gitignore"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    for name in STRAYS:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("not for others")
    words = ["-m", "build", "--sdist", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    done = python(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def test_every_file_of_the_package_is_of_a_kind_that_goes_along() -> None:
    """A new kind of file in reid/ or conf/ is named in pyproject.toml, or users do not get it."""
    kinds = (".py", ".yaml", ".md", "/py.typed", ".css", ".js", ".svg", ".html")
    assert [name for name in files_of("reid", "conf") if not name.endswith(kinds)] == []


def test_the_wheel_holds_the_package_and_every_choice_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    choices = {f"reid/{name}" for name in files_of("conf")}
    expected = files_of("reid") | choices
    assert "reid/conf/train.yaml" in choices
    assert "reid/gallery/templates/index.html" in expected
    assert "reid/py.typed" in expected  # without it, type checkers see nothing of an installed package
    (info,) = {name.partition("/")[0] for name in wheel.namelist()} - {"reid"}
    metadata = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert sorted(wheel.namelist()) == sorted(expected | {f"{info}/{name}" for name in metadata})
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_says_what_it_needs_and_under_which_licence(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    said = email.message_from_bytes(wheel.read(name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(text) for text in said.get_all("Requires-Dist", []) if "extra ==" not in text}
    assert needed == {Requirement(text) for text in project["dependencies"]}
    assert said["License-Expression"] == project["license"] == "MIT"
    assert SpecifierSet(said["Requires-Python"]) == SpecifierSet(project["requires-python"])
    assert not [text for text in said.get_all("Requires-Dist", []) if "@" in text or "://" in text]


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    beside = {"README.md", "LICENSE", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert sorted(names) == sorted(files_of("reid", "conf") | beside)


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
