"""The folder of a run: what it says of itself, and finding the one to resume."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reid.engine.checkpoint import CheckpointError
from reid.tracking.journal import Journal

STATUS = "status.json"
LAST = "last.pt"


@dataclass
class RunStatus:
    """What became of a run: RUNNING (also after a hard kill), FINISHED, FAILED or KILLED."""

    status: str
    config_hash: str = ""
    overrides: list[str] = field(default_factory=list)
    name: str = ""
    run_id: str | None = None
    run_dir: str = ""
    data_root: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def write(self, folder: Path) -> None:
        partial = folder / f".{STATUS}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(folder / STATUS)


def read_status(folder: Path) -> RunStatus | None:
    """The status that `folder` holds, or None where there is none that can be read."""
    try:
        return RunStatus(**json.loads((folder / STATUS).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def find_unfinished(config_hash: str, data_root: str, folder: Path, roots: list[Path]) -> Path | None:
    """The newest run of this config on these data with a checkpoint, neither finished nor under way.

    Looked for in `folder` itself, beside it, and under `roots` (`outputs/*`, `multirun/*/*`).
    """

    def candidates() -> Iterator[Path]:
        yield folder / STATUS
        for parent in {folder.parent, *roots}:
            yield from parent.glob(f"*/{STATUS}")
            yield from parent.glob(f"*/*/{STATUS}")

    found: dict[Path, float] = {}
    for path in candidates():
        status = read_status(path.parent)
        checkpoint = path.parent / LAST
        if status is None or (status.config_hash, status.data_root) != (config_hash, data_root):
            continue
        if not checkpoint.exists() or Journal(path.parent).in_use():
            continue
        found[path.parent.resolve()] = checkpoint.stat().st_mtime
    if not found:
        return None
    newest = max(found, key=lambda path: found[path])
    status = read_status(newest)
    return newest if status is not None and status.status != "FINISHED" else None


def run_of(checkpoint: Path) -> Path:
    """The folder of the run whose `last.pt` was named to be resumed.

    Raises:
        CheckpointError: no such file, or a file that holds no training state.
    """
    path = checkpoint.expanduser().absolute()
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise CheckpointError(
            f"resume={checkpoint}: no such checkpoint. Expected a run's folder, its {LAST}, or `auto` for "
            "the newest unfinished run of this config"
        )
    if path.name != LAST:
        raise CheckpointError(f"resume={checkpoint}: only a run's {LAST} holds what is needed to go on")
    return path.parent
