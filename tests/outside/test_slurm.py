"""Sweeps on a real Slurm: whatever ends a cell is said in words, and in the end each has run once."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside.slurm import Slurm, missing, slurm
from outside.sweeps_on_slurm import SLURM_WORDS, Command, Note, six, until

from experiments.faults.verdict import Numbers, judge
from reid.locks import FileLock, Timeout
from reid.sweeps.sweep_file import job_statuses


def test_every_cell_runs_once_whatever_happens(
    cluster: Slurm,
    tiny_data: Path,
    local: dict[str, Numbers],
    tmp_path: Path,
    noted: Note,
) -> None:
    """Two at a time; jobs cancelled, the controller restarted, the launcher killed, then interrupted."""
    words = [*six(tiny_data), *SLURM_WORDS, "hydra.launcher.array_parallelism=2"]
    command = Command(tmp_path / "home", words, cluster)
    command.start()
    array = command.wait_for(r"6 cells submitted as Slurm job (\d+)_\[0-5\], at most 2 at a time")
    cluster.run("scancel", f"{array}_4")  # in the queue
    until(lambda: (command.folder / "1" / "journal.jsonl").exists(), lambda: "the second cell trains")
    cluster.run("scancel", f"{array}_1")  # at work
    most = most_at_once(cluster, array)

    cluster.stop("slurmctld")
    command.wait_for("the Slurm controller does not answer: .*The jobs go on; waiting for it")
    cluster.start("slurmctld")
    command.wait_for("the Slurm controller answers again")

    assert command.process is not None
    command.process.send_signal(signal.SIGKILL)
    command.wait()
    command.start()
    command.wait_for(rf"with Slurm already, as job {array}_\S+: waiting for what is there")
    most = max(most, most_at_once(cluster, array))
    command.process.send_signal(signal.SIGINT)
    assert command.wait() == 130
    command.wait_for(r"going on without this command: \d cells?. The same command finds them again")
    assert cluster.run("squeue", "-h", "-r", "-t", "PD,R").strip(), "the jobs are still there"

    # The second start took up the two that had been cancelled by then, in an array of their own.
    code = command.run()
    again = [code]
    while code:
        assert "The same command goes on with them" in command.printed
        code = command.run()
        again.append(code)
        assert len(again) < 4, command.printed
    assert most <= 2
    verdict = judge(command.home, command.store, local)
    assert verdict.clean, verdict
    assert verdict.cells == 6
    assert "sacct" not in command.log.read_text()
    finished = [one for one in command.jobs if one.state == "COMPLETED"]
    assert {one.cell for one in finished} == set(range(6))
    seen(noted, "faults", cluster, command)


def most_at_once(cluster: Slurm, array: str) -> int:
    return len(cluster.run("squeue", "-h", "-r", "-t", "R", "-j", array, check=False).splitlines())


def test_a_cancelled_cell_is_named_and_the_same_command_finishes_it(
    cluster: Slurm,
    tiny_data: Path,
    local: dict[str, Numbers],
    tmp_path: Path,
    noted: Note,
) -> None:
    words = [*six(tiny_data)[:2], "seed=0,1", *SLURM_WORDS, "hydra.launcher.array_parallelism=1"]
    command = Command(tmp_path / "home", words, cluster)
    command.start()
    array = command.wait_for(r"2 cells submitted as Slurm job (\d+)_\[0-1\]")
    cluster.run("scancel", f"{array}_1")
    assert command.wait() == 1
    assert f"seed=1 is not finished: Slurm job {array}_1 was cancelled (scancel)" in command.printed
    assert (
        f"Missing: seed=1 (Slurm job {array}_1 was cancelled (scancel)). The same command" in command.printed
    )
    assert [job.status for job in job_statuses(command.folder)] == ["FINISHED", "KILLED"]
    assert command.run() == 0, command.printed
    verdict = judge(command.home, command.store, local)
    assert verdict.clean, verdict
    seen(noted, "scancel", cluster, command)


def test_a_cell_that_hits_its_time_limit_is_saved_put_back_and_goes_on(
    cluster: Slurm, tiny_data: Path, tmp_path: Path, noted: Note
) -> None:
    """Slurm's warning comes before the end of the minute; it looks at the clock every half a minute."""
    cell = [f"data.root={tiny_data}", "epochs=150", "eval.period=0", "seed=0"]
    alone = Command(tmp_path / "local", cell, None)
    assert alone.run() == 0, alone.printed
    limit = [
        "hydra.launcher.partition=short",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=20",
    ]
    command = Command(tmp_path / "home", [*cell, *SLURM_WORDS, *limit], cluster)
    assert command.run() == 0, command.printed
    (job,) = command.jobs
    restarts = re.search(r"Restarts=(\d+)", cluster.run("scontrol", "show", "job", job.job))
    assert restarts is not None
    assert int(restarts[1]) >= 1
    said = (command.folder / ".submitit" / job.job / f"{job.job}_0_log.out").read_text()
    assert re.search(r"resumed after epoch \d+, step \d+ of the next", said), said
    verdict = judge(command.home, command.store, alone.numbers())
    assert verdict.clean, verdict
    seen(noted, "time limit", cluster, command)


