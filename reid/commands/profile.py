"""What networks cost: which ones are meant, the table of their costs, and the picture with their scores."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reid.commands.network_cost import Cost, measure
from reid.config.schema import TrainConfig
from reid.config.trial import check_built
from reid.engine.checkpoint import load_checkpoint
from reid.engine.checkpoint_source import find_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import model_description, rebuild_model
from reid.engine.errors import CheckpointError
from reid.home import home, source_root
from reid.jobs.console import ConsoleProgress
from reid.judging.stored_scores import KEY
from reid.limits import cores
from reid.models import ReidModel, described_model
from reid.runs.selection import run_score
from reid.terminal import Table, Terminal
from reid.tracking import RunRecord, TrackingError, default_store, environment, fetch_checkpoint, list_runs

#: Of a network that was not trained; its classifier is not counted.
_CLASSES = 2


@dataclass(frozen=True)
class Scored:
    """A run or a checkpoint with its mAP (a fraction) and what it was judged on."""

    name: str
    mAP: float
    data: str


@dataclass
class Network:
    """A network to measure; `scored` are the trained models that have it.

    what: what tells networks apart: all that a model is built from, less its classes.
    """

    name: str
    height: int
    width: int
    model: ReidModel
    scored: list[Scored]
    what: str = ""


def run(options: argparse.Namespace) -> int:
    """What `python -m reid.profile` does with its options; the exit code.

    Raises:
        UsageError, TrackingError: a network cannot be built, or a checkpoint or a run not be read.
        OSError: the picture cannot be written.
    """
    torch.set_num_threads(options.threads or cores())
    compute = Compute.set_up(options.device)
    errors = Terminal(stderr=True, soft_wrap=True)
    progress = ConsoleProgress(errors)
    networks = distinct(_networks(options, errors))
    points = options.output is not None and any(network.scored for network in networks)
    if options.output is not None and not points:
        raise CheckpointError(
            f"-o {options.output}: no score is known of these networks. Give a checkpoint that says its "
            "scores, or --runs EXPERIMENT with finished runs"
        )
    costs = [
        measure(
            compute.place(network.model), compute.device, network.height, network.width, options.batch,
            options.seconds,
        )
        for network in progress(networks, len(networks), "measuring networks")
    ]  # fmt: skip
    machine = describe_machine(compute)
    if options.json:
        found = [as_json(network, cost) for network, cost in zip(networks, costs, strict=True)]
        print(json.dumps({"machine": machine, "networks": found}, indent=2))
    elif options.csv:
        _write_csv(networks, costs)
    else:
        _show(networks, costs, machine)
    if points:
        _draw(networks, costs, machine, options)
        if not (options.json or options.csv):
            Terminal().print(f"picture: {options.output}", highlight=False, soft_wrap=True)
    return 0


def _networks(options: argparse.Namespace, errors: Terminal) -> Iterator[Network]:
    for settings in options.settings:
        yield of_settings(settings)
    for name in options.checkpoints:
        yield of_checkpoint(name, find_checkpoint(name, options.uri))
    if options.runs:
        yield from _of_runs(options.runs, options.uri, errors)


def of_settings(settings: TrainConfig) -> Network:
    """The network of a training config, with random weights."""
    check_built(settings)
    description = model_description(settings, _CLASSES)
    with torch.random.fork_rng(devices=[]):
        model = described_model(description)
    return _network(description, model, settings.image.height, settings.image.width, [])


def of_checkpoint(name: str, path: Path, scored: Scored | None = None) -> Network:
    """The network of a checkpoint, with the score of its own test set, where it says that."""
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    own = [
        Scored(name, row["values"]["mAP"], f"{row['dataset']}, {row['split']} split")
        for row in meta.get(KEY, [])
        if row["own"] and not row["reranked"] and "mAP" in row["values"]
    ]
    size = meta["preprocessing"]
    model = rebuild_model(checkpoint)
    return _network(meta["model"], model, size["height"], size["width"], [scored] if scored else own[:1])


def _network(
    description: Mapping[str, Any], model: ReidModel, height: int, width: int, scored: list[Scored]
) -> Network:
    head = description.get("head", {}).get("_target_", "").rpartition(".")[2]
    parts = [str(description["backbone"]["name"])]
    parts += [head] if head not in ("", "BNNeck") else []
    parts += ["stn"] if description["backbone"].get("stn") else []
    parts += ["last stride 2"] if description["last_stride"] == 2 else []
    what = {**description, "num_classes": 0, "height": height, "width": width}
    name = f"{', '.join(parts)}, {height}x{width}"
    return Network(name, height, width, model, scored, json.dumps(what, sort_keys=True, default=str))


def _of_runs(experiment: str, uri: str | None, errors: Terminal) -> Iterator[Network]:
    """The networks of an experiment; runs that hold no model (`tracking.checkpoint=none`) are named."""
    store = default_store(home(), uri)
    runs = [run for run in list_runs(store, experiment) if _is_scored(run)]
    if not runs:
        raise TrackingError(
            f"--runs {experiment}: no finished run with a score in {store.public_uri}. "
            "python -m reid.runs list shows what there is"
        )
    left_out = 0
    for run in runs:
        score = run_score(run)
        data = f"{run.tags.get('reid.data.name', 'unknown data')}, {score.split} split"
        scored = Scored(run.name, float(score.mAP or 0), data)
        try:
            network = of_checkpoint(run.name, fetch_checkpoint(store, str(run.run_id)), scored)
        except (TrackingError, CheckpointError) as error:
            left_out += 1
            if left_out == len(runs):
                raise
            errors.print(f"left out: {run.name}: {error}", highlight=False)
            continue
        yield network


def _is_scored(run: RunRecord) -> bool:
    score = run_score(run)
    return run.status == "FINISHED" and score.mAP is not None and not score.best


def distinct(networks: Iterator[Network]) -> list[Network]:
    """Each network once, with all models that have it: the seeds of a sweep need not be timed one by one."""
    found: dict[str, Network] = {}
    for network in networks:
        first = found.setdefault(network.what, network)
        if first is not network:
            first.scored += network.scored
    return list(found.values())


def describe_machine(compute: Compute) -> dict[str, str]:
    """What the times depend on."""
    tags = environment(source_root()).tags
    on_gpu = compute.device.type == "cuda"
    return {
        "device": tags["reid.gpu"] if on_gpu else tags["reid.cpu"],
        "threads": str(torch.get_num_threads()),
        "cores": tags["reid.cpu_count"],
        "torch": tags["reid.version.torch"],
        "precision": "float32",
    }


def as_json(network: Network, cost: Cost) -> dict[str, Any]:
    """All that is known of a network, as plain data: bytes, seconds, fractions."""
    return {
        "network": network.name,
        "height": network.height,
        "width": network.width,
        **asdict(cost),
        "timed": [{**asdict(one), "throughput": one.throughput} for one in cost.timed],
        "models": [asdict(one) for one in network.scored],
    }


def _rows(network: Network, cost: Cost) -> list[dict[str, object]]:
    """A network as rows of a table, one a batch size: bytes and seconds."""
    best = max((one.mAP for one in network.scored), default=None)
    return [
        {
            "network": network.name,
            "mAP": best,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "weight_bytes": cost.weights,
            "batch": one.batch,
            "activation_bytes": one.activations,
            "latency_s": one.latency,
            "p90_s": one.p90,
            "images_per_s": one.throughput,
        }
        for one in cost.timed
    ]


def _write_csv(networks: Sequence[Network], costs: Sequence[Cost]) -> None:
    rows = [row for network, cost in zip(networks, costs, strict=True) for row in _rows(network, cost)]
    table = csv.DictWriter(sys.stdout, rows[0])
    table.writeheader()
    table.writerows(rows)


#: Heads of the table, narrow enough for 80 columns, and how a column of `_rows` is written there.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "mAP": ("mAP", lambda share: "" if share is None else f"{100 * share:.1f}"),
    "parameters": ("param.\nM", lambda count: f"{count / 1e6:.2f}"),
    "multiply_adds": ("mult-adds\nG", lambda count: f"{count / 1e9:.3f}"),
    "weight_bytes": ("weights\nMiB", lambda size: f"{size / 2**20:.1f}"),
    "batch": ("batch\n", str),
    "activation_bytes": ("activ.\nMiB", lambda size: f"{size / 2**20:.1f}"),
    "latency_s": ("latency\nms", lambda seconds: f"{1000 * seconds:.1f}"),
    "p90_s": ("p90\nms", lambda seconds: f"{1000 * seconds:.1f}"),
    "images_per_s": ("images\n/s", lambda rate: f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"),
}
#: Those that are the same for each size of batch.
_OF_NETWORK = ("mAP", "parameters", "multiply_adds", "weight_bytes")


def _show(networks: Sequence[Network], costs: Sequence[Cost], machine: Mapping[str, str]) -> None:
    console = Terminal()
    shown = [name for name in _COLUMNS if name != "mAP" or any(network.scored for network in networks)]
    table = Table()
    table.add_column("network\n")
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right")
    for network, cost in zip(networks, costs, strict=True):
        for number, row in enumerate(_rows(network, cost)):
            hidden = _OF_NETWORK if number else ()
            cells = ["" if name in hidden else _COLUMNS[name][1](row[name]) for name in shown]
            table.add_row("" if number else network.name, *cells)
    console.print(table)
    console.print(
        f"{in_words(machine)}: medians of the network alone, without reading images",
        highlight=False,
        soft_wrap=True,
    )


def in_words(machine: Mapping[str, str]) -> str:
    return (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, {machine['precision']}"
    )


def _draw(
    networks: Sequence[Network],
    costs: Sequence[Cost],
    machine: Mapping[str, str],
    options: argparse.Namespace,
) -> None:
    from reid.figures import Point, accuracy_latency, save  # matplotlib, which a table does without

    points = [
        Point(network.name, cost.timed[0].latency, one.mAP, one.data)
        for network, cost in zip(networks, costs, strict=True)
        for one in network.scored
    ]
    save(accuracy_latency(points, costs[0].timed[0].batch, in_words(machine)), options.output)
