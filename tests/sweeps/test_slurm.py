"""What a sweep makes of Slurm's answers. Its programs are replaced by some that print what 22.05 printed."""

import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import cloudpickle_dump

from reid.config.checks import ConfigError
from reid.engine.rundir import RunStatus, read_status
from reid.engine.stop import Stopped, StopSignals
from reid.sweeps import slurm_launcher
from reid.sweeps.cells import Plan, plan
from reid.sweeps.job_lock import HOLDER, alone, stop_jobs
from reid.sweeps.slurm import (
    JOBS,
    SUBMITTED,
    SlurmError,
    Submission,
    batch_size,
    check_cluster,
    in_words,
    jobs_of,
    outside_of_a_job,
    ranges,
    read_jobs,
    warning_signals,
    write_jobs,
)
from reid.sweeps.slurm_launcher import CellLauncher, _Sweep
from reid.sweeps.sweep_file import SWEPT_KEYS, job_statuses
from reid.sweeps.sweep_folder import BATCH, cut_to_cluster, sweep_arguments

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
LIMITS = "MaxArraySize            = 1001\nMaxJobCount             = 10000"

Program = Callable[..., Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a program of Slurm's on the path, the only one there; returns the file with its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, out: str = "", error: str = "", code: int = 0) -> Path:
        calls = folder / f"{name}.calls"
        for stream, text in (("out", out), ("err", error)):
            (folder / f"{name}.{stream}").write_text(text and f"{text}\n")
        script = folder / name
        show = [f'while IFS= read -r line; do echo "$line"{to}; done < {folder}/{name}.{stream}'
                for stream, to in (("out", ""), ("err", " >&2"))]  # fmt: skip
        script.write_text("\n".join(["#!/bin/sh", f'echo "$@" >> {calls}', *show, f"exit {code}", ""]))
        script.chmod(0o755)
        return calls

    return put


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep; its launcher looks at everything at once."""
    for name in ("LOOK_EVERY_S", "ASK_EVERY_S", "GRACE_S"):
        monkeypatch.setattr(slurm_launcher, name, 0.01)
    monkeypatch.setenv(SWEPT_KEYS, "seed")
    folder = tmp_path / "multirun" / "one"
    folder.mkdir(parents=True)
    return folder


def queued(folder: Path, **states: str) -> str:
    """What `squeue` prints of the sweep in `folder`, and of one that is not ours."""
    lines = [f"{job[1:]}|{state}|{folder}/{SUBMITTED}/.submission_file_1.sh" for job, state in states.items()]
    return "\n".join([*lines, "99|RUNNING|None|/home/other/.submitit/x.sh", "98|PENDING|None|(null)"])


def cells(count: int) -> dict[int, list[str]]:
    return {number: ["epochs=2", f"seed={number}"] for number in range(count)}


def finish(folder: Path, cell: int, job: str, outcome: tuple[str, object] = ("success", None)) -> None:
    """A job that has left a result; one with success has a finished cell."""
    place = folder / SUBMITTED / job
    place.mkdir(parents=True)
    cloudpickle_dump(outcome, place / f"{job}_0_result.pkl")
    (folder / str(cell)).mkdir()
    status = "FINISHED" if outcome[0] == "success" else "RUNNING"
    RunStatus(status, overrides=cells(9)[cell]).write(folder / str(cell))


# ---- what is asked


def test_the_jobs_of_a_sweep_are_known_by_its_folder(program: Program, sweep: Path) -> None:
    states = {"_12_0": "RUNNING|None", "_12_1": "PENDING|JobHeldUser", "_12_2": "CANCELLED|None"}
    states |= {"_12_3": "REQUEUE_HOLD|None", "_12_4": "PENDING|Resources"}
    program("squeue", queued(sweep, **states))
    jobs = jobs_of(sweep)
    assert {job: (one.ended, one.held) for job, one in jobs.items()} == {
        "12_0": (False, False),
        "12_1": (False, True),
        "12_2": (True, False),
        "12_3": (False, True),
        "12_4": (False, False),
    }


def test_a_controller_that_is_away_is_named(program: Program, sweep: Path) -> None:
    program("squeue", error=AWAY, code=1)
    with pytest.raises(SlurmError, match=r"controller does not answer: .*Unable to contact slurm controller"):
        jobs_of(sweep)


def test_without_slurm_it_says_where_to_type_it(program: Program) -> None:
    with pytest.raises(ConfigError, match=r"needs Slurm, and scontrol is not on this machine.*joblib"):
        batch_size(6, None)


@pytest.mark.parametrize(
    ("count", "typed", "size"),
    [(6, None, None), (1001, None, None), (1002, None, 1001), (3000, 500, None), (6, 5000, None)],
)
def test_a_sweep_is_cut_where_an_array_is_smaller(
    count: int, typed: int | None, size: int | None, program: Program
) -> None:
    program("scontrol", LIMITS)
    assert batch_size(count, typed) == size


def test_more_than_an_array_takes_is_refused(program: Program) -> None:
    program("scontrol", LIMITS)
    with pytest.raises(ConfigError, match=r"=2000: this cluster takes at most 1001 .*\(MaxArraySize\)"):
        batch_size(3000, 2000)
    program("scontrol", "MaxArraySize = 1001\nMaxJobCount = 50")
    with pytest.raises(ConfigError, match=r"at most 50 jobs at a time \(MaxJobCount\)"):
        batch_size(60, 60)


def test_the_keys_are_looked_at_by_slurm(program: Program) -> None:
    calls = program("sbatch", error="sbatch: error: invalid partition specified: gpu", code=1)
    program("sinfo", "main* infinite\nshort 1:00")
    keys = {
        "_target_": "x", "submitit_folder": "${hydra.sweep.dir}", "name": "${hydra.job.name}",
        "partition": "gpu", "timeout_min": 60, "mem_gb": 8, "tasks_per_node": 1, "gres": None,
        "array_parallelism": 2,
        "additional_parameters": {"mail_type": "END", "exclusive": True}, "signal_delay_s": 120,
    }  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        check_cluster(keys, 6)
    assert calls.read_text().split() == [
        "--test-only", "--partition=gpu", "--time=60", "--mem=8G", "--ntasks-per-node=1", "--mail-type=END",
        "--exclusive", "--array=0-5%2", "--wrap", "true",
    ]  # fmt: skip
    assert "Slurm refuses such jobs: invalid partition specified: gpu" in str(refused.value)
    assert "Partitions here: main (at most infinite), short (at most 1:00)" in str(refused.value)
    program("sbatch", error=f"sbatch: error: {AWAY}", code=1)
    with pytest.raises(SlurmError, match="does not answer"):
        check_cluster(keys, 1)


@pytest.mark.slow
def test_the_keys_of_a_command_are_those_that_are_looked_at(program: Program, own_home: None) -> None:
    words = ["-m", "dataset=synthetic", "seed=range(0,6)", "hydra/launcher=submitit_slurm"]
    words += ["hydra.launcher.partition=gpu", "hydra.launcher.array_parallelism=2"]
    program("scontrol", "MaxArraySize = 4")
    calls = program("sbatch")
    found = plan("train", words)
    assert cut_to_cluster(found, words) == {BATCH: 4}
    assert "--partition=gpu" in calls.read_text()
    assert "--array=0-3%2" in calls.read_text()
    added = sweep_arguments(found, words)
    assert f"{BATCH}=4" in added
    assert "hydra.launcher.max_num_timeout=20" in added
    assert cut_to_cluster(Plan(multirun=True), ["-m"]) == {}


def test_what_a_job_submits_is_not_of_that_job(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "4096", "SRUN_CPUS_PER_TASK": "1", "SLURM_CONF": "/a"}
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    with outside_of_a_job():
        assert {name for name in outer if name in os.environ} == {"SLURM_CONF"}
    assert {name: os.environ[name] for name in outer} == outer


@pytest.mark.parametrize(
    ("jobs", "shown"),
    [
        (["12_0", "12_1", "12_2", "12_5"], "12_[0-2,5]"),
        (["13", "12_3", "12_1", "14"], "13 12_[1,3] 14"),
        ([], ""),
    ],
)
def test_ids_are_shown_as_scancel_takes_them(jobs: list[str], shown: str) -> None:
    assert ranges(jobs) == shown


def test_the_table_of_jobs_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_jobs(tmp_path) == []
    table = [Submission(0, "12_0", "COMPLETED"), Submission(1, "12_1")]
    write_jobs(tmp_path, table)
    assert read_jobs(tmp_path) == table
    (tmp_path / JOBS).write_text("no,table\n1,2\n")
    assert read_jobs(tmp_path) == []


# ---- what is waited for


def test_cells_that_are_with_slurm_are_waited_for_and_not_submitted_again(
    program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(sweep, [Submission(0, "12_0"), Submission(1, "12_1"), Submission(2, "12_2")])
    program("squeue", queued(sweep, _12_0="RUNNING|None", _12_1="COMPLETED|None", _12_2="PENDING|Resources"))
    own = _Sweep(sweep, fail_fast=False)
    own.find(cells(3))
    assert set(own.waiting) == {0, 2}
    assert "2 of 3 cells with Slurm already, as job 12_[0,2]: waiting" in capsys.readouterr().out
    finish(sweep, 0, "12_0")
    finish(sweep, 2, "12_2")
    own.wait()
    assert "job 12_0 has finished seed=0" in capsys.readouterr().out
    assert [one.state for one in read_jobs(sweep)] == ["COMPLETED", "ENDED", "COMPLETED"]


def test_jobs_of_a_launcher_that_ended_while_it_submitted_are_cancelled(
    program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program("squeue", queued(sweep, _12_0="RUNNING|None", _12_1="PENDING|None"))
    calls = program("scancel")
    own = _Sweep(sweep, fail_fast=False)
    own.find(cells(2))
    assert own.waiting == {}
    assert sorted(calls.read_text().split()) == ["12_0", "12_1"]
    assert re.search(r"cancelled 12_\[0-1\]: no cell was noted", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("CANCELLED", "was cancelled (scancel)"),
        ("TIMEOUT", "was ended at its time limit: hydra.launcher.timeout_min"),
        ("OUT_OF_MEMORY", "was killed for memory: hydra.launcher.mem_gb"),
        ("NODE_FAIL", "was lost with its node"),
        ("FAILED", "ended as FAILED: ModuleNotFoundError: No module named 'torch' (all of it: "),
        ("BOOT_FAIL", "ended as BOOT_FAIL"),
    ],
)
def test_how_a_job_ended_is_said_and_stands_with_its_cell(
    state: str, words: str, program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = sweep / SUBMITTED / "12_1"
    log.mkdir(parents=True)
    (log / "12_1_0_log.err").write_text("Traceback\nModuleNotFoundError: No module named 'torch'\n")
    finish(sweep, 0, "12_0")
    write_jobs(sweep, [Submission(0, "12_0"), Submission(1, "12_1")])
    program("squeue", queued(sweep, _12_0="RUNNING|None", _12_1="RUNNING|None"))
    own = _Sweep(sweep, fail_fast=False)
    own.find(cells(2))
    program("squeue", queued(sweep, _12_1=f"{state}|None"))
    own.wait()
    printed = capsys.readouterr().out
    assert f"2 of 2: seed=1 is not finished: Slurm job 12_1 {words}" in printed
    jobs = job_statuses(sweep)
    assert [job.status for job in jobs] == ["FINISHED", "KILLED"]
    assert jobs[1].error.startswith(f"Slurm job 12_1 {words}")
    assert jobs[1].overrides == ["epochs=2", "seed=1"]


def test_a_job_that_was_killed_for_memory_without_control_groups_is_known_by_its_log(
    program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = sweep / SUBMITTED / "2"
    log.mkdir(parents=True)
    (log / "2_0_log.err").write_text(
        "slurmstepd-vm: error: StepId=2.0 exceeded memory limit (507707392 > 209715200), being killed\n"
        "srun: error: vm: task 0: Killed\n"
    )
    write_jobs(sweep, [Submission(0, "2")])
    program("squeue", queued(sweep, _2="RUNNING|None"))
    own = _Sweep(sweep, fail_fast=False)
    own.find(cells(1))
    program("squeue", queued(sweep, _2="FAILED|NonZeroExitCode"))
    own.wait()
    assert in_words("2", "OUT_OF_MEMORY") in capsys.readouterr().out
    assert read_jobs(sweep) == [Submission(0, "2", "OUT_OF_MEMORY")]


@pytest.mark.parametrize(
    ("began", "words"), [(False, "was cancelled (scancel)"), (True, "is not known to Slurm any more")]
)
def test_a_job_that_slurm_knows_no_more(
    began: bool, words: str, program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is cancelled before it begins leaves the array without a trace."""
    if began:
        (sweep / SUBMITTED / "12_0").mkdir(parents=True)
        (sweep / SUBMITTED / "12_0" / "12_0_0_log.out").touch()
    write_jobs(sweep, [Submission(0, "12_0")])
    program("squeue", queued(sweep, _12_0="PENDING|None"))
    own = _Sweep(sweep, fail_fast=False)
    own.find(cells(1))
    program("squeue", queued(sweep))
    own.wait()
    assert f"Slurm job 12_0 {words}" in capsys.readouterr().out


def test_a_held_job_and_a_controller_that_is_away_are_named_once(
    program: Program, sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jobs(sweep, [Submission(0, "12_0")])
    program("squeue", queued(sweep, _12_0="PENDING|JobHeldUser"))
    own = _Sweep(sweep, fail_fast=False)
    own.find(cells(1))
    answers = iter([{}, {"error": AWAY, "code": 1}, {"error": AWAY, "code": 1}, {}, {}])

    def sleep(_: float) -> None:
        answer: dict[str, Any] | None = next(answers, None)
        if answer is None:
            if not (sweep / "0").exists():
                finish(sweep, 0, "12_0")
            return
        program("squeue", queued(sweep, _12_0="PENDING|JobHeldUser"), **answer)

    monkeypatch.setattr(slurm_launcher, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr("reid.sweeps.slurm_launcher.time.sleep", sleep)
    own.wait()
    printed = capsys.readouterr().out
    assert printed.count("To let it go: scontrol release 12_0") == 1
    assert printed.count("The jobs go on; waiting for it and for their results") == 1
    assert printed.count("the Slurm controller answers again") == 1


def test_the_first_failure_cancels_the_others_where_that_was_asked_for(
    program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(sweep, [Submission(0, "12_0"), Submission(1, "12_1")])
    program("squeue", queued(sweep, _12_0="RUNNING|None", _12_1="PENDING|None"))
    own = _Sweep(sweep, fail_fast=True)
    own.find(cells(2))
    finish(sweep, 0, "12_0", ("error", "Traceback\nUncompletedJobError: timed-out too many times."))
    calls = program("scancel")
    program("squeue", queued(sweep))
    own.wait()
    assert calls.read_text().split() == ["12_1"]
    printed = capsys.readouterr().out
    assert "seed=0 is not finished: UncompletedJobError: timed-out too many times." in printed
    assert "sweep.fail_fast: cancelled 12_[1]" in printed
    status = read_status(sweep / "0")
    assert status is not None
    assert (status.status, status.error) == ("KILLED", "UncompletedJobError: timed-out too many times.")


def test_who_stops_the_command_learns_what_becomes_of_the_jobs(
    program: Program, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program("squeue", queued(sweep, _12_0="RUNNING|None", _12_1="PENDING|None", _12_2="COMPLETED|None"))
    _Sweep(sweep, fail_fast=False).leave()
    assert "2 cells. The same command finds them again. To end them, saved: scancel 12_[0-1]" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    program("squeue", error=AWAY, code=1)
    _Sweep(sweep, fail_fast=False).leave()
    assert capsys.readouterr().out == ""


# ---- in a job


def test_slurms_warning_stops_a_run_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    assert warning_signals() == []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert warning_signals() == [signal.SIGUSR2]
    before = signal.getsignal(signal.SIGUSR2)
    steps = []
    with pytest.raises(Stopped, match="stopped by SIGUSR2"), StopSignals(more=warning_signals()) as stop:
        with stop.in_one_piece():
            os.kill(os.getpid(), signal.SIGUSR2)
            steps.append("to its end")
        steps.append("another")
    assert steps == ["to its end"]
    assert signal.getsignal(signal.SIGUSR2) == before


@pytest.mark.parametrize(("signum", "requeued"), [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_a_job_that_was_warned_goes_back_into_the_queue(
    signum: int, requeued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what submitit does at the signal, once the run is saved; one that is cancelled does not."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    calls: list[int] = []

    def run(*_: object) -> None:
        raise Stopped(signum)

    monkeypatch.setattr("reid.sweeps.slurm_launcher.SlurmLauncher.__call__", run)
    before = signal.signal(signal.SIGUSR2, lambda number, _: calls.append(number))
    try:
        with pytest.raises(SystemExit) as ended:
            CellLauncher()([], "hydra.sweep.dir", 0, "job_id_for_0", {})
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert ended.value.code == 128 + signum
    assert calls == ([signum] if requeued else [])


def test_a_process_on_another_machine_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    """Its number, in a folder that both machines see, is that of anybody here."""
    stranger = os.fork()
    if not stranger:
        signal.pause()
    try:
        with alone(tmp_path):
            assert (tmp_path / HOLDER).read_text() == f"{os.getpid()} {socket.gethostname()}"
            (tmp_path / HOLDER).write_text(f"{stranger} another-node")
            stop_jobs([tmp_path])
        assert os.waitpid(stranger, os.WNOHANG) == (0, 0), "it goes on"
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)
