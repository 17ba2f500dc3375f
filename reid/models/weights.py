"""Weight files: find or download one, read its tensors without running code, load them into a backbone."""

from __future__ import annotations

import argparse
import errno
import hashlib
import logging
import re
import socket
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import URLError

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from reid.models.matching import WeightReport, backbone_tensors, compare, explain_misfit
from reid.models.trunk import Backbone, ImagenetFile
from reid.models.weight_file import WeightsError, check_weights

_log = logging.getLogger(__name__)
#: How many times its own size a zip file may unpack to.
MOST_UNPACKED = 50
_NETWORK_TIMEOUT = 10.0  # seconds, for each connection and each read
#: What training programs keep a state dict under, and beside it its exponential moving average.
_TRAINED = ("state_dict", "model", "student")
_TEACHER = "teacher"
_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", _TEACHER)
_BYTEARRAY = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
_CALLED = re.compile(r"GLOBAL ([\w.]+)")


class UnsafeFileError(WeightsError):
    """Reading the file would run code that it names: it pickles more than tensors and plain values."""


def load_weights(backbone: Backbone, weights: str, ema: bool | None = False) -> WeightReport:
    """Load weights into a backbone, in place, and report what matched; also kept as `.weight_report`.

    weights: `none` (leave it as it is), `imagenet` (the published file, downloaded once into torch's hub
        folder, its hash checked where one is published) or the path of a file: a state dict as saved by
        torch.save or safetensors, bare or under `state_dict` or `model`, of a backbone or of a model
        that holds one under `backbone.`, `base.`, `image_encoder.` or `encoder_q.`, with or without
        `module.`, `_orig_mod.` and a classifier.
    ema: of a file that holds trained weights and their moving average (`state_dict_ema`, `model_ema`), take
        the average. None takes the average of a file of a student and its `teacher` alone, as
        self-distillation (DINO, iBOT) publishes it. The report says which was taken.

    Raises WeightsError, in words that name the way out, when the file is missing, cannot be downloaded,
    holds more than tensors and plain values, or when less than 90 % of the backbone's tensors, or of the
    file's, match in name and shape.
    """
    own = backbone.state_dict()
    if weights == "none":
        backbone.weight_report = compare(own, {}, source="none", notes=backbone.notes)
        return backbone.weight_report
    if weights == "imagenet":
        file = _imagenet_file(backbone)
        path, source = _fetch_imagenet(backbone), file.hub or file.url
    else:
        path = Path(weights).expanduser().absolute()
        source = str(path)
    stored, sha256, held = read_weights(path, ema)
    if weights == "imagenet":
        _check_hash(path, sha256, _imagenet_file(backbone).sha256)
    from_file, rest = backbone_tensors(stored)
    dropped, notes = tuple(rest), (*held.notes("backbone.ema=true"), *backbone.notes)
    if backbone.adapt is not None:
        from_file, left_out, changes = backbone.adapt(backbone, from_file)
        dropped, notes = (*dropped, *left_out), (*changes, *notes)
    report = compare(own, from_file, source, sha256, dropped, notes=notes)
    if not report.fits:
        raise WeightsError(explain_misfit(report, backbone.name, own, from_file))
    fitting = {name: t for name, t in from_file.items() if name in own and t.shape == own[name].shape}
    refuse_not_finite(fitting, source)
    backbone.load_state_dict(fitting, strict=False)
    backbone.weight_report = report
    _log.info("%s", report.describe())
    return report


class Held(NamedTuple):
    """Of a file with an exponential moving average: which state dict was `taken`, which is `beside` it."""

    taken: str = ""
    beside: str = ""

    def notes(self, how: str) -> tuple[str, ...]:
        """What a report says of it; `how` takes the average."""
        if not self.taken:
            return ()
        other = f", not {self.beside}" if self.beside else ""
        return (f"taken: {self.taken}{other}{f' ({how} takes that)' if self.beside in _EMA else ''}",)


