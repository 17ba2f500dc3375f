"""A gallery on disk: features in segments that are only ever appended, and one table that says what counts.

    table.parquet       one row an image: path, pid, name, camid, time, and what the file was; its schema's
                        metadata hold the facts of the model and the list of the segments
    features-<n>.npy    float32 (rows, C), one after another; a row of the table names its place in them
    codes-<n>.*         of a large gallery: what chooses candidates, see `approximate`
    .lock               held while something is written

Every change ends with one rename, that of the table: whoever is killed before it has changed nothing, and
what lies in segments that the table does not name is swept up by the next change. Removed rows leave the disk
with the same rename, since the segments are then written anew without them.
"""

from __future__ import annotations

import json
import os
import re
import tokenize
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute, parquet

from reid.errors import UsageError
from reid.gallery.exact import Candidates, Doubles, Floats, Numbers, distances
from reid.home import as_moved
from reid.locks import FileLock, Timeout
from reid.regular import open_regular

if TYPE_CHECKING:
    import pandas

    from reid.gallery.approximate import Approximate
    from reid.gallery.facts import Facts

FORMAT = 1
TABLE = "table.parquet"
_META, _META_SUM = b"reid.index", b"reid.index.crc32"
#: Seconds that a change waits for one by another process.
PATIENCE = 300.0
#: Where the filters leave fewer rows than this, all are compared.
_FEW = 4096
#: Codes are made anew once this share of the rows was added since; until then these are compared one by one.
_UNCODED = 0.1
#: The names of what is swept up: nothing else that lies in the folder is an index's.
_OWN = re.compile(r"\.?(features|codes)-\d{6,}\.")
#: Rows of a segment that are looked at, or copied, at once.
_BLOCK = 2**15

_SCHEMA = pyarrow.schema(
    [
        ("row", pyarrow.int64()), ("path", pyarrow.string()), ("pid", pyarrow.int64()),
        ("name", pyarrow.string()), ("camid", pyarrow.int64()), ("time", pyarrow.float64()),
        ("size", pyarrow.int64()), ("mtime_ns", pyarrow.int64()), ("digest", pyarrow.string()),
    ]
)  # fmt: skip


class IndexFault(UsageError):
    """There is no index, or it cannot be used as asked; the message says what to do."""


class Row(NamedTuple):
    """What is known of an image: all but its path may be unknown.

    `pid` and `camid` are as in `Crop`; `name` is the person's own where the pid only numbers it. `time` is a
    number that rises: seconds since 1970 where `reid.index` was given dates, else any count, such as frames.
    `size` (bytes), `mtime_ns` and `digest` (sha256, hex) say what the file was when its feature was computed.
    """

    path: str | os.PathLike[str]
    pid: int | None = None
    camid: int | None = None
    time: float | None = None
    name: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    digest: str | None = None


def absolute(path: str | os.PathLike[str]) -> str:
    """What an image is known by: its absolute path, links as they were typed unless `..` follows them."""
    if ".." not in Path(path).parts:
        return os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


class Added(NamedTuple):
    """How many images were new, and how many took the place of a row with the same path."""

    new: int
    replaced: int


class Hits(NamedTuple):
    """For Q queries the nearest rows, nearest first, ties by row number.

    `rows` (Q, top) are numbers of rows, -1 where there is no more; `distances` (Q, top) are in the model's
    metric, float64, infinity where there is no more.
    """

    rows: Numbers
    distances: Doubles


