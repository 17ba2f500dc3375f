"""The wheel carries conf/ and its commands work from any directory (of a source tree: test_commands.py)."""

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

#: What pip writes into a console script, then what a wheel's user wants to know of its home.
CONSOLE_SCRIPT = """
import sys
sys.argv = ["reid-train", "--cfg", "job", "seed=7"]
import reid.config, reid.home
print("# conf", reid.config.config_folder())
print("# home", reid.home.home())
from reid.train import main
main()
"""


def python(*words: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("REID_", "PYTHON"))}
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
    assert "reid/conf/train.yaml" in choices
    assert sources <= names
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


def test_a_command_of_the_wheel_runs_from_any_directory(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(site)
    run = python("-c", CONSOLE_SCRIPT, cwd=elsewhere, PYTHONPATH=str(site))
    assert run.returncode == 0, run.stderr
    assert f"# conf {site}/reid/conf" in run.stdout
    assert f"# home {elsewhere}" in run.stdout
    assert "name: resnet50" in run.stdout
    assert "seed: 7" in run.stdout
    assert list(elsewhere.iterdir()) == []
