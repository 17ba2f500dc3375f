"""`make install` on a Python without ensurepip, as Debian has it: what to install, and then it goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")

#: A Python whose venv leaves an interpreter without pip behind, until the file `whole` is there.
WITHOUT_ENSUREPIP = f"""#!/bin/sh
case "$*" in *"-m venv"*)
    if test -e whole; then rm .venv/bin/python; cp whole .venv/bin/python; exit 0; fi
    {sys.executable} -m venv --without-pip .venv
    exit 1;;
esac
exec {sys.executable} "$@"
"""


def test_a_venv_without_pip_is_named_and_completed_later(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    interpreter = tmp_path / "python"
    interpreter.write_text(WITHOUT_ENSUREPIP)
    interpreter.chmod(0o755)

    def install() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", "install", f"PYTHON={interpreter}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    for _ in range(2):
        made = install()
        assert made.returncode == 2
        assert "apt install python3-venv" in made.stderr + made.stdout
        assert "No module named pip" not in made.stderr
        assert (tmp_path / ".venv" / "bin" / "python").exists()

    whole = tmp_path / "whole"
    whole.write_text("#!/bin/sh\n")
    whole.chmod(0o755)
    assert install().returncode == 0
    assert (tmp_path / ".venv" / ".ready").exists()


def test_the_numeric_tests_that_another_cpu_runs_are_there() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    numeric = next(line for line in text.splitlines() if line.startswith("NUMERIC :="))
    assert [name for name in numeric.split()[2:] if not (ROOT / "tests" / name).exists()] == []
