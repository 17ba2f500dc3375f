"""A tracker for the processes of a run that do not write it: of several that train together, one does."""

from collections.abc import Mapping
from pathlib import Path

from reid.tracking.tracker import Status, Tracker


class SilentTracker(Tracker):
    """Takes what a `Tracker` takes and keeps nothing."""

    def __init__(self) -> None:
        self._finished = False

    @property
    def run_id(self) -> None:
        return None

    @property
    def run_key(self) -> str:
        return ""

    def params(self, values: Mapping[str, object]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def tags(self, values: Mapping[str, object]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def text(self, text: str, name: str) -> Path:
        return Path(name)

    def finish(self, status: Status = "FINISHED") -> None: ...
