"""A dataset named inside a value means the same files of conf/dataset as `dataset=…` does."""

from pathlib import Path

import pytest
from composing import changed, composed, settings_of

from reid.config.checks import ConfigError
from reid.config.dataset import dataset_choice
from reid.config.identity import config_hash
from reid.config.schema import config_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    monkeypatch.setenv("REID_DATA", "/data")


CHOICES = sorted(file.stem for file in (config_folder() / "dataset").glob("*.yaml"))


@pytest.mark.parametrize(
    "choice", [name for name in CHOICES if name not in ("joint", "folder", "folders", "table")]
)
def test_a_choice_named_in_a_value_is_what_hydra_composes(choice: str) -> None:
    assert dataset_choice(choice, "/data") == settings_of(f"dataset={choice}").dataset


def test_values_of_a_choice_reach_what_depends_on_them() -> None:
    typed = settings_of("dataset=synthetic_night", "dataset.preset=tiny", "batch.identities=4").dataset
    assert dataset_choice("synthetic_night", "/data", {"preset": "tiny"}) == typed
    assert typed["root"] == "/data/synthetic/night_tiny_0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "people"),
    [
        (["dataset=synthetic"], 180),
        (["dataset=synthetic_night", "dataset.preset=tiny"], 12),
        (["dataset=synthetic", "eval.split=val"], 80),
        (["dataset=joint", "dataset.parts=[synthetic,{name:synthetic,preset:tiny}]"], 192),
    ],
)
def test_a_batch_of_more_people_than_will_be_drawn_is_refused(overrides: list[str], people: int) -> None:
    assert settings_of(*overrides, f"batch.identities={people}")
    with pytest.raises(ConfigError, match=f"{people + 1} is larger than the {people} identities"):
        settings_of(*overrides, f"batch.identities={people + 1}")


def test_who_is_held_out_of_a_set_that_will_be_drawn_leaves_somebody() -> None:
    with pytest.raises(ConfigError, match="has 180 people to train on"):
        settings_of("dataset=synthetic", "eval.split=val", "eval.val_identities=180")


@pytest.mark.slow
def test_of_a_set_on_disk_nothing_is_known_ahead() -> None:
    assert settings_of("dataset=joint", "dataset.parts=[synthetic,market]", "batch.identities=181")


@pytest.mark.slow
def test_parts_of_a_joint_dataset_are_completed() -> None:
    parts = settings_of("dataset=joint", "dataset.parts=[market,{name:table,file:crops.csv}]").dataset[
        "parts"
    ]
    assert parts[0] == settings_of("dataset=market").dataset
    assert parts[1] == settings_of("dataset=table", "dataset.file=crops.csv").dataset
    assert parts[1]["file"] == str(Path("crops.csv").absolute())
    assert parts[1]["root"] == str(Path.cwd())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=joint"], r"dataset\.parts"),
        (["dataset=joint", "dataset.parts=[market,markt]"], r"parts\[1\]=markt.*Did you mean 'market'"),
        (["dataset=joint", "dataset.parts=market"], r"dataset\.parts='market' is not allowed"),
        (["dataset=joint", "dataset.parts=[market,7]"], r"dataset\.parts\[1\]=7 is not allowed"),
        (["dataset=joint", "dataset.parts=[market,joint]"], r"dataset\.parts\[1\].*holds no other"),
        (["dataset=joint", "dataset.parts=[market,folder]"], r"dataset\.parts\[1\]=folder needs root"),
        (["dataset=joint", "dataset.parts=[market,table]"], r"dataset\.parts\[1\]=table needs file"),
        (
            ["dataset=joint", "dataset.parts=[market,{name:synthetic,presett:tiny}]"],
            r"no key dataset\.parts\[1\]\.presett.*Did you mean 'dataset\.parts\[1\]\.preset'",
        ),
        (["dataset=joint", "dataset.parts=[market,{name:synthetic,seed:x}]"], r"parts\[1\]\.seed='x'"),
        (["dataset=table"], r"dataset\.file is not given"),
        (["dataset=synthetic", "+dataset.progress=1"], r"no key dataset\.progress"),
        (["dataset=folders"], r"dataset\.root is not given"),
        (["dataset=folders", "dataset.root=x", "dataset.cameras=all"], r"cameras='all'.*auto, name, none"),
    ],
)  # fmt: skip
def test_wrong_datasets_are_refused_by_key(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        settings_of(*overrides)


@pytest.mark.slow
def test_the_hash_tells_tables_and_parts_apart_but_not_where_they_lie() -> None:
    recipe = composed("train", "dataset=table", "dataset.file=crops.csv")
    plain = config_hash(changed(recipe, "seed", 0))
    assert config_hash(changed(recipe, "dataset.file", "/else/where/crops.csv")) == plain
    assert config_hash(changed(recipe, "dataset.file", "others.csv")) != plain
    joint = composed("train", "dataset=joint", "dataset.parts=[market,duke]")
    plain = config_hash(changed(joint, "seed", 0))
    assert config_hash(changed(joint, "data.root", "/elsewhere")) == plain
    assert config_hash(changed(joint, "dataset.parts", ["market", "synthetic"])) != plain
