from __future__ import annotations

from pathlib import Path

import pytest

from reid import home as module

ROOT = Path(__file__).resolve().parents[1]


def test_source_tree_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REID_HOME", raising=False)
    assert module.source_root() == ROOT
    assert module.home() == ROOT


def test_environment_chooses_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path / "a" / ".." / "b"))
    assert module.home() == tmp_path / "b"


def test_installed_wheel_lives_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("REID_HOME", raising=False)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages" / "reid" / "home.py"))
    monkeypatch.chdir(tmp_path)
    assert module.source_root() is None
    assert module.home() == tmp_path
