"""The real command on the tiny set: reproducible, resumable after any stop, tracked."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Starter
from filelock import FileLock
from running import Forked

from reid.engine.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

EPOCHS = 4
#: Of the undisturbed run and of those that must equal it. The learning rate moves after every epoch.
WHOLE = (f"epochs={EPOCHS}", "eval.at_start=true", "schedule.milestones=[2,3]")
#: What rich and matplotlib would read in another way.
NAME = "whole [x] $a_b"
#: Of the tiny set, in `bounding_box_train`.
TRAINING_CROPS = 69
#: Columns that measure time, which no seed fixes.
CLOCK = ["train/seconds", "train/images_per_second", "train/data_wait"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def whole(run_command: Run, tiny: list[str], home: Path) -> Path:
    """An undisturbed run of four epochs."""
    folder = home / "whole"
    name = f'tracking.run_name="{NAME}"'
    done = run_command("reid.train", *tiny, *WHOLE, name, f"hydra.run.dir={folder}", home=home, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (home / "whole.printed").write_text(done.stdout)
    return folder


def assert_same_run(folder: Path, other: Path) -> None:
    """Bit for bit the same weights and numbers."""
    mine, theirs = load_checkpoint(folder / "model.pt"), load_checkpoint(other / "model.pt")
    assert mine.model.keys() == theirs.model.keys()
    assert all(torch.equal(mine.model[name], theirs.model[name]) for name in mine.model)
    ran, wanted = (pd.read_csv(place / "history.csv").drop(columns=CLOCK) for place in (folder, other))
    pd.testing.assert_frame_equal(ran, wanted, check_exact=True, check_like=True)


def database(home: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "mlflow.db") as connection:
        return connection.execute(query).fetchall()


def wait_for_epoch(process: Forked, folder: Path, epoch: int) -> None:
    deadline = time.monotonic() + 120
    path = folder / "history.csv"
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if path.exists() and f"\n{epoch}," in path.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"no epoch {epoch} within two minutes")


def resume(run_command: Run, arguments: list[str], home: Path, folder: Path) -> None:
    """Resume in another Hydra folder: the run goes on in its own."""
    again = run_command(
        "reid.train", *arguments, "resume=auto", f"hydra.run.dir={folder.parent}/again", home=home
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resumed after epoch" in again.stdout


def test_the_run_leaves_everything_that_it_promises(whole: Path) -> None:
    for name in (
        "config_resolved.yaml",
        "history.csv",
        "last.pt",
        "model.pt",
        "journal.jsonl",
        "status.json",
    ):
        assert (whole / name).stat().st_size > 0, name
    drawn = {path.name for path in (whole / "figures").glob("*.png")}
    assert drawn == {
        "training_curves.png", "cmc.png", "contact_sheet.png",
        "ranked_worst.png", "ranked_best.png", "ranked_random.png",
    }  # fmt: skip
    status = json.loads((whole / "status.json").read_text())
    assert status["status"] == "FINISHED"
    history = pd.read_csv(whole / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert history["test/mAP"].iloc[-1] == status["scores"]["test/mAP"]
    assert history["train/loss"].iloc[1] > history["train/loss"].iloc[-1]
    # One epoch of warm-up, then 3.5e-4, a tenth of it from the third epoch on, a hundredth from the fourth.
    trained = history[history["epoch"] > 0]
    assert trained["train/lr"].tolist() == pytest.approx([3.5e-6, 3.5e-4, 3.5e-5, 3.5e-6])
    assert history["test/mAP"].notna().tolist() == [True, False, False, False, True]
    # Three batches of sixteen.
    assert trained["train/coverage"].tolist() == pytest.approx([48 / TRAINING_CROPS] * EPOCHS)


def test_what_was_printed_is_in_the_log_and_scores_are_in_percent(whole: Path, home: Path) -> None:
    printed = (home / "whole.printed").read_text()
    assert (whole / "train.log").read_text(encoding="utf-8") == printed
    assert f"{NAME} on cpu, float32; run folder {whole}\nweights: random weights: none" in printed
    assert f"synthetic: {TRAINING_CROPS} training images of 12 identities" in printed
    assert len(re.findall(r"^epoch +\d/4  loss .*accuracy \d+\.\d %", printed, re.MULTILINE)) == EPOCHS
    history = pd.read_csv(whole / "history.csv")
    before, after = (f"{100 * history['test/mAP'].iloc[at]:.1f}" for at in (0, -1))
    rank_1 = f"{100 * history['test/rank-1'].iloc[-1]:.1f}"
    assert f"epoch   4  mAP {after} %  rank-1 {rank_1} % on test\n" in printed
    assert re.search(rf"│ last epoch │ +{after} │ +{rank_1} │", printed)
    assert f"mAP on people not trained on: {before} % before training, {after} % after\n" in printed


def test_tracked_with_config_data_code_and_machine(whole: Path, home: Path) -> None:
    run_id = json.loads((whole / "status.json").read_text())["run_id"]
    params = dict(database(home, f"select key, value from params where run_uuid = '{run_id}'"))
    expected = {
        "loss.alpha": "2.0", "loss.margin": "1.3", "tricks.warmup": "1", "tricks.random_erasing": "0.5",
        "tricks.last_stride": "1", "batch.size": "16", "seed": "0",
    }  # fmt: skip
    assert {key: params[key] for key in expected} == expected
    tags = dict(database(home, f"select key, value from tags where run_uuid = '{run_id}'"))
    for tag in (
        "reid.config_hash",
        "reid.data.fingerprint",
        "reid.git.sha",
        "reid.version.torch",
        "reid.cpu",
        "reid.selection",
    ):
        assert tags[tag], tag
    expected = {
        "reid.data.training": f"{TRAINING_CROPS} images, 12 identities",
        "reid.data.judged": "18 queries, 32 gallery images", "reid.data.unreadable": "0",
        "reid.data.strays": "0", "reid.data.junk": "4", "reid.score_split": "test", "reid.processes": "1",
        "reid.weights.source": "none", "reid.weights.matched_percent": "0.0",
    }  # fmt: skip
    assert {key: tags[key] for key in expected} == expected
    metrics = {
        key for (key,) in database(home, f"select distinct key from metrics where run_uuid = '{run_id}'")
    }
    expected_metrics = {
        "train/loss", "train/id_loss", "train/metric_loss", "train/accuracy", "train/lr",
        "train/hardest_positive", "train/hardest_negative", "train/active_fraction", "train/grad_norm",
        "train/seconds", "train/images_per_second", "train/data_wait", "train/coverage", "test/mAP",
        "test/rank-1",
    }  # fmt: skip
    assert expected_metrics <= metrics
    artifacts = {
        str(p.relative_to(home / "mlartifacts")).split("artifacts/")[1]
        for p in (home / "mlartifacts").rglob("*")
        if p.is_file() and run_id in str(p)
    }
    kept = {"model_card.md", "config_resolved.yaml", "history.csv", "queries.csv", "figures/cmc.png"}
    assert kept <= artifacts
    # Pictures of people stay in the run's folder unless tracking.images is set.
    assert not any("ranked" in name or "contact" in name for name in artifacts)


@pytest.mark.parametrize("epoch", [0, 2])
def test_killed_at_any_moment_and_resumed_it_is_the_same_run(
    epoch: int, whole: Path, run_command: Run, start_command: Starter, tiny: list[str], home: Path
) -> None:
    name = f"killed_{epoch}"
    folder = home / name
    arguments = [*tiny, *WHOLE, f"tracking.run_name={name}"]
    process = start_command("reid.train", *arguments, f"hydra.run.dir={folder}", home=home)
    wait_for_epoch(process, folder, epoch)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((folder / "status.json").read_text())["status"] == "RUNNING"
    resume(run_command, arguments, home, folder)
    assert_same_run(whole, folder)
    printed = (folder / "train.log").read_text()
    # Killed after an epoch was saved and before it was printed, its line is missing.
    epochs = [int(epoch) for epoch in re.findall(r"^epoch +(\d)/4 ", printed, re.MULTILINE)]
    assert epochs == sorted(set(epochs))
    assert {3, 4} <= set(epochs)
    assert printed.index("weights:") < printed.index("resumed after epoch") < printed.index("epoch   4/4")
    assert (home / "again" / "train.log").read_text().splitlines()[-1] == f"goes on in {folder / 'train.log'}"
    runs = database(home, f"select status, run_uuid from runs where name = '{name}'")
    assert [status for status, _ in runs] == ["FINISHED"]
    steps = database(
        home, f"select step from metrics where key = 'train/loss' and run_uuid = '{runs[0][1]}' order by step"
    )
    assert [step for (step,) in steps] == [1, 2, 3, 4]


def test_killed_while_its_store_is_made_it_is_resumed_as_the_same_run(
    whole: Path, run_command: Run, start_command: Starter, tiny: list[str], home: Path
) -> None:
    folder = home / "early"
    arguments = [*tiny, *WHOLE, "tracking.run_name=early"]
    with FileLock(home / "mlflow.db.lock"):  # as another process that makes the store's tables holds it
        process = start_command("reid.train", *arguments, f"hydra.run.dir={folder}", home=home)
        deadline = time.monotonic() + 120
        while not (folder / "journal.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resume(run_command, arguments, home, folder)
    assert_same_run(whole, folder)
    assert database(home, "select status from runs where name = 'early'") == [("FINISHED",)]
    (matched,) = database(
        home,
        "select value from tags join runs using (run_uuid) "
        "where name = 'early' and key = 'reid.weights.matched_percent'",
    )
    assert matched == ("0.0",)


def test_another_config_is_not_resumed_and_the_key_is_named(
    whole: Path, run_command: Run, tiny: list[str], home: Path
) -> None:
    words = [*tiny, *WHOLE, "epochs=5", "eval.period=1", "optimizer.lr=1e-5", f"resume={whole}"]
    done = run_command("reid.train", *words, home=home)
    assert done.returncode == 2
    assert "trained with another config (optimizer.lr was 0.00035, is 1e-05)" in done.stderr


def test_fewer_epochs_than_are_trained_are_not_resumed(
    whole: Path, run_command: Run, tiny: list[str], home: Path
) -> None:
    before = (whole / "model.pt").read_bytes()
    done = run_command("reid.train", *tiny, *WHOLE, "epochs=3", f"resume={whole}", home=home)
    assert done.returncode == 2, done.stderr
    assert "stands after epoch 4, beyond epochs=3" in done.stderr
    assert "Set epochs=4 or more" in done.stderr
    assert (whole / "model.pt").read_bytes() == before


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_answered_with_a_checkpoint_and_a_message(
    signum: signal.Signals,
    code: int,
    whole: Path,
    run_command: Run,
    start_command: Starter,
    tiny: list[str],
    home: Path,
) -> None:
    name = signum.name.lower()
    folder = home / name
    arguments = [*tiny, *WHOLE, f"tracking.run_name={name}"]
    process = start_command("reid.train", *arguments, f"hydra.run.dir={folder}", home=home)
    wait_for_epoch(process, folder, 1)
    process.send_signal(signum)
    output = "".join(process.communicate(timeout=60))
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert f"stopped by {signum.name}. To go on: the same command; a single run with resume=auto" in output
    assert json.loads((folder / "status.json").read_text())["status"] == "KILLED"
    assert database(home, f"select status from runs where name = '{name}'") == [("KILLED",)]
    if signum == signal.SIGTERM:  # the other differs in its number alone
        resume(run_command, arguments, home, folder)
        assert_same_run(whole, folder)
        assert database(home, f"select status from runs where name = '{name}'") == [("FINISHED",)]
        return
    done = run_command(
        "reid.evaluate", f"checkpoint={folder}", "device=cpu", f"hydra.run.dir={folder}_judged", home=home
    )
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert re.search(f"a training not at its end, after epoch [1-3] of {EPOCHS}", printed), done.stdout


def test_evaluate_gives_the_score_of_the_run(
    whole: Path, run_command: Run, tiny_data: Path, home: Path
) -> None:
    status = json.loads((whole / "status.json").read_text())
    for name, checkpoint in (("file", str(whole / "model.pt")), ("run", status["run_id"])):
        folder = home / f"evaluate_{name}"
        done = run_command(
            "reid.evaluate",
            f"checkpoint={checkpoint}",
            f"data.root={tiny_data}",
            "device=cpu",
            f"hydra.run.dir={folder}",
            home=home,
            fresh=name == "file",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"mAP.*rank-1", done.stdout)
        written = json.loads((folder / "scores.json").read_text())
        assert written["scores"] == status["scores"]
        assert (folder / "figures" / "ranked_worst.png").exists()
        judged = json.loads((folder / "status.json").read_text())["run_id"]
        assert f"tracked as run {judged}" in done.stdout
        params = dict(database(home, f"select key, value from params where run_uuid = '{judged}'"))
        assert (params["dataset.name"], params["dataset.preset"]) == ("synthetic", "tiny")


def test_one_model_on_two_datasets(whole: Path, run_command: Run, tiny_data: Path, home: Path) -> None:
    folder = home / "evaluate_two"
    done = run_command(
        "reid.evaluate",
        f"checkpoint={whole}",
        f"data.root={tiny_data}",
        "device=cpu",
        "eval.rerank=true",
        "eval.flip=true",
        "eval.datasets=[{name:synthetic_night,preset:tiny},{name:synthetic,preset:tiny}]",
        f"hydra.run.dir={folder}",
        home=home,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mean with the mirror image" in done.stdout
    assert "synthetic -> synthetic (trained here), re-ranked (k1 20, k2 6, lambda 0.3)" in done.stdout
    written = json.loads((folder / "scores.json").read_text())
    assert {label: written["datasets"][label]["own"] for label in written["datasets"]} == {
        "synthetic_night": False,
        "synthetic": True,
    }
    assert (folder / "figures" / "domains.png").exists()

    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "FINISHED"
    run = f"where run_uuid = '{status['run_id']}'"
    metrics = dict(database(home, f"select key, value from latest_metrics {run}"))
    assert metrics == written["scores"] == status["scores"]
    assert {"synthetic_night/mAP", "synthetic/rerank/rank-1"} <= set(metrics)
    tags = dict(database(home, f"select key, value from tags {run}"))
    assert (tags["reid.kind"], tags["reid.trained_on"]) == ("evaluation", "synthetic")
    assert tags["reid.checkpoint.run_id"] == json.loads((whole / "status.json").read_text())["run_id"]
    assert tags["reid.data.fingerprint/synthetic"] != tags["reid.data.fingerprint/synthetic_night"]
    assert ("True",) in database(home, f"select value from params {run} and key = 'eval.flip'")


def children_of(home: Path, name: str) -> tuple[str, list[tuple[str, str]]]:
    """Status of the sweep's parent run, and (name, status) of its children in order of start."""
    ((parent, status),) = database(home, f"select run_uuid, status from runs where name = '{name}'")
    children = database(
        home,
        "select runs.name, runs.status from runs join tags on tags.run_uuid = runs.run_uuid "
        f"where tags.key = 'mlflow.parentRunId' and tags.value = '{parent}' order by runs.start_time",
    )
    return status, children


