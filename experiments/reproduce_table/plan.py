"""What there is to run: the cells of the table, and which of them are finished."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from hydra import compose, initialize_config_dir

from experiments.reproduce_table.profiles import Profile
from reid.config.schema import TrainConfig, config_folder
from reid.config.settings import train_settings
from reid.engine.rundir import find_finished
from reid.home import home
from reid.sweeps.cells import Cell, alike, expand


@dataclass(frozen=True)
class Planned:
    """A cell, its config without a seed's part in it, and whether a run of it is finished."""

    cell: Cell
    settings: TrainConfig
    finished: bool


def sweep_words(profile: Profile, seeds: int, force: bool = False, more: Sequence[str] = ()) -> list[str]:
    """The overrides of `python -m reid.train -m …` that run the table."""
    words = [*profile.words, f"seed={','.join(map(str, range(seeds)))}", *more]
    return [*words, "sweep.take=none"] if force else words


def plan(words: Sequence[str]) -> list[Planned]:
    """The cells of a sweep in the order of its jobs.

    Finished means: a run of the same config, by code of the same numbers, on data in the same folder.  The
    sweep itself also compares the data.

    Raises:
        ConfigError, HydraException: a word is wrong.
    """
    cells = expand("train", words)
    again = "sweep.take=none" in words
    # Cells that differ by their seed alone need the same things.
    seedless: dict[tuple[str, ...], TrainConfig] = {}
    planned = []
    with initialize_config_dir(str(config_folder()), version_base="1.3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself warns
        for cell in cells:
            without_seed = tuple(word for word in cell.overrides if not word.startswith("seed="))
            if without_seed not in seedless:
                seedless[without_seed] = train_settings(compose("train", overrides=list(without_seed)))
            planned.append(Planned(cell, seedless[without_seed], not again and _finished(cell)))
    return planned


def _finished(cell: Cell) -> bool:
    roots = [home() / "outputs", home() / "multirun"]
    return bool(find_finished(cell.config_hash, cell.data_root, roots[1], roots, alike([cell])))
