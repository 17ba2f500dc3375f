"""Whether GPUs, their driver and PyTorch fit each other, in words; and which weights are cached."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reid.commands.findings import Finding, in_public, size

_ASKED = ("name", "driver_version", "memory.total", "memory.used", "compute_mode")
_NVIDIA = "0x10de"
#: Of PyTorch: https://pytorch.org says which wheel is for which driver.
_CUDA_BUILD = "install a PyTorch that is built for CUDA: https://pytorch.org/get-started/locally"


@dataclass(frozen=True)
class Driver:
    """What there is of NVIDIA beside PyTorch.

    Attributes:
        cards: as nvidia-smi lists them, one mapping each.
        silent: what nvidia-smi says where it fails; "" where it lists cards, or is not there.
        plugged: how many graphics cards of NVIDIA the machine has, whether a driver is loaded or not.
        loaded: whether the kernel has the driver.
    """

    cards: list[dict[str, str]] = field(default_factory=list)
    silent: str = ""
    plugged: int = 0
    loaded: bool = False


def gpu_and_weights(seconds: float) -> Iterator[Finding]:
    """What PyTorch and the driver say, one after the other, as far as they come within the time."""
    driver = read_driver(seconds)
    facts, trouble = read_torch(seconds * 3)
    yield from judge(facts, trouble, driver, os.environ)


def weights(facts: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Which published weights need no download."""
    for step in facts:
        if step["step"] != "backbones":
            continue
        there = [*step["cached"], *(f"timm/{name}" for name in step["timm"])]
        text = f"cached: {', '.join(there)}" if there else "none is cached"
        if step["absent"]:
            text += f"; downloaded at first use: {', '.join(step['absent'])}"
        yield Finding("weights", text)


def judge(
    facts: Sequence[Mapping[str, Any]], trouble: str, driver: Driver, variables: Mapping[str, str]
) -> Iterator[Finding]:
    """What follows from what PyTorch said (`facts`, and what ended it), and from the driver."""
    steps = {step["step"]: step for step in facts}
    broken = steps.get("libraries", {}).get("broken", {})
    for name, error in broken.items():
        remedy = "install torch and torchvision anew, together, in versions that belong to each other"
        yield Finding(name, f"cannot be imported: {in_public(error)}", "problem", remedy)
    if "libraries" not in steps:
        yield Finding("torch", f"its import {trouble}", "problem", "install torch anew")
    elif "gpus" in steps:
        yield from _gpus(steps["gpus"], driver, variables)
        yield from _computing(facts, trouble, len(steps["gpus"]["cards"]))
    elif not broken:
        remedy = "try nvidia-smi; if it hangs too, restart the driver or the machine"
        yield Finding("GPU", f"PyTorch does not get through to the driver: it {trouble}", "problem", remedy)
    yield from weights(facts)


def _gpus(torch: Mapping[str, Any], driver: Driver, variables: Mapping[str, str]) -> Iterator[Finding]:
    versions = {card["driver_version"] for card in driver.cards}
    of_driver = f", driver {', '.join(sorted(versions))}" if versions else ""
    built = (
        f"PyTorch built for CUDA {torch['built_for']}"
        if torch["built_for"]
        else "PyTorch built for CPUs alone"
    )
    seen = max(len(driver.cards), driver.plugged)
    if torch["available"]:
        for number, card in enumerate(torch["cards"]):
            text = f"{number}: {card['name']}, {size(card['free'])} free of {size(card['total'])}"
            text += f", {card['architecture']}{of_driver}; {built}"
            yield _card(text, card, torch["architectures"])
        if seen > len(torch["cards"]):
            text = f"{len(torch['cards'])} of {seen} are used: CUDA_VISIBLE_DEVICES chooses"
            yield Finding("GPU", text, "note")
        for card in driver.cards:
            if card["compute_mode"].startswith(("Exclusive", "Prohibited")):
                text = f"compute mode {card['compute_mode']}: a second process gets no access"
                yield Finding("GPU", text, "note", "nvidia-smi -c DEFAULT, as administrator, lets all in")
        return
    hidden = variables.get("CUDA_VISIBLE_DEVICES")
    old = next((text for text in torch["warnings"] if "driver" in text and "too old" in text), "")
    names = ", ".join(dict.fromkeys(card["name"] for card in driver.cards)) or "an NVIDIA card"
    if not seen:
        yield Finding("GPU", f"none; {built}. Everything runs on the CPU")
    elif not driver.cards and not driver.loaded:
        why = f" (nvidia-smi: {in_public(driver.silent)})" if driver.silent else ""
        text = f"there is {names}, but no driver is loaded{why}"
        yield Finding("GPU", text, "problem", "install NVIDIA's driver, or load it again after an update")
    elif torch["built_for"] is None:
        yield Finding("GPU", f"{names} is there{of_driver}, but {built}", "problem", _CUDA_BUILD)
    elif hidden is not None and not re.match(r"\s*\d|\s*GPU-|\s*MIG-", hidden):
        how = "names no card" if hidden.strip() else "is empty"
        text = f"{names} is there{of_driver}, but CUDA_VISIBLE_DEVICES {how}"
        yield Finding("GPU", f"{text}, which hides it", "problem", "unset CUDA_VISIBLE_DEVICES")
    elif old:
        text = f"{names}: the driver{of_driver.removeprefix(', driver')} is too old; {built}"
        remedy = "update NVIDIA's driver, or install a PyTorch that is built for an older CUDA"
        yield Finding("GPU", text, "problem", remedy)
    else:
        words = in_public("; ".join(torch["warnings"]) or driver.silent or "it does not say why")
        text = f"{names} is there{of_driver}, but PyTorch cannot use it: {words}; {built}"
        yield Finding(
            "GPU", text, "problem", "does nvidia-smi work? Then restart the machine, or " + _CUDA_BUILD
        )


