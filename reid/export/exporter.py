"""A model becomes a file for a program: written, made smaller, checked, and only then put in place."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reid.export.check import BATCHES, Check, check_graph
from reid.export.facts import Origin, facts_of, short_facts
from reid.export.graph import Graph, annotate, write_graph
from reid.export.pixels import Crop, given, suite_images
from reid.export.smaller import to_float16, to_int8
from reid.export.target import Target, target_named, target_names
from reid.judging.stored_threshold import FeatureSpace
from reid.models import ReidModel

Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Report:
    """An export that succeeded.

    Attributes:
        path: of the graph.
        beside: the further files.
        bytes: of the graph.
        facts: what the JSON file says.
    """

    path: Path
    beside: tuple[Path, ...]
    bytes: int
    target: Target
    precision: Precision
    check: Check
    facts: dict[str, Any]


def export(
    model: ReidModel,
    space: FeatureSpace,
    size: tuple[int, int],
    target: Target,
    path: Path,
    crops: Sequence[Crop],
    *,
    origin: Origin,
    precision: Precision = "float32",
    calibration: Sequence[Crop] = (),
) -> Report:
    """Write `path` and the files beside it: all of them, or none where the graph fails its check.

    What an earlier export of that name for another program left beside it goes.

    Args:
        model: in evaluation mode.
        space: the feature that the file gives, and how it is compared.
        size: height and width of the images that the model takes.
        crops: what the graph is checked on, five or more.
        origin: what the files say of the model.
        calibration: for int8, crops as the model was trained on; their values decide the scales.

    Raises:
        ExportError: the graph is not the model, or the program would get other features from it.
        OSError: it cannot be written; what was there before is untouched.
    """
    if len(crops) < max(BATCHES):
        raise ValueError(f"{len(crops)} crops: {max(BATCHES)} or more are needed to check a graph")
    model.eval_feature = space.neck_feature
    folder = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    folder.mkdir()
    try:
        graph_file = folder / path.name
        bits: dict[str, int] = {}
        write_graph(model, space, target, *size, graph_file)
        if precision == "float16":
            to_float16(graph_file)
        elif precision == "int8":
            bits = to_int8(graph_file, given(suite_images(calibration, *size), target))
        graph = Graph(graph_file)
        check = check_graph(graph, model, space, target, crops, size, exact=precision == "float32")
        del graph
        facts = (
            facts_of(
                path.name, target, space, size, model.embedding_size, precision, origin, check,
                model.normalisation,
            )
            | bits
        )  # fmt: skip
        annotate(graph_file, short_facts(facts))
        texts = {".json": json.dumps(facts, indent=2) + "\n", **target.files(facts)}
        for suffix, text in texts.items():
            (folder / (path.name + suffix)).write_text(text)
        beside = tuple(path.with_name(path.name + suffix) for suffix in texts)
        known = {suffix for name in target_names() for suffix in target_named(name).files(facts)}
        for suffix in known - texts.keys():  # of another program: it would say of this graph what is not so
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        for file in (*beside, path):  # the graph comes last: where it lies, so does the rest
            (folder / file.name).replace(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Report(path, beside, path.stat().st_size, target, precision, check, facts)
