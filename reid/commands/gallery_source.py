"""The images that `reid.index` and `reid.search` are given: a folder, a table, or a set with its splits."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reid.data import DatasetError, ReidDataset
from reid.data.crops import refuse_foreign_names
from reid.data.files import path_problem
from reid.data.image_folders import IMAGE_SUFFIXES, images_below
from reid.data.labelled_images import SPLITS
from reid.data.labels import SHORT, canonical, clean, is_null
from reid.data.layout import FOLDERS
from reid.data.table_files import ALIASES, refuse_bomb
from reid.engine.checkpoint_source import check_checkpoint, newest_model
from reid.engine.errors import CheckpointError
from reid.gallery.index import TABLE, Row, remembered_checkpoint
from reid.jobs.data_source import open_source
from reid.people import JUNK

TABLES = (".csv", ".parquet")
_COLUMNS = ("path", "pid", "camid", "time", "split", "tracklet")
#: Numbers from 1979 to 5138, as seconds since 1970: what is shown as a date.
_DATES = (3e8, 1e11)


@dataclass(frozen=True)
class Source:
    """`rows` are the images; `what` calls the whole; `notes` say what was left out, or has to be known."""

    rows: list[Row]
    what: str
    notes: list[str] = field(default_factory=list)


def read_source(options: argparse.Namespace) -> Source:
    """What `source`, `root`, `option` and `split` of a command line stand for.

    A folder in Market's layout, a table and the name of a set mean what they mean to the data commands.
    Any other folder is a pile of images of which nothing is known; `folders --root FOLDER` reads one folder
    a person.

    Raises:
        DatasetError, ConfigError: there is nothing such, or it cannot be read.
    """
    path = Path(str(options.source)).expanduser()
    if path.suffix.lower() in TABLES:
        if options.option:
            raise DatasetError(f"--option {options.option[0]}: a table is read as it stands, without options")
        return _of_table(
            path, Path(options.root).expanduser() if options.root else path.parent, options.split
        )
    if path.is_dir() and not all((path / folder).is_dir() for folder in FOLDERS[1:]):
        for name, value in (
            ("--root", options.root),
            ("--option", options.option),
            ("--split", options.split),
        ):
            if value:
                raise DatasetError(
                    f"{name}: {path} is read as a pile of images. Type folders --root {path} if it has one "
                    "folder a person"
                )
        return _of_folder(path)
    return _of_dataset(open_source(options), options.split or "gallery")


def checkpoint_of(gallery: Path, typed: str | None) -> str:
    """The checkpoint that was typed, else that of the index in a folder, else the newest; it is there.

    Raises:
        CheckpointError: there is none.
        IndexFault: the index cannot be read.
    """
    known = remembered_checkpoint(gallery) if (gallery / TABLE).exists() else None
    found = typed or known or str(newest_model())
    try:
        check_checkpoint(found)
    except CheckpointError as error:
        if typed or not known:
            raise
        raise CheckpointError(
            f"{error}. {gallery} was made with it: if it lies elsewhere now, name it with --checkpoint"
        ) from error
    return found


def parse_time(word: object) -> float:
    """A number as it stands, or an ISO 8601 date (UTC where it names no zone) in seconds since 1970.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(word, datetime):
        return (word if word.tzinfo else word.replace(tzinfo=UTC)).timestamp()
    text = str(word).strip()
    try:
        number = float(text)
    except ValueError:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        raise ValueError(f"{text} is no time")
    return number


def show_time(time: float | None) -> str:
    """The time of a row as it is printed: a date, where it can be one."""
    if time is None:
        return ""
    if _DATES[0] <= time < _DATES[1]:
        return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    return f"{time:g}" if time % 1 else f"{time:.0f}"


def _of_folder(folder: Path) -> Source:
    found = images_below(folder)
    if not found.images:
        rest = f". {found.describe()}" if found.left_out else ""
        raise DatasetError(f"no image below {folder}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}{rest}")
    refuse_foreign_names(found.images)
    notes = [found.describe()] if found.left_out else []
    return Source([Row(path) for path in found.images], f"{len(found.images):,} images below {folder}", notes)


def _of_dataset(dataset: ReidDataset, split: str) -> Source:
    """The images of one split of a set, or of all of them."""
    names = SPLITS if split == "all" else (split,)
    crops = {crop.path: crop for name in names for crop in getattr(dataset, name)}
    if not crops:
        raise DatasetError(f"{dataset.name} has no image in {split}: choose another --split")
    rows = []
    for crop in crops.values():
        name, camid = dataset.names.get(crop.pid), crop.camid if dataset.cameras else None
        tracklet = None if crop.tracklet is None else f"{dataset.name}-{crop.tracklet}"
        rows.append(Row(crop.path, crop.pid if name is None else None, camid, name=name, tracklet=tracklet))
    return Source(rows, f"{len(rows):,} images of {dataset.name}, {split}", _lines(dataset.notice))


def _of_table(file: Path, root: Path, split: str | None) -> Source:
    rows, junk = [], 0
    for where, cells in _cells(file):
        row, own_split = _row(cells, where, root)
        if row.pid == JUNK:
            junk += 1
        elif split in (None, "all") or own_split == split:
            rows.append(row)
    if not rows:
        raise DatasetError(f"{file} names no image" + (f" of the split {split}" if split else ""))
    refuse_foreign_names(Path(row.path) for row in rows)
    if not any(Path(row.path).exists() for row in rows):
        raise DatasetError(
            f"{file}: there is no {rows[0].path}, nor any other of the {len(rows)} images. Relative paths "
            f"start at {root}: give --root if the images lie elsewhere"
        )
    notes = [f"{junk:,} images of pid {JUNK}, junk, are left out"] if junk else []
    return Source(rows, f"{len(rows):,} images of {file}", notes)


def _cells(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table with what a message calls it."""
    if not file.is_file():
        raise DatasetError(f"there is no table {file}")
    if file.suffix.lower() == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            refuse_bomb(file)
            columns = parquet.read_schema(file).names
            _check_columns(file, columns)
            table = parquet.read_table(file, columns=[name for name in _COLUMNS if name in columns])
            rows = table.to_pylist()
        except DatasetError:
            raise
        except (ArrowException, OSError, ValueError, OverflowError) as error:
            raise DatasetError(f"{file} is no Parquet file that can be read: {error}") from error
        yield from ((f"{file} row {number}", row) for number, row in enumerate(rows, 1))
        return
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_columns(file, header)
            for cells in filter(None, reader):
                where = f"{file} line {reader.line_num}"
                if len(cells) != len(header):
                    raise DatasetError(
                        f"{where} has {len(cells)} cells, the header {len(header)}: quote a cell that holds "
                        "a comma"
                    )
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DatasetError(f"{file} line {reader.line_num} is no CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is no text in UTF-8 ({error.reason}): save it as CSV UTF-8") from error


def _check_columns(file: Path, header: list[str]) -> None:
    twice = next((name for name in _COLUMNS if header.count(name) > 1), None)
    if twice:
        raise DatasetError(f"{file} has two columns named {twice}")
    for wanted in _COLUMNS:
        alias = [name for name in header if name.lower() in ALIASES.get(wanted, set()) | {wanted}]
        if wanted not in header and (alias or wanted == "path"):
            hint = f". Rename {alias[0]!r} to {wanted!r}" if alias else ""
            raise DatasetError(
                f"{file} has no column {wanted!r}: expected path and, where known, pid, camid, time, "
                f"split and tracklet; found {', '.join(header) or 'nothing'}{hint}"
            )


def _row(cells: dict[str, Any], where: str, root: Path) -> tuple[Row, str]:
    """A row and its split; what stands nowhere, or for nothing, is unknown."""
    path = "" if cells["path"] is None else str(cells["path"])
    if not path.strip():
        raise DatasetError(f"{where}: the path is empty")
    if problem := path_problem(path):
        raise DatasetError(f"{where}: {problem}")
    words = {name: clean(cells.get(name)) for name in ("pid", "camid", "split", "tracklet")}
    known = {name: None if is_null(word) else word for name, word in words.items()}
    person, camera = known["pid"], known["camid"]
    is_number = person is not None and SHORT.fullmatch(person) is not None
    pid = int(canonical(person)) if person is not None and is_number else None
    if pid is not None and pid < JUNK:
        raise DatasetError(f"{where}: pid {pid} is not allowed: expected 0 or more, or {JUNK} for junk")
    if camera is not None and not (SHORT.fullmatch(camera) and int(canonical(camera)) >= 0):
        raise DatasetError(f"{where}: camid {camera!r} is not allowed: expected a whole number from 0 on")
    time = cells.get("time")
    if isinstance(time, float) and math.isnan(time):
        time = None
    try:
        seconds = None if time is None or is_null(clean(time)) else parse_time(time)
    except (ValueError, OverflowError):
        raise DatasetError(
            f"{where}: time {time!r} is neither a number nor a date such as 2026-05-01T12:30:00"
        ) from None
    camid = None if camera is None else int(canonical(camera))
    row = Row(
        root / path, pid, camid, seconds, None if is_number else person, tracklet=known["tracklet"]
    )  # fmt: skip
    return row, known["split"] or ""


def _lines(text: str) -> list[str]:
    return text.splitlines() if text else []