def _card(text: str, card: Mapping[str, Any], architectures: Sequence[str]) -> Finding:
    own = card["architecture"].removeprefix("sm_")
    # A build runs on later cards of the same generation, and by its `compute_` part on later generations.
    fits = any(
        one.startswith("compute_") or (one[3:-1] == own[:-1] and one[-1] <= own[-1])
        for one in architectures
        if one[-1].isdigit()
    )
    if architectures and not fits:
        remedy = "install a PyTorch that is built for this card: https://pytorch.org/get-started/locally"
        return Finding("GPU", f"{text}, which has no code for it", "problem", remedy)
    return Finding("GPU", text, "note" if card["free"] < 0.2 * card["total"] else "ok")


def _computing(facts: Sequence[Mapping[str, Any]], trouble: str, cards: int) -> Iterator[Finding]:
    done = [step for step in facts if step["step"] == "computing"]
    for step in done:
        if step["trouble"]:
            text = f"{step['card']}: a first sum failed: {in_public(step['trouble'])}"
            yield Finding(
                "GPU", text, "problem", "see nvidia-smi: is its memory full, or does it report errors?"
            )
    if cards and len(done) < cards and trouble:
        text = f"{len(done)}: a first sum did not end: PyTorch {trouble}"
        yield Finding("GPU", text, "problem", "restart the driver or the machine")


def read_torch(seconds: float, command: Sequence[str] = ()) -> tuple[list[dict[str, Any]], str]:
    """What `torch_facts` printed, and what ended it, "" where it came to its end."""
    words = [*(command or (sys.executable, "-m", "reid.commands.torch_facts"))]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        out, code, err = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as late:
        raw = late.stdout or b""
        out = raw if isinstance(raw, str) else raw.decode(errors="replace")
        return _steps(out), f"gave no answer within {seconds:g} seconds"
    if code == 0:
        return _steps(out), ""
    last = next(iter(reversed(err.strip().splitlines())), "")
    ended = f"was ended by signal {-code}" if code < 0 else f"failed: {in_public(last)}"
    return _steps(out), ended


def _steps(out: str) -> list[dict[str, Any]]:
    steps = []
    for line in out.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # what a library prints, or half a line
            continue
        if isinstance(found, dict) and "step" in found:
            steps.append(found)
    return steps


def read_driver(seconds: float, root: Path = Path("/")) -> Driver:
    """What nvidia-smi and the kernel know.  root: another file system, for tests."""
    plugged = 0
    for device in root.glob("sys/bus/pci/devices/*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        plugged += vendor == _NVIDIA and kind.startswith("0x03")
    loaded = (root / "proc/driver/nvidia/version").exists()
    question = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(question, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        return Driver(plugged=plugged, loaded=loaded)
    except (OSError, subprocess.SubprocessError) as error:
        silent = "no answer" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        return Driver(silent=silent, plugged=plugged, loaded=loaded)
    if done.returncode != 0:
        silent = " ".join((done.stdout + done.stderr).split())
        return Driver(silent=silent, plugged=plugged, loaded=loaded)
    rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
    cards = [dict(zip(_ASKED, row, strict=True)) for row in rows if len(row) == len(_ASKED)]
    return Driver(cards, plugged=plugged, loaded=True)
