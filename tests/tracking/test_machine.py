from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from reid.tracking import environment, hide_home


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-b", "trunk")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_clean_checkout(repository: Path) -> None:
    provenance = environment(repository)
    assert provenance.diff == ""
    assert provenance.tags["reid.git.sha"] == git(repository, "rev-parse", "HEAD")
    assert provenance.tags["mlflow.source.git.commit"] == provenance.tags["reid.git.sha"]
    assert provenance.tags["reid.git.branch"] == "trunk"
    assert provenance.tags["reid.git.dirty"] == "false"
    assert provenance.tags["reid.version.torch"] == version("torch")
    assert float(provenance.tags["reid.memory_gb"]) > 0.1


def test_dirty_checkout_tells_changes_and_untracked_files(repository: Path) -> None:
    (repository / "code.py").write_text("x = 2\n")
    (repository / "new.py").write_text("def mine():\n    return 1\n")
    (repository / "notes.txt").write_text("of nobody's business")
    provenance = environment(repository)
    assert provenance.tags["reid.git.dirty"] == "true"
    assert "+x = 2" in provenance.diff
    assert provenance.diff.startswith("# untracked: new.py\n# untracked: notes.txt\n")
    assert "nobody's business" not in provenance.diff

    changes = provenance.diff.partition("notes.txt\n")[2]
    git(repository, "stash", "--include-untracked")
    subprocess.run(["git", "-C", repository, "apply"], input=f"{changes}\n", text=True, check=True)
    assert (repository / "code.py").read_text() == "x = 2\n"
    assert (repository / "new.py").read_text() == "def mine():\n    return 1\n"


@pytest.mark.parametrize("inside", [True, False])
def test_without_git_the_sha_is_none(tmp_path: Path, inside: bool) -> None:
    provenance = environment(tmp_path if inside else None)
    assert provenance.tags["reid.git.sha"] == "none"
    assert provenance.diff == ""


def test_command_names_the_module_and_hides_the_home(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    (repository / "reid").mkdir()
    (repository / "reid" / "train.py").touch()
    program = str(repository / "reid" / "train.py")
    monkeypatch.setattr("sys.argv", [program, "data.root=/home/ann/market", "a=b c"])
    tags = environment(repository).tags
    assert tags["reid.command"] == "reid.train data.root=~/market 'a=b c'"
    assert tags["mlflow.source.name"] == "reid.train"


def test_only_the_home_itself_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    text = "/home/ann/x (/home/ann) /home/anna/x /srv/home/ann"
    assert hide_home(text) == "~/x (~) /home/anna/x /srv/home/ann"
