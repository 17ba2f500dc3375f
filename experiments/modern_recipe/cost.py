"""What the networks of the study cost to use, as `python -m reid.profile` measures it: results/cost.csv."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from experiments.modern_recipe.plan import Cell, Plan
from experiments.modern_recipe.table import Row
from reid.commands.network_cost import measure
from reid.commands.profile import describe_machine, in_words, of_settings
from reid.engine.compute import Compute
from reid.jobs.networks import named_networks
from reid.limits import cores

#: The stages whose networks are in the picture; the groups of keys that make a network.
SHOWN = ("curve", "second", "distil", "speedrun")
_OF_NETWORK = ("backbone", "head", "image", "tricks.last_stride", "tricks.bnneck", "experiment")


@dataclass(frozen=True)
class Cost:
    """A network with one image at a time: latency in seconds, median and 90th percentile."""

    network: str
    name: str
    parameters: int
    multiply_adds: int
    latency: float
    p90: float
    machine: str


def network_of(row: Row, plan: Plan) -> str:
    """The overrides that make the network of a row."""
    cell = Cell("", "", tuple(row.changes.split()), row.seed)
    words = cell.words(plan.frame)
    kept = [
        word for word in words if word.startswith(_OF_NETWORK) and not word.startswith("backbone.weights")
    ]
    return " ".join(sorted(kept))


def shown(rows: Iterable[Row]) -> list[Row]:
    """The rows that are in the picture: of the longest budget of the curve, and of the other stages all."""
    found = [row for row in rows if row.stage in SHOWN]
    longest = max((float(row.budget) for row in found if row.stage == "curve"), default=0.0)
    return [row for row in found if row.stage != "curve" or float(row.budget) == longest]


def measure_all(rows: Sequence[Row], plan: Plan, seconds: float) -> list[Cost]:
    """The cost of each network of the rows, timed for so many seconds each."""
    torch.set_num_threads(cores())
    compute = Compute.set_up("cpu")
    machine = in_words(describe_machine(compute))
    found = []
    for network in dict.fromkeys(network_of(row, plan) for row in shown(rows)):
        (settings,) = named_networks(network.split())
        described = of_settings(settings)
        cost = measure(
            compute.place(described.model), compute.device, described.height, described.width, [1], seconds
        )
        (timed,) = cost.timed
        found.append(
            Cost(
                network,
                described.name,
                cost.parameters,
                cost.multiply_adds,
                timed.latency,
                timed.p90,
                machine,
            )
        )
    return found


def write(costs: Sequence[Cost], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [one.name for one in fields(Cost)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(cost) for cost in costs)


def read(path: Path) -> list[Cost]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Cost(
                line["network"], line["name"], int(line["parameters"]), int(line["multiply_adds"]),
                float(line["latency"]), float(line["p90"]), line["machine"],
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip
