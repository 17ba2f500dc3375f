"""The doctor's page: what it says of machines, GPUs, data and checkpoints that are not as they should be.

Stores are those of tests/tracking/test_health.py.
"""

import getpass
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Runner, Starter
from packaging.requirements import Requirement

from reid import doctor
from reid.commands import data_state, findings, gpu_state, installed, machine_state
from reid.commands.checkpoint_state import checkpoint
from reid.commands.doctor import WIDTH, conclusion, lines
from reid.commands.findings import Finding, Look, in_public, take_all
from reid.commands.gpu_state import Driver, judge, read_driver, read_torch
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.inference import load_model
from reid.tracking import Store, Tracker, default_store

SECRET = "geheim-77"


def found_in(found: Iterator[Finding], subject: str) -> Finding:
    """The worst line of this subject."""
    of_it = [one for one in found if one.subject == subject]
    assert of_it, f"nothing is said of {subject}"
    return max(of_it, key=lambda one: ("ok", "note", "problem").index(one.verdict))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---- the page


def test_the_page_names_nobody_and_changes_nothing(
    start_command: Starter, tiny_data: Path, template_db: Path, tmp_path: Path
) -> None:
    home = tmp_path / "erika-mustermann" / "work"
    home.mkdir(parents=True)
    shutil.copy(template_db, home / "mlflow.db")
    # A server that takes the connection and never answers.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        variables = {
            "HOME": str(home.parent), "USER": "erika-mustermann", "LOGNAME": "erika-mustermann",
            "REID_DATA": str(tiny_data), "REID_TRUST": "erikas_losses",
            "MLFLOW_TRACKING_URI": f"http://erika-mustermann:{SECRET}@127.0.0.1:{silent.getsockname()[1]}",
            "MLFLOW_TRACKING_PASSWORD": SECRET, "MLFLOW_EXPERIMENT_NAME": "mustermann",
        }  # fmt: skip
        before, started = snapshot(tmp_path), time.monotonic()
        process = start_command("reid.doctor", "--seconds", "12", home=home, variables=variables)
        out, err = process.communicate(200)
    assert process.wait() == 1, out + err
    assert time.monotonic() - started < 150
    assert snapshot(tmp_path) == before
    for name in ("erika", "mustermann", SECRET, str(tmp_path), str(tiny_data), str(Path.home()), "erikas"):
        assert name not in out, name
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", out)
    if getpass.getuser() != "root":
        assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", out)
    assert max(map(len, out.splitlines())) <= WIDTH
    assert err == ""
    assert "TrustError: REID_TRUST=<package>: it is not installed" in " ".join(out.split())
    problem = out.partition("problem store")[2].partition("\n\n")[0]
    assert "-> restart" in problem, out
    assert "synthetic (day, tiny): 69 / " in out
    assert "problem" in out.splitlines()[-1]


@pytest.mark.slow
def test_nothing_wrong_ends_with_0_and_is_told_to_programs(
    run_command: Runner, template_db: Path, tmp_path: Path
) -> None:
    shutil.copy(template_db, tmp_path / "mlflow.db")
    done = run_command("reid.doctor", "--json", "--seconds", "60", home=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert found["problems"] == 0
    subjects = {one["subject"] for one in found["findings"]}
    assert subjects >= {
        "suite", "system", "libraries", "cores", "memory", "disk", "locks", "variables", "GPU", "weights",
        "store", "runs", "datasets", "image stores",
    }  # fmt: skip
    assert {one["section"] for one in found["findings"]} == {
        "Installed", "This machine", "PyTorch and GPU", "Tracking", "Data",
    }  # fmt: skip


def test_what_hangs_or_fails_is_a_line_of_the_page(tmp_path: Path) -> None:
    for_ever = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield Finding("disk", "one is there")
        for_ever.wait()

    def fails() -> Iterator[Finding]:
        raise RuntimeError(f"{tmp_path} is broken")
        yield

    started = time.monotonic()
    looks = [Look("A", "disk", hangs, "look at df"), Look("A", "torch", fails, "install it"),
             Look("B", "cores", lambda: [Finding("cores", "2")], "")]  # fmt: skip
    sections = dict(take_all(looks, 0.3))
    for_ever.set()
    assert time.monotonic() - started < 3
    assert [one.verdict for one in sections["A"]] == ["ok", "problem", "problem"]
    assert sections["A"][1].text == "no answer within 0.3 seconds"
    assert sections["A"][1].remedy == "look at df"
    assert "RuntimeError" in sections["A"][2].text
    assert str(tmp_path) not in sections["A"][2].text
    assert sections["B"] == [Finding("cores", "2")]


def test_foreign_texts_lose_places_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path / "an na"))
    monkeypatch.setenv("REID_DATA", str(tmp_path / "an na" / "sets"))
    monkeypatch.setenv("USER", "anna")
    text = (
        f"{tmp_path}/an na/sets/market1501: anna on {socket.gethostname()} may not read "
        f"{tmp_path}/an na/mlflow.db of https://anna:{SECRET}@lab.example:5000/x\nnor /mnt/lab/one.jpg."
    )
    assert in_public(text) == (
        "<data root>/market1501: <user> on <host> may not read <project>/mlflow.db of <https address> nor "
        "<path>."
    )
    assert in_public("anna-lena and 3 / 4") == "anna-lena and 3 / 4"


def test_lines_fit_the_page() -> None:
    long = Finding("synthetic (night, small)", "word " * 40, "problem", "do " * 60)
    written = lines(long)
    assert max(map(len, written)) <= WIDTH
    assert written[0].startswith("  problem synthetic (night, small): word")
    assert sum("->" in line for line in written) == 1
    assert conclusion([]) == "Nothing is wrong."
    assert conclusion([long, Finding("a", "b", "note")]).startswith("one problem:")


def test_the_page_without_an_answer_from_anywhere_is_asked_wrongly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["outputs/nowhere"], ["checkpoint=outputs/nowhere"], ["--uri", "ftp://there"]):
        assert doctor.main(words) == 2
        assert capsys.readouterr().err.startswith("reid.doctor: ")


# ---- what is installed


def test_packages_outside_their_range_are_named() -> None:
    assert installed.misfit(Requirement("torch>=99")).endswith("the suite needs >=99")
    assert installed.misfit(Requirement("nothing-of-that-name>=1")).startswith("not installed")
    assert installed.misfit(Requirement("torch>=1")) == ""


def test_every_extra_says_what_it_adds() -> None:
    assert set(installed._wanted()["extras"]) <= set(installed.ADDS)
    missing = {"export": [Requirement("nothing-of-that-name>=1")]}
    (line,) = installed._extras(missing)
    assert line.verdict == "note"
    assert "[export] lacks nothing-of-that-name; it adds files for BoxMOT" in line.text
    assert "[export]" in line.remedy


# ---- the machine


