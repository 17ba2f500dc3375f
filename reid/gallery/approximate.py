"""The nearest rows among millions: codes of 4 bits choose candidates, float16 rows decide among them.

Rows are projected to the few directions that hold most of their variance, and each direction is kept in
4 bits. The codes lie in inverted lists (faiss's IVF with a product quantiser, "fast scan"), so that a query
compares itself with the codes of the lists that lie nearest to it. What comes out is looked at again in a
memory-mapped float16 file of the rows themselves. How many lists a query opens, and how many candidates it
looks at again, is measured at the build with rows of the gallery as queries: it depends on the features, and
no rule foretells it.

    <stem>.codes    a line of JSON, then faiss's index; d / 2 + 8 bytes a row for d directions
    <stem>.f16      float16 (rows, C), divided by their norm for the cosine
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from reid.errors import UsageError
from reid.regular import read_regular

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

KINDS = ("codes",)
#: Up to so many rows all are compared where they fit into half of the memory.
EXACT_ROWS = 1_000_000
#: The recalls that `candidates` offers, of the nearest NEAREST rows.
RECALLS = (0.9, 0.95, 0.99)
NEAREST = 100
#: Rows whose nearest are searched exactly to measure the recall, and candidates looked at again at most.
QUERIES, MOST_CANDIDATES = 256, 4096

_FORMAT = 1
#: Share of the variance that the directions hold, and how many there are at most.
_VARIANCE, _MOST_DIRECTIONS, _DIRECTIONS_STEP = 0.95, 256, 32
#: Rows that the quantisers are trained on: enough for the largest number of lists, which faiss wants 39 for.
_TRAINED_ON, _MOST_LISTS = 2**15, 2**9
#: A trained quantiser serves a gallery that has grown by no more than this factor.
_GROWTH = 4
#: Bytes of float32 rows that are read, encoded and written at once.
_BLOCK_BYTES = 2**26
#: Nanoseconds for a code's direction that is scanned, and a row's dimension that is looked at again, as
#: measured on one core: they weigh lists against candidates.
_SCAN, _LOOK = 0.022, 2.0
_LARGEST_HALF = 65504.0


class MissingFaiss(UsageError):
    """faiss is not installed."""


class ApproximateFault(ValueError):
    """The files of codes are damaged, or belong to other rows."""


@dataclass(frozen=True)
class Setting:
    """How many lists a query opens, how many candidates it looks at again, and the recall measured so."""

    lists: int
    candidates: int
    recall: float


def choose(rows: int, size: int, memory: int | None = None) -> tuple[str, str]:
    """Which kind of search suits a gallery, "exact" or one of KINDS, and the sentence that says why.

    Args:
        rows: of the gallery.
        size: the dimensions of a feature.
        memory: in bytes; None for what is free on this machine.
    """
    memory = _free_memory() if memory is None else memory
    needed = 4 * rows * size
    what = f"{rows:,} rows of {needed / 2**30:.2g} GiB"
    if rows <= EXACT_ROWS and needed <= memory // 2:
        return "exact", f"exact search: {what} are few enough, and fit into half of the memory"
    reason = (
        f"more than {EXACT_ROWS:,} rows"
        if rows > EXACT_ROWS
        else f"{what} are more than half of the memory of {memory / 2**30:.2g} GiB"
    )
    if rows < 2 * _TRAINED_ON:
        return "exact", f"exact search: {rows:,} rows are too few to learn codes from, though {reason}"
    if importlib.util.find_spec("faiss") is None:
        return "exact", f"exact search, since faiss is missing (pip install '.[search]'), though {reason}"
    return "codes", f"4-bit codes in inverted lists with an exact second look: {reason}"


def suffixes(kind: str) -> tuple[str, ...]:
    """The endings of the files that `build` writes for a kind."""
    return {"codes": (".codes", ".f16")}[kind]


def build(
    parts: Sequence[Floats], kind: str, metric: str, stem: Path, trained: Path | None = None
) -> Setting:
    """Write the files of an index, each whole or not at all, and flush them; returns the best setting.

    Memory does not grow with the rows but for their codes.

    Args:
        parts: (n_i, C) float32, finite; memory-mapped arrays, which are read in order.
        kind: one of KINDS.
        metric: "euclidean" or "cosine".
        stem: the files' path without their endings.
        trained: the stem of an older index of the same gallery, whose quantisers are taken over unless the
            gallery has outgrown them.

    Raises:
        MissingFaiss: as it says.
        ValueError: there are fewer than 16 rows, or an unknown kind.
        OSError: it cannot be written.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    rows, size = sum(map(len, parts)), parts[0].shape[1]
    if rows < 16:
        raise ValueError(f"{rows} rows: codes of 4 bits are learned from 16 or more")
    faiss = _faiss()
    cosine = metric == "cosine"
    old = _reusable(trained, rows, size, cosine)
    if old is not None:
        index, scale, learned_from = old
        index.reset()
    else:
        sample = _sample(parts, cosine)
        scale = 1 / max(float(np.sqrt(np.square(sample).sum(axis=1).max())), 1e-30)
        sample *= np.float32(scale)
        index, learned_from = _learn(sample, rows), rows
        del sample

    checksum = 0

    def halves(file: BinaryIO) -> None:
        nonlocal checksum
        for part in _blocks(parts, cosine):
            part *= np.float32(scale)
            index.add(part)
            half = np.clip(part, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16).data
            checksum = zlib.crc32(half, checksum)
            file.write(half)

    _write(stem.with_name(stem.name + ".f16"), halves)
    settings = _measure(index, parts, cosine, scale)
    facts = {
        "format": _FORMAT, "rows": rows, "size": size, "cosine": cosine, "scale": scale,
        "learned_from": learned_from, "halves_crc32": checksum,
        "settings": {str(recall): asdict(setting) for recall, setting in settings.items()},
    }  # fmt: skip
    body = faiss.serialize_index(index)
    facts["crc32"] = zlib.crc32(body)

    def codes(file: BinaryIO) -> None:
        file.write(json.dumps(facts).encode() + b"\n")
        file.write(body.data)

    _write(stem.with_name(stem.name + ".codes"), codes)
    return settings[max(RECALLS)]


