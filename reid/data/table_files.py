"""Tables that name images: path, pid, and perhaps camid, split and tracklet; read by line, and written."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from reid.data.crops import DatasetError
from reid.data.files import path_problem
from reid.data.labelled_images import SPLITS, LabelledImage
from reid.data.labels import LabelError, People, clean, is_null

NEEDED, OPTIONAL = ("path", "pid"), ("camid", "split", "tracklet")

#: What others call these columns.  Reading past such a column would lose what it says.
ALIASES = {
    "path": {"file", "filename", "file_name", "filepath", "image", "image_path", "img", "img_path"},
    "pid": {"id", "person", "person_id", "personid", "identity", "label", "name"},
    "camid": {"cam", "camera", "cam_id", "camera_id", "cameraid"},
    "split": {"set", "subset", "partition", "fold"},
    "tracklet": {"tracklets", "tracklet_id", "trackletid"},
}

#: Numbered paths, compressed as well as can be, take several bits each.
MOST_ROWS_A_BYTE = 64

#: The cells of a CSV are text, those of a Parquet file may be anything.
Row = Mapping[str, object]


def read_labelled_images(file: Path, root: Path, rules: People) -> list[LabelledImage]:
    """The images that a CSV or Parquet table names, relative paths from `root` on; other columns are ignored.

    Labels come clean; `rules` say which are nobody's.

    Raises:
        DatasetError: no such file, not such a table, or a row that is wrong, by its line.
    """
    rows = list(_rows(file))
    images = [_labelled_image(row, where, root, rules) for where, row in rows]
    if images and not any(os.path.exists(image.path) for image in images):
        raise DatasetError(
            f"{images[0].where}: there is no {images[0].path}, nor any other of the {len(images)} images. "
            f"Relative paths start at {root}: set dataset.root=… if the images lie elsewhere."
        )
    return images


def read_columns(file: Path, root: Path, names: Iterable[str]) -> dict[Path, dict[str, str]]:
    """The values of further columns of a table, as clean text by the path of the image; "" for a null one.

    Raises:
        DatasetError: no such table or column.
    """
    wanted = list(names)
    found: dict[Path, dict[str, str]] = {}
    for where, row in _rows(file, wanted):
        for name in wanted:
            if name not in row:
                known = ", ".join(row)
                raise DatasetError(f"{file} has no column {name!r}: it has {known}.")
        try:
            values = {name: clean(row[name]) for name in wanted}
        except LabelError as error:
            raise DatasetError(f"{where}: {error}.") from error
        path = root / str(row["path"])
        found[path] = {name: "" if is_null(value) else value for name, value in values.items()}
    return found


def write_table(file: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str]) -> None:
    """Write a CSV that `read_labelled_images` reads, in UTF-8, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _rows(file: Path, more: Iterable[str] = ()) -> Iterator[tuple[str, Row]]:
    """Each row with what a message calls it; of a Parquet file the known columns, and `more`."""
    if not file.is_file():
        raise DatasetError(f"there is no table {file}: set dataset.file to a .csv or .parquet file.")
    if file.suffix.lower() == ".parquet":
        yield from _parquet_rows(file, more)
        return
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_columns(file, header)
            for cells in reader:
                where = f"{file} line {reader.line_num}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DatasetError(
                        f"{where} has {len(cells)} cells, the header {len(header)}. Quote a cell that holds "
                        "a comma."
                    )
                yield where, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise DatasetError(f"{file} line {reader.line_num} is no CSV: {error}.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is no text in UTF-8 ({error.reason}): save it as CSV UTF-8.") from error


def _parquet_rows(file: Path, more: Iterable[str]) -> Iterator[tuple[str, Row]]:
    from pyarrow import ArrowException, parquet  # a second, which a CSV need not wait for

    try:
        refuse_bomb(file)
        found = parquet.read_schema(file).names
        _check_columns(file, found)
        columns = [name for name in dict.fromkeys((*NEEDED, *OPTIONAL, *more)) if name in found]
        rows = parquet.read_table(file, columns=columns).to_pylist()
    except DatasetError:
        raise
    # Damaged bytes: a text that is no UTF-8, a date that no calendar has.
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise DatasetError(f"{file} is no Parquet file that can be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{file} row {number}", row


def refuse_bomb(file: Path) -> None:
    """Refuse a Parquet file of more rows than paths could be told apart in so few bytes.

    Raises:
        DatasetError: it would fill the memory.
        ArrowException, OSError: it cannot be read.
    """
    from pyarrow import parquet

    rows, size = parquet.read_metadata(file).num_rows, file.stat().st_size
    if rows > MOST_ROWS_A_BYTE * size + 10_000:
        raise DatasetError(
            f"{file} holds {rows:,} rows in {size:,} bytes, which cannot name so many images: a bomb?"
        )


def _check_columns(file: Path, header: list[str]) -> None:
    for wanted in (*NEEDED, *OPTIONAL):
        if header.count(wanted) > 1:
            raise DatasetError(f"{file} has two columns named {wanted}.")
        alias = [name for name in header if name.lower() in ALIASES[wanted] | {wanted}]
        if wanted in header or (wanted in OPTIONAL and not alias):
            continue
        hint = f" Rename {alias[0]!r} to {wanted!r}." if alias else ""
        raise DatasetError(
            f"{file} has no column {wanted!r}: expected a header with path, pid and, where known, camid, "
            f"split and tracklet, separated by commas; found {', '.join(header) or 'nothing'}.{hint}"
        )


def _labelled_image(row: Row, where: str, root: Path, rules: People) -> LabelledImage:
    missing = row["path"] is None or row["path"] != row["path"]  # NaN is unequal to itself
    path = "" if missing else str(row["path"])
    if not path:
        raise DatasetError(f"{where}: the path is empty.")
    if problem := path_problem(path):
        raise DatasetError(f"{where}: {problem}.")
    try:
        person = rules.read(row["pid"])
        camera, split, tracklet = (clean(row.get(name)) for name in OPTIONAL)
    except LabelError as error:
        raise DatasetError(f"{where}: {error}.") from error
    split = "" if is_null(split) else split
    if split and split not in SPLITS:
        raise DatasetError(f"{where}: split {split!r} is not allowed: expected one of {', '.join(SPLITS)}.")
    camera, tracklet = ("" if is_null(label) else label for label in (camera, tracklet))
    return LabelledImage(root / path, person, camera, split, path, where, tracklet)
