"""Checkpoints: tensors and plain JSON, written whole or not at all, read without running any code."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reid.engine.checkpoint_meta import MetaError, check_meta, check_tensors
from reid.engine.errors import CheckpointError as CheckpointError
from reid.models.weights import bomb, damaged_member

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """`model` is a state dict, `meta` plain JSON (see `checkpoint_meta`), `training` what a resume needs.

    `training` holds the state dicts `optimizer`, `metric_loss` and `loss_optimizer` (empty where the loss
    learns nothing or brings no optimizer), `scaler` (of a run in fp16 alone), `distillation` (of a run with a
    teacher alone), `rng` (of torch; `rng_of_others`, of further processes) and `totals` (of an epoch cut
    short).  It is empty in a file that holds the model alone.  Where a moving average of the weights is kept,
    `model` is that average in every file, so that each command uses what was judged; `trained_model` is the
    state dict of the weights that the optimizer goes on from, and `averaged_moves` counts what has gone into
    the average.
    """

    model: Mapping[str, torch.Tensor]
    meta: dict[str, Any]
    training: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary file, flush it to the disk, then rename: a kill leaves the old file or the new.

    Raises:
        OSError: the disk is full, …; the file that was there before is untouched.
    """
    content = {
        "format": FORMAT,
        "meta": json.dumps(checkpoint.meta),
        "model": dict(checkpoint.model),
        "training": dict(checkpoint.training),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            torch.save(content, handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    # A full disk is a RuntimeError of torch's zip writer, which names a line of its own source.
    except (OSError, RuntimeError) as error:
        raise _unwritten(path, content, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _unwritten(path: Path, content: dict[str, Any], error: Exception) -> OSError:
    """What to say where a checkpoint could not be written: which, why, and how much room it needs."""
    needed = sum(tensor.nbytes for tensor in _tensors(content)) / 2**20
    why = error.strerror if isinstance(error, OSError) else None
    try:
        free = shutil.disk_usage(path.parent).free / 2**20
    except OSError:
        room = ""
    else:
        room = f", and {free:,.1f} MiB are free there"
        why = why or (os.strerror(errno.ENOSPC) if free < needed else "the disk refused it")
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    return OSError(number, f"could not be written ({why}): it needs {needed:,.1f} MiB{room}", str(path))


def _tensors(content: object) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    parts = content.values() if isinstance(content, Mapping) else content
    return (
        [tensor for part in parts for tensor in _tensors(part)]
        if isinstance(parts, Iterable) and not isinstance(parts, str)
        else []
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint of this suite, and compare all that it says of itself and its tensors with the table.

    Raises:
        CheckpointError: no such file, or not such a file, a damaged one, one that says of itself what cannot
            be, or whose weights are not finite.
    """
    checkpoint = read_checkpoint(path, device)
    try:
        check_meta(checkpoint.meta)
        check_tensors(checkpoint.model, checkpoint.meta)
    except MetaError as error:
        raise CheckpointError(
            f"{path} cannot be used as a checkpoint: {error}. It was changed after it was written, or comes "
            "from another program: take another one, or train again"
        ) from error
    return checkpoint


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The same, whatever it says of itself.  Only tensors and plain data are ever unpickled.

    Every member's checksum is compared, which takes 0.06 s for 100 MB.

    Raises:
        CheckpointError: no such file, not such a file, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path.absolute()}: expected a file that reid.train wrote")
    if harm := bomb(path):
        raise CheckpointError(f"{path} {harm}, as no checkpoint does: take another one")
    if damaged := damaged_member(path):
        raise CheckpointError(
            f"{path} is damaged: the checksum of its part {damaged} does not fit its bytes. Take a copy of "
            "it, or train again"
        )
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        meta = json.loads(content["meta"])
        version, model, training = content["format"], content["model"], content["training"]
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise CheckpointError(
            f"{path} is not a checkpoint of this suite ({type(error).__name__}): expected last.pt or "
            "model.pt of a run. A file of bare weights goes to backbone.weights=…"
        ) from error
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}, this version reads {FORMAT}: use the version that wrote it"
        )
    return Checkpoint(model, meta, training)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's global generators, for `restore_rng`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Put the global generators where they were."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
