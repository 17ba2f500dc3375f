"""What a sweep's folder says of the sweep: which cells it is made of."""

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from reid.home import as_moved

SWEEP = "sweep.json"


@dataclass(frozen=True)
class SweepFile:
    """The cells of a sweep in the order of its jobs, each by its config hash and the folder of its data.

    code: what it was begun with, see `tracking.sources`.  experiment: what it is tracked under.  overrides:
    what makes each cell, as typed.  folder: where it lay when it was written, which tells that it was moved.
    """

    experiment: str
    code: str
    cells: list[list[str]] = field(default_factory=list)
    overrides: list[list[str]] = field(default_factory=list)
    folder: str = ""

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{SWEEP}.partial"
        content = asdict(self) | {"folder": str(folder.absolute())}
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(folder / SWEEP)


def read_sweep(folder: Path) -> SweepFile | None:
    """The sweep that `folder` holds, or None where there is none that can be read.

    Where it was moved with its data, these lie where they are now.
    """
    try:
        sweep = SweepFile(**json.loads((folder / SWEEP).read_text()))
        old, new = sweep.folder or _old_place(folder), folder.absolute()
        cells = [[name, as_moved(root, Path(old), new)] for name, root in sweep.cells] if old else sweep.cells
        return replace(sweep, cells=cells, folder=str(new))
    except (OSError, ValueError, TypeError):
        return None


def _old_place(folder: Path) -> str:
    """Where a sweep lay that does not say so itself, as the status of one of its cells has it, or ""."""
    for path in sorted(folder.glob("*/status.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):  # one that cannot be read says nothing
            place = Path(json.loads(path.read_text())["run_dir"])
            if place.parent.name == folder.name:
                return str(place.parent)
    return ""


def find_sweep(wanted: SweepFile, root: Path, codes: Collection[str] | None = None) -> Path | None:
    """The newest folder under `root` that holds this sweep: the same cells and experiment.

    codes: only one that was begun with one of these.
    """
    same = []
    for path in root.glob(f"*/{SWEEP}"):
        found = read_sweep(path.parent)
        if found is None or (found.experiment, found.cells) != (wanted.experiment, wanted.cells):
            continue
        if codes is None or found.code in codes:
            same.append(path)
    return max(same, key=lambda path: path.stat().st_mtime).parent if same else None