def test_the_alpha_sweep_of_the_readme(run_command: Run, tiny: list[str], home: Path) -> None:
    folder = home / "sweep"
    done = run_command(
        "reid.train",
        "-m",
        "loss.alpha=1.0,1.2,1.4",
        *tiny,
        "epochs=1",
        f"hydra.sweep.dir={folder}",
        home=home,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " - the positive radius alpha - margin is -0.3" in done.stdout + done.stderr
    for job, alpha in enumerate(("1.0", "1.2", "1.4")):
        printed = (folder / str(job) / "train.log").read_text()
        assert re.findall(r"^(loss\S+) on cpu", printed, re.MULTILINE) == [f"loss.alpha={alpha}"]
        assert len(re.findall(r"^epoch +1/1 ", printed, re.MULTILINE)) == 1
        assert printed.count("the positive radius") == (alpha != "1.4")
    status, children = children_of(home, "sweep of loss.alpha")
    assert status == "FINISHED"
    assert children == [(f"loss.alpha={alpha}", "FINISHED") for alpha in ("1.0", "1.2", "1.4")]
    results = home / "outputs" / "reports" / "reid" / "loss.alpha"
    for place in (folder, results):
        table = pd.read_csv(place / "cells.csv")
        assert table["loss.alpha"].tolist() == [1.0, 1.2, 1.4]
        assert table["test/mAP"].between(0, 1).all()
        assert (place / "figure.png").stat().st_size > 0
    page = (results / "report.md").read_text()
    assert "people resampled; one of the two has a single seed" in page
    assert "selects on test" in page
    query = "select value from tags where key = 'mlflow.note.content' and value like '%| loss.alpha |%'"
    ((description,),) = database(home, query)
    sentence, picture, rest = description.split("\n\n", 2)
    assert "](get-artifact?path=figure.png&run_uuid=" in picture
    assert f"{sentence}\n\n![reid: loss.alpha](figure.png)\n\n{rest}" in page

    # The terminal ends with it, as `reid.report` prints it, and with where it lies.
    assert done.stdout.endswith(
        f"\n{sentence}\n\n{rest}\nwritten: report.md, cells.csv, figure.png in {results}\n"
    )

    # Made again without the sweep's folder, from the store alone, it says the same.
    ((parent,),) = database(home, "select run_uuid from runs where name = 'sweep of loss.alpha'")
    again = [run_command("reid.report", f"runs={folder}", home=home)]
    (results / "report.md").unlink()
    folder.rename(home / "elsewhere")
    again.append(run_command("reid.report", f"runs={parent}", home=home))
    for run in again:
        assert run.returncode == 0, run.stdout + run.stderr
        assert f"{sentence}\n\n{rest}" in run.stdout
    assert (results / "report.md").read_text() == page


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_failing_job_is_reported_and_the_others_go_on(
    fail_fast: bool, run_command: Run, tiny: list[str], home: Path
) -> None:
    folder = home / f"failing_{fail_fast}"
    weights = home / "weights.pt"
    weights.write_bytes(b"nothing")
    name = f"failing {fail_fast}"
    done = run_command(
        "reid.train", "-m", *tiny, f"backbone.weights={weights},none", "epochs=1",
        f"sweep.fail_fast={fail_fast}",
        f"tracking.run_name='{name}'", f"hydra.sweep.dir={folder}", home=home,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    status, children = children_of(home, name)
    assert status == "FAILED"
    outcomes = [outcome for _, outcome in children]
    assert outcomes == (["FAILED"] if fail_fast else ["FAILED", "FINISHED"])
    ours = f"key = 'reid.overrides' and value like '%sweep.fail_fast={fail_fast}%'"
    found = database(
        home,
        "select params.value from params join tags using (run_uuid) where params.key = 'backbone.weights' "
        f"and tags.key = 'reid.git.sha' and run_uuid in (select run_uuid from tags where {ours})",
    )
    assert sorted(found) == sorted([(str(weights),), ("none",)][: len(children)])
    parent = f"(select run_uuid from runs where name = '{name}')"
    shared = dict(database(home, f"select key, value from params where run_uuid = {parent}"))
    assert shared["loss.alpha"] == "2.0"
    assert "backbone.weights" not in shared
    tracebacks = [path.read_text() for path in (home / "mlartifacts").rglob("traceback.txt")]
    assert any("WeightsError" in text and "weights.pt" in text for text in tracebacks)


def test_a_duke_folder_with_a_bad_crop_and_a_dead_server(
    run_command: Run, tiny: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    """Held-out people, cross entropy alone, an unreadable crop left out, tracking sent later."""
    root = tmp_path / "duke"
    shutil.copytree(tiny_data / "synthetic" / "day_tiny_0", root)
    bad = sorted((root / "bounding_box_train").glob("*.jpg"))[5]
    bad.write_bytes(bad.read_bytes()[:300])
    own = [word for word in tiny if not word.startswith("dataset")]
    run = [
        "dataset=duke", "dataset.official=false", f"dataset.root={root}", *own, "loss=softmax", "epochs=1",
        "eval.split=val", "eval.val_identities=4",
    ]  # fmt: skip
    refused = run_command("reid.train", *run, f"hydra.run.dir={tmp_path}/refused", home=tmp_path)
    assert refused.returncode == 2
    assert bad.name in refused.stderr
    assert not (tmp_path / "mlflow.db").exists()

    folder = tmp_path / "run"
    run += [
        "data.on_bad_image=skip", "tracking.uri=http://127.0.0.1:9", "tracking.images=true",
        "tracking.checkpoint=false", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    done = run_command("reid.train", *run, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 unreadable" in done.stdout
    assert bad.name in done.stdout + done.stderr
    assert "withdrawn" in done.stdout
    assert (
        f"not in http://127.0.0.1:9 yet (the warning above says why): python -m reid.sync {folder}"
        in done.stdout
    )
    scores = json.loads((folder / "status.json").read_text())["scores"]
    assert set(scores) >= {"val/mAP", "val/rank-1"}

    sent = run_command("reid.sync", "--uri", f"sqlite:///{tmp_path}/mlflow.db", str(folder), home=tmp_path)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert database(tmp_path, "select status from runs") == [("FINISHED",)]
    assert database(tmp_path, "select value from metrics where key = 'val/mAP'") == [(scores["val/mAP"],)]
    tags = dict(database(tmp_path, "select key, value from tags"))
    assert (tags["reid.data.unreadable"], tags["reid.score_split"]) == ("1", "val")
    # As the config says: pictures of people are there, the model is not.
    artifacts = {path.name for path in (tmp_path / "mlartifacts").rglob("*")}
    assert "ranked_worst.png" in artifacts
    assert (folder / "model.pt").exists()
    assert "model.pt" not in artifacts

    again = run_command(
        "reid.evaluate", f"checkpoint={folder}", "device=cpu", "data.on_bad_image=skip",
        f"data.root={tiny_data}", f"hydra.run.dir={tmp_path}/judged", home=tmp_path,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((tmp_path / "judged" / "scores.json").read_text())["scores"] == scores


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_crops(
    run_command: Run, tiny: list[str], home: Path
) -> None:
    folder = home / "diverged"
    done = run_command(
        "reid.train", *tiny, "epochs=3", "optimizer=sgd", "optimizer.lr=1e30", "tricks.warmup=0",
        f"hydra.run.dir={folder}", "tracking.run_name=diverged", home=home,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "became NaN or infinite" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "train.log").read_text().splitlines()[-1] == done.stderr.splitlines()[-1]
    crops = (folder / "bad_batch.txt").read_text().split()
    # Four of each of four people.
    assert sorted(Counter(Path(crop).name[:4] for crop in crops).values()) == [4] * 4
    last = load_checkpoint(folder / "last.pt")
    assert all(tensor.isfinite().all() for tensor in last.model.values())
    assert all(Path(crop).exists() for crop in crops)
    assert database(home, "select status from runs where name = 'diverged'") == [("FAILED",)]
    assert ("true",) in database(home, "select value from tags where key = 'reid.diverged'")


def test_a_training_whose_divergence_shows_when_it_is_judged_says_so(
    run_command: Run, tiny: list[str], home: Path
) -> None:
    """One step an epoch: the loss is that of the weights before it."""
    folder = home / "diverged_late"
    done = run_command(
        "reid.train", *tiny, "epochs=3", "optimizer=sgd", "optimizer.lr=1e30", "tricks.warmup=0",
        "batch.identities=12", "eval.period=1", f"hydra.run.dir={folder}", "tracking.run_name=late",
        home=home,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "18 of 18 feature rows hold NaN" in done.stderr
    assert "ends here again: last.pt holds epoch 1. A lower optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr
    diverged = (
        "select value from tags join runs using (run_uuid) where name = 'late' and key = 'reid.diverged'"
    )
    assert database(home, diverged) == [("true",)]


def test_a_run_of_all_that_acts_over_time_is_gone_on_with_bit_for_bit(
    run_command: Run, start_command: Starter, tiny: list[str], home: Path
) -> None:
    """Killed where the backbone has just begun to learn."""
    words = [
        *tiny, "epochs=3", "eval.period=1", "freeze_epochs=1", "ema.decay=0.9", "ema.raw=true",
        "schedule=one_cycle", "checkpointing=true", "backbone.drop_path=0.2", "optimizer.layer_decay=0.8",
        "optimizer.classifier_lr_factor=2", "optimizer.norm_weight_decay=0",
    ]  # fmt: skip
    whole, cut = home / "moving", home / "moving_cut"
    done = run_command("reid.train", *words, f"hydra.run.dir={whole}", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    process = start_command("reid.train", *words, f"hydra.run.dir={cut}", home=home)
    wait_for_epoch(process, cut, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = run_command("reid.train", *words, f"resume={cut}", home=home)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same_run(whole, cut)

    history = pd.read_csv(whole / "history.csv")
    assert history["test/raw/mAP"].notna().all()
    last = load_checkpoint(whole / "last.pt")
    assert all(
        torch.equal(tensor, last.model[name])
        for name, tensor in load_checkpoint(whole / "model.pt").model.items()
    )
    assert not torch.equal(
        last.model["classifier.weight"], last.training["trained_model"]["classifier.weight"]
    )
