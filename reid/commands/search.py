"""Who is this? The nearest images of a gallery, and whether the nearest is near enough to be the person."""

from __future__ import annotations

import argparse
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from reid.commands.camera_choice import NO_CAMERA_SAID, OTHER_CAMERAS, choose_camera
from reid.commands.compare import expectation
from reid.commands.gallery_source import show_time
from reid.commands.index import look, model_of
from reid.data import silent
from reid.distance import normalise
from reid.engine.compute import Compute
from reid.gallery import Hits, Index
from reid.gallery.index import absolute
from reid.inference import TrainedModel, shape_problem
from reid.jobs.console import ConsoleProgress
from reid.judging.stored_threshold import StoredThreshold, ThresholdError
from reid.people import is_person
from reid.retrieval import rerank
from reid.terminal import Table, Terminal

#: Re-ranking looks at so many times the hits that are asked for, and at no fewer images than the second.
NEIGHBOURHOOD, SMALLEST_NEIGHBOURHOOD = 4, 100
#: Queries that are printed, and that are drawn; and hits of each of many that are drawn.
MOST_PRINTED, MOST_DRAWN, MOST_HITS_DRAWN = 40, 12, 10
#: Of a larger index only the files of the hits are looked at.
LOOKED_AT = 50_000


class Options(NamedTuple):
    """How queries are answered; see the options of `python -m reid.search`."""

    top: int = 20
    combine: str = "mean"
    rerank: bool = False
    expand: int = 0
    cameras: Sequence[int] | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class Hit:
    """An image of the gallery that a query found, at its place from 1; 0 where re-ranking left it out.

    `distance` is that of the features; `reranked` orders the hits where there is one. `same` is what the
    threshold says, None without one. `file` is `same`, `changed` or `gone`: what became of the image since.
    """

    place: int
    path: str
    distance: float
    same: bool | None
    pid: int | None
    name: str | None
    camid: int | None
    time: float | None
    file: str
    reranked: float | None = None

    @property
    def person(self) -> str:
        if self.pid is not None and not is_person(self.pid):
            return "distractor"
        return self.name or ("" if self.pid is None else str(self.pid))


@dataclass(frozen=True)
class Answer:
    """What a query, one or several images of a person, found.

    `nearest` is the image at the smallest distance, which re-ranking may have left out of the hits; `nobody`:
    it lies beyond the threshold, None without one.
    """

    images: list[str]
    hits: list[Hit]
    nearest: Hit | None
    nobody: bool | None


def search(
    index: Index, queries: Sequence[torch.Tensor], images: Sequence[Sequence[Path]], options: Options
) -> tuple[Hits, Hits, np.ndarray | None]:
    """The hits of queries, each the features (n, C) of images of one person; the same without re-ranking, and
    what re-ranking makes of the distances of the first.

    A query's own image, by its path, is no hit, and neither are the other frames of that image's tracklet. Of
    each other tracklet the nearest frame alone is a hit.
    """
    own = {path: number for number, path in enumerate(index.paths())}
    without = [[own[name] for path in some if (name := absolute(path)) in own] for some in images]
    if any(without) and index.has_tracklets:
        without = [_with_tracklets(index, rows) for rows in without]
    joined = [_joined(index, features, options) for features in queries]
    found = _nearest(index, joined, without, options, options.top)
    if options.expand:
        near = _nearest(index, joined, without, options, options.expand)
        joined = [
            _expanded(index, features, rows[rows >= 0])
            for features, rows in zip(joined, near.rows, strict=True)
        ]
        found = _nearest(index, joined, without, options, options.top)
    if not options.rerank:
        return found, found, None
    count = max(SMALLEST_NEIGHBOURHOOD, NEIGHBOURHOOD * options.top)
    around = _nearest(index, joined, without, options, count)
    hits, orders = _reranked(index, joined, around, options.top)
    return hits, found, orders


def _joined(index: Index, features: torch.Tensor, options: Options) -> torch.Tensor:
    """The features (1, C) or (n, C) that a query of several images is searched with."""
    if options.combine == "best" or len(features) == 1:
        return features
    return _in_space(index, features.mean(0, keepdim=True))


