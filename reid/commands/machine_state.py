"""What of this machine the suite may use: cores, memory, disks, locks; and what the environment sets."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from reid.commands.findings import Finding, in_public, size
from reid.home import home
from reid.limits import cores, free_memory
from reid.tracking.machine import cpu_model
from reid.trust import TrustError, trusted_places

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Bytes below which a run is likely to fail, and below which it may.
LEAST_DISK, LITTLE_DISK = 2**30, 10 * 2**30
LEAST_MEMORY, LITTLE_MEMORY = 2**30, 4 * 2**30
#: File systems on which several machines see one file.
SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.sshfs", "9p")
#: Variables that change what the suite or a library does; those that begin so are listed too.
_WATCHED = (
    "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "TORCH_HOME", "HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HYDRA_FULL_ERROR",
    "PYTHONPATH", "PYTHONHASHSEED", "PYTHONNOUSERSITE", "WORLD_SIZE", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK",
    "SLURM_MEM_PER_NODE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "TMPDIR", "MPLBACKEND",
)  # fmt: skip
_WATCHED_BEGINNINGS = ("REID_", "MLFLOW_", "NCCL_", "TORCH_")
#: Values that say nothing of a person or a place.
_PLAIN = re.compile(
    r"[-+]?\d+(\.\d+)?|[\d,]+|true|false|yes|no|on|off|none|default|avx2|avx512|sse41|:\d+:\d+|agg"
    r"|info|warn|debug|version|expandable_segments:\w+|max_split_size_mb:\d+",
    re.IGNORECASE,
)
_SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|USERNAME|KEY|CREDENTIAL|AUTH", re.IGNORECASE)


def data_root() -> Path:
    """The folder of the data, as `data.root` has it."""
    return Path(os.environ.get("REID_DATA") or home() / "data").expanduser().absolute()


def places() -> dict[str, Path]:
    """The folders that the suite works in, by what the page calls them."""
    return {"project": home(), "data root": data_root(), "temporary files": Path(tempfile.gettempdir())}


def nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def machine() -> Iterator[Finding]:
    """Cores and memory that are really this process's."""
    ours, all_cores = cores(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    text = f"{ours} of {all_cores} may be used, load {load:.1f}; {cpu_model()}"
    if ours < all_cores:
        text += ". Affinity, a control group or Slurm holds the rest back"
    busy = load > 1.5 * all_cores
    if busy:
        yield Finding("cores", f"{text}. Others compute here too, so runs take longer", "note")
    else:
        yield Finding("cores", text)
    free, total = free_memory(), int(psutil.virtual_memory().total)
    text = f"{size(free)} free of {size(total)}"
    if free < LEAST_MEMORY:
        yield Finding(
            "memory", text, "problem", "end other programs, or ask for more: a run takes 2 GiB or more"
        )
    else:
        yield Finding("memory", text, "note" if free < LITTLE_MEMORY else "ok")


def disks() -> Iterator[Finding]:
    """What is free where the suite writes."""
    for name, folder in places().items():
        there = nearest(folder)
        free = shutil.disk_usage(there).free
        kind = file_system(there)
        text = f"{name}: {size(free)} free" + (f" ({kind})" if kind else "")
        text += "" if there == folder else "; the folder is not there yet"
        if free < LEAST_DISK:
            remedy = "make room: python -m reid.clean shows what the suite's own files take"
            yield Finding("disk", text, "problem", remedy)
        else:
            yield Finding("disk", text, "note" if free < LITTLE_DISK else "ok")


def file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on, such as ext4 or nfs4; "" where it is not known."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        place, found = line.split(" ")[1:3]
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place)
        if folder.is_relative_to(place) and len(place) > best:
            best, kind = len(place), found
    return kind


def is_shared(folder: Path) -> bool:
    """Whether several machines may see this folder."""
    return file_system(nearest(folder)).startswith(SHARED)


def locks() -> Iterator[Finding]:
    """Whether locks on files work where runs and stores are kept."""
    advice = (
        "on NFS let its lock service run (no option nolock), or put the outputs on another disk with "
        "REID_HOME=… (stores of images: data.store=…)"
    )
    for name, folder in places().items():
        if name == "temporary files":
            continue
        there = nearest(folder)
        try:
            answer = _lock_twice(there)
        except PermissionError:
            if name == "project":
                remedy = "choose a folder that you may write with REID_HOME=…"
                yield Finding("locks", f"the {name} cannot be written to", "problem", remedy)
            else:
                text = f"the {name} cannot be written to: image stores need another place"
                yield Finding("locks", text, "note", "set data.store=… to a folder that you may write")
            continue
        except OSError as error:
            text = f"no lock can be had at the {name}: {error.strerror or error}"
            yield Finding("locks", in_public(text), "problem", advice)
            continue
        if answer:
            yield Finding("locks", f"{name}: they work, a second process is kept off")
        else:
            text = f"two processes get one lock at the {name}, so that it keeps nobody off"
            yield Finding("locks", text, "problem", advice)


def _lock_twice(folder: Path) -> bool:
    """Whether a lock that is held is refused to another; the file for it is gone again at once.

    Raises:
        OSError: the folder takes no file, or its file system gives no locks.
    """
    if fcntl is None:
        return True
    handle, name = tempfile.mkstemp(prefix=".reid-doctor-", dir=folder)
    try:
        other = os.open(name, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return True
                raise
            return False
        finally:
            os.close(other)
    finally:
        os.close(handle)
        os.unlink(name)


def environment(variables: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Variables that change what happens; values that may name a place or a person are not shown."""
    shown = []
    for name in sorted(variables):
        if name in _WATCHED or name.startswith(_WATCHED_BEGINNINGS):
            shown.append(f"{name}={_public_value(name, variables[name])}")
    yield Finding("variables", ", ".join(shown) if shown else "none is set that changes anything")
    threads = variables.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) != cores():
        how = "fewer" if int(threads) < cores() else "more"
        yield Finding(
            "threads", f"OMP_NUM_THREADS={threads}: PyTorch has {how} threads than cores", "note",
            "unset it, unless the numbers shall be those of that many threads",
        )  # fmt: skip
    if variables.get("REID_TRUST"):
        count = len([name for name in variables["REID_TRUST"].split(",") if name.strip()])
        text = f"code of {count} packages of yours may be run (REID_TRUST)"
        try:
            trusted_places()
        except TrustError as error:
            remedy = "install it, or leave it out of REID_TRUST: no command starts without it"
            yield Finding("trust", f"{text}; {in_public(error)}", "problem", remedy)
        else:
            yield Finding("trust", text, "note")


def _public_value(name: str, value: str) -> str:
    if value == "":
        return "(empty)"
    if _SECRET.search(name):
        return "(set)"
    if _PLAIN.fullmatch(value):
        return value
    if "://" in value:
        scheme = value.partition("://")[0]
        return f"({scheme} address)" if re.fullmatch(r"[a-z][a-z0-9+]*", scheme) else "(address)"
    return "(folder)" if "/" in value else "(set)"