def load(stem: Path, rows: int) -> Approximate:
    """Open what `build` wrote for so many rows.

    Raises:
        MissingFaiss: as it says.
        ApproximateFault: a file is damaged, or is of another number of rows.
        OSError: a file cannot be read.
    """
    index, facts = _read(stem)
    if facts["rows"] != rows:
        raise ApproximateFault(f"{stem}.codes holds {facts['rows']:,} rows, expected {rows:,}: build it anew")
    try:
        return Approximate(index, facts, stem.with_name(stem.name + ".f16"))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, ApproximateFault):
            raise
        raise ApproximateFault(f"{stem}.codes is damaged: {type(error).__name__}, {error}") from error


class Approximate:
    """An index that was opened; rows are numbers of the parts' rows, counted through. Threads may share it.

    Attributes:
        settings: by recall; each was measured with rows of the gallery as queries.
        lists, directions: how many there are; a row has 4 bits a direction.
    """

    def __init__(self, index: Any, facts: dict[str, Any], halves: Path) -> None:
        self._index, inverted = index, _lists(index)
        self.lists, self.directions = int(inverted.nlist), int(inverted.d)
        self.rows, self.size = int(facts["rows"]), int(facts["size"])
        self._halves_crc32 = facts["halves_crc32"]
        self._cosine, self._scale = bool(facts["cosine"]), float(facts["scale"])
        self.settings = {float(recall): Setting(**one) for recall, one in facts["settings"].items()}
        wanted, found = self.rows * self.size * 2, halves.stat().st_size
        if wanted != found:
            raise ApproximateFault(f"{halves} has {found:,} bytes, expected {wanted:,}: build the index anew")
        with halves.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # a row is read, not the megabytes that follow it
        self._halves = np.frombuffer(mapped, np.float16).reshape(self.rows, self.size)

    def damaged(self) -> bool:
        """Whether the bytes of the float16 file are not those that were written; every byte is read."""
        checksum = 0
        for start in range(0, self.rows, 2**15):
            checksum = zlib.crc32(self._halves[start : start + 2**15].data, checksum)
        return checksum != self._halves_crc32

    def candidates(
        self, queries: Floats, count: int, allowed: Mask | None = None, recall: float = max(RECALLS)
    ) -> Numbers:
        """The nearest `count` rows of each query and some more, nearest first, by their float16 values.

        Few allowed rows are all compared.

        Args:
            queries: (Q, C) float32.
            count: how many rows are asked for; the recall was measured for up to NEAREST, and more rows open
                every list.
            allowed: (rows,), which rows may be found; None for all.
            recall: one of RECALLS.

        Returns:
            (Q, m) with m >= count; -1 where there are no more.
        """
        setting = self.settings[recall]
        more = count + 16 + count // 8  # what float16 may have put into another order
        looked_at = max(more, math.ceil(setting.candidates * max(1.0, count / NEAREST)))
        lists = setting.lists if count <= NEAREST else self.lists
        queries = _prepared(np.array(queries, np.float32, ndmin=2), self._cosine) * np.float32(self._scale)
        selector = None
        if allowed is not None:
            selected = np.flatnonzero(allowed)
            if len(selected) <= max(MOST_CANDIDATES, looked_at):
                return self._nearest(queries, [selected] * len(queries), more)
            if 2 * len(selected) < self.rows:
                lists = self.lists  # what is near among few lies in farther lists
            bits = np.packbits(allowed, bitorder="little")
            selector = _faiss().IDSelectorBitmap(bits)
        found = _search(self._index, queries, min(looked_at, self.rows), lists, selector)
        return self._nearest(queries, [np.sort(row[row >= 0]) for row in found], more)

    def _nearest(self, queries: Floats, rows: Sequence[Numbers], count: int) -> Numbers:
        found = np.full((len(queries), count), -1, np.int64)

        def look(number: int) -> None:
            query, these = queries[number], rows[number]
            distances = np.empty(len(these), np.float32)
            for start in range(0, len(these), 1024):  # as much as a cache holds
                part = self._halves[these[start : start + 1024]].astype(np.float32)
                part -= query
                np.einsum("ij,ij->i", part, part, out=distances[start : start + 1024])
            if len(these) > count:
                near = np.argpartition(distances, count - 1)[:count]
                these, distances = these[near], distances[near]
            found[number, : len(these)] = these[np.argsort(distances, kind="stable")]

        threads = min(_faiss().omp_get_max_threads(), len(queries) // 4)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(look, range(len(queries))))
        else:
            for number in range(len(queries)):
                look(number)
        return found


def _learn(sample: Floats, rows: int) -> Any:
    """The empty index for so many rows, trained on a sample of them."""
    faiss = _faiss()
    size = sample.shape[1]
    with _threads(1):  # hundreds of tiny products: threads would wait for each other
        most = min(size, len(sample), _MOST_DIRECTIONS)
        pca = faiss.PCAMatrix(size, most)
        pca.train(sample)
        held = np.cumsum(np.maximum(faiss.vector_to_array(pca.eigenvalues), 0))
        wanted = int(np.searchsorted(held, _VARIANCE * held[-1])) + 1
        directions = min(most, -(-wanted // _DIRECTIONS_STEP) * _DIRECTIONS_STEP)
        projection = faiss.PCAMatrix(size, directions)
        projection.copy_from(pca)
        nearest_power = round(math.log2(max(1.0, math.sqrt(rows) / 4)))
        lists = min(_MOST_LISTS, 2**nearest_power)
        codes = faiss.index_factory(directions, f"IVF{lists},PQ{directions}x4fs")
        codes.cp.min_points_per_centroid = codes.pq.cp.min_points_per_centroid = 1  # or it writes to stderr
        index = faiss.IndexPreTransform(projection, codes)
        index.train(sample)
    return index


def _measure(index: Any, parts: Sequence[Floats], cosine: bool, scale: float) -> dict[float, Setting]:
    """For each of RECALLS the cheapest setting that reached it, with a margin, for rows of the gallery."""
    rows = index.ntotal
    numbers = np.linspace(0, rows - 1, min(QUERIES, rows)).astype(np.int64)
    nearest = min(NEAREST, max(1, rows // 10))
    queries = _rows(parts, numbers, cosine) * np.float32(scale)
    exact = _exact_nearest(queries, numbers, parts, cosine, scale, nearest)
    codes, most = _lists(index), min(rows, MOST_CANDIDATES)
    counts = np.unique(np.geomspace(min(nearest, most), most, 24).astype(int))
    tried = []
    shares = [2.0 ** (-step / 2) for step in range(2 * int(math.log2(codes.nlist)) + 1)]
    for lists in sorted({max(1, round(codes.nlist * share)) for share in shares}, reverse=True):
        found = _search(index, queries, most, lists, None)
        places = np.stack(
            [np.isin(one, other).cumsum() for one, other in zip(found, exact, strict=True)]
        ).mean(axis=0)
        for count in counts:
            cost = _SCAN * codes.d * rows * lists / codes.nlist + _LOOK * count * index.d
            tried.append((cost, Setting(lists, int(count), float(places[count - 1] / nearest))))
        if tried[-1][1].recall < min(RECALLS):
            break
    best = max((setting for _, setting in tried), key=lambda setting: setting.recall)
    settings = {}
    for recall in RECALLS:
        enough = [pair for pair in tried if pair[1].recall >= recall + (1 - recall) / 4]
        settings[recall] = min(enough, key=lambda pair: pair[0])[1] if enough else best
    return settings


def _exact_nearest(
    queries: Floats, own: Numbers, parts: Sequence[Floats], cosine: bool, scale: float, count: int
) -> Numbers:
    """(Q, count), the nearest other rows of rows `own` (Q,) of the gallery."""
    best = np.full((len(queries), count), np.inf, np.float32)
    which = np.full((len(queries), count), -1, np.int64)
    start = 0
    for part in _blocks(parts, cosine):
        part *= np.float32(scale)
        scores = queries @ part.T
        scores *= -2
        scores += np.einsum("ij,ij->i", part, part)
        mine = np.flatnonzero((own >= start) & (own < start + len(part)))
        scores[mine, own[mine] - start] = np.inf
        if scores.shape[1] > count:
            near = np.argpartition(scores, count - 1, axis=1)[:, :count]
        else:
            near = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        both = np.concatenate([best, np.take_along_axis(scores, near, axis=1)], axis=1)
        names = np.concatenate([which, near + start], axis=1)
        kept = np.argpartition(both, count - 1, axis=1)[:, :count]
        best, which = np.take_along_axis(both, kept, axis=1), np.take_along_axis(names, kept, axis=1)
        start += len(part)
    return which


def _search(index: Any, queries: Floats, count: int, lists: int, selector: Any) -> Numbers:
    faiss = _faiss()
    inner = faiss.SearchParametersIVF(nprobe=lists, sel=selector)
    parameters = faiss.SearchParametersPreTransform(index_params=inner)
    # Two threads on one query wait for each other longer than it lasts.
    with _threads(1 if len(queries) < 4 else faiss.omp_get_max_threads()):
        found: Numbers = index.search(queries, count, params=parameters)[1]
    return found


def _lists(index: Any) -> Any:
    """The inverted lists behind the projection."""
    return _faiss().extract_index_ivf(index)


def _reusable(stem: Path | None, rows: int, size: int, cosine: bool) -> tuple[Any, float, int] | None:
    """A trained index, its scale, and the rows that it was made for; None where it does not suit."""
    if stem is None:
        return None
    try:
        index, facts = _read(stem)
    except (ApproximateFault, OSError):
        return None
    same = facts["size"] == size and facts["cosine"] == cosine
    if not same or not facts["learned_from"] / _GROWTH <= rows <= facts["learned_from"] * _GROWTH:
        return None
    return index, facts["scale"], facts["learned_from"]


def _read(stem: Path) -> tuple[Any, dict[str, Any]]:
    faiss = _faiss()
    path = stem.with_name(stem.name + ".codes")
    content = np.frombuffer(read_regular(path), np.uint8)
    end = content[: 2**16].tobytes().find(b"\n")
    try:
        facts = json.loads(content[:end].tobytes())
        if facts["format"] != _FORMAT:
            raise ApproximateFault(f"{path} has format {facts['format']}, expected {_FORMAT}: build it anew")
        # Damaged bytes would end the process within faiss.
        if zlib.crc32(content[end + 1 :].data) != facts["crc32"]:
            raise ApproximateFault(f"{path} is damaged: its checksum is another. Build it anew")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, ApproximateFault):
            raise
        raise ApproximateFault(f"{path} is damaged: its first line is not an index's ({error})") from error
    return faiss.deserialize_index(content[end + 1 :]), facts


def _write(path: Path, fill: Any) -> None:
    """Write a file through `fill`, and give it its name once it is on the disk."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _blocks(parts: Sequence[Floats], cosine: bool) -> Iterator[Floats]:
    """The rows in order, in copies of a bounded size."""
    for part in parts:
        step = _block_rows(part)
        for start in range(0, len(part), step):
            yield _prepared(np.array(part[start : start + step], np.float32), cosine)
            _let_go(part)


def _block_rows(part: Floats) -> int:
    return max(1, _BLOCK_BYTES // (4 * part.shape[1]))


def _let_go(part: Floats) -> None:
    """Let the pages of a mapped file leave this process: the system keeps them as long as it has room."""
    mapped = getattr(part, "_mmap", None)
    if mapped is not None and part.flags.writeable is False and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _sample(parts: Sequence[Floats], cosine: bool) -> Floats:
    rows = sum(map(len, parts))
    chosen = np.random.default_rng(0).choice(rows, min(rows, _TRAINED_ON), replace=False)
    return _rows(parts, np.sort(chosen).astype(np.int64), cosine)


def _rows(parts: Sequence[Floats], numbers: Numbers, cosine: bool) -> Floats:
    """Rows whose numbers rise, copied."""
    found, first = [], 0
    for part in parts:
        step = _block_rows(part)
        for start in range(0, len(part), step):
            low, high = np.searchsorted(numbers, [first + start, first + min(start + step, len(part))])
            found.append(np.array(part[numbers[low:high] - first], np.float32))
            _let_go(part)
        first += len(part)
    return _prepared(np.concatenate(found), cosine)


def _prepared(rows: Floats, cosine: bool) -> Floats:
    """Rows whose squared Euclidean distances order as the metric does; in place."""
    if cosine:
        rows /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.float32(1e-12))[:, None]
    return rows


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for faiss within; what the caller had is put back."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@functools.cache
def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise MissingFaiss(
            "an index of 4-bit codes needs faiss, which is not installed: pip install '.[search]', or search "
            "exactly"
        ) from error
    return faiss


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
