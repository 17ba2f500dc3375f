"""What this process may take of its machine: cores and memory, by affinity, control groups and Slurm.

A container or a job of a cluster sees all cores and all memory of its host, and may use a part of them: what
takes more is slowed down, or killed without a word.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import psutil

_MIB = 2**20
#: Of the kernel's counters of a control group, what it gives back by itself: pages of files.
_RECLAIMED = {"inactive_file", "active_file", "total_inactive_file", "total_active_file"}


def cores(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """How many cores this process may use: the least of its affinity, its control groups' quota and Slurm's.

    A quota of one and a half cores counts as one: a second thread would be held up half of the time.
    root, environment: another file system and environment, for tests.
    """
    known = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for folder in _groups(root, "cpu"):
        quota = _quota(folder)
        if quota is not None:
            known.append(int(quota))
    if "SLURM_JOB_ID" in environment:
        known.append(_whole(environment.get("SLURM_CPUS_PER_TASK")) or known[0])
    return max(1, min(known))


def free_memory(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """The bytes of memory that this process can still get: the least of what the host, each control group
    that it is in, and its Slurm job leave it."""
    known = [int(psutil.virtual_memory().available)]
    for folder in _groups(root, "memory"):
        limit, used = _limit(folder), _used(folder)
        if limit is not None and used is not None:
            known.append(limit - used)
    job = _slurm_memory(environment)
    if job is not None:
        known.append(job - psutil.Process().memory_info().rss)
    return max(0, min(known))


def avoid_tiles(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep oneDNN off a CPU's tile units (AMX), unless the user has chosen what it may use.

    oneDNN 3.12, which torch 2.14 holds, reads memory that nobody has written where it convolves bfloat16
    with a stride into a map of one column: the same call gives NaN once and another number the next time. In
    float32 no bit changes. For a command's own process, before its first computation: oneDNN reads it once.
    """
    environment.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, from its own up to the top of what it sees.

    In a container the path that the kernel names may be the host's, and only its top is mounted.
    """
    mounted = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if not names:
            tops = [mounted, mounted / "unified"]  # version 2, alone or beside version 1
        elif controller in names.split(","):
            tops = [mounted / names, mounted / controller]
        else:
            continue
        for top in dict.fromkeys(tops):
            below = Path(path.lstrip("/"))
            yield from (top / part for part in (below, *below.parents) if (top / part).is_dir())


def _quota(group: Path) -> float | None:
    """The cores' worth of time that a control group gets; None without a limit."""
    spent = (_read(group / "cpu.max") or "").split()
    if len(spent) != 2:
        spent = [_read(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    quota, period = (_whole(word) for word in spent)
    return quota / period if quota and period else None


def _limit(group: Path) -> int | None:
    limits = [_whole(_read(group / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None), default=None)


def _used(group: Path) -> int | None:
    """The bytes that a control group holds and would not give back."""
    used = _whole(_read(group / "memory.current"))
    if used is None:
        used = _whole(_read(group / "memory.usage_in_bytes"))
    if used is None:
        return None
    counters = [line.split() for line in (_read(group / "memory.stat") or "").splitlines()]
    held = {words[0]: int(words[1]) for words in counters if len(words) == 2 and words[0] in _RECLAIMED}
    # Version 1 has each counter twice, once with those of the groups below, which `used` contains.
    whole = {name: value for name, value in held.items() if name.startswith("total_")}
    return max(0, used - sum((whole or held).values()))


def _slurm_memory(environment: Mapping[str, str]) -> int | None:
    """The bytes that Slurm gave the job on this machine; it says 0 for all that the machine has."""
    if "SLURM_JOB_ID" not in environment:
        return None
    a_node = _whole(environment.get("SLURM_MEM_PER_NODE"))
    if a_node is None:
        a_core, on_node = (environment.get(f"SLURM_{name}") for name in ("MEM_PER_CPU", "CPUS_ON_NODE"))
        a_node = (_whole(a_core) or 0) * (_whole(on_node) or 0)
    return a_node * _MIB or None


def _whole(word: str | None) -> int | None:
    """A number of digits; None for `max`, -1 and whatever else means none."""
    return int(word) if word is not None and word.isdecimal() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
