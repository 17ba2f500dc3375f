"""CPU seconds (user) until a command has printed its help, refused a slip, or compared two images."""

from __future__ import annotations

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.outcome import Case, Goal, ratio

REPEATS = 5
MOST_SECONDS = 1.0
MOST_SWEEP_SECONDS = 10.0
#: Times the import of torch and torchvision.
MOST_IMPORTS = 1.3
CELLS, QUICK_CELLS = 100, 3

IMPORTS = {
    "python": "pass",
    "import hydra": "import hydra",
    "import torch": "import torch",
    "import torch, torchvision": "import torch, torchvision",
}
NETWORK_IMPORTS = "import torch, torchvision"
USES = ("compare of two images", "extract of one image")
#: Commands that compose a config: what they cannot do without is the import of Hydra.
HYDRA = ("reid.train", "reid.evaluate", "reid.threshold", "experiments.tune")
#: What is typed wrongly, for each command: a key or choice, a type or bound, a file that is not there.
MISTAKES: dict[str, list[list[str]]] = {
    "reid.train": [
        ["los=ranked"], ["loss=rankd"], ["epochs=abc"], ["image.height=0"], ["data.root=/no/such/folder"],
    ],
    "reid.evaluate": [["chekpoint=x"], ["checkpoint=/no/such/model.pt"]],
    "reid.threshold": [["chekpoint=x"], ["checkpoint=/no/such/model.pt"]],
    "experiments.tune": [["stdy=alpha"], ["study=nowhere"], ["study=alpha_margin", "epochs=abc"]],
    "reid.compare": [["--metrik", "cosine", "a.jpg", "b.jpg"], ["a.jpg"], ["/no/a.jpg", "/no/b.jpg"]],
    "reid.extract": [["."], [".", "-o", "features.txt"], ["/no/such/folder", "-o", "features.csv"]],
    "reid.index": [["-o", "g"], ["/no/such/folder", "-o", "g"]],
    "reid.search": [["a.jpg"], ["/no/a.jpg", "--gallery", "/no/such/gallery"]],
    "reid.browse": [["--port", "abc"], ["/no/such/run"]],
    "reid.export": [["x.pt", "--for", "x", "-o", "x.onnx"], ["/no/a.pt", "--for", "boxmot", "-o", "x.onnx"]],
    "reid.profile": [["--batch", "abc"], ["/no/such/file.pt"]],
    "reid.convert": [["--last-stride", "3", "x.pth", "-o", "y.pt"], ["/no/such/file.pth", "-o", "y.pt"]],
    "reid.runs": [["lst"], ["show"]],
    "reid.report": [[], ["runs=/no/such/folder"]],
    "reid.sync": [["--uri"], ["/no/such/folder"]],
    "reid.ui": [["--port", "abc"]],
    "reid.data.check": [["--min-height", "abc", "market"], ["/no/such/folder"]],
    "reid.data.split": [["market"], ["/no/such/folder", "-o", "x.csv"]],
    "reid.data.stores": [["prun"], ["prune", "--unused-days", "abc"]],
}  # fmt: skip
QUICK_COMMANDS = ("reid.data.check",)
#: One epoch of the smallest run: its model compares and extracts.
TINY = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=resnet18", "backbone.weights=none",
    "image.height=32", "image.width=16", "image.padding=2", "batch.identities=4", "tricks.warmup=1",
    "epochs=1", "eval.period=0", "device=cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One start of Python, and the exit code that it has to end with."""

    words: Sequence[str]
    code: int = 0


