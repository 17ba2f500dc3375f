"""The tensors of a file that holds a whole network, read in a process of its own.

Such a file (`torch.save(model)`, `torch.jit.save(model)`) names classes and functions that reading it would
call. Here every name but those that make tensors and plain containers stands for an empty class, so that
neither the file's code is run nor its classes need be there; the tensors are then gathered from what torch's
modules are made of.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from reid.models.weights import Held, WeightsError, held_tensors, is_script, read_tensors, refuse_damaged

#: All that a pickle may really call. `__builtin__` is what the pickles of old protocols call `builtins`.
_HARMLESS = frozenset({
    ("collections", "OrderedDict"),
    *((module, name) for module in ("__builtin__", "builtins") for name in ("set", "frozenset")),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    *(("torch._utils", f"_rebuild_{what}") for what in ("tensor", "tensor_v2", "parameter")),
    ("torch._utils", "_rebuild_parameter_with_state"),
})  # fmt: skip


def read_trusted(path: Path, ema: bool = False) -> tuple[dict[str, Tensor], Held]:
    """The named tensors of a file that pickles more than tensors, through a process of its own.

    Which were taken, and `ema`, are as in `read_weights`.

    Raises WeightsError when it cannot be read, or holds neither a network nor named tensors.
    """
    with TemporaryDirectory() as folder:
        gathered = Path(folder) / "tensors.safetensors"
        child = subprocess.run(
            [
                sys.executable,
                "-m",
                "reid.models.unpickle",
                str(path.absolute()),
                str(gathered),
                *(["ema"] * ema),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode != 0:
            lines = child.stderr.strip().splitlines() or [f"the process ended with {child.returncode}"]
            raise WeightsError(f"{path} could not be read with --trust either: {lines[-1]}")
        return read_tensors(gathered)[0], Held(*json.loads(child.stdout))


class StandIn:
    """What a class or function of the file becomes: takes anything, calls nothing, keeps attributes."""

    # Read by torch where a file of its format before 1.6 keeps the source of a class, here another one.
    dump_patches = False

    def __new__(cls, *_: object, **__: object) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)

    def _ignore(self, *_: object) -> None:
        pass

    # What a pickle fills lists, sets and dicts with, here those of other classes.
    append = extend = add = __setitem__ = _ignore


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in _HARMLESS else StandIn


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def _pickle_module() -> ModuleType:
    """Stands in for the module `pickle` in torch.load."""
    module: Any = ModuleType("reid_pickle")
    module.Unpickler, module.load = _Unpickler, _load
    return module


def gather(path: Path) -> dict[str, Tensor]:
    """The named tensors of the network that a file holds, bare or under `state_dict` or `model`."""
    return _gather(path, ema=False)[0]


def _gather(path: Path, ema: bool) -> tuple[dict[str, Tensor], Held]:
    refuse_damaged(path)
    if is_script(path):
        return dict(_script_state(_read_script(path))), Held()
    content = torch.load(path, map_location="cpu", pickle_module=_pickle_module(), weights_only=False)
    return held_tensors(_plain(content), path, ema)


def _read_script(path: Path) -> StandIn:
    """The network of a TorchScript archive (OpenAI publishes CLIP as one), its program left alone."""
    reader = torch._C.PyTorchFileReader(str(path))
    network = torch.serialization._load(reader, torch.device("cpu"), _pickle_module())
    if not isinstance(network, StandIn):
        raise WeightsError(f"{path} holds a {type(network).__name__}; expected a network.")
    return network


def _script_state(module: StandIn, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a network that such an archive holds: its tensors are plain attributes."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, StandIn):
            yield from _script_state(value, f"{prefix}{name}.")


def _plain(content: object) -> object:
    """With every network as the dict of its tensors."""
    if isinstance(content, StandIn) and "_modules" in vars(content):
        return dict(_state(content))
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return content


def _state(module: StandIn, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors as the state_dict() of a torch module lists them."""
    own = vars(module)
    for table in ("_parameters", "_buffers"):
        for name, tensor in own.get(table, {}).items():
            if isinstance(tensor, Tensor) and name not in own.get("_non_persistent_buffers_set", ()):
                yield prefix + name, tensor
    for name, child in own["_modules"].items():
        if isinstance(child, StandIn):
            yield from _state(child, f"{prefix}{name}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather the tensors of the first file into the second, of safetensors, and print which were taken.

    Exit code 1: that failed.
    """
    source, target, *ema = sys.argv[1:] if arguments is None else arguments
    try:
        tensors, held = _gather(Path(source), bool(ema))
        # Copies, since safetensors refuses tensors that share memory.
        save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, target)
    except Exception as error:  # damaged or hostile bytes: anything may come
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1
    print(json.dumps(held))
    return 0


if __name__ == "__main__":
    sys.exit(main())
