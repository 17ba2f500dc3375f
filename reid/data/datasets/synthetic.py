"""Pedestrians drawn by the project itself: a dataset for a machine that has none."""

from pathlib import Path

from reid.data.crops import DatasetError, Progress, ReidDataset, silent
from reid.data.layout import read_market_layout
from reid.data.pedestrians.drawing import ensure_drawn
from reid.data.pedestrians.plan import DOMAINS, PRESETS, DomainName, PresetName, plan

NOTICE = "Drawn people: nobody in these images exists."


def load(
    root: Path,
    preset: PresetName = "small",
    domain: DomainName = "day",
    seed: int = 0,
    progress: Progress = silent,
) -> ReidDataset:
    """Read the drawn set at `root`, drawing it first where nothing is there yet.

    `tiny` (12 identities to train on, 6 to test on, 3 cameras) is drawn in about a second, `small` (180, 60,
    4 cameras) in about twenty on two cores.  `night` has other people and cameras than `day`, under poor
    light.  The same arguments give the same identities, cameras and names everywhere, and the same bytes with
    the same versions of numpy and Pillow.

    Raises:
        DatasetError: an unknown preset or domain, a negative seed, a `root` that holds something else, or a
            drawn set from which crops were removed.
    """
    if preset not in PRESETS:
        raise DatasetError(f"dataset.preset={preset!r}: expected one of {', '.join(PRESETS)}.")
    if domain not in DOMAINS:
        raise DatasetError(f"dataset.domain={domain!r}: expected one of {', '.join(DOMAINS)}.")
    if seed < 0:
        raise DatasetError(f"dataset.seed={seed}: expected 0 or more.")
    root = Path(root)
    ensure_drawn(root, preset, domain, seed, progress)
    name = "synthetic" if domain == "day" else f"synthetic_{domain}"
    dataset = read_market_layout(name, root, notice=NOTICE)
    found = len(dataset.train) + len(dataset.query) + len(dataset.gallery) + dataset.junk
    drawn = len(plan(preset, domain, seed))
    if found != drawn:
        raise DatasetError(f"{root}: {drawn} crops were drawn, found {found}. Delete it to draw again.")
    return dataset


def train_people(preset: str) -> int:
    """How many identities a set of this preset has to train on; each of them may be held out instead."""
    return PRESETS[preset].train_people