def measure(setup: Setup) -> list[Case]:
    """Help and refusals of every command, two uses of a model, and a sweep that is composed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(setup.source, Path(folder))
        commands = find_commands(setup.source)
        if setup.quick:
            commands = {module: commands[module] for module in QUICK_COMMANDS}
        cells = QUICK_CELLS if setup.quick else CELLS
        setup.say("a model to compare with is trained")
        calls = {name: Call(["-c", text]) for name, text in IMPORTS.items()}
        by_command = {module: doors(module, function) for module, function in commands.items()}
        for own in by_command.values():
            calls |= own
        calls |= uses_of_a_model(place)
        sweep = f"a sweep of {cells} cells"
        # All cells are composed and checked before the command says that none of them has its images.
        words = ["reid.train", "-m", f"seed=range(0,{cells})", "data.root=/no/such/folder"]
        calls[sweep] = Call(["-m", *words], code=2)
        setup.say(f"{len(calls)} commands, {setup.repeats} times each, in turn")
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(setup.repeats):
            for name, call in calls.items():
                seconds[name].append(place.cpu_seconds(call))
    return [
        Case("imports alone", [_median(name, seconds[name]) for name in IMPORTS]),
        *(
            _command_case(module, {name: seconds[name] for name in own}, seconds)
            for module, own in by_command.items()
        ),
        *(_use_case(name, seconds[name], seconds[NETWORK_IMPORTS]) for name in USES),
        Case(
            sweep,
            [_median("composed and checked", seconds[sweep], MOST_SWEEP_SECONDS)],
            {sweep: seconds[sweep]},
            statistics.median(seconds["import hydra"]),
            "import hydra",
        ),
    ]


class Place:
    """A temporary home in which the commands of one source tree are started."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MLFLOW_", "REID_", "HYDRA_"))
        }
        own = {"REID_HOME": str(folder), "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        self._environment = {**kept, **own}
        for package in ("reid", "experiments"):  # or the first repeat would compile them
            compileall.compile_dir(source / package, quiet=2)

    def cpu_seconds(self, call: Call) -> float:
        """Seconds of CPU in user mode of one start of Python, with the processes that it waited for.

        Raises:
            RuntimeError: it ended with another exit code than expected.
        """
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [sys.executable, *call.words],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != call.code:
                output.seek(0)
                raise RuntimeError(
                    f"python {' '.join(call.words)} ended with {process.returncode}, expected {call.code}: "
                    f"{output.read().strip()[-500:]}"
                )
        return usage.ru_utime


def find_commands(source: Path) -> dict[str, str]:
    """The modules that run as a command, each with the `module:function` of its script in a wheel, if any."""
    scripts = tomllib.loads((source / "pyproject.toml").read_text())["project"]["scripts"]
    # The script reid-data-check is what `python -m reid.data.check` is, wherever its function lies.
    installed = {script.replace("-", "."): function for script, function in scripts.items()}
    return {"experiments.tune": "", **installed}


def doors(module: str, function: str) -> dict[str, Call]:
    """The calls of a command by their names: its help, the help of its script, and each mistake."""
    calls = {f"{module} --help": Call(["-m", module, "--help"])}
    if function:
        place, _, name = function.partition(":")
        script = module.replace(".", "-")
        text = f"import sys; from {place} import {name}; sys.argv[0] = {script!r}; sys.exit({name}())"
        calls[f"{script} --help"] = Call(["-c", text, "--help"])
    unknown = ["no_such_key=1"] if module in HYDRA else ["--no-such-option"]
    for words in MISTAKES.get(module, [unknown]):
        calls[" ".join([module, *words])] = Call(["-m", module, *words], code=2)
    return calls


def uses_of_a_model(place: Place) -> dict[str, Call]:
    """Train a model on drawn people; the calls that use it."""
    run = place.folder / "run"
    data = place.folder / "data"
    place.cpu_seconds(Call(["-m", "reid.train", *TINY, f"data.root={data}", f"hydra.run.dir={run}"]))
    first, second = sorted(data.rglob("query/*.jpg"))[:2]
    (place.folder / "one").mkdir()
    shutil.copy(first, place.folder / "one")
    model = ["--checkpoint", str(run / "model.pt"), "--device", "cpu"]
    features = str(place.folder / "features.npz")
    compare = ["-m", "reid.compare", *model, str(first), str(second)]
    extract = ["-m", "reid.extract", *model, "one", "-o", features]
    return dict(zip(USES, (Call(compare), Call(extract)), strict=True))


def _command_case(module: str, own: Mapping[str, list[float]], seconds: Mapping[str, list[float]]) -> Case:
    """The slowest help and the slowest refusal of a command are judged."""
    helps = {name: values for name, values in own.items() if name.endswith(" --help")}
    refusals = {name: values for name, values in own.items() if name not in helps}
    floor = "import hydra" if module in HYDRA else "python"
    return Case(
        module,
        [_slowest("help", helps), _slowest("the slowest refusal", refusals)],
        own,
        statistics.median(seconds[floor]),
        floor,
    )


def _use_case(name: str, seconds: Sequence[float], imports: Sequence[float]) -> Case:
    return Case(
        name,
        [ratio(f"CPU time / {NETWORK_IMPORTS}", seconds, imports, at_most=MOST_IMPORTS)],
        {name: seconds, NETWORK_IMPORTS: imports},
        statistics.median(imports),
        NETWORK_IMPORTS,
    )


def _slowest(what: str, calls: Mapping[str, Sequence[float]]) -> Goal:
    return _median(what, max(calls.values(), key=statistics.median), MOST_SECONDS)


def _median(what: str, values: Sequence[float], most: float | None = None) -> Goal:
    return Goal(what, statistics.median(values), most, "<=", "s", min(values), max(values))