class Index:
    """An index as it lay on disk when it was opened, or after the last change through this object.

    Rows have the numbers 0 to len(index) - 1, in the order in which they were added; adding and removing
    changes them. Several processes may change one index: each change waits for the lock, and is made to what
    then lies there.
    """

    _rows: Any  # the pyarrow.Table of TABLE
    _meta: dict[str, Any]

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._load()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Index:
        """The index in a folder; nothing is written.

        Raises:
            IndexFault: there is none, or it is damaged.
        """
        return cls(folder)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], facts: Facts, *, checkpoint: str | None = None) -> Index:
        """An empty index in a folder that is empty, or not there yet.

        checkpoint: what to call the model by where no other is named.

        Raises:
            IndexFault: something lies there already.
            OSError: it cannot be written.
        """
        place = Path(os.path.abspath(folder))
        if place.exists() and (not place.is_dir() or any(name != ".lock" for name in os.listdir(place))):
            raise IndexFault(f"{folder} is not empty: an index gets a folder of its own")
        place.mkdir(parents=True, exist_ok=True)
        meta = {
            "format": FORMAT, "facts": facts.as_json(), "home": str(place), "checkpoint": checkpoint,
            "segments": [], "codes": None, "kind": None, "written": 0,
        }  # fmt: skip
        with _locked(place):
            if (place / TABLE).exists():
                raise IndexFault(f"{folder} was made by another process just now: add to it")
            _write_table(place, _SCHEMA.empty_table(), meta)
        return cls(place)

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}: {len(self):,} images, model {self._meta['facts']['model'][:12]})"

    @cached_property
    def facts(self) -> Facts:
        """What the features are."""
        from reid.engine.errors import CheckpointError
        from reid.gallery.facts import Facts  # torch, which opening an index does without

        try:
            return Facts.from_json(self._meta["facts"])
        except (KeyError, TypeError, ValueError, AttributeError, CheckpointError) as error:
            raise IndexFault(
                f"{self.folder}: what it says of its model is not of this version ({error}): make it anew"
            ) from error

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that the index was made with: a path, or a name such as a run's id."""
        found: str | None = self._meta["checkpoint"]
        return found if found is None else as_moved(found, Path(self._meta["home"]), self.folder)

    def check(self, facts: Facts) -> None:
        """Raise IndexFault unless features of these facts compare with those of the index."""
        if reason := self.facts.difference(facts):
            raise IndexFault(
                f"the features in {self.folder} do not compare with this model's: {reason}. Search with the "
                f"checkpoint that the index was made with{_named(self.checkpoint)}, or make another index"
            )

    @cached_property
    def table(self) -> pandas.DataFrame:
        """One row for each image, by row number: the fields of `Row`, None or NaN where unknown.

        Paths are as `place` gives them.
        """
        frame = self._rows.drop_columns(["row"]).to_pandas(integer_object_nulls=True)
        frame["path"] = self.paths()
        return frame

    def paths(self) -> list[str]:
        """The absolute paths of all rows, as `place` gives them."""
        if self._meta["home"] != str(self.folder):
            return [str(self.place(number)) for number in range(len(self))]
        found: list[str] = self._rows["path"].to_pylist()
        return found

    def column(self, name: str) -> list[Any]:
        """One of the fields of `Row` for all rows, None where it is unknown."""
        found: list[Any] = self._rows[name].to_pylist()
        return found

    def row(self, number: int) -> Row:
        """What is known of one row."""
        values = self._rows.slice(number, 1).to_pylist()[0]
        del values["row"]
        return Row(**{**values, "path": str(self.place(number))})

    def place(self, number: int) -> Path:
        """Where the file of a row lies, or lay: with the index, where both were moved together."""
        path = self._rows["path"][number].as_py()
        return Path(as_moved(path, Path(self._meta["home"]), self.folder))

    def features(self, rows: Iterable[int] | npt.NDArray[np.integer]) -> Floats:
        """The features (n, C) of rows, float32; a copy."""
        return np.array(self._stored(self._physical[np.asarray(rows, np.int64)]))

    def search(
        self,
        features: npt.ArrayLike,
        top: int,
        *,
        cameras: Collection[int] | None = None,
        since: float | None = None,
        until: float | None = None,
        without: Sequence[Collection[int]] | None = None,
    ) -> Hits:
        """The `top` nearest rows of each query (Q, C), among those that the filters leave.

        Args:
            features: of queries by the same model, floats.
            cameras: only images of these camids.
            since, until: only images of these times, both included.
            without: for each query the numbers of rows that are left out, such as its own.

        Raises:
            ValueError: a shape does not fit, a feature is not finite, or top is below 1.
        """
        queries = np.ascontiguousarray(features, np.float32)
        size = self._meta["facts"]["size"]
        if queries.ndim != 2 or queries.shape[1] != size or not np.isfinite(queries).all():
            raise ValueError(f"queries are of shape {queries.shape}, expected finite numbers (Q, {size})")
        if top < 1 or (without is not None and len(without) != len(queries)):
            raise ValueError(f"top is {top}, expected 1 or more, and `without` one collection a query")
        left_out = [frozenset(some) for some in without] if without is not None else None
        more = max(map(len, left_out), default=0) if left_out else 0
        rows = self.selected(cameras, since, until)
        found_rows = np.full((len(queries), top), -1, np.int64)
        found_distances = np.full((len(queries), top), np.inf)
        for number, candidates in enumerate(self._candidates(queries, min(top + more, len(rows)), rows)):
            if left_out and left_out[number]:
                candidates = candidates[~np.isin(candidates, list(left_out[number]))]
            exact = distances(queries[number], self.features(candidates), self._metric)
            order = np.lexsort((candidates, exact))[:top]
            found_rows[number, : len(order)] = candidates[order]
            found_distances[number, : len(order)] = exact[order]
        return Hits(found_rows, found_distances)

    def selected(
        self, cameras: Collection[int] | None = None, since: float | None = None, until: float | None = None
    ) -> Numbers:
        """The numbers of the rows that filters leave; a row that does not say its camera or time goes."""
        if cameras is None and since is None and until is None:
            return self._all
        mask = np.ones(len(self), bool)
        if cameras is not None:
            known = compute.is_in(
                self._rows["camid"], value_set=pyarrow.array(list(cameras), pyarrow.int64())
            )
            mask &= _as_mask(known)
        for bound, compare in ((since, compute.greater_equal), (until, compute.less_equal)):
            if bound is not None:
                mask &= _as_mask(compare(self._rows["time"], float(bound)))
        return np.flatnonzero(mask)

    def numbered(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, each person who has a name under one number.

        It is the number that the name has in the index; else that of the row, if nobody else has it; else one
        after the largest.

        Raises:
            IndexFault: a number stands for a named person in the index.
        """
        if all(row.name is None for row in rows) and self._rows["name"].null_count == len(self):
            return list(rows)
        pids, names = self.column("pid"), self.column("name")
        numbers = {name: pid for pid, name in zip(pids, names, strict=True) if None not in (pid, name)}
        named = {pid: name for name, pid in numbers.items()}
        for row in rows:
            if row.pid in named and row.name is None:
                raise IndexFault(
                    f"{row.path} shows person {row.pid}, and in {self.folder} that is the number of "
                    f"{named[row.pid]!r}: give all people names, or make another index"
                )
        taken = {*pids, *(row.pid for row in rows if row.name is None)} - {None}
        after = max([0, *taken, *(row.pid for row in rows if row.pid is not None)]) + 1
        wanted = {row.name: row.pid for row in rows if row.name is not None and row.name not in numbers}
        for name, pid in sorted(wanted.items()):
            if pid is None or pid in taken:
                pid, after = after, after + 1
            numbers[name] = pid
            taken.add(pid)
        return [row if row.name is None else row._replace(pid=numbers[row.name]) for row in rows]

    def add(self, features: npt.ArrayLike, rows: Sequence[Row], facts: Facts | None = None) -> Added:
        """Append images; one whose path is there already takes the place of that row.

        Of several with one path the last counts. All are there afterwards, or none.

        Args:
            features: (N, C) floats, kept as float32.
            rows: what is known of each; relative paths start in the working folder.
            facts: of the model that made them, to be compared with the index's; its threshold is kept.

        Raises:
            ValueError: a shape does not fit, or a feature is not finite.
            IndexFault: of another model, a number is that of a named person, or another process holds the
                lock.
            OSError: it cannot be written; the index stays as it was.
        """
        values = np.ascontiguousarray(features, np.float32)
        size = self._meta["facts"]["size"]
        if values.shape != (len(rows), size):
            raise ValueError(f"features are of shape {values.shape}, expected ({len(rows)}, {size})")
        if not np.isfinite(np.square(values).sum(axis=1)).all():
            raise ValueError("features hold NaN, infinity or numbers too large to square: nothing was added")
        if facts is not None:
            self.check(facts)
        by_path = {absolute(row.path): number for number, row in enumerate(rows)}
        kept = list(by_path.values())
        with self._changing():
            rows = self.numbered(rows)  # others may have added people since
            old = self._rows
            replaced = _as_mask(compute.is_in(old["path"], value_set=pyarrow.array(list(by_path))))
            start = int(self._starts[-1])
            columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
            for place, (path, number) in enumerate(by_path.items()):
                for name, value in {**rows[number]._asdict(), "row": start + place, "path": path}.items():
                    columns[name].append(value)
            table = pyarrow.concat_tables(
                [old.filter(pyarrow.array(~replaced)), pyarrow.table(columns, schema=_SCHEMA)]
            )
            if facts is not None:
                self._meta = {**self._meta, "facts": facts.as_json()}
            if kept:
                self._commit(table, self._with_segment(values[kept]))
            if self._starts[-1] > 2 * len(self) + _FEW:
                self._compact(np.ones(len(self), bool))
        return Added(len(kept) - int(replaced.sum()), int(replaced.sum()))

    def remove(
        self,
        paths: Collection[str | os.PathLike[str]] | None = None,
        pids: Collection[int] | None = None,
    ) -> int:
        """Remove the images of these paths and these people, from the disk too; how many there were.

        Raises:
            IndexFault: another process holds the lock.
            OSError: it cannot be written; the index stays as it was.
        """
        with self._changing():
            gone = np.zeros(len(self), bool)
            if paths:
                wanted = pyarrow.array([absolute(path) for path in paths], pyarrow.string())
                gone |= _as_mask(compute.is_in(self._rows["path"], value_set=wanted))
            if pids:
                known = pyarrow.array([int(pid) for pid in pids], pyarrow.int64())
                gone |= _as_mask(compute.is_in(self._rows["pid"], value_set=known))
            if gone.any():
                self._compact(~gone)
        return int(gone.sum())

    def arrange(self, kind: str | None = None, memory: int | None = None) -> str:
        """Choose how the rows are searched, and make what that needs; the sentence that says why.

        Args:
            kind: exact, one of `approximate.KINDS`, or auto for what suits their number and the memory; it is
                kept with the index. None: as was chosen before.
            memory: in bytes; None for what is free on this machine.

        Raises:
            UsageError: faiss is missing, or another process holds the lock.
            OSError: it cannot be written; the index stays as it was.
        """
        from reid.gallery import approximate

        with self._changing():
            kept = kind or self._meta["kind"]
            chosen, why = (
                approximate.choose(len(self), self._size, memory)
                if kept in (None, "auto")
                else (kept, f"{kept}, as was chosen by --kind")
            )
            codes, rows = self._meta["codes"], int(self._starts[-1])
            fresh = codes is not None and codes["kind"] == chosen and codes["rows"] >= (1 - _UNCODED) * rows
            changed = kept != self._meta["kind"]
            self._meta = {**self._meta, "kind": kept}
            if chosen == "exact" and codes is not None:
                self._commit(self._rows, self._named, codes=None)
            elif chosen != "exact" and not fresh:
                stem = f"codes-{self._meta['written'] + 1:06d}"
                old = self.folder / codes["stem"] if codes is not None else None
                try:
                    approximate.build(self._segments, chosen, self._metric, self.folder / stem, old)
                except ValueError as error:
                    raise IndexFault(f"{self.folder}: {error}. Search it with --kind exact") from error
                self._commit(self._rows, self._named, codes={"kind": chosen, "stem": stem, "rows": rows})
            elif changed:
                self._commit(self._rows, self._named)
        return why

    def remember(self, checkpoint: str) -> None:
        """Call the model by another path or name from now on."""
        with self._changing():
            if checkpoint != self._meta["checkpoint"]:
                self._meta = {**self._meta, "checkpoint": checkpoint}
                self._commit(self._rows, self._named)

    def compact(self) -> None:
        """Write the segments anew without the rows that others took the place of."""
        with self._changing():
            self._compact(np.ones(len(self), bool))

    def damaged_files(self) -> list[str]:
        """The files whose bytes are not those that were written, those of codes too; every byte is read."""
        found = []
        for entry, segment in zip(self._named, self._segments, strict=True):
            checksum = 0
            for start in range(0, len(segment), _BLOCK):
                checksum = zlib.crc32(np.ascontiguousarray(segment[start : start + _BLOCK]).data, checksum)
            if checksum != entry["crc32"]:
                found.append(entry["file"])
        if self._meta["codes"] and self._codes.damaged():
            found.append(f"{self._meta['codes']['stem']}.f16")
        return found

    def _candidates(self, queries: Floats, top: int, rows: Numbers) -> Iterable[Numbers]:
        """For each query numbers among `rows` that hold its `top` nearest, rising."""
        if top < 1:
            return [np.empty(0, np.int64)] * len(queries)
        codes = self._meta["codes"]
        if codes is None or len(rows) <= max(_FEW, 2 * top):
            return self._compared(queries, top, rows)
        coded, allowed = self._all_coded if rows is self._all else self._coded(rows)
        found = self._codes.candidates(queries, top, allowed)
        since = self._compared(queries, min(top, len(rows) - coded), rows[coded:])
        return (
            np.concatenate([np.sort(np.searchsorted(self._physical, near[near >= 0])), later])
            for near, later in zip(found, since, strict=True)
        )

    def _compared(self, queries: Floats, top: int, rows: Numbers) -> Iterable[Numbers]:
        """The same by comparing every row."""
        if top < 1:
            return [np.empty(0, np.int64)] * len(queries)
        few = 4 * len(rows) < len(self) and "_squared_norms" not in self.__dict__
        norms = self._squares(rows) if few else self._squared_norms[rows]
        found = Candidates(queries, top, self._metric, float(np.sqrt(norms.max())))
        for start in range(0, len(rows), _BLOCK):
            numbers = rows[start : start + _BLOCK]
            found.add(self._stored(self._physical[numbers]), norms[start : start + _BLOCK], numbers)
        return found.of_queries()

    @cached_property
    def _all(self) -> Numbers:
        return np.arange(len(self))

    @cached_property
    def _all_coded(self) -> tuple[int, npt.NDArray[np.bool_] | None]:
        return self._coded(self._all)

    def _coded(self, rows: Numbers) -> tuple[int, npt.NDArray[np.bool_] | None]:
        """How many of `rows`, the first ones, have codes; and a mask of all codes, None for all of them."""
        places, codes = self._physical[rows], self._meta["codes"]["rows"]
        coded = int(np.searchsorted(places, codes))
        if coded == codes:
            return coded, None
        mask = np.zeros(codes, bool)
        mask[places[:coded]] = True
        return coded, mask

    @cached_property
    def _codes(self) -> Approximate:
        from reid.gallery.approximate import ApproximateFault, load

        codes = self._meta["codes"]
        try:
            return load(self.folder / codes["stem"], codes["rows"])
        except (ApproximateFault, OSError) as error:
            raise IndexFault(
                f"{self.folder} is damaged: {error}. To make its codes anew: python -m reid.index -o "
                f"{self.folder} --kind exact, then again with --kind {codes['kind']}"
            ) from error

    @cached_property
    def _squared_norms(self) -> npt.NDArray[np.float32]:
        return self._squares(self._all)

    def _squares(self, rows: Numbers) -> npt.NDArray[np.float32]:
        """The squared norms of rows, summed in float64."""
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(rows), _BLOCK):
            part = self._stored(self._physical[rows[start : start + _BLOCK]]).astype(np.float64)
            parts.append(np.square(part, out=part).sum(axis=1).astype(np.float32))
        return np.concatenate(parts)

    def _stored(self, physical: Numbers) -> Floats:
        """The features at places in the segments, counted through; a view where they lie in a row."""
        size = self._meta["facts"]["size"]
        if not len(physical):
            return np.empty((0, size), np.float32)
        first = int(physical[0])
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        low, high = int(self._starts[number]), int(self._starts[number + 1])
        if int(physical[-1]) < high and bool((np.diff(physical) == 1).all()):
            return np.asarray(self._segments[number][first - low : first - low + len(physical)])
        found = np.empty((len(physical), size), np.float32)
        owner = np.searchsorted(self._starts, physical, side="right") - 1
        for number in np.unique(owner):
            mask = owner == number
            found[mask] = self._segments[number][physical[mask] - self._starts[number]]
        return found

    def _load(self) -> None:
        """Read the table, and map the segments that it names."""
        for _ in range(5):
            self._rows, self._meta = _read_table(self.folder)
            try:
                self._segments = [_open_segment(self.folder, entry, self._size) for entry in self._named]
            except FileNotFoundError as error:
                missing = error  # perhaps another process has just written them anew
                continue
            break
        else:
            raise IndexFault(
                f"{self.folder} is damaged: {Path(missing.filename).name} is gone. Copy it back, or make the "
                "index anew"
            ) from missing
        self._starts = np.cumsum([0, *(entry["rows"] for entry in self._named)], dtype=np.int64)
        self._physical = self._rows["row"].to_numpy()
        rising = bool((np.diff(self._physical) > 0).all()) and (not len(self) or self._physical[0] >= 0)
        if not rising or (len(self) and self._physical[-1] >= self._starts[-1]):
            raise IndexFault(f"{self.folder} is damaged: its table names rows that no segment holds")
        for name in ("facts", "table", "_all", "_all_coded", "_squared_norms", "_codes"):
            self.__dict__.pop(name, None)

    @property
    def _named(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._meta["segments"]
        return found

    @property
    def _size(self) -> int:
        return int(self._meta["facts"]["size"])

    @property
    def _metric(self) -> str:
        return str(self._meta["facts"]["space"]["metric"])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, with the index as it lies on disk now, its paths as they are now."""
        with _locked(self.folder):
            self._load()
            if self._meta["home"] != str(self.folder):
                moved = pyarrow.array(self.paths(), pyarrow.string())
                self._rows = self._rows.set_column(1, "path", moved)
                self._meta = {**self._meta, "checkpoint": self.checkpoint, "home": str(self.folder)}
            yield

    def _commit(self, table: pyarrow.Table, segments: list[dict[str, Any]], **changes: Any) -> None:
        meta = {**self._meta, "segments": segments, "written": self._meta["written"] + 1, **changes}
        _write_table(self.folder, table, meta)
        stems = {Path(entry["file"]).stem for entry in segments}
        _sweep(self.folder, stems | ({meta["codes"]["stem"]} if meta["codes"] else set()))
        self._load()

    def _with_segment(self, values: Floats) -> list[dict[str, Any]]:
        """The entries of the segments with one more, which takes in those before it that are no larger.

        So there are few, however little is added at a time, and each row is copied a few times at most.
        """
        entries, blocks, rows = list(self._named), [values], len(values)
        while entries and entries[-1]["rows"] <= rows:
            blocks.insert(0, self._segments[len(entries) - 1])
            rows += entries.pop()["rows"]
        return [*entries, self._write_segment(blocks, rows)]

    def _compact(self, kept: npt.NDArray[np.bool_]) -> None:
        physical = self._physical[kept]
        blocks = (self._stored(physical[at : at + _BLOCK]) for at in range(0, len(physical), _BLOCK))
        segments = [self._write_segment(blocks, len(physical))] if len(physical) else []
        table = self._rows.filter(pyarrow.array(kept))
        numbered = table.set_column(0, "row", pyarrow.array(np.arange(len(physical))))
        self._commit(numbered, segments, codes=None)

    def _write_segment(self, blocks: Iterable[Floats], rows: int) -> dict[str, Any]:
        """Write a segment of so many rows, which no table names yet; its entry."""
        file = f"features-{self._meta['written'] + 1:06d}.npy"
        with _complete(self.folder / file) as path, path.open("wb") as handle:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, self._size)}
            np.lib.format.write_array_header_1_0(handle, header)
            checksum = 0
            for block in blocks:
                data = np.ascontiguousarray(block, "<f4").data
                checksum = zlib.crc32(data, checksum)
                handle.write(data)
            os.fsync(handle.fileno())
        return {"file": file, "rows": rows, "crc32": checksum}


