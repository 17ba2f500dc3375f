"""The file of a sweep, whatever stands in it."""

import json
from pathlib import Path
from typing import Any

import pytest

from reid.sweeps.sweep_file import SWEEP, SweepFile, job_statuses, read_sweep


def test_it_comes_back(tmp_path: Path) -> None:
    SweepFile("e", "code", [["hash", "/data"]], [["seed=0"]]).write(tmp_path)
    found = read_sweep(tmp_path)
    assert found is not None
    assert (found.experiment, found.cells, found.overrides) == ("e", [["hash", "/data"]], [["seed=0"]])


@pytest.mark.parametrize(
    "change",
    [
        {"cells": 7}, {"cells": ["ab"]}, {"cells": [["hash"]]}, {"cells": [["hash", 1]]},
        {"cells": [["hash", "a\0b"]]}, {"overrides": {"0": []}}, {"overrides": [[1]]}, {"folder": None},
        {"code": 1}, {"another": 1},
    ],
    ids=str,
)  # fmt: skip
def test_one_that_cannot_be_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    SweepFile("e", "code", [["hash", "/data"]], [["seed=0"]]).write(tmp_path)
    whole = json.loads((tmp_path / SWEEP).read_text())
    (tmp_path / SWEEP).write_text(json.dumps({**whole, **change}))
    assert read_sweep(tmp_path) is None
    assert job_statuses(tmp_path) == []


def test_endless_brackets_are_none(tmp_path: Path) -> None:
    (tmp_path / SWEEP).write_text("[" * 100_000)
    assert read_sweep(tmp_path) is None
