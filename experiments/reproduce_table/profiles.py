"""What the table is made of: its rows, its columns, the published scores, and the sweep that fills it."""

import csv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A network, judged as it is or after re-ranking: two rows of one checkpoint."""

    backbone: str
    label: str
    reranked: bool = False


@dataclass(frozen=True)
class Column:
    """A dataset, by the name that its reader gives it."""

    dataset: str
    label: str


ROWS = (
    Row("resnet34", "ResNet34"),
    Row("resnet50", "ResNet50"),
    Row("se_resnet50", "SE-ResNet50"),
    Row("se_resnext50", "SE-ResNeXt50"),
    Row("resnet50_ibn_a", "ResNet50-IBN-a"),
    Row("resnet50_ibn_a", "ResNet50-IBN-a + re-ranking", reranked=True),
)

BACKBONES = tuple(row.backbone for row in ROWS if not row.reranked)

#: Published scores in percent: (mAP, rank-1) by (backbone, dataset, re-ranked).
Published = dict[tuple[str, str, bool], tuple[float, float]]


@dataclass(frozen=True)
class Profile:
    """One way to run the table.  `words` are the overrides of its sweep, without the seeds."""

    name: str
    title: str
    columns: tuple[Column, ...]
    words: tuple[str, ...]
    #: Below `experiments/reproduce_table` of the home of the outputs.
    results: str
    #: Whether what is measured may stand beside the published scores; else its intervals stand there.
    comparable: bool = True
    note: str = ""
    #: Seeds of each cell where none are typed.
    seeds: int = 1

    @property
    def beside(self) -> tuple[str, str]:
        """What stands beside what was measured."""
        return ("published", "difference") if self.comparable else ("mAP, 95 %", "rank-1, 95 %")


def _recipes(dataset: str) -> list[str]:
    return [f"paper/{dataset}_{backbone}" for backbone in BACKBONES]


FULL = Profile(
    "full",
    "The published table",
    (Column("duke", "DukeMTMC-reID"), Column("market", "Market-1501")),
    (
        "experiment=" + ",".join(_recipes("duke") + _recipes("market")),
        # Theirs too, but Hydra opens the sweep before it reads a recipe.
        "tracking.experiment=reproduce_table",
        "sweep.name=sweep",  # the sweep's own report: results/sweep
    ),
    "results",
)

#: The same recipes, on drawn people: what is typed for `dataset` wins over theirs.
_ON_DRAWN_PEOPLE = (
    "experiment=" + ",".join(_recipes("market")),
    "dataset=synthetic,synthetic_night",
    "backbone.weights=none",
    "sweep.name=sweep",
    "tracking.checkpoint=false",
)
_DRAWN_COLUMNS = (Column("synthetic", "synthetic (day)"), Column("synthetic_night", "synthetic_night"))

#: At the size and for the epochs of `experiment=quickstart`.
DRAWN = Profile(
    "drawn",
    "The networks of the published table on drawn people",
    _DRAWN_COLUMNS,
    (
        *_ON_DRAWN_PEOPLE,
        "image.height=64",
        "image.width=32",
        "image.padding=4",
        "epochs=14",
        "schedule.milestones=[9,12]",
        "schedule.warmup_epochs=2",
        "eval.period=0",
        "tracking.experiment=reproduce_table_drawn",
    ),
    "results/drawn",
    comparable=False,
    note="drawn people at 64x32, 14 epochs from random weights: not comparable with the published scores, "
    "which are of photographs at 256x128 and of 120 epochs from ImageNet weights, so none stands here",
    seeds=3,
)

SMOKE = Profile(
    "smoke",
    "Smoke test of the published table",
    _DRAWN_COLUMNS,
    (
        *_ON_DRAWN_PEOPLE,
        "++dataset.preset=tiny",  # ++, since Hydra opens the sweep with the default dataset
        "image.height=32",
        "image.width=16",
        "image.padding=2",
        "batch.identities=4",
        "epochs=1",
        "tracking.experiment=reproduce_table_smoke",
    ),
    "results/smoke",
    comparable=False,
    note="smoke: tiny synthetic data, one epoch from random weights; says nothing of the published scores, "
    "which are of other data, so none stands here",
)

PROFILES = {profile.name: profile for profile in (FULL, DRAWN, SMOKE)}


def published_scores() -> Published:
    """The published table, read from `published.csv`."""
    with (HERE / "published.csv").open(newline="") as file:
        return {
            (row["backbone"], row["dataset"], row["rerank"] == "true"): (
                float(row["mAP"]),
                float(row["rank1"]),
            )
            for row in csv.DictReader(file)
        }