def _write_table(folder: Path, table: pyarrow.Table, meta: dict[str, Any]) -> None:
    """Put a table in the place of the one that is there: the one step by which an index changes."""
    words = json.dumps(meta).encode()
    described = table.replace_schema_metadata({_META: words, _META_SUM: b"%d" % zlib.crc32(words)})
    with _complete(folder / TABLE) as path, path.open("wb") as handle:
        parquet.write_table(described, handle, write_page_checksum=True)
        os.fsync(handle.fileno())
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remembered_checkpoint(folder: Path) -> str | None:
    """The checkpoint that the index in a folder was made with; little more than that is read.

    Raises:
        IndexFault: there is no index, or its table cannot be read.
    """
    _, meta = _read_table(folder, rows=False)
    found: str | None = meta["checkpoint"]
    return found if found is None else as_moved(found, Path(meta["home"]), Path(os.path.abspath(folder)))


def _read_table(folder: Path, rows: bool = True) -> tuple[pyarrow.Table, dict[str, Any]]:
    path = folder / TABLE
    if not path.is_file():
        raise IndexFault(
            f"{folder} holds no index ({TABLE}): make one with python -m reid.index crops/ -o {folder}"
        )
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            table = file.read(use_threads=False) if rows else schema.empty_table()
        described = schema.metadata or {}
        words = described[_META]
        if int(described.get(_META_SUM, zlib.crc32(words))) != zlib.crc32(words):
            raise ValueError("what it says of itself has another checksum")
        meta = json.loads(words)
        version, columns = meta["format"], schema.remove_metadata()
        if version == FORMAT:
            _check_meta(meta)
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IndexFault(
            f"{path} is damaged, or no table of an index ({reason}): copy it back, or make the index anew"
        ) from error
    if version != FORMAT:
        raise IndexFault(f"{path} has format {version!r}, this version reads {FORMAT}: make the index anew")
    if columns != _SCHEMA:
        raise IndexFault(f"{path} is damaged: its columns are not those of an index. Make the index anew")
    return table, meta


def _check_meta(meta: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless all is there that the index goes by."""
    facts = meta["facts"]
    texts = [meta["home"], facts["model"], facts["space"]["metric"]]
    texts += [word for word in (meta["kind"], meta["checkpoint"]) if word is not None]
    numbers = [meta["written"], facts["size"], *(entry["crc32"] for entry in meta["segments"])]
    names = [(entry["file"], entry["rows"]) for entry in meta["segments"]]
    names += [(meta["codes"]["stem"], meta["codes"]["rows"])] if meta["codes"] is not None else []
    for name, rows in names:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no name of a file beside it")
        numbers.append(rows)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(one, int) for one in numbers):
        raise ValueError("what it says of itself is of another kind")


def _open_segment(folder: Path, entry: dict[str, Any], size: int) -> Floats:
    path = folder / entry["file"]
    try:
        open_regular(path).close()  # a FIFO would wait
        found = np.load(path, mmap_mode="r")
        if found.shape != (entry["rows"], size) or found.dtype != np.dtype("<f4"):
            raise ValueError(f"it holds {found.dtype} of shape {found.shape}")
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise IndexFault(
            f"{path} is damaged: {error}; expected {entry['rows']:,} rows of {size} float32. Copy it back, "
            "or make the index anew"
        ) from error
    return found


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` at the end of the block, or goes."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sweep(folder: Path, stems: set[str]) -> None:
    """Delete the files that no table names: of a process that was killed, or replaced by others."""
    for path in folder.iterdir():
        if _OWN.match(path.name) and path.name.split(".")[0] not in stems:
            with suppress(OSError):
                path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock", PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise IndexFault(
            f"another process has been changing {folder} for {PATIENCE:.0f} seconds: wait for it, and try "
            "again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _as_mask(values: Any) -> npt.NDArray[np.bool_]:
    """An array of booleans, false where unknown."""
    return np.asarray(compute.fill_null(values, False), bool)


def _named(checkpoint: str | None) -> str:
    return f" ({checkpoint})" if checkpoint else ""
