"""Every command line of the README composes; the links that it gives lead somewhere."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from reid.config.schema import config_folder, register
from reid.config.settings import evaluate_settings, threshold_settings, train_settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
#: The commands whose arguments argparse reads.
PARSED = (
    "reid.compare",
    "reid.convert",
    "reid.data.check",
    "reid.data.split",
    "reid.data.stores",
    "reid.extract",
    "reid.report",
    "reid.runs",
    "reid.sync",
    "reid.ui",
)


def shown_commands(module: str) -> list[str]:
    """The arguments of each `python -m module …` in the README and in the experiments' YAMLs."""
    texts = [README, *(path.read_text() for path in (ROOT / "conf" / "experiment").rglob("*.yaml"))]
    found: list[str] = []
    for text in texts:
        joined = re.sub(r"\\\n#?\s*", "", text)
        found += re.findall(
            rf"^(?:#\s*)?(?:python|torchrun --nproc-per-node \d) -m {re.escape(module)}\b([^#\n`)]*)",
            joined,
            flags=re.MULTILINE,
        )
    return sorted({command.strip() for command in found})


def jobs(arguments: str) -> list[list[str]]:
    """The overrides of each job: those of a sweep one after the other, with placeholders filled in."""
    words = [re.sub(r"<[^>]+>|…", "x", word) for word in shlex.split(arguments)]
    register()
    expanded: list[list[str]] = [[]]
    for word in (word for word in words if not word.startswith("-")):
        (override,) = OverridesParser.create().parse_overrides([word])
        values = [word]
        if override.is_discrete_sweep():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        expanded = [[*job, value] for job in expanded for value in values]
    return expanded


@pytest.mark.parametrize("arguments", shown_commands("reid.train"))
def test_train_commands_compose(arguments: str) -> None:
    for overrides in jobs(arguments):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            train_settings(compose("train", overrides=overrides))


@pytest.mark.parametrize("arguments", shown_commands("reid.evaluate"))
def test_evaluate_commands_compose(arguments: str) -> None:
    for overrides in jobs(arguments):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            evaluate_settings(compose("evaluate", overrides=overrides))


@pytest.mark.parametrize("arguments", shown_commands("reid.threshold"))
def test_threshold_commands_compose(arguments: str) -> None:
    for overrides in jobs(arguments):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            threshold_settings(compose("threshold", overrides=overrides))


@pytest.mark.parametrize("module", PARSED)
def test_the_other_commands_parse(module: str) -> None:
    commands = shown_commands(module)
    assert commands
    for arguments in commands:
        importlib.import_module(module)._parser().parse_args(shlex.split(arguments))


def test_no_command_of_the_readme_is_left_out() -> None:
    shown = set(re.findall(r"python -m (reid[\w.]*)", README))
    assert shown == {"reid.train", "reid.evaluate", "reid.threshold", *PARSED}


def test_the_commands_are_found() -> None:
    """Guards the tests above against finding nothing."""
    assert "dataset=duke backbone=se_resnext50 loss=ranked" in shown_commands("reid.train")
    assert "-m loss.alpha=1.0,1.2,1.4" in shown_commands("reid.train")
    assert "experiment=quickstart" in " ".join(shown_commands("reid.train"))
    assert shown_commands("reid.evaluate")
    assert shown_commands("reid.threshold")


def test_every_file_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_that_the_readme_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"quickstart", "test", "ui"} <= named
    assert named <= targets