def read_weights(path: Path, ema: bool | None = False) -> tuple[dict[str, Tensor], str, Held]:
    """Read the named tensors of a weight file onto the CPU, the SHA-256 of its bytes, and which were taken.

    Dicts under `state_dict` or `model`, or one under the other, are unwrapped; with `ema`, those under
    `state_dict_ema` or `model_ema`; None takes a `teacher`. Nothing but tensors and plain values is
    unpickled.

    Raises WeightsError when there is no such file, or when it cannot be read so, or holds no named tensor.
    """
    check_weights(str(path))
    refuse_damaged(path)
    sha256 = file_sha256(path)
    with path.open("rb") as file:
        tensors, held = held_tensors(_parse(path, file), path, ema)
    return tensors, sha256, held


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """`read_weights` of a file of one state dict: the tensors and the SHA-256."""
    return read_weights(path)[:2]


def refuse_damaged(path: Path) -> None:
    """Raise WeightsError where the checksums of a torch zip file do not fit, or it would fill the memory."""
    if harm := bomb(path):
        raise WeightsError(f"{path} {harm}, as no file of weights does. Fetch it again.")
    if damaged := damaged_member(path):
        raise WeightsError(
            f"{path} is damaged: the checksum of its part {damaged} does not fit its bytes. Fetch it again."
        )


