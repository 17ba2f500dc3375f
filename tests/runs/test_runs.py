"""`reid.runs` on a real sqlite store, with a sweep and single runs that `Tracker` wrote."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from reid.runs import __main__ as runs
from reid.runs.selection import differing, find_run, seconds, with_children
from reid.tracking import RunRecord, Store, Tracker, TrackingError, all_runs, default_store, open_parent
from reid.tracking.deliver import PARENT_RUN

FACTS = {"reid.score_split": "val", "reid.data.fingerprint": "aa", "reid.git.sha": "c0ffee" + 34 * "0"}


@dataclass(frozen=True)
class Study:
    """A sweep of two jobs, a run that failed, and a run on other data, in one store."""

    home: Path
    store: Store
    parent: str
    children: list[str]
    failed: str
    other: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Study:
    return make_study(tmp_path_factory.mktemp("home"), template_db)


@pytest.fixture
def study(shared: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The home is that of a study which nobody changes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("REID_HOME", str(shared.home))
    return shared


@pytest.fixture
def own_study(tmp_path: Path, template_db: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The same for one test, to delete from."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    return make_study(tmp_path, template_db)


def make_study(home: Path, template_db: Path) -> Study:
    (home / "mlflow.db").write_bytes(template_db.read_bytes())
    store = default_store(home, f"sqlite:///{home / 'mlflow.db'}")
    sweep = home / "multirun" / "s"
    ids = []
    with open_parent(store, "alpha", sweep, "sweep of loss.alpha", tags=FACTS) as parent:
        for job, alpha in enumerate((1.0, 2.0)):
            params = {"loss.alpha": alpha, "epochs": 6}
            name = f"loss.alpha={alpha}"
            with Tracker.start(
                store, "alpha", sweep / str(job), name, params=params, tags=FACTS, parent=sweep
            ) as run:
                run.metrics({"val/mAP": 0.5 + alpha / 100, "val/rank-1": 0.7}, step=6)
                run.text("x" * 1000, "checkpoints/model.pt")
            ids.append(str(run.run_id))
        parent.metrics({"best/val/mAP": 0.52}, 0)
    outputs = home / "outputs"
    with (
        pytest.raises(ValueError, match="no data"),
        Tracker.start(store, "single", outputs / "f", "fails", tags=FACTS) as failed,
    ):
        raise ValueError("no data")
    with Tracker.start(
        store, "single", outputs / "o", "other", tags={**FACTS, "reid.data.fingerprint": "bb"}
    ) as other:
        other.metrics({"val/mAP": 0.25}, step=1)
    return Study(home, store, str(parent.run_id), ids, str(failed.run_id), str(other.run_id))


def rows(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    assert runs.main(["list", "--json", *options]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_list_shows_newest_first_and_children_below_their_parent(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert runs.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    order = [study.other, study.failed, study.parent, *study.children]
    found = [line for line in lines if any(line.strip().startswith(each[:8]) for each in order)]
    assert [line.split()[0] for line in found] == [each[:8] for each in order]
    assert found[3].startswith("  ")
    assert "best 52.0" in found[2]
    assert found[4].split()[1:6] == ["loss.alpha=2.0", "FINISHED", "52.0", "70.0", "val"]
    assert [line.strip() for line in lines if line.startswith("experiment")] == [
        "experiment single",
        "experiment alpha",
    ]


def test_list_filters_and_speaks_to_scripts(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["run_id"] for row in rows(capsys, "--status", "failed")] == [study.failed]
    # The parent brings its children along.
    assert len(rows(capsys, "--experiment", "alpha")) == 3
    assert [row["run_id"] for row in rows(capsys, "--limit", "1")] == [study.other]
    assert rows(capsys, "--older-than", "1h") == []
    assert runs.main(["list", "--csv", "--experiment", "single"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["name"], row["status"], row["mAP"]) for row in table] == [
        ("other", "FINISHED", "0.25"),
        ("fails", "FAILED", ""),
    ]


def test_a_run_whose_process_is_gone_is_shown_as_died(
    own_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    own_study.store.client.update_run(own_study.failed, status="RUNNING")  # as a killed process leaves it

    def status(run_id: str) -> str:
        assert runs.main(["list", "--experiment", "single"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(run_id[:8])]
        return line.split()[2]

    assert status(own_study.failed) == "died"
    with Tracker.start(own_study.store, "single", tmp_path / "outputs" / "n", "now") as now:
        assert status(str(now.run_id)) == "RUNNING"
    (tmp_path / "outputs" / "f" / "journal.jsonl").unlink()  # nothing here tells what became of it
    assert status(own_study.failed) == "RUNNING"


def test_list_without_a_store_creates_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main(["list", "--uri", f"sqlite:///{tmp_path / 'none.db'}"]) == 0
    assert "no such runs" in capsys.readouterr().out
    assert not (tmp_path / "none.db").exists()


def test_show_tells_what_differs_and_where_all_is(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main(["show", study.children[1], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["differs"] == {"loss.alpha": "2.0"}
    assert shown["folder"] == str(study.home / "multirun" / "s" / "1")
    assert shown["artifacts"] == ["checkpoints/model.pt"]
    assert shown["data_fingerprint"] == {"all": "aa"}
    assert (shown["parent"], shown["metrics"]["val/mAP"]) == (study.parent, 0.52)
    assert runs.main(["show", study.parent]) == 0
    shown = capsys.readouterr().out
    assert "2 children:" in shown
    assert all(child in shown for child in study.children)
    assert runs.main(["show", study.failed]) == 0
    assert "ValueError: no data" in capsys.readouterr().out


def test_show_of_a_single_run_tells_what_is_not_the_default(
    own_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker.start(
        own_study.store, "single", tmp_path / "outputs" / "n", "n", params={"epochs": 3, "loss.margin": 1.3}
    ) as run:
        pass
    assert runs.main(["show", str(run.run_id), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differs"] == {"epochs": "3"}


def test_compare_shows_differences_and_warns_of_other_data(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(["compare", *study.children, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"] == {"loss.alpha": ["1.0", "2.0"]}
    assert found["metrics"]["val/mAP"]["differences"] == [0.0, pytest.approx(0.01)]
    assert found["warnings"] == []
    assert runs.main(["compare", study.children[0], study.other]) == 0
    captured = capsys.readouterr()
    assert "25.0 (-26.0)" in captured.out
    assert "the data differ" in captured.err
    assert runs.main(["compare", study.other, study.other]) == 2


def test_deleting_a_parent_takes_children_and_artifacts(
    own_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(["delete", own_study.parent, "--dry-run"]) == 0
    assert "would delete 3 runs with 2.0 kB" in capsys.readouterr().out
    assert len(all_runs(own_study.store)) == 5
    assert runs.main(["delete", own_study.parent[:12], "--yes"]) == 0
    assert "deleted 3 runs, 2.0 kB freed" in capsys.readouterr().out
    assert {run.run_id for run in all_runs(own_study.store)} == {own_study.failed, own_study.other}
    left = {path.parent.name for path in (tmp_path / "mlartifacts").glob("*/artifacts")}
    assert left == {own_study.failed}
    # Gone from the database too, not only marked there.
    with pytest.raises(Exception, match="not found"):
        own_study.store.client.get_run(own_study.parent)
    assert (tmp_path / "multirun" / "s" / "1" / "journal.jsonl").exists()


def test_deleting_a_selection_with_its_folders(
    own_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(["delete", "--status", "FAILED", "--older-than", "1h", "--yes"]) == 0
    assert "nothing to delete" in capsys.readouterr().out
    assert runs.main(["delete", "--status", "FAILED", "--yes", "--folders"]) == 0
    assert own_study.failed not in {run.run_id for run in all_runs(own_study.store)}
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["o"]


def test_a_run_under_way_is_not_deleted_nor_is_its_parent(
    own_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "multirun" / "s"
    with Tracker.start(own_study.store, "alpha", sweep / "2", "loss.alpha=3.0", parent=sweep):
        assert runs.main(["delete", own_study.parent, "--yes"]) == 1
    captured = capsys.readouterr()
    assert f"it is under way in {sweep / '2'}" in captured.err
    assert len(all_runs(own_study.store)) == 6


def test_delete_needs_a_word(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main(["delete"]) == 2
    assert runs.main(["delete", study.other]) == 2  # nobody at a terminal
    assert "--yes" in capsys.readouterr().err
    assert len(all_runs(study.store)) == 5


def test_errors_in_words(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ("0" if study.other[0] != "0" else "1") + study.other[1:8]
    assert runs.main(["show", wrong]) == 2
    assert f"no run '{wrong}'. Did you mean '{study.other[:8]}'?" in capsys.readouterr().err
    assert runs.main(["show", "other"]) == 2
    assert f"is a run's name, not its id; meant may be:\n  {study.other}" in capsys.readouterr().err
    assert runs.main(["list", "--experiment", "singel"]) == 2
    assert "Did you mean 'single'?" in capsys.readouterr().err
    assert runs.main(["list", "--uri", "file:./mlruns"]) == 2
    assert runs.main(["list", "--uri", "http://127.0.0.1:9"]) == 1
    assert "cannot read the runs from http://127.0.0.1:9" in capsys.readouterr().err


def test_an_ambiguous_beginning_lists_the_candidates() -> None:
    both = [RunRecord("abc1" + 28 * "0", "one", "FINISHED"), RunRecord("abc2" + 28 * "0", "two", "FAILED")]
    with pytest.raises(TrackingError, match=r"begins the ids of 2 runs.*\n.*one.*\n.*two"):
        find_run(both, "abc")
    assert find_run(both, "ABC2").name == "two"


def test_ages() -> None:
    assert [seconds(text) for text in ("90m", "12h", "30d", "2w")] == [5400, 43200, 2592000, 1209600]
    with pytest.raises(ValueError, match="expected a number and m, h, d or w"):
        seconds("month")


def test_later_keys_at_their_defaults_tell_no_run_of_older_code_apart() -> None:
    older = RunRecord("a", "a", "FINISHED", {"epochs": "3", "tricks.bnneck": "True"})
    later = {"schedule.per": "epoch", "head._target_": "reid.models.heads.BNNeck", "head.neck": "True"}
    now = RunRecord("b", "b", "FINISHED", {**older.params, **later})
    assert differing([older, now]) == {}
    cosine = RunRecord("c", "c", "FINISHED", {**now.params, "schedule.per": "iteration", "epochs": "4"})
    assert differing([older, now, cosine]) == {
        "epochs": ["3", "3", "4"],
        "schedule.per": ["-", "epoch", "iteration"],
    }


def test_what_lies_below_a_child_is_deleted_with_its_head() -> None:
    """The rounds of an adaptation that is a job of a sweep: three generations."""
    tags: tuple[dict[str, str], ...] = (
        {},
        {PARENT_RUN: "sweep"},
        {PARENT_RUN: "adapted"},
        {PARENT_RUN: "elsewhere"},
    )
    ids = ("sweep", "adapted", "round", "stranger")
    found = [RunRecord(run_id, run_id, "FINISHED", tags=tag) for run_id, tag in zip(ids, tags, strict=True)]
    assert [run.run_id for run in with_children(found[:1], found)] == ["round", "adapted", "sweep"]
    assert [run.run_id for run in with_children(found[1:2], found)] == ["round", "adapted"]
    assert [run.run_id for run in with_children(found[3:], found)] == ["stranger"]
