"""The packages beside the suite's own that the user trusts: the environment names them, nothing else does.

`REID_TRUST=mypackage` (several: separated by commas) lets a config name heads, losses, optimizers and
schedules (`_target_`), datasets (`name: mypackage.data.mine`) and backbones (`name: mypackage.nets.mine`) of
that package, and adds its folder `conf` to the choices. A config, an override or a checkpoint cannot: to name
code is to run it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

VARIABLE = "REID_TRUST"
HINT = (
    f"Code of your own is trusted by {VARIABLE}=<its package> in the environment "
    "(reid/README.md, Adding a choice)"
)


class TrustError(ValueError):
    """What was named is not trusted, or is not there."""


def trusted_packages() -> tuple[str, ...]:
    """The packages that are trusted.

    Raises:
        TrustError: the variable holds something else than names of packages.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise TrustError(f"{VARIABLE}: {name!r} is no name of a package, such as mypackage or my.package")
    return tuple(names)


def is_trusted(path: str) -> bool:
    """Whether a dotted path lies in a package that is trusted."""
    return any(path.startswith(f"{package}.") for package in trusted_packages())


def trusted_function(path: str, what: str) -> Callable[..., Any]:
    """The function or class that a dotted path names, defined in a package that is trusted.

    what: the key and its value, for messages.

    Raises:
        TrustError: it is not trusted, or there is no such thing.
    """
    if not is_trusted(path):
        raise TrustError(f"{what} lies in no package that is trusted. {HINT}")
    module, _, name = path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TrustError(
            f"{what}: there is no {path} ({error}). Its package has to be installed, or found by PYTHONPATH"
        ) from error
    # What a trusted module has only imported, such as `os.system`, is not its own.
    if not callable(found) or not is_trusted(f"{getattr(found, '__module__', '')}."):
        raise TrustError(f"{what}: {path} is no class or function of a package that is trusted. {HINT}")
    return found


def trusted_places() -> list[Path]:
    """The folders of the trusted packages, and the files of those that are one module; their code is not run.

    Raises:
        TrustError: a package cannot be found.
    """
    places = []
    for package in trusted_packages():
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):  # ValueError: it is loaded, and no package, such as __main__
            spec = None
        if spec is None:
            raise TrustError(f"{VARIABLE}={package}: it is not installed, and PYTHONPATH does not lead to it")
        file = [str(spec.origin)] if spec.has_location else []
        places += [Path(place) for place in spec.submodule_search_locations or file]
    return places


def trusted_choices() -> list[Path]:
    """The folders `conf` of the trusted packages that have one. Raises what `trusted_places` raises."""
    return [place / "conf" for place in trusted_places() if (place / "conf").is_dir()]