def _expanded(index: Index, features: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Each feature's mean with those that the query found (Chum et al., ICCV 2007)."""
    found = torch.from_numpy(index.features(rows))
    return _in_space(index, (features + found.sum(0)) / (1 + len(found)))


def _in_space(index: Index, features: torch.Tensor) -> torch.Tensor:
    return normalise(features) if index.facts.space.feature_norm else features


def _with_tracklets(index: Index, rows: Sequence[int]) -> list[int]:
    """Rows, and all other frames of their tracklets."""
    tracklets = index.column("tracklet")
    theirs = {tracklets[row] for row in rows} - {None}
    return (
        sorted({*rows, *(row for row, name in enumerate(tracklets) if name in theirs)})
        if theirs
        else list(rows)
    )


def _nearest(
    index: Index, queries: Sequence[torch.Tensor], without: Sequence[list[int]], options: Options, top: int
) -> Hits:
    """The nearest rows of each query; of a tracklet the nearest frame alone."""
    if not index.has_tracklets:
        return _nearest_rows(index, queries, without, options, top)
    tracklets = index.column("tracklet")
    asked = top
    while True:
        found = _nearest_rows(index, queries, without, options, asked)
        first = [_first_frames(rows, tracklets) for rows in found.rows]
        if asked >= len(index) or all(
            len(places) >= top or int(rows[-1]) < 0 for places, rows in zip(first, found.rows, strict=True)
        ):
            break
        asked = min(2 * asked, len(index))
    rows, distances = np.full((len(queries), top), -1), np.full((len(queries), top), np.inf)
    for number, places in enumerate(first):
        kept = places[:top]
        rows[number, : len(kept)] = found.rows[number, kept]
        distances[number, : len(kept)] = found.distances[number, kept]
    return Hits(rows, distances)


def _first_frames(rows: np.ndarray, tracklets: Sequence[str | None]) -> list[int]:
    """The places of the hits (top,), nearest first, that are the first of their tracklet, or of none."""
    seen: set[str] = set()
    places = []
    for place, row in enumerate(rows.tolist()):
        name = tracklets[row] if row >= 0 else None
        if row >= 0 and (name is None or name not in seen):
            places.append(place)
        seen |= {name} if name is not None else set()
    return places


def _nearest_rows(
    index: Index, queries: Sequence[torch.Tensor], without: Sequence[list[int]], options: Options, top: int
) -> Hits:
    """The nearest rows of each query: by the nearest of its features, ties by row number."""
    owner = np.repeat(np.arange(len(queries)), [len(features) for features in queries])
    found = index.search(
        torch.cat(list(queries)).numpy(), top, cameras=options.cameras, since=options.since,
        until=options.until, without=[without[number] for number in owner.tolist()],
    )  # fmt: skip
    if len(owner) == len(queries):
        return found
    rows, distances = np.full((len(queries), top), -1), np.full((len(queries), top), np.inf)
    for number in range(len(queries)):
        # Whatever is among the nearest of all is among the nearest of the image that it is nearest to.
        mine = owner == number
        order = np.lexsort((found.rows[mine].ravel(), found.distances[mine].ravel()))
        listed, near = found.rows[mine].ravel()[order], found.distances[mine].ravel()[order]
        _, first = np.unique(listed, return_index=True)
        kept = np.sort(first[listed[first] >= 0])[:top]
        rows[number, : len(kept)], distances[number, : len(kept)] = listed[kept], near[kept]
    return Hits(rows, distances)


def _reranked(
    index: Index, queries: Sequence[torch.Tensor], around: Hits, top: int
) -> tuple[Hits, np.ndarray]:
    """The first of each neighbourhood by the distances that re-ranking within it gives."""
    shape = len(queries), top
    rows, distances, orders = np.full(shape, -1), np.full(shape, np.inf), np.full(shape, np.inf)
    for number, features in enumerate(queries):
        near = around.rows[number][around.rows[number] >= 0]
        if not len(near):
            continue
        again = rerank(features, torch.from_numpy(index.features(near))).amin(0).numpy()
        order = np.lexsort((near, around.distances[number, : len(near)], again))[:top]
        rows[number, : len(order)], orders[number, : len(order)] = near[order], again[order]
        distances[number, : len(order)] = around.distances[number, order]
    return Hits(rows, distances), orders


def answers(
    index: Index,
    images: Sequence[Sequence[Path]],
    found: Hits,
    plain: Hits,
    reranked: np.ndarray | None,
    limit: float | None,
) -> list[Answer]:
    """What `search` found, with what is known of each image."""

    def hit(place: int, row: int, distance: float, order: float | None) -> Hit:
        known, same = index.row(row), None if limit is None else distance <= limit
        return Hit(
            place, str(known.path), distance, same, known.pid, known.name, known.camid, known.time,
            look(known).state, order,
        )  # fmt: skip

    result = []
    for number, paths in enumerate(images):
        rows = found.rows[number][found.rows[number] >= 0].tolist()
        orders = [None] * len(rows) if reranked is None else reranked[number].tolist()
        hits = [
            hit(place + 1, row, float(found.distances[number, place]), orders[place])
            for place, row in enumerate(rows)
        ]
        nearest = hits[0] if hits else None
        if hits and reranked is not None:
            first = int(plain.rows[number, 0])
            listed = (one for one, row in zip(hits, rows, strict=True) if row == first)
            nearest = next(listed, None) or hit(0, first, float(plain.distances[number, 0]), None)
        nobody = None if limit is None else nearest is None or not nearest.same
        result.append(Answer([str(path) for path in paths], hits, nearest, nobody))
    return result


def limit_of(
    model: TrainedModel, index: Index, options: Options, several: bool
) -> tuple[StoredThreshold | None, str]:
    """The threshold that may be applied, or None; and what there is to say of it.

    several: whether queries have several images.
    """
    threshold = model.threshold or index.facts.threshold
    if threshold is None:
        return None, (
            f"{model.name} carries no threshold, so these are distances alone, and nobody is never said. To "
            f"get one: python -m reid.threshold checkpoint={model.name}"
        )
    try:
        threshold.check(model.space)
    except ThresholdError as refusal:
        return None, f"distances alone: {refusal}"
    note = expectation(threshold)
    if len(index) > 1:
        note += (
            f". These are rates of pairs: who is not in the gallery is compared with {len(index):,} images, "
            "and is taken for somebody more often"
        )
        if several and options.combine == "best":
            note += ", the more so with the nearest of several images"
    means = ["means of several images"] if several and options.combine == "mean" else []
    means += ["query expansion"] if options.expand else []
    if means:
        note += (
            f". The threshold was measured on single images without {' or '.join(means)}, which bring "
            "distances down"
        )
    return threshold, note


def as_json(
    index: Index, model: TrainedModel, found: Sequence[Answer], rest: dict[str, Any]
) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    return {
        "gallery": str(index.folder),
        "images": len(index),
        "checkpoint": model.name,
        **asdict(model.space),
        "queries": [asdict(answer) for answer in found],
        **rest,
    }


def _filters(index: Index, options: Options) -> str:
    """How many images the filters leave, and what they were understood as."""
    words = [f"of camid {', '.join(map(str, options.cameras))}"] if options.cameras else []
    words += [f"from {show_time(options.since)}"] if options.since is not None else []
    words += [f"up to {show_time(options.until)}"] if options.until is not None else []
    left = len(index.selected(options.cameras, options.since, options.until))
    return f", {left:,} of them {' '.join(words)}" if words else ""


def show(console: Console, answer: Answer, reranked: bool) -> None:
    """The hits of one query, and what follows from them."""
    table = Table(title=", ".join(answer.images), title_justify="left", title_style="bold")
    for head, justify in (("", "right"), ("distance", "right")):
        table.add_column(head, justify=justify)
    if reranked:
        table.add_column("re-ranked", justify="right")
    for head in ("verdict", "person", "camid", "time", "image"):
        table.add_column(head, overflow="fold" if head == "image" else "ellipsis")
    for hit in answer.hits:
        order = [f"{hit.reranked:.3f}"] if hit.reranked is not None else []
        path = os.path.relpath(hit.path) if Path(hit.path).is_relative_to(Path.cwd()) else hit.path
        file = Text(path) if hit.file == "same" else Text.assemble(path, (f" ({hit.file})", "yellow"))
        table.add_row(
            str(hit.place), f"{hit.distance:.3f}", *order, _verdict(hit.same), hit.person,
            "" if hit.camid is None else str(hit.camid), show_time(hit.time), file,
        )  # fmt: skip
    console.print(table)
    console.print(conclusion(answer), highlight=False, soft_wrap=True)


def conclusion(answer: Answer) -> Text:
    """Who it is, in a line."""
    nearest = answer.nearest
    if nearest is None:
        return Text("no image of the gallery to compare with")
    if answer.nobody is None:
        return Text(f"nearest: {_who(nearest)} at {nearest.distance:.3f}")
    if answer.nobody:
        return Text.assemble(
            ("nobody", "bold red"),
            f": the nearest, {_who(nearest)}, is at {nearest.distance:.3f}, beyond the threshold",
        )
    within = [hit for hit in answer.hits if hit.same]
    named = nearest.pid is not None
    others = list(dict.fromkeys(_who(hit) for hit in within if named and _who(hit) != _who(nearest)))
    also = f"; these also show {', '.join(others[:3])}{', …' if len(others) > 3 else ''}" if others else ""
    share = f"{len(within)} of {len(answer.hits)} hits lie within the threshold{also}"
    return Text.assemble((_who(nearest), "bold green"), f" at {nearest.distance:.3f}; {share}")


def _who(hit: Hit) -> str:
    if hit.name is None and hit.pid is not None and is_person(hit.pid):
        return f"person {hit.pid}"
    return hit.person or Path(hit.path).name


def _verdict(same: bool | None) -> Text:
    if same is None:
        return Text("")
    return Text("same person", "green") if same else Text("another", "red")


def show_many(console: Console, found: Sequence[Answer]) -> None:
    """A line a query, and how many found nobody."""
    table = Table()
    for head in ("query", "nearest", "distance", "verdict", "image"):
        table.add_column(head, justify="right" if head == "distance" else "left")
    for answer in found[:MOST_PRINTED]:
        query = Path(answer.images[0]).name
        if not answer.hits:
            table.add_row(query, "", "", "", "no image to compare with")
            continue
        first = answer.hits[0]
        verdict = Text("nobody", "red") if answer.nobody else _verdict(first.same)
        table.add_row(query, first.person, f"{first.distance:.3f}", verdict, Path(first.path).name)
    console.print(table)
    if len(found) > MOST_PRINTED:
        console.print(f"… and {len(found) - MOST_PRINTED:,} queries more; all hits: -o hits.csv or .parquet")
    if any(answer.nobody is not None for answer in found):
        nobody = sum(bool(answer.nobody) for answer in found)
        console.print(f"{len(found) - nobody:,} of {len(found):,} queries found somebody, {nobody:,} nobody")


def write_hits(file: Path, found: Sequence[Answer]) -> None:
    """A row for each hit of each query, whole or not at all; a query without hits has none."""
    import pandas as pd

    rows = [{"query": answer.images[0], **asdict(hit)} for answer in found for hit in answer.hits]
    frame = pd.DataFrame(rows, columns=["query", *Hit.__dataclass_fields__])
    frame = frame.astype({"pid": "Int64", "camid": "Int64", "same": "boolean"})
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        if file.suffix.lower() == ".csv":
            frame.to_csv(partial, index=False)
        else:
            frame.to_parquet(partial, index=False)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def draw(found: Sequence[Answer], note: str, path: Path) -> None:
    """The picture of the hits."""
    from reid.figures import FoundImage, SearchResult, save, search_results  # matplotlib

    results = []
    most = MOST_HITS_DRAWN if len(found) > 1 else None
    for answer in found[:MOST_DRAWN]:
        hits = [
            FoundImage(Path(hit.path) if hit.file != "gone" else None, hit.same, _label(hit))
            for hit in answer.hits[:most]
        ]
        results.append(SearchResult([Path(image) for image in answer.images], str(conclusion(answer)), hits))
    title = "Who is this?"
    if len(found) > MOST_DRAWN:
        title += f" The first {MOST_DRAWN} of {len(found):,} queries"
    save(search_results(results, title=title, note=note), path)


def _label(hit: Hit) -> str:
    words = [_cut(_who(hit), 13)] if hit.person else []
    words += [f"camid {hit.camid}"] if hit.camid is not None else []
    return "\n".join([f"{hit.distance:.3f}", *words])


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def queries_of(tracklets: Sequence[str | None]) -> list[list[int]]:
    """Which images each query has: those of a tracklet together, in the order of their first ones."""
    groups: dict[tuple[bool, object], list[int]] = {}
    for row, name in enumerate(tracklets):
        groups.setdefault((True, name) if name is not None else (False, row), []).append(row)
    return list(groups.values())


def run(options: argparse.Namespace) -> int:
    """What `python -m reid.search` does with its options, whose images can be read; the exit code.

    Raises:
        UsageError, OSError: the index or the checkpoint cannot be used, or an output not be written.
    """
    errors, console = Terminal(stderr=True, soft_wrap=True, highlight=False), Terminal()
    Compute.set_up(options.device)
    index = Index.open(options.gallery)
    model = model_of(index, options.checkpoint, options.device)
    images: list[Path] = options.images
    problems = [] if options.many else [shape_problem(image, model.height, model.width) for image in images]
    warnings = [*options.notes, *(problem for problem in problems if problem)]
    chosen = Options(
        max(1, min(options.top, len(index))),
        options.combine,
        options.rerank,
        options.expand,
        options.camid,
        options.since,
        options.until,
    )
    if options.many:
        said: list[int | None] = options.camids
        own = any(camid is not None for camid in said)
        choice = choose_camera(model, options.camera, OTHER_CAMERAS, own)
    else:
        said = [None] * len(images)
        choice = choose_camera(model, options.camera, NO_CAMERA_SAID)
    if strangers := choice.strangers(said):
        warnings.append(strangers)
    progress = ConsoleProgress(errors) if options.many else silent
    features = model.embed(images, progress=progress, camids=choice.camids(said))
    groups = queries_of(options.tracklets) if options.many else [list(range(len(images)))]
    queries = [features[rows] for rows in groups]
    shown = [[images[row] for row in rows] for rows in groups]
    found, plain, reranked = search(index, queries, shown, chosen)
    threshold, note = limit_of(model, index, chosen, any(len(one) > 1 for one in queries))
    if index.has_tracklets:
        note += ". Hits are tracklets, each at its nearest frame"
    result = answers(index, shown, found, plain, reranked, threshold.value if threshold else None)
    gone = 0
    if len(index) <= LOOKED_AT:
        gone = sum(not index.place(number).exists() for number in range(len(index)))
    if gone:
        warnings.append(
            f"the files of {gone:,} of {len(index):,} images have gone: python -m reid.index -o "
            f"{options.gallery} --check names them"
        )
    for output in options.output:
        if output.suffix.lower() == ".png":
            draw(result, note, output)
        else:
            write_hits(output, result)
    for warning in warnings:
        errors.print(f"warning: {warning}")
    if options.json:
        rest = {"threshold": asdict(threshold) if threshold else None, "note": note, "warnings": warnings}
        print(json.dumps(as_json(index, model, result, rest), indent=2))
        return 0
    console.print(
        f"{index.folder}: {len(index):,} images{_filters(index, chosen)}; {model.name}", highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    if options.many:
        show_many(console, result)
    else:
        show(console, result[0], options.rerank)
    console.print(note, highlight=False, soft_wrap=True)
    for output in options.output:
        console.print(f"written: {output}", highlight=False, soft_wrap=True)
    return 0
