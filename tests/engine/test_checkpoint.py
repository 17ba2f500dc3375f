"""Checkpoints: whole or not at all, tensors and plain data alone."""

import json
import os
import pickle
import stat
import sys
from pathlib import Path

import pytest
import torch
from conftest import Runner

from reid.engine.checkpoint import Checkpoint, CheckpointError, read_checkpoint, save_checkpoint


def a_checkpoint(value: float = 1.0) -> Checkpoint:
    return Checkpoint({"weight": torch.full((3, 2), value)}, {"epoch": 3, "name": "é"}, {"lr": [0.1, 0.2]})


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", a_checkpoint())
    back = read_checkpoint(tmp_path / "last.pt")
    assert torch.equal(back.model["weight"], torch.ones(3, 2))
    assert back.meta == {"epoch": 3, "name": "é"}
    assert back.training == {"lr": [0.1, 0.2]}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename = Path.replace

    def sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def replace(path: Path, target: Path) -> Path:
        done.append(f"named {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    save_checkpoint(tmp_path / "last.pt", a_checkpoint())
    assert done == ["file", "named last.pt", "folder"]


def test_meta_is_plain_json_in_a_file_that_runs_no_code(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", a_checkpoint())
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert json.loads(content["meta"])["epoch"] == 3


def test_a_missing_file_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path / "none.pt")):
        read_checkpoint(tmp_path / "none.pt")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("content", ["bomb", "text", "weights"])
def test_another_file_is_refused_and_not_run(content: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    if content == "bomb":
        path.write_bytes(pickle.dumps({"format": 1, "meta": Bomb()}))
    elif content == "text":
        path.write_text("not a checkpoint")
    else:
        torch.save({"conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this suite"):
        read_checkpoint(path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from reid.engine.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
path = Path(sys.argv[1])
path.parent.mkdir()
save_checkpoint(path, Checkpoint({"w": torch.ones(8)}, {"epoch": 1}, {}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(path, Checkpoint({"w": torch.ones(1_000_000)}, {"epoch": 2}, {}))
except OSError as error:
    print("refused", error)
print(read_checkpoint(path).meta["epoch"], sorted(p.name for p in path.parent.iterdir()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="file-size limits of Linux stand for the full disk")
def test_a_write_that_fails_leaves_the_last_good_one(run_command: Runner, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "full_disk.py").write_text(FULL_DISK)
    done = run_command("full_disk", str(tmp_path / "run" / "last.pt"), home=home)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout
    assert "last.pt" in done.stdout
    assert "it needs 3.8 MiB" in done.stdout
    assert "inline_container" not in done.stdout
    assert "1 ['last.pt']" in done.stdout
