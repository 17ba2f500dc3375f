"""What a sweep's folder says of the sweep: which cells it is made of."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

SWEEP = "sweep.json"


@dataclass(frozen=True)
class SweepFile:
    """The cells of a sweep in the order of its jobs, each by its config hash and the folder of its data.

    code: hash of the code that it was begun with.  experiment: what it is tracked under.  overrides: what
    makes each cell, as typed.
    """

    experiment: str
    code: str
    cells: list[list[str]] = field(default_factory=list)
    overrides: list[list[str]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{SWEEP}.partial"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(folder / SWEEP)


def read_sweep(folder: Path) -> SweepFile | None:
    """The sweep that `folder` holds, or None where there is none that can be read."""
    try:
        return SweepFile(**json.loads((folder / SWEEP).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def find_sweep(wanted: SweepFile, root: Path, any_code: bool = False) -> Path | None:
    """The newest folder under `root` that holds this very sweep: the same cells, experiment and code."""
    same = []
    for path in root.glob(f"*/{SWEEP}"):
        found = read_sweep(path.parent)
        if found is None or (found.experiment, found.cells) != (wanted.experiment, wanted.cells):
            continue
        if any_code or found.code == wanted.code:
            same.append(path)
    return max(same, key=lambda path: path.stat().st_mtime).parent if same else None
