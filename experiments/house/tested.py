"""The exact versions of all that the tests ran with, as a file that pip installs from.

    python -m experiments.house.tested            prints them
    make lock                                     writes them to requirements-tested.txt
    make install-tested                           installs from it

They are those of the environment that this runs in: the project with its extra `dev`, and whatever that
needs, as the installed packages themselves say it. What else lies in the environment is left out. The file
names packages and versions alone, no place to fetch them from.
"""

import platform
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-tested.txt"
PROJECT = "reid-suite"


class MissingPackageError(Exception):
    """What the project needs is not installed, or in a version that it does not take."""


def wanted(extras: Iterable[str] = ("dev",), pyproject: Path = ROOT / "pyproject.toml") -> list[Requirement]:
    """The project's own requirements with those of some extras, which may name further extras of it."""
    project = tomllib.loads(pyproject.read_text())["project"]
    found, left, seen = list(project["dependencies"]), list(extras), set[str]()
    while left:
        extra = left.pop()
        if extra not in seen:
            seen.add(extra)
            for text in project["optional-dependencies"][extra]:
                own = Requirement(text)
                if canonicalize_name(own.name) == PROJECT:
                    left += own.extras
                else:
                    found.append(text)
    return [Requirement(text) for text in found]


def versions(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Name -> installed version of these packages and of all that they need here, by name.

    Raises:
        MissingPackageError: one is not installed, or not in a version that is asked for.
    """
    found: dict[str, str] = {}
    left = [(requirement, "the project") for requirement in requirements]
    done = set[tuple[str, frozenset[str]]]()
    while left:
        requirement, asker = left.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError as error:
            raise MissingPackageError(f"{asker} needs {requirement}, which is not installed") from error
        if not requirement.specifier.contains(package.version, prereleases=True):
            raise MissingPackageError(f"{asker} needs {requirement}, and {package.version} is installed")
        found[name] = package.version.partition("+")[0]  # such as +cpu, which says where it came from
        for text in package.requires or ():
            needed = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(needed.marker.evaluate(one) for one in environments):
                left.append((needed, name))
    return dict(sorted(found.items()))


def lock(found: dict[str, str]) -> str:
    """The text of the file."""
    head = (
        "# What the tests of this project ran with, exactly. `make lock` writes it, `make install-tested` "
        "installs it.\n"
        f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}. Elsewhere "
        "pyproject.toml says what is needed.\n"
    )
    return head + "".join(f"{name}=={version}\n" for name, version in found.items())


if __name__ == "__main__":
    try:
        sys.stdout.write(lock(versions(wanted())))
    except MissingPackageError as missing:
        sys.exit(f"error: {missing}. Install the project first: make install")
