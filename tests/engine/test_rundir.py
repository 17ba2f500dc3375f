"""What a run's folder says of the run, whatever lies in its place."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from reid.engine.rundir import RunStatus, find_finished, find_unfinished, read_status

WHOLE = asdict(RunStatus("FINISHED", "hash", ["a=1"], "name", None, "/runs/a", "/data", {"test/mAP": 0.5}))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[]",
        "null",
        json.dumps({**WHOLE, "status": "DONE"}),
        json.dumps({**WHOLE, "status": None}),
        json.dumps({**WHOLE, "run_dir": 7}),
        json.dumps({**WHOLE, "run_dir": "a\0b"}),
        json.dumps({**WHOLE, "run_dir": "x" * 70_000}),
        json.dumps({**WHOLE, "data_root": ["/data"]}),
        json.dumps({**WHOLE, "overrides": "a=1"}),
        json.dumps({**WHOLE, "overrides": [1]}),
        json.dumps({**WHOLE, "scores": {"test/mAP": "high"}}),
        json.dumps({**WHOLE, "run_id": {}}),
        json.dumps({**WHOLE, "another": 1}),
    ],
    ids=lambda text: text[:40] + text[-20:],
)
def test_a_status_that_cannot_be_is_none(text: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text(text)
    (run / "last.pt").touch()
    assert read_status(run) is None
    assert find_finished("hash", "/data", run, [tmp_path]) == []
    assert find_unfinished("hash", "/data", run, [tmp_path]) is None


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(WHOLE))
    found = read_status(tmp_path)
    assert found is not None
    assert found.scores == {"test/mAP": 0.5}