def test_variables_are_shown_without_what_they_may_betray() -> None:
    variables = {
        "OMP_NUM_THREADS": "64", "MLFLOW_TRACKING_URI": "postgresql://anna:geheim@lab/mlflow", "LANG": "C",
        "MLFLOW_TRACKING_TOKEN": "123", "REID_HOME": "/scratch/anna", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    found = list(machine_state.environment(variables))
    assert found[0].text == (
        "CUDA_VISIBLE_DEVICES=(empty), MLFLOW_TRACKING_TOKEN=(set), "
        "MLFLOW_TRACKING_URI=(postgresql address), OMP_NUM_THREADS=64, REID_HOME=(folder)"
    )
    assert found_in(iter(found), "threads").verdict == "note"


def test_locks_are_tried_and_leave_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    monkeypatch.setenv("REID_DATA", str(tmp_path / "not" / "yet"))
    assert [one.verdict for one in machine_state.locks()] == ["ok", "ok"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(machine_state.fcntl, "flock", lambda *_: None)  # a disk that says yes to everybody
    found = list(machine_state.locks())
    assert found[0].verdict == "problem"
    assert "two processes get one lock" in found[0].text

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(machine_state.fcntl, "flock", refuse)
    found = list(machine_state.locks())
    assert "No locks available" in found[0].text
    assert "REID_HOME" in found[0].remedy
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, own_home: None) -> None:
    monkeypatch.setattr(machine_state, "LEAST_DISK", 2**70)
    assert {one.verdict for one in machine_state.disks()} == {"problem"}
    monkeypatch.setattr(machine_state, "LEAST_DISK", 0)
    monkeypatch.setattr(machine_state, "LITTLE_DISK", 0)
    assert {one.verdict for one in machine_state.disks()} == {"ok"}


# ---- PyTorch and the GPU

CARD = {"name": "Tesla", "driver_version": "470.1", "memory.total": "16", "memory.used": "1",
        "compute_mode": "Default"}  # fmt: skip
NO_GPU: dict[str, Any] = {
    "step": "gpus", "built_for": "13.0", "architectures": [], "available": False, "cards": [], "threads": 2,
    "warnings": [],
}  # fmt: skip
HERE = {"name": "Tesla", "free": 15, "total": 16, "architecture": "sm_86"}
TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.parametrize(
    ("facts", "driver", "variables", "verdict", "words"),
    [
        (NO_GPU, Driver(), {}, "ok", "none; PyTorch built for CUDA 13.0. Everything runs on the CPU"),
        (NO_GPU | {"built_for": None}, Driver(), {}, "ok", "built for CPUs alone"),
        (NO_GPU | {"built_for": None}, Driver([CARD]), {}, "problem",
         "Tesla is there, driver 470.1, but PyTorch built for CPUs alone"),
        (NO_GPU, Driver([CARD]), {"CUDA_VISIBLE_DEVICES": ""}, "problem", "CUDA_VISIBLE_DEVICES is empty"),
        (NO_GPU, Driver([CARD]), {"CUDA_VISIBLE_DEVICES": "-1"}, "problem", "names no card, which hides it"),
        (NO_GPU | {"warnings": [TOO_OLD]}, Driver([CARD]), {}, "problem", "the driver 470.1 is too old"),
        (NO_GPU, Driver([CARD]), {"CUDA_VISIBLE_DEVICES": "0"}, "problem", "cannot use it"),
        (NO_GPU, Driver(plugged=1, silent="couldn't communicate"), {}, "problem", "no driver is loaded"),
        (NO_GPU | {"available": True, "cards": [HERE]}, Driver([CARD]), {}, "ok", "0: Tesla"),
        (NO_GPU | {"available": True, "cards": [HERE]}, Driver([CARD, CARD]), {}, "note", "1 of 2 are used"),
        (NO_GPU | {"available": True, "cards": [HERE], "architectures": ["sm_80"]}, Driver([CARD]), {}, "ok",
         "sm_86"),
        (NO_GPU | {"available": True, "cards": [HERE], "architectures": ["sm_90", "sm_100"]},
         Driver([CARD]), {}, "problem", "no code for it"),
        (NO_GPU | {"available": True, "cards": [HERE]},
         Driver([CARD | {"compute_mode": "Exclusive_Process"}]), {}, "note", "a second process"),
    ],
)  # fmt: skip
def test_gpus_in_words(
    facts: dict[str, Any], driver: Driver, variables: Mapping[str, str], verdict: str, words: str
) -> None:
    found = list(judge([{"step": "libraries", "broken": {}}, facts], "", driver, variables))
    worst = found_in(iter(found), "GPU")
    assert worst.verdict == verdict
    assert any(words in one.text for one in found), [one.text for one in found]
    assert (worst.verdict == "problem") <= bool(worst.remedy)


def test_a_pytorch_that_breaks_hangs_or_fails_to_compute() -> None:
    libraries = {"step": "libraries", "broken": {"torchvision": "RuntimeError: operator nms does not exist"}}
    broken = found_in(judge([libraries], "failed", Driver(), {}), "torchvision")
    assert "operator nms does not exist" in broken.text
    assert found_in(judge([], "was ended by signal 11", Driver(), {}), "torch").verdict == "problem"
    whole = {"step": "libraries", "broken": {}}
    hung = found_in(judge([whole], "gave no answer within 60 seconds", Driver(), {}), "GPU")
    assert "does not get through to the driver" in hung.text
    card = NO_GPU | {"available": True, "cards": [HERE]}
    sum_ = {"step": "computing", "card": 0, "trouble": "CUDA error: out of memory"}
    assert "out of memory" in found_in(judge([whole, card, sum_], "", Driver([CARD]), {}), "GPU").text
    endless = found_in(judge([whole, card], "gave no answer within 60 seconds", Driver([CARD]), {}), "GPU")
    assert "a first sum did not end" in endless.text


@pytest.mark.slow
def test_what_torch_said_before_it_hung_counts() -> None:
    said = '{"step": "libraries", "broken": {}}'
    code = f"import time; print('noise'); print({said!r}, flush=True); time.sleep(99)"
    steps, trouble = read_torch(3, [gpu_state.sys.executable, "-c", code])
    assert steps == [{"step": "libraries", "broken": {}}]
    assert trouble == "gave no answer within 3 seconds"
    _, trouble = read_torch(20, [gpu_state.sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    assert trouble == "was ended by signal 11"


def test_nvidias_tool_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def says(text: str, code: int = 0) -> Driver:
        tool.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
        tool.chmod(0o755)
        return read_driver(10, tmp_path)

    assert says("Tesla, 470.1, 16, 1, Default") == Driver([CARD], plugged=1, loaded=True)
    failed = says("Failed to initialize NVML: Driver/library version mismatch", 18)
    assert failed == Driver([], "Failed to initialize NVML: Driver/library version mismatch", 1)
    tool.unlink()
    assert read_driver(10, tmp_path) == Driver(plugged=1)


def test_a_pretended_gpu_is_met(run_command: Runner, tmp_path: Path) -> None:
    done = run_command("tests.gpu.driver", "reid.commands.torch_facts", home=tmp_path)
    steps = gpu_state._steps(done.stdout)
    assert [one["step"] for one in steps] == ["libraries", "gpus", "backbones"], done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["reached"].endswith("on cuda:0")  # the first sum
    found = list(judge(steps, "gave no answer within 60 seconds", Driver(), {}))
    assert [one.text.partition(",")[0] for one in found][:2] == ["0: Pretended GPU", "1: Pretended GPU"]
    assert "resnet50" in found_in(iter(found), "weights").text


# ---- data


def test_datasets_are_counted_by_their_names(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("REID_DATA", str(tmp_path))
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    shutil.copytree(tiny_data / "synthetic", tmp_path / "synthetic")
    (tmp_path / "synthetic" / "night_small_0").mkdir()  # would be drawn if it were read
    shutil.copytree(tiny_data / "synthetic" / "day_tiny_0", tmp_path / "market1501")
    before = snapshot(tmp_path)
    found = list(data_state.data())
    assert snapshot(tmp_path) == before
    assert [one.subject for one in found] == ["market", "synthetic (day, tiny)", "datasets"]
    assert found[0].verdict == "problem"
    assert "is not Market-1501, the official split" in found[0].text or "expected 12,936" in found[0].text
    assert str(tmp_path) not in found[0].text
    assert found[1].text.startswith("69 / ")
    assert "duke" in found[2].text
    monkeypatch.setenv("REID_DATA", str(tmp_path / "nowhere"))
    assert found_in(data_state.data(), "datasets").verdict == "note"


@pytest.mark.slow
def test_waiting_runs_are_counted(monkeypatch: pytest.MonkeyPatch, template_db: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(template_db, tmp_path)
    full = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    with Tracker.start(full, "e", tmp_path / "outputs" / "one", "one") as run:
        run.metrics({"loss": 1.0}, step=1)
    with Tracker.start(default_store(tmp_path), "e", tmp_path / "multirun" / "a" / "0", "two") as run:
        going = found_in(data_state.tracking(None), "runs")
        assert going.text == "2 on disk, 1 not wholly sent"
    found = list(data_state.tracking(None))
    assert found_in(iter(found), "store").verdict == "ok"
    assert found_in(iter(found), "runs").text == "2 on disk, 1 not wholly sent"
    assert found_in(iter(found), "runs").remedy.startswith("python -m reid.sync")


def test_a_damaged_image_store_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    from reid.data import load_dataset
    from reid.data.image_store import open_store

    monkeypatch.setenv("REID_DATA", str(tmp_path))
    crops = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny").query
    open_store(crops, 32, 16, tmp_path / ".store")
    assert found_in(data_state.stores(), "image stores").verdict == "ok"
    (array,) = (tmp_path / ".store").glob("*.npy")
    array.write_bytes(b"x" * array.stat().st_size)
    assert "1 of them cannot be read" in found_in(data_state.stores(), "image stores").text


# ---- a checkpoint


@pytest.fixture
def trained(tiny_checkpoint: Path, own_home: None) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def looked_at(trained: Checkpoint, tmp_path: Path, **meta: Any) -> list[Finding]:
    """What is found of a checkpoint with some of what it says of itself changed."""
    path = tmp_path / "model.pt"
    save_checkpoint(path, replace(trained, meta={**trained.meta, **meta}))
    before = path.read_bytes()
    found = list(checkpoint(str(path), None))
    assert path.read_bytes() == before
    return found


def with_neck_of(trained: Checkpoint, raw: torch.Tensor) -> Checkpoint:
    """The same model with the statistics in its neck that training would have found of these raw features."""
    model = dict(trained.model)
    (name,) = (name for name in model if name.endswith("bottleneck.running_mean"))
    model[name] = raw.mean(0)
    model[name.replace("mean", "var")] = raw.var(0)
    return replace(trained, model=model)


@pytest.mark.slow
def test_a_sound_checkpoint_and_one_to_which_people_look_alike(
    trained: Checkpoint, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    images = sorted((tiny_data / "synthetic" / "day_tiny_0" / "bounding_box_train").glob("*.jpg"))
    raw = load_model(tiny_checkpoint, neck_feature="before", feature_norm=False).embed(images)
    found = looked_at(with_neck_of(trained, raw), tmp_path)
    assert {one.verdict for one in found} <= {"ok", "note"}, found
    features = found_in(iter(found), "features").text
    assert features.startswith("people differ; mean cosine of two people")
    assert features.endswith("on 6 crops of its own test set (synthetic)")
    assert str(tmp_path) not in str(found)

    # Before its first step a network has not learnt who is who.
    found = looked_at(trained, tmp_path)
    assert found_in(iter(found), "features").text.startswith(
        "people look much alike (above 0.9); mean cosine"
    )
    assert found_in(iter(found), "features").verdict == "problem"


@pytest.mark.slow
def test_a_collapsed_checkpoint_is_recognised_with_and_without_its_data(
    trained: Checkpoint, tmp_path: Path
) -> None:
    model = dict(trained.model)
    (scale,) = (name for name in model if name.endswith("bottleneck.weight"))
    model[scale] = 1e-6 * model[scale]
    bias = scale.replace("weight", "bias")
    model[bias] = torch.ones_like(model[scale])
    found = found_in(iter(looked_at(replace(trained, model=model), tmp_path)), "features")
    assert found.verdict == "problem"
    assert found.text.startswith(
        "collapsed: all people look alike; mean cosine of two people 1.00, spread 0.00"
    )
    gone = {**trained.meta["dataset"], "root": str(tmp_path / "gone")}
    found = found_in(iter(looked_at(replace(trained, model=model), tmp_path, dataset=gone)), "features")
    assert found.verdict == "problem"
    assert "drawn people, since its data are not" in found.text
    assert not (tmp_path / "gone").exists()


@pytest.mark.slow
def test_a_threshold_of_another_space_an_unfinished_training_and_cameras(
    trained: Checkpoint, tmp_path: Path
) -> None:
    stored = {
        "value": 1.0, "target": "eer", "metric": "euclidean", "feature_norm": True, "neck_feature": "after",
        "flip": True, "protocol": "cross_camera", "dataset": "synthetic", "split": "test",
        "data_fingerprint": "a", "identities": 6, "genuine_pairs": 9, "impostor_pairs": 9, "far": 0.1,
        "far_interval": [0.0, 0.2],
        "tar": 0.9, "tar_interval": [0.8, 1.0],
    }  # fmt: skip
    config = {**trained.meta["config"], "epochs": 9}
    found = looked_at(trained, tmp_path, threshold=stored, progress={"epoch": 2}, config=config)
    threshold = found_in(iter(found), "threshold")
    assert threshold.verdict == "problem"
    assert "of another space" in threshold.text
    assert "mean with the mirror image" in threshold.text
    assert found_in(iter(found), "training").text == "a training not at its end, after epoch 2 of 9"
    fitting = {**stored, "flip": False, "feature_norm": bool(trained.meta["eval"]["feature_norm"])}
    found = looked_at(trained, tmp_path, threshold=fitting)
    assert found_in(iter(found), "threshold").verdict == "ok"


def test_weights_that_are_no_numbers_and_a_damaged_file(trained: Checkpoint, tmp_path: Path) -> None:
    model = dict(trained.model)
    name = next(name for name in model if name.endswith("weight"))
    model[name] = torch.full_like(model[name], torch.nan)
    found = looked_at(replace(trained, model=model), tmp_path)
    assert (
        f"1 of {len(model)} tensors hold NaN or infinity, first {name}"
        in found_in(iter(found), "weights").text
    )
    path = tmp_path / "model.pt"
    path.write_bytes(path.read_bytes()[:1000])
    (line,) = checkpoint(str(path), None)
    assert line.verdict == "problem"
    assert str(tmp_path) not in line.text


def test_sizes_in_words() -> None:
    assert [findings.size(count) for count in (2**9, 3 * 2**20, 2**30 * 5 // 2, 2**41)] == [
        "0.5 KiB", "3.0 MiB", "2.5 GiB", "2.0 TiB",
    ]  # fmt: skip
