"""What the study runs, as data: plan.yaml read and checked, and a cell as the overrides of a run.

A recipe is the published one with some of the plan's keys on top, so it is named by them: (), ("cosine",
"gem"), …  What a key says in epochs, such as a warm-up, it says as a share of the run's: so every recipe can
be scaled to every length.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reid.config.checks import ConfigError

HERE = Path(__file__).parent
PLAN = HERE / "plan.yaml"
#: Stands in a recipe for the keys of the winner.
WINNER = "winner"
PUBLISHED = "published"
#: What the key of a plan may say.
_OF_KEY = {"set", "share", "why", "instead_of", "own_speed", "at"}


@dataclass(frozen=True)
class Key:
    """Something that can be put on a recipe.

    values: overrides by key.  shares: overrides in epochs, as shares of the run's: one number, or several.
    instead_of: the name that keys share which replace each other.  own_speed: an epoch takes another time
    with it, so that a run of so many minutes has other epochs.  at: the one size that it is for; "" for all.
    """

    name: str
    values: Mapping[str, Any]
    shares: Mapping[str, Any]
    why: str = ""
    instead_of: str = ""
    own_speed: bool = False
    at: str = ""


@dataclass(frozen=True)
class Cell:
    """A run of the suite, or (`judged_on`) what a run scores on another dataset.

    changes: all that it sets beyond the plan's frame, sorted; with `seed` and `judged_on` they tell cells
    apart.  stage, name, budget say what it is for: minutes of training, "" where epochs were chosen.
    """

    stage: str = field(compare=False)
    name: str = field(compare=False)
    changes: tuple[str, ...]
    seed: int
    budget: str = field(default="", compare=False)
    judged_on: str = ""

    def __str__(self) -> str:
        on = f" on {self.judged_on}" if self.judged_on else ""
        budget = f", {self.budget} minutes" if self.budget else ""
        return f"{self.stage}: {self.name}{budget}, seed {self.seed}{on}"

    @property
    def values(self) -> dict[str, str]:
        return dict(change.partition("=")[::2] for change in self.changes)

    @property
    def models(self) -> tuple[str, ...]:
        """The lines of its stage whose models it begins with: `<name>` in what it sets."""
        return tuple(re.findall(r"<([^>]+)>", " ".join(self.changes)))

    def words(self, frame: Mapping[str, str]) -> list[str]:
        """The overrides of `python -m reid.train`; a change wins over the frame."""
        return [f"{key}={value}" for key, value in {**frame, **self.values, "seed": str(self.seed)}.items()]


class Plan:
    """The file, section by section; the sections themselves are read by the stages that they are for."""

    def __init__(self, path: Path = PLAN) -> None:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.path = path
        self.frame = {str(key): word(value) for key, value in content["frame"].items()}
        self.sizes: dict[str, dict[str, Any]] = content["sizes"]
        #: Of the network and CPU that the file names beside it, by size: only for estimates.
        self.seconds_per_epoch: dict[str, float] = content["seconds_per_epoch"]
        self.published = _key(PUBLISHED, content["published"])
        self.keys = {name: _key(name, entry) for name, entry in content["keys"].items()}
        self.sections: dict[str, Any] = {
            name: content.get(name) for name in content if name not in ("frame", "sizes", "keys", PUBLISHED)
        }
        self._check()

    def _check(self) -> None:
        for key in self.keys.values():
            if key.at and key.at not in self.sizes:
                raise ConfigError(f"{self.path}: key {key.name} is `at` {key.at}, which is none of the sizes")
        searches = [self.sections.get(name) or {} for name in ("screen", "large")]
        for search in searches:
            if len(search.get("keys", ())) > 12:
                raise ConfigError(
                    f"{self.path}: a screen of {len(search['keys'])} keys; at most 12 are allowed"
                )
            unfit = [name for name in search.get("keys", ()) if self.key(name).at not in ("", search["size"])]
            if unfit:
                raise ConfigError(
                    f"{self.path}: {', '.join(unfit)} is searched at {search['size']}, and for another size "
                    "(`at`)"
                )
            silent = [name for name in search.get("keys", ()) if not self.key(name).why]
            if silent:
                raise ConfigError(
                    f"{self.path}: {', '.join(silent)} {'has' if len(silent) == 1 else 'have'} no `why`. The "
                    "reason of each screened key is written down before the first run"
                )

    @property
    def domains(self) -> dict[str, str]:
        """What the winner is judged on away from home: for each label a word of `eval.datasets`."""
        return dict((self.sections.get("away") or {}).get("datasets", {}))

    def section(self, name: str) -> Any:
        found = self.sections.get(name)
        if found is None:
            raise ConfigError(f"{self.path} has no section {name}")
        return found

    def key(self, name: str) -> Key:
        if name not in self.keys:
            raise ConfigError(f"{self.path}: no key {name!r}; there are {', '.join(self.keys)}")
        return self.keys[name]

    def changes(
        self, keys: Sequence[str], size: str, epochs: int, split: str, more: Mapping[str, Any] | None = None
    ) -> tuple[str, ...]:
        """The changes of a recipe of these keys, at this length and size; later keys win, `more` over all."""
        if size not in self.sizes:
            raise ConfigError(f"{self.path}: no size {size!r}; there are {', '.join(self.sizes)}")
        values: dict[str, Any] = dict(self.sizes[size])
        for key in (self.published, *map(self.key, self.at_size(keys, size))):
            values |= key.values
            for name, share in key.shares.items():
                values.pop(name, None)
                if share is not None:
                    values[name] = scaled(share, epochs)
        values |= {"epochs": epochs, "eval.split": split, **(more or {})}
        return tuple(sorted(f"{name}={word(value)}" for name, value in values.items()))

    def at_size(self, keys: Sequence[str], size: str) -> list[str]:
        """Those of the keys that are for images of this size."""
        return [name for name in keys if self.key(name).at in ("", size)]

    def add(self, keys: Sequence[str], name: str) -> tuple[str, ...]:
        """The keys with one more, less the one that it takes the place of."""
        group = self.key(name).instead_of
        return (*(one for one in keys if not (group and self.key(one).instead_of == group)), name)


def recipe_name(keys: Sequence[str]) -> str:
    return " + ".join([PUBLISHED, *keys])


def scaled(share: float | Sequence[float], epochs: int) -> int | list[int]:
    """A share of the epochs as whole epochs: 0 in a run that is too short for it.

    Several are milestones: each leaves an epoch before it and one after it, and each stands once.
    """
    if isinstance(share, Sequence):
        inside = range(1, epochs)
        return sorted({min(max(1, round(one * epochs)), epochs - 1) for one in share} & {*inside})
    return round(share * epochs)


def word(value: Any) -> str:
    """A value of the plan as a word of the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(word, value))}]"
    return str(value)


def _key(name: str, entry: Mapping[str, Any]) -> Key:
    unknown = set(entry) - _OF_KEY
    if unknown:
        raise ConfigError(f"key {name}: {', '.join(sorted(unknown))} is not known; expected {_OF_KEY}")
    return Key(
        name, entry.get("set", {}), entry.get("share", {}), entry.get("why", ""),
        entry.get("instead_of", ""), entry.get("own_speed", False), entry.get("at", ""),
    )  # fmt: skip
