"""requirements-tested.txt: all that the project needs, exactly, and nothing else; how it is made and used."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from experiments.house.tested import LOCK, MissingPackageError, lock, versions, wanted

ROOT = Path(__file__).parents[1]
LINES = LOCK.read_text().splitlines()
PINS = dict(line.split("==") for line in LINES if not line.startswith("#"))


def test_a_line_is_a_name_and_a_version() -> None:
    assert [
        line for line in LINES[2:] if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line)
    ] == []
    assert list(PINS) == sorted(PINS)
    assert len(PINS) == len(LINES) - 2
    assert re.fullmatch(r"# Python 3\.\d+\.\d+ on \w+ \w+\. Elsewhere .*", LINES[1])
    assert "://" not in LOCK.read_text()  # no place to fetch from: that is the user's


def test_it_holds_all_that_the_project_names_within_its_bounds() -> None:
    for requirement in wanted():
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{name}: type make lock"
        assert requirement.specifier.contains(Version(PINS[name])), requirement
    assert "reid-suite" not in PINS


def test_extras_of_extras_are_followed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=1"]\n[project.optional-dependencies]\n'
        'a = ["reid-suite[b]", "scipy"]\nb = ["pandas[test]"]\nc = ["torch"]\n'
    )
    assert {str(one) for one in wanted(["a"], tmp_path / "pyproject.toml")} == {
        "numpy>=1",
        "scipy",
        "pandas[test]",
    }


def test_what_is_needed_by_what_is_needed_comes_along() -> None:
    found = versions([Requirement("hydra-core")])
    assert found.keys() == {"hydra-core", "omegaconf", "antlr4-python3-runtime", "packaging", "pyyaml"}
    assert lock(found).splitlines()[2:] == [f"{name}=={version}" for name, version in found.items()]


@pytest.mark.parametrize(
    ("text", "words"),
    [("no-such-package-here", "which is not installed"), ("numpy<1", r"and [\d.]+ is installed")],
)
def test_what_is_not_there_is_named(text: str, words: str) -> None:
    with pytest.raises(MissingPackageError, match=words):
        versions([Requirement(text)])


#: An interpreter that makes itself the one of the venv, and writes down what pip is called with.
RECORDING = f"""#!/bin/sh
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    *"pip install"*) echo "$*" >> pip.txt;;
    *) exec {sys.executable} "$@";;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("fits", [True, False])
def test_make_installs_from_it_alone(fits: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    own, other = f"{sys.version_info[0]}.{sys.version_info[1]}", "3.99"
    text = lock({"numpy": "1.0"}).replace(f"# Python {own}.", f"# Python {own if fits else other}.")
    (tmp_path / "requirements-tested.txt").write_text(text)
    (tmp_path / "python").write_text(RECORDING)
    (tmp_path / "python").chmod(0o755)
    words = ["make", "install-tested", f"PYTHON={tmp_path}/python"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    if not fits:
        assert done.returncode == 2
        assert "requirements-tested.txt is for another Python or system: Python 3.99." in done.stderr
        assert not (tmp_path / ".venv").exists()
        return
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / "pip.txt").read_text().splitlines()
    assert first.endswith("--no-deps --requirement requirements-tested.txt")
    assert second.endswith("--no-deps --no-build-isolation --editable .")
    assert (tmp_path / ".venv" / ".ready").exists()
