"""What the READMEs show is there: their commands compose or parse, and the quick ones and the Python run;
links, pictures, Make targets, keys, choices and paths lead somewhere.
"""

import argparse
import csv
import dataclasses
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from conftest import Runner
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import OmegaConf
from PIL import Image

from reid.config.schema import config_folder
from reid.config.settings import evaluate_settings, threshold_settings, train_settings

ROOT = Path(__file__).resolve().parents[1]
CONF = config_folder()
FRONT = ROOT / "README.md"
READMES = [
    FRONT,
    *(p for room in ("conf", "reid", "experiments", "tests") for p in (ROOT / room).rglob("README.md")),
]
TEXTS = {path: path.read_text() for path in READMES}
#: The YAML files show commands too, in the comment that they begin with.
SHOWING = {**TEXTS, **{path: path.read_text() for path in CONF.rglob("*.yaml")}}

COMMAND = re.compile(
    r"(?:^(?:#|\s)*|`)(?:python|torchrun --nproc-per-node \d) -m ((?:reid|experiments)[\w.]*)([^#\n`]*)",
    re.MULTILINE,
)
SETTINGS = {
    "reid.train": ("train", train_settings),
    "reid.evaluate": ("evaluate", evaluate_settings),
    "reid.threshold": ("threshold", threshold_settings),
    "experiments.tune": ("tune", None),
}
#: Names that belong to the reader, to a run or to the system, and those of the choice that is added.
FOREIGN = re.compile(
    r"(\W|^)(data|outputs|multirun|mlartifacts|mypackage|my|crops|people|cam2|train|val|query|gallery|figures)/|mine|/path|/tmp|<|…|^\./"
)
NOT_YET = {
    "config_resolved.yaml", "crops.csv", "split.csv", "history.csv", "model_card.md", "reid.onnx.yaml",
    "groups.csv", "quality.csv", "info/",
    "botsort.yaml", "checkpoints/model.pt", "logged_model/", "verdicts.csv",
    "experiments/benchmark/results/gpu_check.md", "slurm.csv", ".submitit/",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Shown:
    """`python -m module arguments`, as a README or a YAML file shows it."""

    module: str
    arguments: str

    def __str__(self) -> str:
        return f"{self.module} {self.arguments}"[:90]

    @property
    def words(self) -> list[str]:
        """With placeholders filled in."""
        return shlex.split(re.sub(r"<[^>]+>|…", "x", self.arguments))


def shown(texts: dict[Path, str] = SHOWING) -> list[Shown]:
    found = set()
    for text in texts.values():
        for module, arguments in COMMAND.findall(re.sub(r"\\\n#?\s*", "", text)):
            found.add(Shown(module, arguments.strip().strip(")")))
    return sorted(found)


def of_hydra() -> list[Shown]:
    return [one for one in shown() if one.module in SETTINGS and re.match("[^$]*=", one.arguments)]


def of_argparse() -> list[Shown]:
    # By its name alone any other command is only spoken of.
    bare = ("reid.clean", "reid.doctor", "reid.runs", "reid.sync", "reid.ui")
    others = [one for one in shown() if one.module not in SETTINGS and "--help" not in one.arguments]
    return [
        one for one in others if (one.arguments or one.module in bare) and not one.module.endswith(".table")
    ]


def jobs(words: list[str]) -> Iterator[list[str]]:
    """The overrides of each job: those of a sweep one after the other."""
    expanded: list[list[str]] = [[]]
    for word in (word for word in words if not word.startswith("-")):
        (override,) = OverridesParser.create().parse_overrides([word])
        values = [word]
        if override.is_discrete_sweep():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        expanded = [[*job, value] for job in expanded for value in values]
    yield from expanded


# ---- commands


@pytest.mark.slow
@pytest.mark.parametrize("command", of_hydra(), ids=str)
def test_a_command_of_hydra_composes(command: Shown) -> None:
    primary, check = SETTINGS[command.module]
    words = re.sub(r"--config-\w+ \S+", "", shlex.join(command.words))
    for overrides in jobs(shlex.split(words)):
        config = composed(primary, *overrides)
        if check is not None:
            check(config)


@pytest.mark.parametrize("command", of_argparse(), ids=str)
def test_any_other_command_parses(command: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed(Exception):
        pass

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise Parsed

    parse: Callable[..., object] = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [command.module, *command.words])
    with pytest.raises(Parsed):
        runpy.run_module(command.module, run_name="__main__")


def test_the_commands_are_found() -> None:
    """Guards the tests above against finding nothing."""
    lines = {str(command) for command in shown({FRONT: TEXTS[FRONT]})}
    assert "reid.train dataset=duke backbone=se_resnext50 loss=ranked" in lines
    assert "reid.train -m loss.alpha=1.0,1.2,1.4" in lines
    assert len(of_hydra()) > 40
    assert len(of_argparse()) > 15


def test_every_command_is_shown_and_every_one_that_is_named_is_there() -> None:
    named = {command.module for command in shown(TEXTS)}
    assert [name for name in sorted(named) if find_spec(name) is None] == []
    scripts = pyproject()["project"]["scripts"]
    assert {name.replace("-", ".") for name in scripts} <= named
    spoken = set(re.findall(r"`(reid-[a-z-]+)`", "".join(TEXTS.values())))
    assert spoken - {"reid-suite", "reid-strong-baseline"} <= set(scripts)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_front_page_is_short() -> None:
    assert len(TEXTS[FRONT].splitlines()) <= 150


def test_the_table_holds_numbers_that_were_measured_or_published() -> None:
    rows = re.findall(
        r"^\| (.*) \| (\d+\.\d) / (\d+\.\d) \| (\S+) \| (.*) \|$", TEXTS[FRONT], flags=re.MULTILINE
    )
    assert len(rows) >= 8
    published = {
        f"paper/{row['dataset']}_{row['backbone']}": (row["mAP"], row["rank1"])
        for row in csv.DictReader(
            (ROOT / "experiments/reproduce_table/published.csv").read_text().splitlines()
        )
        if row["rerank"] == "false"
    }
    measured = "".join(TEXTS[path] for path in READMES if path.parent.parent == ROOT / "experiments")
    measured += (CONF / "experiment" / "quickstart.yaml").read_text()
    for command, mean, rank, commit, time in rows:
        if commit == "published":
            recipe = command.strip("`").removeprefix("experiment=")
            assert published[recipe] == (mean, rank)
            assert time == "not run here"
        else:
            assert re.fullmatch(r"`[0-9a-f]{7}`", commit)
            assert re.search(rf"\b{mean}\b", measured), command
            assert re.search(rf"\b{rank}\b", measured), command


# ---- what leads somewhere


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_there(readme: Path) -> None:
    for mark, target, anchor in re.findall(r"(!?)\[[^\]]*\]\(([^)#:]*)(?:#([^)]*))?\)", TEXTS[readme]):
        place = readme.parent / target if target else readme
        assert place.exists(), target
        if mark:
            with Image.open(place) as picture:
                picture.verify()
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{target}#{anchor}"


def spans(text: str) -> list[str]:
    """The words of its inline code, without commands and blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`([^`\n]+)`", prose)
    return [
        span for span in found if not re.match(r"(python|torchrun|make|pip|source|jupyter|reid-)\b", span)
    ]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_are_there(readme: Path) -> None:
    paths = [
        word
        for span in spans(TEXTS[readme])
        for word in span.split()
        if re.fullmatch(r"[\w.-]+/[\w./-]*|[\w./-]+\.(py|yaml|md|csv|ipynb)", word)
        and not FOREIGN.search(word)
        and word not in NOT_YET
    ]
    places = [readme.parent, ROOT, CONF / "experiment", *readme.parent.glob("results/**/")]
    gone = [path for path in paths if not any((place / path).exists() for place in places)]
    assert [path for path in gone if path.endswith("/") or "." in path] == []


def leaves(config: object, above: str = "") -> set[str]:
    if not isinstance(config, dict):
        return {above}
    below = {
        key
        for name, value in config.items()
        for key in leaves(value, f"{above}.{name}" if above else str(name))
    }
    return below | {above}


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every key of the commands: of their composed configs, and of each choice."""
    known = {"hydra/launcher", "hydra.searchpath", "hydra.run.dir"}
    for command in ("train", "evaluate", "threshold", "tune"):
        known |= leaves(OmegaConf.to_container(composed(command), resolve=False))
    known |= leaves(OmegaConf.to_container(composed("train", "loss=mix"), resolve=False))
    # Those of the launcher for Slurm have a page of their own, which names them without their group too.
    own = {field.name for field in dataclasses.fields(SlurmQueueConf)}
    known |= own | {f"hydra.launcher.{name}" for name in own} | {"hydra.sweeper.max_batch_size"}
    for file in CONF.glob("*/*.yaml"):
        choice = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        known |= leaves(choice) | leaves(choice, file.parent.name) | {file.parent.name}
    return known


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_and_choices_are_there(readme: Path, keys: set[str]) -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    for span in spans(TEXTS[readme]):
        for word in span.split():
            key, equals, value = word.lstrip("+~").partition("=")
            dotted = re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.partition(".")[0] in groups | CHECKED
            if not re.fullmatch(r"[a-z_]+([./][a-z_]+)*", key) or not (equals or dotted):
                continue
            if Path(key).suffix in (".py", ".yaml") or key in NO_KEYS:
                continue
            assert key in keys, f"{key} in `{span}`"
            if key in groups and value and re.fullmatch(r"[\w/,]+", value) and value not in ("mine", "none"):
                for choice in value.split(","):
                    assert (CONF / key / f"{choice}.yaml").is_file(), span


#: Groups of keys that have no folder of choices.
CHECKED = {"data", "image", "batch", "eval", "tracking", "sweep"}
#: Options of other commands, and names of Python.
NO_KEYS = {"runs", "checkpoint", "distance.unit_euclidean", "group", "group.key", "key", "progress"}


def test_every_choice_is_named() -> None:
    texts = TEXTS[CONF / "README.md"] + TEXTS[ROOT / "reid" / "data" / "README.md"]
    named = set(re.findall(r"`([\w/]+)`", texts))
    choices = {
        (file.parent.name, file.stem)
        for file in CONF.glob("*/*.yaml")
        if not file.stem.startswith(("no_", "only_"))
    }
    own = {("dataset", "table"), ("dataset", "folder"), ("dataset", "folders")}  # in commands
    assert sorted(f"{group}/{name}" for group, name in choices - own if name not in named) == []


def test_make_targets_and_variables_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for readme, text in TEXTS.items():
        for target, rest in re.findall(
            r"(?:^|`)make ([a-z-]+)((?: [A-Z]+=[^\n`#]*)?)", text, flags=re.MULTILINE
        ):
            assert target in targets, f"make {target} in {readme}"
            for variable in re.findall(r"\b([A-Z_]+)=", rest):
                assert f"$({variable})" in makefile, f"{variable} in {readme}"
    assert {"quickstart", "ui", "reproduce-table"} <= set(re.findall(r"\bmake ([a-z-]+)", TEXTS[FRONT]))


def test_extras_are_there_and_bring_jupyter_lab() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    named = re.findall(r"pip install '\.\[([\w,]+)\]'", "".join(TEXTS.values()))
    assert "notebooks" in named
    assert {name for names in named for name in names.split(",")} <= set(extras)
    assert any(one.startswith("jupyterlab") for one in extras["notebooks"])


# ---- what runs

#: What makes a run of drawn people one of seconds.
SECONDS = (
    "dataset.preset=tiny", "batch.identities=4", "image.height=32", "image.width=16", "image.padding=2",
    "epochs=1", "tricks.warmup=0", "schedule.milestones=[]", "eval.period=0", "eval.at_start=false",
    "device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, run_command: Runner) -> Path:
    """The project's folder of a reader who has typed the first command of the page, in small."""
    home = tmp_path_factory.mktemp("home")
    drawn = home / "data" / "synthetic"
    shutil.copytree(tiny_data / "synthetic", drawn)
    (drawn / "day_small_0").symlink_to(drawn / "day_tiny_0")
    crops = sorted((drawn / "day_tiny_0" / "query").glob("*.jpg"))
    (home / "crops").mkdir()
    for crop, name in zip(crops, ("a.jpg", "b.jpg", "crops/c.jpg"), strict=False):
        shutil.copy(crop, home / name)
    done = run_command(
        "reid.train", "experiment=quickstart", *SECONDS, "hydra.run.dir=outputs/run", home=home
    )
    assert done.returncode == 0, done.stderr
    shutil.copy(home / "outputs" / "run" / "model.pt", home)
    return home


def quick() -> list[Shown]:
    """What of the READMEs ends within seconds, on drawn people or on the run of them."""
    every = shown({path: TEXTS[path] for path in (FRONT, ROOT / "reid" / "commands" / "README.md")})
    return [
        command
        for command in every
        if command.arguments == "list"
        or re.search(r"a\.jpg|crops/|day_small|prune|synthetic_night|flip|far_1e", command.arguments)
        or (command.module == "reid.sync")
    ]


def test_the_quick_commands_are_found() -> None:
    assert len(quick()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("command", quick(), ids=str)
def test_a_quick_command_runs(command: Shown, home: Path, run_command: Runner) -> None:
    words = shlex.split(command.arguments.replace("outputs/<run>", "outputs/run"))
    if "dataset=synthetic_night" in words:
        words += ["dataset.preset=tiny"]
    done = run_command(command.module, *words, home=home)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "readme", [FRONT, ROOT / "reid" / "commands" / "README.md"], ids=lambda p: p.parent.name
)
def test_the_python_runs_as_it_stands(
    readme: Path,
    home: Path,
    run_command: Runner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXTS[readme], flags=re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.setenv("REID_HOME", str(home))
    monkeypatch.chdir(home)
    if readme == FRONT and not (home / "gallery").exists():  # else the command has made it in its own test
        assert (
            run_command("reid.index", "data/synthetic/day_small_0", "-o", "gallery", home=home).returncode
            == 0
        )
    exec(code, {})
    if readme == FRONT:
        shown = capsys.readouterr().out
        assert re.search(
            r"^torch.Size\(\[18, 512\]\)\nVerdict\((same|different): distance \d", shown, re.MULTILINE
        )
        assert re.search(r"query +rank +distance +same", shown)
    else:
        assert (home / "mine.parquet").is_file()