def refuse_not_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise WeightsError where tensors hold NaN or infinity: every feature would."""
    if bad := not_finite(tensors):
        raise WeightsError(
            f"{source}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity ({', '.join(bad[:3])}). "
            f"Take a file from before that training diverged."
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def held_tensors(content: object, path: Path, ema: bool | None = False) -> tuple[dict[str, Tensor], Held]:
    """The tensors of a state dict, bare or under `state_dict` or `model`, or one under the other; `ema`: the
    moving average beside it.

    Raises WeightsError, naming the file, where there are none.
    """
    content, held = _unwrap(content, ema)
    if ema and held.taken not in _EMA:
        raise WeightsError(
            f"{path} holds no moving average (EMA) of weights: looked for {', '.join(_EMA)}. Without "
            "that wish the weights that are there are taken."
        )
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a dict from names to tensors.")
    tensors = {k: value for k, value in content.items() if isinstance(k, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise WeightsError(
            f"{path} holds no named tensor (it holds {keys}); expected a state dict, bare or under "
            f"`state_dict` or `model`."
        )
    return tensors, held


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a program with its weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError):
        return False


def _parse(path: Path, file: BinaryIO) -> object:
    if is_script(path):
        raise UnsafeFileError(
            f"{path} is a TorchScript archive, a program with its weights, as OpenAI publishes CLIP. Take "
            f"the weights out of it by `python -m reid.convert {path} -o OUT --trust`, which does not run "
            "the program."
        )
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(file.read())
        # The options of a training, which DINO and iBOT keep beside the weights: a container of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged or hostile bytes: the parsers raise whatever they stumble upon.
        named = _CALLED.search(str(error))
        if named:
            raise UnsafeFileError(
                f"{path} was refused: reading it would call {named[1]}, and only tensors and plain values "
                f"are read from weight files. Save the network's state_dict() alone and give that, or, where "
                f"the file is trusted, make a safe one by `python -m reid.convert {path} -o OUT --trust`."
            ) from None
        raise WeightsError(
            f"{path} cannot be read as a weight file of torch or safetensors: it is damaged, of another "
            f"kind, or holds more than tensors and plain values ({_first_line(error)})."
        ) from None


def _unwrap(content: object, ema: bool | None, levels: int = 2) -> tuple[object, Held]:
    """What lies under the keys of training programs, and which of several was taken."""
    if levels == 0 or not isinstance(content, Mapping):
        return content, Held()
    trained, average = (
        next((key for key in keys if isinstance(content.get(key), Mapping)), "") for keys in (_TRAINED, _EMA)
    )
    prefers_average = average == _TEACHER if ema is None else ema
    taken = average or trained if prefers_average else trained or average
    if not taken:
        return content, Held()
    inner, held = _unwrap(content[taken], ema, levels - 1)
    return inner, Held(taken, trained if taken == average else average) if average else held


def _imagenet_file(backbone: Backbone) -> ImagenetFile:
    if backbone.imagenet is None:
        raise WeightsError(
            f"No ImageNet weight file is known for backbone.name={backbone.name}. "
            f"Give backbone.weights=/path/to/file or backbone.weights=none."
        )
    return backbone.imagenet


def _fetch_imagenet(backbone: Backbone) -> Path:
    """Path of the published file in torch's hub folder, which torchvision shares; downloaded if not there."""
    file = _imagenet_file(backbone)
    if file.hub:
        return _fetch_from_hub(backbone.name, file)
    target = Path(torch.hub.get_dir(), "checkpoints", file.name).absolute()
    if target.is_file():
        return target
    _log.info("downloading %s to %s", file.url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(_NETWORK_TIMEOUT):
            torch.hub.download_url_to_file(
                file.url, str(target), hash_prefix=file.sha256 or None, progress=sys.stderr.isatty()
            )
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: torch's for a wrong hash
        cause = error.reason if isinstance(error, URLError) else error
        raise WeightsError(
            f"backbone.weights=imagenet: the file of backbone.name={backbone.name} could not be downloaded "
            f"from\n  {file.url}\n"
            f"({_first_line(cause)}). If this machine is offline, either\n"
            f"  - put that file at {target} (TORCH_HOME moves that folder), or\n"
            f"  - give backbone.weights=/path/to/file, or\n"
            f"  - give backbone.weights=none to start from random weights."
        ) from None
    return target


def _fetch_from_hub(name: str, file: ImagenetFile) -> Path:
    """Path of the file in the Hugging Face hub's cache, which timm shares; downloaded if not there."""
    # Timm's; networks of our own never need it.
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(file.hub, file.name)
    if isinstance(cached, str):  # without asking the hub first, which takes half a minute where there is none
        return Path(cached)
    try:
        return Path(hf_hub_download(file.hub, file.name))
    except Exception as error:  # The hub's client raises the errors of several libraries, and its own.
        raise WeightsError(
            f"backbone.weights=imagenet: the file of backbone.name={name} could not be downloaded "
            f"from\n  {file.url}\n"
            f"({_first_line(error)}). If this machine is offline, either\n"
            f"  - copy the hub's cache folder models--{file.hub.replace('/', '--')} from another machine "
            f"into {constants.HF_HUB_CACHE} (HF_HOME moves that folder), or\n"
            f"  - give backbone.weights=/path/to/that/file, or\n"
            f"  - give backbone.weights=none to start from random weights."
        ) from None


def _check_hash(path: Path, sha256: str, expected: str) -> None:
    """Files in the hub folder may have been put there by hand, or cut short by a full disk."""
    if not sha256.startswith(expected):
        raise WeightsError(
            f"{path} is not the published file: its sha256 is {sha256}, expected {expected}"
            f"{'…' if len(expected) < len(sha256) else ''}. Delete it, to have it downloaded again, "
            f"or put the right file there."
        )


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound the waiting of sockets opened inside; torch's downloader takes no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: object) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


# ---- whether a file holds what was written, and tensors hold numbers


def damaged_member(path: Path) -> str | None:
    """The first part of a torch zip file whose bytes do not fit its checksum, which torch never compares.

    None: all do, or the file is no zip. What cannot be walked through as a zip is left to torch to refuse.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zlib.error:
        return "that is compressed"
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a seek to a wrong offset in the list
            raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError):
        pass
    return "the list of its parts" if _is_zip(path) else None


def bomb(path: Path) -> str | None:
    """What a file would do to fill the memory, in words; None where it does nothing of the kind.

    torch packs nothing, so a file of its own unpacks to less than its size; and its safe reader calls
    `bytearray`, of any size, which no file of tensors does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked, size = sum(part.file_size for part in archive.infolist()), path.stat().st_size
            if unpacked > MOST_UNPACKED * size:
                return f"would unpack to {unpacked:,} bytes, from {size:,}"
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, zlib.error):
        if _is_zip(path):
            return None  # `damaged_member` says what it is
        pickles = [path.read_bytes()]
    return "would make an array of any size" if any(map(_BYTEARRAY.search, pickles)) else None


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it says of itself that it spans several disks
        return True


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity."""
    # A sum is not finite where an element is not, and takes a twentieth of the time of looking at each.
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not bool(tensor.sum().isfinite())
        and not bool(tensor.isfinite().all())
    ]
