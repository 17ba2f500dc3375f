"""Checkpoints: tensors and plain JSON, written whole or not at all, read without running any code."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class CheckpointError(ValueError):
    """The file is not there, not a checkpoint of this suite, or not of this run."""


@dataclass(frozen=True)
class Checkpoint:
    """`model` is a state dict; `meta` plain JSON data (see `reid.train`); `training` what a resume needs.

    `training` holds the state dicts `optimizer`, `metric_loss` and `loss_optimizer` (empty where the loss
    learns nothing or brings no optimizer), `scaler` (of a run in fp16 alone), `rng` (of torch;
    `rng_of_others`, of further ranks) and `totals` (of an epoch cut short); it is empty in a file that holds
    the model alone.
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
            _write(content, handle, path)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _write(content: dict[str, Any], handle: Any, path: Path) -> None:
    try:
        torch.save(content, handle)
    except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
        raise OSError(f"{path} could not be written: {str(error).splitlines()[0]}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint of this suite; only tensors and plain data are ever unpickled.

    Raises:
        CheckpointError: no such file, or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path.absolute()}: expected a file that reid.train wrote")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        meta = json.loads(content["meta"])
        version, model, training = content["format"], content["model"], content["training"]
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise CheckpointError(
            f"{path} is not a checkpoint of this suite ({type(error).__name__}): expected last.pt or "
            "model.pt of a run. A file of bare weights goes to backbone.weights=…"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, this version reads {FORMAT}: use the version that wrote it"
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
