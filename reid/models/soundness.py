"""Whether a file of tensors holds what was written, and tensors hold numbers."""

import errno
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


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
