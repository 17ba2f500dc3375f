"""What of the suite and its libraries is installed, and what is not as pyproject.toml wants it."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from reid.commands.findings import Finding, in_public
from reid.home import source_root
from reid.trust import TrustError

SUITE = "reid-suite"
#: What the first line of libraries names.
_NAMED = ("torch", "torchvision", "timm", "mlflow", "hydra-core", "omegaconf", "numpy", "pandas", "pillow")
#: What an extra of pyproject.toml adds.
ADDS = {
    "search": "indexes of more than a million images (reid.index, reid.search)",
    "benchmark": "the benchmark of experiments",
    "export": "files for BoxMOT, Ultralytics, DeepStream and onnxruntime (reid.export)",
    "notebooks": "the notebooks",
    "sweeps": "studies with Optuna, and sweeps on several processes or on Slurm",
    "dev": "the tools of `make check`",
}


def installed() -> Iterator[Finding]:
    """The suite, Python and the libraries."""
    from reid.tracking.sources import code

    try:
        yield _suite(code())
    except TrustError as error:
        remedy = "install it, or leave it out of REID_TRUST"
        yield Finding("suite", f"no command starts: {in_public(error)}", "problem", remedy)
    yield Finding("system", f"Python {platform.python_version()} on {_system()}")
    wanted = _wanted()
    python = SpecifierSet(wanted["python"])
    if not python.contains(platform.python_version()):
        remedy = f"make an environment with Python {python}"
        yield Finding(
            "Python", f"{platform.python_version()}, and the suite needs {python}", "problem", remedy
        )
    versions = [f"{name} {found}" for name in _NAMED if (found := _version(name))]
    yield Finding("libraries", ", ".join(versions))
    for requirement in wanted["packages"]:
        if trouble := misfit(requirement):
            yield Finding(requirement.name, trouble, "problem", f"pip install '{_plain(requirement)}'")
    yield from _extras(wanted["extras"])


def misfit(requirement: Requirement) -> str:
    """How the installed package misses what is wanted, "" where it does not."""
    found = _version(requirement.name)
    if not found:
        return f"not installed; the suite needs {_plain(requirement)}"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{found}, and the suite needs {requirement.specifier}"
    return ""


def _extras(extras: Mapping[str, list[Requirement]]) -> Iterator[Finding]:
    there: list[str] = []
    for name, requirements in extras.items():
        own = [one for one in requirements if one.name != SUITE]
        missing = [one.name for one in own if not _version(one.name)]
        outside = [
            f"{one.name} is {trouble}" for one in own if _version(one.name) and (trouble := misfit(one))
        ]
        target = f"pip install '.[{name}]'" if source_root() else f"pip install '{SUITE}[{name}]'"
        if missing:
            adds = ADDS.get(name, "")
            text = f"[{name}] lacks {', '.join(missing)}" + (f"; it adds {adds}" if adds else "")
            yield Finding("extras", text, "note", target)
        elif outside:
            yield Finding("extras", f"[{name}]: {'; '.join(outside)}", "problem", target)
        elif own:
            there.append(name)
    if there:
        yield Finding("extras", f"complete: {', '.join(there)}")


def _suite(code: str) -> Finding:
    root = source_root()
    text = _version(SUITE) or "not installed, run from its sources"
    if root is not None:
        commit = _git(root, "rev-parse", "--short=10", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
        text += f", commit {commit}{', changed' if changes else ''}" if commit else ", no git repository"
    else:
        text += ", from a wheel"
    if code.startswith("numbers-"):
        return Finding("suite", f"{text}; its code computes {code}")
    text += f"; its code ({code}) computes what no released code is known to"
    return Finding("suite", text, "note", "runs of other code are not taken for runs of this one")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _system() -> str:
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        release = ""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{release}, {kernel}" if release else kernel


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


@cache
def _wanted() -> dict[str, Any]:
    """What pyproject.toml, or the wheel made of it, asks for: `python`, `packages` and `extras`."""
    root = source_root()
    if root is not None:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        named = project.get("optional-dependencies", {})
        extras = {name: [Requirement(one) for one in ones] for name, ones in named.items()}
        packages = [Requirement(one) for one in project["dependencies"]]
        return {"python": project["requires-python"], "packages": _here(packages), "extras": extras}
    facts = metadata(SUITE)
    everything = [Requirement(one) for one in facts.get_all("Requires-Dist") or []]
    extras = {
        name: [one for one in everything if one.marker and one.marker.evaluate({"extra": name})]
        for name in facts.get_all("Provides-Extra") or []
    }
    packages = [one for one in everything if one.marker is None or one.marker.evaluate({"extra": ""})]
    extras = {name: [one for one in ones if one not in packages] for name, ones in extras.items()}
    return {"python": facts["Requires-Python"], "packages": packages, "extras": extras}


def _here(requirements: list[Requirement]) -> list[Requirement]:
    """Those that are meant for this machine and this Python."""
    return [one for one in requirements if one.marker is None or one.marker.evaluate()]
