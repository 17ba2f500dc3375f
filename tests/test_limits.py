"""What a container or a cluster lets a process take, read from a file system that is made up."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reid.limits import avoid_tiles, cores, free_memory

GIB = 2**30
#: What version 1 gives where there is no limit.
NONE_V1 = 9223372036854771712


def tree(root: Path, own: str, **files: object) -> Path:
    """`root` with /proc/self/cgroup as `own` and files below /sys/fs/cgroup, named with __ for /."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, content in files.items():
        folder, _, file = name.replace("__", "/").rpartition("/")
        path = root / "sys/fs/cgroup" / folder / file.replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 cores with 500 GiB free."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    memory = psutil.virtual_memory()._replace(available=500 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def test_without_limits_the_host_counts(tmp_path: Path) -> None:
    assert cores(tmp_path, {}) == 64
    assert free_memory(tmp_path, {}) == 500 * GIB


def test_a_container_of_version_2_sees_itself_as_the_top(tmp_path: Path) -> None:
    stat = f"anon {3 * GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\nshmem 0"
    root = tree(
        tmp_path, "0::/\n",
        cpu_DOT_max="400000 100000", memory_DOT_max=8 * GIB, memory_DOT_high="max",
        memory_DOT_current=5 * GIB, memory_DOT_stat=stat,
    )  # fmt: skip
    assert cores(root, {}) == 4
    # The pages of files are given back when somebody needs them.
    assert free_memory(root, {}) == 8 * GIB - 5 * GIB + GIB + GIB // 2


def test_the_narrowest_of_nested_groups_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path, "0::/slice/job/task\n",
        slice__cpu_DOT_max="300000 100000", slice__job__cpu_DOT_max="max 100000",
        slice__job__task__cpu_DOT_max="800000 100000",
        slice__memory_DOT_max="max", slice__memory_DOT_current=40 * GIB,
        slice__job__memory_DOT_max=16 * GIB, slice__job__memory_DOT_current=15 * GIB,
        slice__job__task__memory_DOT_max=8 * GIB, slice__job__task__memory_DOT_current=2 * GIB,
        other__memory_DOT_max=1, other__memory_DOT_current=1,
    )  # fmt: skip
    assert cores(root, {}) == 3
    assert free_memory(root, {}) == GIB


@pytest.mark.parametrize("mounted", ["memory__docker__abc__", "memory__"])
def test_version_1_in_its_own_folder_or_with_the_hosts_path(tmp_path: Path, mounted: str) -> None:
    """In a container without a namespace of its own, the path is the host's and its top is mounted."""
    files = {
        f"{mounted}memory_DOT_limit_in_bytes": 4 * GIB,
        f"{mounted}memory_DOT_usage_in_bytes": 3 * GIB,
        f"{mounted}memory_DOT_stat": f"active_file 7\ntotal_inactive_file {GIB}\ntotal_active_file 0",
        "cpu,cpuacct__cpu_DOT_cfs_quota_us": 250000,
        "cpu,cpuacct__cpu_DOT_cfs_period_us": 100000,
    }
    own = "11:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
    root = tree(tmp_path, own, **files)
    assert free_memory(root, {}) == 2 * GIB
    assert cores(root, {}) == 2


def test_version_1_without_limits(tmp_path: Path) -> None:
    root = tree(
        tmp_path, "4:memory:/\n3:cpu:/\n0::/\n",
        memory__memory_DOT_limit_in_bytes=NONE_V1, memory__memory_DOT_usage_in_bytes=3 * GIB,
        cpu__cpu_DOT_cfs_quota_us=-1, cpu__cpu_DOT_cfs_period_us=100000,
    )  # fmt: skip
    assert (cores(root, {}), free_memory(root, {})) == (64, 500 * GIB)


def test_less_than_a_core_is_one_and_more_than_the_limit_is_nothing(tmp_path: Path) -> None:
    root = tree(
        tmp_path, "0::/a\n",
        a__cpu_DOT_max="50000 100000", a__memory_DOT_max=GIB, a__memory_DOT_current=2 * GIB,
    )  # fmt: skip
    assert (cores(root, {}), free_memory(root, {})) == (1, 0)


def test_a_job_of_slurm_has_what_it_was_given(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "6"}
    own = psutil.Process().memory_info().rss
    assert cores(tmp_path, job) == 6
    assert cores(tmp_path, {"SLURM_CPUS_PER_TASK": "6"}) == 64  # left behind by a job that is over
    for limit, gib in (
        ({"SLURM_MEM_PER_NODE": "16384"}, 16),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "6"}, 12),
    ):
        assert free_memory(tmp_path, job | limit) == pytest.approx(gib * GIB - own, abs=64 * 2**20)
    # 0 is all of the machine's memory.
    assert free_memory(tmp_path, job | {"SLURM_MEM_PER_NODE": "0"}) == 500 * GIB
    assert free_memory(tmp_path, job) == 500 * GIB


def test_a_choice_of_the_user_stands() -> None:
    environment = {"ONEDNN_MAX_CPU_ISA": "SSE41"}
    avoid_tiles(environment)
    assert environment == {"ONEDNN_MAX_CPU_ISA": "SSE41"}
    unset: dict[str, str] = {}
    avoid_tiles(unset)
    assert unset == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}


#: A batch of bf16 into a map of one column, again and again, where freed memory is full of NaN.
STRIDED = """
from reid.limits import avoid_tiles
avoid_tiles()
import torch
from torch.nn.functional import conv2d
images, weights = torch.randn(8, 128, 4, 2).bfloat16(), torch.randn(256, 128, 3, 3).bfloat16() / 34
expected = conv2d(images.float(), weights.float(), stride=2, padding=1)
for _ in range(20):
    left_behind = [torch.full((size,), torch.nan) for size in (1_000, 30_000, 300_000, 2_000_000)]
    del left_behind
    found = conv2d(images, weights, stride=2, padding=1).float()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
"""


def test_bf16_is_right_on_a_map_of_one_column() -> None:
    """On a CPU with tile units it was NaN, or another number each time."""
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run([sys.executable, "-c", STRIDED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_command_keeps_off_the_tile_units(tmp_path: Path) -> None:
    """Strides into one column in each epoch, which diverged on such a CPU without it."""
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    words = [
        "experiment=quickstart", "dataset.preset=tiny", "image.height=32", "image.width=16", "epochs=2",
        "batch.identities=4", "tricks.warmup=1", "schedule.milestones=[1]", "precision=bf16",
        "eval.at_start=false", "device=cpu",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "reid.train", *words], env=environment | {"REID_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
