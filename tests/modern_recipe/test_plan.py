"""The plan of the study: what it may hold, and that every cell of it composes."""

import re
from pathlib import Path

import pytest
import yaml
from composing import settings_of

from experiments.modern_recipe.estimate import estimate
from experiments.modern_recipe.plan import PLAN, Cell, Plan, scaled, word
from experiments.modern_recipe.stages import SERIES, Study
from experiments.modern_recipe.table import Table
from reid.config.checks import ConfigError

#: Of the machine, for all stages: the issue that the study answers allows no more.
HOURS = 14.0


def study() -> Study:
    return Study(Plan(), Table(Path("nowhere.csv")), "a CPU", guess=True)


def changed(tmp_path: Path, **sections: object) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(PLAN.read_text()), **sections}))
    return path


def test_a_share_becomes_whole_epochs_and_a_value_a_word() -> None:
    assert scaled(0.1, 12) == 1
    assert scaled(0.15, 3) == 0  # a whole epoch of three would be thrown away
    assert scaled([0.6, 0.85], 20) == [12, 17]  # as experiment=market_split has it
    assert scaled([0.6, 0.85], 4) == [2, 3]
    assert scaled([0.6, 0.85], 3) == [2]  # after the third there is no epoch that it could act in
    assert scaled([0.6, 0.85], 1) == []
    assert [word(value) for value in (None, True, [12, 17], "1e-3")] == ["null", "true", "[12,17]", "1e-3"]


def test_a_recipe_is_the_published_one_with_keys_on_it() -> None:
    plan = Plan()
    published = plan.changes((), "128x64", 20, "test")
    assert "schedule.milestones=[12,17]" in published
    assert "schedule.warmup_epochs=3" in published
    cosine = plan.changes(("cosine",), "128x64", 20, "test")
    assert {"schedule=cosine", "schedule.warmup_epochs=2"} <= {*cosine}
    assert not any(change.startswith("schedule.milestones") for change in cosine)
    assert plan.add(("gem", "soft_triplet"), "bot") == ("gem", "bot")  # one loss stands for the other
    first = Cell("screen", "a", published, 0)
    assert first == Cell("ladder", "b", published, 0, "12")  # the run is the same, whatever it is for
    assert first != Cell("screen", "a", published, 1)


def test_the_published_recipe_of_20_epochs_is_the_experiment_that_was_measured() -> None:
    plan = Plan()
    frame = {**plan.frame, "dataset.root": "/crops", "backbone.weights": "none"}
    ours = settings_of(*Cell("", "", plan.changes((), "128x64", 20, "test"), 0).words(frame))
    theirs = settings_of(*(f"{key}={value}" for key, value in frame.items()), "seed=0")
    assert ours == theirs


@pytest.mark.slow
def test_every_cell_of_the_plan_composes() -> None:
    """All keys at once, those alone that others replaced there, and every line of a series."""
    plan, whole = Plan(), study()
    keys: tuple[str, ...] = ()
    for key in plan.keys:
        keys = plan.add(keys, key)
    recipes = {keys, whole.winner(), *((key,) for key in plan.keys if key not in keys)}
    cells = {Cell("", "", plan.changes(keys, "64x32", 12, "val"), 0) for keys in recipes}
    cells |= {
        variant.cells[0] for stage in SERIES if plan.sections.get(stage) for variant in whole.series(stage)
    }
    frame = {**plan.frame, "dataset.root": "/crops", "backbone.weights": "none"}
    for cell in cells:
        words = [re.sub("<.*>|{.*}", "/there", word) for word in cell.words(frame)]
        assert settings_of(*words).seed == cell.seed


def test_the_whole_study_fits_into_its_hours() -> None:
    text = estimate(Plan(), Table(Path("nowhere.csv")), "a CPU")
    (line,) = (line for line in text.splitlines() if line.startswith("in all"))
    assert float(line.split("at most")[1].split()[0]) <= HOURS


def test_a_screen_has_at_most_twelve_keys_each_with_its_reason(tmp_path: Path) -> None:
    screen = yaml.safe_load(PLAN.read_text())["screen"]
    with pytest.raises(ConfigError, match="at most 12"):
        Plan(changed(tmp_path, screen={**screen, "keys": [*screen["keys"], "bot"]}))
    with pytest.raises(ConfigError, match="bot has no `why`"):
        Plan(changed(tmp_path, screen={**screen, "keys": ["gem", "bot"]}))
    with pytest.raises(ConfigError, match="no key 'gme'"):
        Plan(changed(tmp_path, screen={**screen, "keys": ["gme"]}))
    with pytest.raises(ConfigError, match="no size '1x1'"):
        Plan().changes((), "1x1", 1, "val")
    with pytest.raises(ConfigError, match="is `at` 1x1, which is none of the sizes"):
        Plan(changed(tmp_path, keys={"gem": {"set": {"head": "gem"}, "at": "1x1"}}))
    with pytest.raises(ConfigError, match="progressive is searched at 64x32, and for another size"):
        Plan(changed(tmp_path, screen={**screen, "keys": ["progressive"]}))
    with pytest.raises(ConfigError, match="sett is not known"):
        Plan(changed(tmp_path, keys={"gem": {"sett": {"head": "gem"}}}))
