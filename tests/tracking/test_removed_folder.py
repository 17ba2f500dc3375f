"""The folder of a run is removed while it runs: it goes on as the run that it is, or is begun anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from reid.tracking import Store, Tracker, list_runs, open_parent
from reid.tracking.journal import JOURNAL


def operations(folder: Path) -> list[str]:
    return [json.loads(line)["op"] for line in (folder / JOURNAL).read_text().splitlines()]


def statuses(store: Store) -> dict[str | None, str]:
    return {run.run_id: run.status for run in list_runs(store, "e") if run.tags.get("reid.kind") != "sweep"}


def test_a_run_whose_folder_was_removed_goes_on_as_it_is(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "n", params={"a": 1}) as run:
        run.metrics({"loss": 1.0}, step=1)
        before = run.run_id
        shutil.rmtree(tmp_path / "run")
        run.metrics({"loss": 0.5}, step=2)
        assert operations(tmp_path / "run") == ["create", "metrics"]
    assert statuses(store) == {before: "FINISHED"}
    (record,) = list_runs(store, "e")
    assert (record.params, record.metrics) == ({"a": "1"}, {"loss": 0.5})
    # And it can be resumed.
    with Tracker.start(store, "e", tmp_path / "run", "n", resume=True) as run:
        assert run.run_id == before


def headless(folder: Path) -> None:
    """What older code left of a journal whose folder was removed."""
    lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    (folder / JOURNAL).write_text("".join(lines[2:]))


def test_a_journal_without_its_beginning_starts_anew_and_its_run_is_closed(
    store: Store, tmp_path: Path
) -> None:
    lost = Tracker.start(store, "e", tmp_path / "run", "n")
    lost.metrics({"loss": 1.0}, step=1)
    before = lost.run_id
    lost._journal.release()  # its process was killed
    headless(tmp_path / "run")
    with Tracker.start(store, "e", tmp_path / "run", "n", resume=True) as run:
        run.metrics({"loss": 0.5}, step=1)
    assert statuses(store) == {before: "KILLED", run.run_id: "FINISHED"}
    (old,) = [record for record in list_runs(store, "e") if record.run_id == before]
    assert "begun anew" in old.tags["reid.error"]
    assert operations(tmp_path / "run")[0] == "create"


def test_a_cell_of_which_nothing_is_left_is_closed_when_its_sweep_goes_on(
    store: Store, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"

    def start(cell: int) -> Tracker:
        tags = {"reid.config_hash": f"hash{cell}"}
        return Tracker.start(
            store, "e", sweep / str(cell), f"cell {cell}", tags=tags, parent=sweep, resume=True
        )

    first = open_parent(store, "e", sweep, "sweep")
    runs = [start(0), start(1)]
    ids = [run.run_id for run in runs]
    for run in (first, *runs):
        run._journal.release()  # all were killed
    shutil.rmtree(sweep / "0")

    with open_parent(store, "e", sweep, "sweep", resume=True):
        again = [start(0), start(1)]
        for run in again:
            run.finish()
    assert again[1].run_id == ids[1]
    assert statuses(store) == {ids[0]: "KILLED", again[0].run_id: "FINISHED", ids[1]: "FINISHED"}


def test_a_cell_of_other_data_that_is_at_work_is_left_alone(store: Store, tmp_path: Path) -> None:
    """Sweeps over dataset.root have one hash of all their cells."""
    sweep = tmp_path / "sweep"

    def start(cell: int) -> Tracker:
        tags = {"reid.config_hash": "hash", "reid.data.fingerprint": f"data{cell}"}
        return Tracker.start(
            store, "e", sweep / str(cell), f"cell {cell}", tags=tags, parent=sweep, resume=True
        )

    open_parent(store, "e", sweep, "sweep")._journal.release()  # it was killed before its first cell
    with open_parent(store, "e", sweep, "sweep", resume=True), start(0) as first, start(1):
        assert statuses(store)[first.run_id] == "RUNNING"
    assert set(statuses(store).values()) == {"FINISHED"}
    assert store.client.get_run(str(first.run_id)).data.tags.get("reid.error") is None
