"""The nearest hundred of a million through 4-bit codes: recall, latency, memory, against faiss Flat."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.features import Scale, draw, repeat_with_noise
from experiments.benchmark.memory import in_child
from experiments.benchmark.outcome import Case, Goal, ratio
from reid.gallery.approximate import NEAREST, RECALLS, Approximate, build, load, suffixes
from reid.retrieval import evaluate

REPEATS = 5
#: Fifty thousand people of twenty images: the nearest hundred reach beyond a person's own.
WHOLE = Scale(1_000, 1_000_000, 50_000, 6, 512)
QUICK = Scale(20, 8_000, 400, 6, 64)
#: Queries that are timed one by one in each repeat, and those of faiss Flat, which takes so much longer.
SINGLE, SINGLE_FLAT = 200, 20
#: Queries whose mAP says how hard the drawn features are.
SCORED = 200
GOAL_RECALL, GOAL_RATIO, GOAL_MS, GOAL_MIB = 0.99, 20.0, 10.0, 3 * 1024
BEST = max(RECALLS)
FLAT, HALVES, OURS = "faiss Flat", "Flat in two halves, a thread each", "4-bit codes, second look"
STEM = "index"

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def measure(setup: Setup) -> list[Case]:
    """One case for drawn features, and one for embeddings of real crops where a folder of them was given."""
    cases = [_case(setup, "drawn", None)]
    if setup.crops is not None:
        cases.append(_case(setup, "real, repeated with noise", setup.crops))
    return cases


def _case(setup: Setup, name: str, crops: tuple[str, str] | None) -> Case:
    with tempfile.TemporaryDirectory(prefix="reid-search-") as folder:
        setup.say(f"{name}: making the features")
        made = in_child(make, folder=folder, quick=setup.quick, crops=crops).value
        rows, size = made.pop("rows"), made.pop("size")
        what = f"{rows:,} x {size:,}, {name}"
        setup.say(f"{what}: building the index in a process of its own")
        built = in_child(build_index, folder=folder)
        setup.say(f"{what}: searching it in a process of its own, for its memory")
        alone = in_child(search_alone, folder=folder)
        setup.say(f"{what}: beside faiss Flat, {setup.repeats} times in turn")
        found = in_child(contest, folder=folder, repeats=setup.repeats).value
    one, many, levels = found["one"], found["many"], found["levels"]
    made |= found["facts"]
    ours, level = _at(OURS, BEST), levels[str(BEST)]
    scanned = rows * level["share"] * (level["directions"] / 2 + 8) + level["candidates"] * size * 2
    least = setup.limits.move_seconds(scanned)
    for recall, measured in levels.items():
        p50, p99 = 1e3 * measured["p50"], 1e3 * measured["p99"]
        many_a_second = found["queries"] / statistics.median(many[_at(OURS, float(recall))])
        made |= {
            f"{recall}: recall@1 / 10 / {NEAREST}": " / ".join(f"{one:.3f}" for one in measured["recall"]),
            f"{recall}: one query p50 / p99, ms": f"{p50:.2f} / {p99:.2f}",
            f"{recall}: a thousand at once, queries a second": many_a_second,
            f"{recall}: lists opened, candidates": f"{measured['share']:.0%}, {measured['candidates']:,}",
        }
    made[f"{FLAT}: one query p50 / p99, ms"] = (
        f"{1e3 * found['flat_p50']:.0f} / {1e3 * found['flat_p99']:.0f}"
    )
    made[f"{FLAT}: a thousand at once, queries a second"] = found["queries"] / statistics.median(many[FLAT])
    sizes = built.value
    for factor in (10, 100):
        made[f"{factor} x the rows by arithmetic: codes, float16 GiB; query ms; build min"] = (
            f"{factor * sizes['codes_mib'] / 1024:.1f}, {factor * sizes['halves_mib'] / 1024:.0f}; "
            f"{factor * 1e3 * level['p50']:.0f}; {factor * sizes['seconds'] / 60:.0f}"
        )
    return Case(
        what,
        [
            Goal(f"recall@{NEAREST}", level["recall"][-1], GOAL_RECALL, ">=", ""),
            ratio("one query, faiss Flat / ours", one[FLAT], one[ours], at_least=GOAL_RATIO),
            ratio("one query, Flat in two halves / ours", one[HALVES], one[ours]),
            Goal("one query, p50", 1e3 * level["p50"], GOAL_MS, "<=", "ms"),
            Goal("one query, p99", 1e3 * level["p99"], None, "<=", "ms"),
            ratio("a thousand queries at once, faiss Flat / ours", many[FLAT], many[ours]),
            Goal("peak memory, search", alone.peak_mib, GOAL_MIB, "<=", "MiB"),
            Goal("peak memory, build", built.peak_mib, GOAL_MIB, "<=", "MiB"),
            Goal("time of the build", built.value["seconds"], None, "<=", "s"),
            Goal("one query, time / limit", level["p50"] / least, None, "<="),
        ],
        {f"one query, {name}": values for name, values in one.items()}
        | {f"a thousand at once, {name}": values for name, values in many.items()},
        limit_seconds=least,
        limit="the opened codes and the candidates' rows read once from memory",
        peak_mib={"build": built.peak_mib, "search, with the rows that it mapped": alone.peak_mib},
        facts=made | {"faiss": faiss.__version__},
    )


def make(folder: str, quick: bool, crops: tuple[str, str] | None) -> dict[str, float | str]:
    """Write gallery.npy, queries.npy, and origins.npy with the person or crop of each; how hard they are."""
    scale = QUICK if quick else WHOLE
    place = Path(folder)
    if crops is None:
        query, gallery = draw(scale)
        np.save(place / "gallery.npy", gallery.features.numpy())
        np.save(place / "queries.npy", query.features.numpy())
        np.save(place / "origins.npy", np.concatenate([query.pids, gallery.pids]))
        some = query.select(torch.arange(min(SCORED, len(query))))
        known: dict[str, float | str] = {f"mAP of {len(some):,} queries": evaluate(some, gallery).mAP}
    else:
        from reid.data.image_folders import images_below
        from reid.inference import load_model

        found = images_below(Path(crops[0])).images
        features = load_model(crops[1], "cpu").embed(found).numpy()
        rows = min(scale.gallery, scale.gallery * scale.dimensions // features.shape[1])  # as many bytes
        gallery_file = np.lib.format.open_memmap(
            place / "gallery.npy", "w+", np.float32, (rows, features.shape[1])
        )
        queries = np.empty((scale.queries, features.shape[1]), np.float32)
        generator = np.random.default_rng(0)
        origins = [repeat_with_noise(features, out, generator) for out in (queries, gallery_file)]
        gallery_file.flush()
        np.save(place / "queries.npy", queries)
        np.save(place / "origins.npy", np.concatenate(origins))
        known = {"embeddings that were repeated": f"{len(features):,}"}
    gallery_rows = np.load(place / "gallery.npy", mmap_mode="r")
    return {**known, "rows": gallery_rows.shape[0], "size": gallery_rows.shape[1]}


def build_index(folder: str) -> dict[str, float]:
    """Build it from the mapped features: seconds, and sizes of its files."""
    torch.set_num_threads(1)  # numpy and faiss have their own
    gallery = np.load(Path(folder) / "gallery.npy", mmap_mode="r")
    start = time.perf_counter()
    build([gallery], "codes", "euclidean", Path(folder) / STEM)
    seconds = time.perf_counter() - start
    codes, halves = (
        (Path(folder) / f"{STEM}{ending}").stat().st_size / 2**20 for ending in suffixes("codes")
    )
    return {"seconds": seconds, "codes_mib": codes, "halves_mib": halves}


def search_alone(folder: str) -> None:
    """What a process that only searches does: each query alone, then all at once."""
    index, queries = _open(folder)
    for query in queries:
        index.candidates(query, NEAREST)
    index.candidates(queries, NEAREST)


def contest(folder: str, repeats: int) -> dict[str, Any]:
    """Every contestant in turn: seconds a query alone and of all at once, and what ours found."""
    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    index, queries = _open(folder)
    flat = faiss.IndexFlatL2(queries.shape[1])
    gallery = np.load(Path(folder) / "gallery.npy", mmap_mode="r")
    for start in range(0, len(gallery), 2**15):
        flat.add(np.ascontiguousarray(gallery[start : start + 2**15]))
    exact_distances, exact = flat.search(queries, min(1_000, flat.ntotal))
    stored = faiss.rev_swig_ptr(flat.get_xb(), gallery.size).reshape(gallery.shape)
    one: dict[str, list[float]] = {}
    many: dict[str, list[float]] = {}
    singles: dict[str, list[float]] = {}
    with ThreadPoolExecutor(2) as pool:
        contestants: dict[str, Callable[[Floats], Any]] = {
            FLAT: lambda some: flat.search(some, NEAREST),
            HALVES: lambda some: _by_halves(pool, stored, some),
        }
        for recall in RECALLS:
            contestants[_at(OURS, recall)] = partial(index.candidates, count=NEAREST, recall=recall)
        for function in contestants.values():
            function(queries[:1])
        order = itertools.cycle(range(len(queries)))
        for repeat in range(repeats):
            for name, function in contestants.items():
                count = SINGLE_FLAT if name in (FLAT, HALVES) else SINGLE
                times = [_seconds(function, queries[[next(order)]]) for _ in range(count)]
                singles.setdefault(name, []).extend(times)
                one.setdefault(name, []).append(statistics.median(times))
                if name != HALVES and repeat < 3:
                    many.setdefault(name, []).append(_seconds(function, queries))
    levels = {}
    for recall in RECALLS:
        found, setting = index.candidates(queries, NEAREST, recall=recall), index.settings[recall]
        times = singles[_at(OURS, recall)]
        levels[str(recall)] = {
            "recall": [_recall(exact[:, :count], found[:, :count]) for count in (1, 10, NEAREST)],
            "p50": statistics.median(times), "p99": float(np.percentile(times, 99)),
            "share": setting.lists / index.lists, "candidates": setting.candidates,
            "directions": index.directions,
        }  # fmt: skip
    apart = np.sqrt(exact_distances[:, [0, 9, NEAREST - 1, -1]]).mean(axis=0)
    hardness = [f"{value:.3f}" for value in apart]
    facts = {f"mean distance of the nearest, 10th, {NEAREST}th, {exact.shape[1]:,}th": " / ".join(hardness)}
    query_origins, gallery_origins = np.split(np.load(Path(folder) / "origins.npy"), [len(queries)])
    own = (gallery_origins[exact[:, :NEAREST]] == query_origins[:, None]).sum(axis=1).mean()
    facts[f"of the nearest {NEAREST}: of the query's own person or crop, others"] = (
        f"{own:.0f}, {NEAREST - own:.0f}"
    )
    return {
        "facts": facts, "one": one, "many": many, "levels": levels, "queries": len(queries),
        "flat_p50": statistics.median(singles[FLAT]), "flat_p99": float(np.percentile(singles[FLAT], 99)),
    }  # fmt: skip


def _open(folder: str) -> tuple[Approximate, Floats]:
    """The index, and the queries."""
    queries = np.load(Path(folder) / "queries.npy")
    rows = len(np.load(Path(folder) / "gallery.npy", mmap_mode="r"))
    return load(Path(folder) / STEM, rows), queries


def _by_halves(pool: ThreadPoolExecutor, gallery: Floats, queries: Floats) -> Integers:
    """The nearest by faiss, which takes one thread for one query: two threads, each of half of the rows."""
    middle = len(gallery) // 2
    parts = list(
        pool.map(lambda part: faiss.knn(queries, part, NEAREST), (gallery[:middle], gallery[middle:]))
    )
    distances = np.concatenate([part[0] for part in parts], axis=1)
    rows = np.concatenate([parts[0][1], parts[1][1] + middle], axis=1)
    return np.take_along_axis(rows, np.argsort(distances, axis=1)[:, :NEAREST], axis=1)


def _at(name: str, recall: float) -> str:
    return f"{name}, recall {recall}"


def _seconds(function: Callable[[Floats], Any], queries: Floats) -> float:
    start = time.perf_counter()
    function(queries)
    return time.perf_counter() - start


def _recall(exact: Integers, found: Integers) -> float:
    """Mean share of the exact nearest that were found."""
    pairs = zip(exact, found, strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / len(one) for one, other in pairs]))