def test_a_cell_that_may_not_go_back_into_the_queue_says_so(
    cluster: Slurm, tiny_data: Path, tmp_path: Path
) -> None:
    cell = [f"data.root={tiny_data}", "epochs=1000", "eval.period=0", "seed=0"]
    command = Command(tmp_path / "home", [*cell, *SLURM_WORDS, "hydra.launcher.max_num_timeout=0"], cluster)
    command.start("hydra.launcher.timeout_min=1")
    job = command.wait_for(r"1 cell submitted as Slurm job (\d+)")
    until(lambda: (command.folder / "0" / "last.pt").exists(), lambda: "a checkpoint")
    cluster.run("scancel", "--signal=USR2", job)
    assert command.wait() == 1
    assert "seed=0 is not finished: " in command.printed
    assert "timed-out too many times" in command.printed


def test_a_cell_that_is_killed_for_memory_says_so_and_gets_more(
    cluster: Slurm,
    tiny_data: Path,
    local: dict[str, Numbers],
    tmp_path: Path,
    noted: Note,
) -> None:
    command = Command(tmp_path / "home", [*six(tiny_data)[:2], "seed=0", *SLURM_WORDS], cluster)
    assert command.run("hydra.launcher.mem_per_cpu=200M") == 1
    (job,) = command.jobs
    words = f"Slurm job {job.job} was killed for memory: hydra.launcher.mem_gb gives it more"
    assert f"seed=0 is not finished: {words}" in command.printed
    assert f"Missing: seed=0 ({words})" in command.printed
    assert command.run("hydra.launcher.mem_gb=2") == 0, command.printed
    verdict = judge(command.home, command.store, local)
    assert verdict.clean, verdict
    seen(noted, "memory", cluster, command)


def test_what_slurm_refuses_is_refused_before_anything_is_made(
    cluster: Slurm, tiny_data: Path, tmp_path: Path
) -> None:
    refused = {
        "hydra.launcher.partition=gpu": "invalid partition specified: gpu",
        "hydra.launcher.nodes=2": "Requested node configuration is not available",
    }
    for key, why in refused.items():
        command = Command(tmp_path / "home", [*six(tiny_data), *SLURM_WORDS, key], cluster)
        assert command.run() == 2, command.printed
        assert why in command.printed
        assert "Partitions here: main (at most infinite), short (at most 1:00)" in command.printed
        assert not list(command.home.glob("multirun/*")), "nothing was made"
    assert cluster.run("squeue", "-h").strip() == ""


def test_a_sweep_larger_than_an_array_is_cut(
    tiny_data: Path, local: dict[str, Numbers], tmp_path: Path, noted: Note
) -> None:
    if absent := missing():
        pytest.skip(f"SLURM IS NOT TESTED: {', '.join(absent)} not found")
    with slurm(MaxArraySize=4) as small:
        command = Command(tmp_path / "home", [*six(tiny_data), *SLURM_WORDS], small)
        too_many = command.run("hydra.sweeper.max_batch_size=5")
        assert too_many == 2, command.printed
        assert "this cluster takes at most 4 jobs at a time (MaxArraySize)" in command.printed
        assert command.run() == 0, command.printed
        assert re.search(r"4 cells submitted as Slurm job \d+_\[0-3\]", command.printed)
        assert re.search(r"2 cells submitted as Slurm job \d+_\[0-1\]", command.printed)
        verdict = judge(command.home, command.store, local)
        assert verdict.clean, verdict
        seen(noted, "MaxArraySize=4", small, command)


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two file systems of their own; the second one is seen at `again` too."""
    places = tmp_path / "home", tmp_path / "store"
    mounted = []
    try:
        for place in places:
            place.mkdir()
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "reid", str(place)])
            if done.returncode:
                pytest.skip("A SECOND MOUNT IS NOT TESTED: mount needs root")
            mounted.append(place)
        (tmp_path / "again").mkdir()
        subprocess.run(["mount", "--bind", str(places[1]), str(tmp_path / "again")], check=True)
        mounted.append(tmp_path / "again")
        yield places
    finally:
        for place in reversed(mounted):
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_home_and_store_on_mounts_of_their_own(
    cluster: Slurm,
    tiny_data: Path,
    local: dict[str, Numbers],
    mounts: tuple[Path, Path],
    tmp_path: Path,
    noted: Note,
) -> None:
    home, store = mounts
    words = [*six(tiny_data)[:2], "seed=0,1", *SLURM_WORDS, f"data.store={store}"]
    command = Command(home, words, cluster)
    assert command.run() == 0, command.printed
    verdict = judge(home, command.store, local)
    assert verdict.clean, verdict
    assert list(store.rglob("*.lock")), "the store was made there"
    with FileLock(store / "one.lock"), pytest.raises(Timeout):
        FileLock(tmp_path / "again" / "one.lock", timeout=0).acquire()
    seen(noted, "home and store on mounts of their own", cluster, command)


def seen(noted: Note, scene: str, cluster: Slurm, command: Command) -> None:
    """Note the jobs of a sweep, and how many of its cells have finished."""
    statuses = [job.status for job in job_statuses(command.folder)]
    noted(scene, cluster, command.jobs, (statuses.count("FINISHED"), len(statuses)))
