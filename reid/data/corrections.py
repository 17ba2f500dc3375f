"""Verdicts on labels: the file that they are noted in, and what they change in training.

A verdict is about a pair of crops, one line of a CSV file with the columns `path,other_path,verdict,time`:

- `same person`: both crops show one person. Under two names, the two are trained on as one person.
- `different people`: the crops show two people. Under one name, `path` is left out of training.
- `wrong name`: `path` does not show whom its name says. It is left out of training.
- `labels right`: nothing changes; the pair is not asked about again.
- `withdrawn`: the pair has no verdict any more.

Only training changes. Nobody of query, gallery or a set's own validation people is renamed or left out, so
that scores stay comparable: verdicts on them are counted, and named in the dataset's notice. A crop that is
left out merges nothing, since it says nothing of the name that it bore.

Of several verdicts on one pair, in whichever order it is named, the last one holds. Paths are relative to
the root of the dataset where they lie below it.
"""

import csv
import difflib
import errno
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from reid.data.crops import Crop, DatasetError, ReidDataset
from reid.locks import FileLock

T = TypeVar("T")

SAME, DIFFERENT, WRONG_NAME, RIGHT = "same person", "different people", "wrong name", "labels right"
WITHDRAWN = "withdrawn"
VERDICTS = (SAME, DIFFERENT, WRONG_NAME, RIGHT)
WORDS = (*VERDICTS, WITHDRAWN)
COLUMNS = ("path", "other_path", "verdict", "time")

#: So many cases are named in a notice or an error.
NAMED = 3


class Verdict(NamedTuple):
    """One line of the file; `time` is that of the verdict, in ISO 8601, UTC."""

    path: str
    other_path: str
    verdict: str
    time: str

    @property
    def pair(self) -> frozenset[str]:
        """The two paths, in no order."""
        return frozenset((self.path, self.other_path))


def append_verdict(
    file: Path, path: str | Path, other_path: str | Path, verdict: str, root: Path | None = None
) -> Verdict:
    """Note a verdict at the end of `file`, which is made if it is not there; it is on the disk on return.

    What a kill left of a last line is removed first. Several processes may append to one file.

    Args:
        path, other_path: of the crops' files.
        root: of the dataset; paths below it are noted relative to it, all others absolute.

    Raises:
        DatasetError: another word, a path that no line can hold, or a file that is none of verdicts.
        OSError: the file cannot be written.
    """
    if verdict not in WORDS:
        raise DatasetError(_no_verdict(verdict))
    names = [verdict_path(Path(one), root) for one in (path, other_path)]
    if names[0] == names[1]:
        raise DatasetError(f"a verdict is about two crops, not about {names[0]} and itself")
    noted = Verdict(names[0], names[1], verdict, datetime.now(UTC).isoformat(timespec="seconds"))
    with FileLock(file.with_name(f".{file.name}.lock")):
        _refuse_irregular(file)
        is_new = not file.exists()
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with open(handle, "rb", closefd=False) as stream:
                content = stream.read()
            whole = _whole_lines(content)
            _parse(whole, file)
            added = ("" if whole else _line(COLUMNS)) + _line(noted)
            kept = min(len(whole), len(content))
            os.ftruncate(handle, kept)
            os.lseek(handle, 0, os.SEEK_END)
            _write(handle, whole[kept:] + added.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        if is_new and os.name == "posix":  # the name of a new file lies in its folder
            folder = os.open(file.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    return noted


def read_verdicts(file: Path) -> list[Verdict]:
    """The verdicts that hold, the oldest first: of each pair the last one.

    A last line that a kill cut off is no verdict.

    Raises:
        DatasetError: the file is not there or is none of verdicts; the message names the line.
    """
    return _parse(_whole_lines(_read(file)), file)


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many there are of each word of VERDICTS, in that order."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {word: counts[word] for word in VERDICTS}


def verdict_path(path: Path, root: Path | None) -> str:
    """What stands in the file for a crop: its path from `root` on, where it lies below it, with `/`.

    Raises:
        DatasetError: the path has a line break, or is not UTF-8.
    """
    whole = Path(os.path.abspath(path))
    base = Path(os.path.abspath(root)) if root is not None else None
    named = (whole.relative_to(base) if base is not None and whole.is_relative_to(base) else whole).as_posix()
    if "\n" in named or "\r" in named:
        raise DatasetError(f"{named!r} has a line break in its name, which no line of verdicts can hold")
    try:
        named.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{os.fsencode(path)!r}: this name is not UTF-8, as a CSV file is") from error
    return named


@dataclass(frozen=True)
class Applied:
    """What the verdicts of one file changed in a dataset.

    Attributes:
        merged: the pids, before the corrections, of each group of names that is trained on as one person.
        left_out: training crops that are not trained on.
        judged: pairs in words that concern crops of query, gallery or val, which stay as they are.
        unknown: how many verdicts name crops that the dataset does not have.
    """

    merged: tuple[tuple[int, ...], ...]
    left_out: tuple[Crop, ...]
    judged: tuple[str, ...]
    unknown: int

    def describe(self) -> str:
        """In a line or two."""
        names = sum(map(len, self.merged))
        into = f" into {len(self.merged):,}" if self.merged else ""
        crops = len(self.left_out)
        lines = [
            f"corrections: {names:,} identities merged{into}, {crops:,} crop{'s' * (crops != 1)} left out"
        ]
        aside = []
        if self.judged:
            shown = "; ".join(self.judged[:NAMED]) + ("; …" if len(self.judged) > NAMED else "")
            aside.append(f"{len(self.judged):,} on people who are judged on ({shown})")
        if self.unknown:
            aside.append(f"{self.unknown:,} on crops that are not in this dataset")
        if aside:
            lines.append(f"verdicts that change nothing: {', '.join(aside)}")
        return "\n".join(lines)


def correct(dataset: ReidDataset, file: Path) -> ReidDataset:
    """`dataset` as the verdicts of `file` have it trained on; its notice says what changed.

    A merged person has the smallest of the pids.

    Raises:
        DatasetError: the file is none of verdicts, or names no crop of this dataset; verdicts contradict each
            other; or one would have a person trained on who is judged on.
    """
    verdicts = read_verdicts(file)
    known = _Known(dataset)
    located = [_Pair(one, known.place(one.path), known.place(one.other_path)) for one in verdicts]
    pairs = [pair for pair in located if pair.first and (pair.second or pair.verdict.verdict == WRONG_NAME)]
    if located and not pairs:
        raise DatasetError(
            f"{file}: none of its {len(located):,} verdicts names two crops of {dataset.name} in "
            f"{dataset.root}; the first is about {located[0].describe()}. Relative paths start at the root "
            "of the dataset: is it another one's file?"
        )
    left_out = {
        pair.first
        for pair in pairs
        if pair.first in known.trained
        and (
            pair.verdict.verdict == WRONG_NAME or (pair.verdict.verdict == DIFFERENT and known.one_name(pair))
        )
    }
    _refuse_leaks(pairs, known, left_out, file)
    group_of = _merge(pairs, known, left_out, file)
    merged: dict[int, list[int]] = {}
    for pid in sorted(group_of):
        merged.setdefault(group_of[pid], []).append(pid)
    groups = tuple(tuple(pids) for pids in merged.values() if len(pids) > 1)
    pid_now = {pid: pids[0] for pids in groups for pid in pids}
    train = tuple(
        crop._replace(pid=pid_now.get(crop.pid, crop.pid))
        for crop in dataset.train
        if _key(crop.path) not in left_out
    )
    applied = Applied(
        merged=groups,
        left_out=tuple(crop for crop in dataset.train if _key(crop.path) in left_out),
        judged=tuple(
            f"{pair.verdict.path} and {pair.verdict.other_path}: {pair.verdict.verdict}"
            for pair in pairs
            if known.judges(pair) and pair.verdict.verdict != RIGHT
        ),
        unknown=len(located) - len(pairs),
    )
    return replace(
        dataset,
        train=train,
        notice="\n".join(filter(None, (dataset.notice, applied.describe()))),
        corrections=(*dataset.corrections, applied),
        uncorrected=dataset.uncorrected or dataset.train,
    )


class _Pair(NamedTuple):
    """A verdict with its crops by their absolute paths, "" for one that the dataset does not have."""

    verdict: Verdict
    first: str
    second: str

    def describe(self) -> str:
        return f"{self.verdict.path} and {self.verdict.other_path} ({self.verdict.verdict})"


class _Known:
    """The crops of a dataset, their pids by their absolute paths."""

    def __init__(self, dataset: ReidDataset) -> None:
        self.root, self.names = dataset.root, dataset.names
        self.trained = {_key(crop.path): crop.pid for crop in dataset.train}
        others = (*dataset.query, *dataset.gallery, *dataset.val)
        self.judged = {_key(crop.path): crop.pid for crop in others}

    def place(self, path: str) -> str:
        key = _key(self.root / path)
        return key if key in self.trained or key in self.judged else ""

    def both_trained(self, pair: _Pair) -> bool:
        return pair.first in self.trained and pair.second in self.trained

    def one_name(self, pair: _Pair) -> bool:
        """Whether both are trained on, under one name."""
        return self.both_trained(pair) and self.trained[pair.first] == self.trained[pair.second]

    def judges(self, pair: _Pair) -> bool:
        return not self.both_trained(pair) and bool({pair.first, pair.second} & self.judged.keys())

    def name(self, pid: int) -> str:
        return self.names.get(pid, f"pid {pid}")


class _Groups(Generic[T]):
    """What belongs together, by pairs."""

    def __init__(self) -> None:
        self.parents: dict[T, T] = {}

    def find(self, one: T) -> T:
        """What stands for its group."""
        while (parent := self.parents.setdefault(one, one)) != one:
            one = parent
        return one

    def join(self, one: T, other: T) -> None:
        self.parents[self.find(other)] = self.find(one)


def _refuse_leaks(pairs: list[_Pair], known: _Known, left_out: set[str], file: Path) -> None:
    leaks = [
        pair
        for pair in pairs
        if pair.verdict.verdict == SAME
        and known.judges(pair)
        and {pair.first, pair.second} & known.trained.keys() - left_out
    ]
    if leaks:
        raise DatasetError(
            f"{file}: {len(leaks):,} verdicts would have a person trained on who is judged on: "
            f"{_listed(leaks)}. Who is tested must not be trained on. Give the training crop the verdict "
            f"{WRONG_NAME!r}, which leaves it out, or split the data by identity anew"
        )


def _merge(pairs: list[_Pair], known: _Known, left_out: set[str], file: Path) -> dict[int, int]:
    """By pid of the training set, one that stands for all whom it is one person with.

    Raises:
        DatasetError: verdicts contradict each other.
    """
    same = [pair for pair in pairs if pair.verdict.verdict == SAME]
    different = [pair for pair in pairs if pair.verdict.verdict == DIFFERENT]
    crops, people = _Groups[str](), _Groups[int]()
    for pair in same:
        crops.join(pair.first, pair.second)
        out = {pair.first, pair.second} & left_out
        if len(out) == 1 and known.one_name(pair):
            raise DatasetError(
                f"{file}: {pair.describe()} bear one name, yet another verdict leaves {min(out)} out for not "
                "showing whom its name says. Judge one of these pairs again"
            )
        if known.both_trained(pair) and not out:
            people.join(known.trained[pair.first], known.trained[pair.second])
    for pair in different:
        group = crops.find(pair.first)
        if group == crops.find(pair.second):
            chain = [one for one in same if crops.find(one.first) == group]
            raise DatasetError(
                f"{file}: {pair.describe()} contradict other verdicts, by which both show one person: "
                f"{_listed(chain)}. Judge one of these pairs again"
            )
        if not known.both_trained(pair) or {pair.first, pair.second} & left_out:
            continue
        first, second = known.trained[pair.first], known.trained[pair.second]
        person = people.find(first)
        if person == people.find(second):
            chain = [
                one
                for one in same
                if known.both_trained(one) and people.find(known.trained[one.first]) == person
            ]
            raise DatasetError(
                f"{file}: {pair.describe()} contradict other verdicts, which make {known.name(first)} and "
                f"{known.name(second)} one person: {_listed(chain)}. Judge one of these pairs again"
            )
    return {pid: people.find(pid) for pid in tuple(people.parents)}


def _listed(pairs: list[_Pair]) -> str:
    more = f"; and {len(pairs) - NAMED:,} more" if len(pairs) > NAMED else ""
    return "; ".join(pair.describe() for pair in pairs[:NAMED]) + more


def _key(path: Path) -> str:
    return os.path.abspath(path)


def _read(file: Path) -> bytes:
    try:
        _refuse_irregular(file)
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{file}: no verdicts can be read from it: {error.strerror}. Expected a CSV file with the "
            f"columns {','.join(COLUMNS)}, as python -m reid.browse writes it; dataset.corrections=null does "
            "without"
        ) from error


def _refuse_irregular(file: Path) -> None:
    """A FIFO would wait for ever."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "this is no regular file", str(file))


def _whole_lines(content: bytes) -> bytes:
    """The content up to its last whole line: a kill may have cut off what follows.

    A last line that is no beginning of another one, as an editor may leave it, gets its line break.
    """
    end = content.rfind(b"\n") + 1
    last = content[end:]
    if not last:
        return content
    if end:
        try:
            fields = next(csv.reader([last.decode(errors="replace")]), [])
        except csv.Error:  # a line break of another system in the midst: no beginning of a line
            return content + b"\n"
        if len(fields) == 3 and fields[2] in WORDS:  # the time alone is missing
            return content + b",\n"
        whole = len(fields) > 3 or (len(fields) == 3 and not any(w.startswith(fields[2]) for w in WORDS))
    else:
        whole = not _line(COLUMNS).encode().startswith(last)  # what this is, the header's check says
    return content + b"\n" if whole else content[:end]


def _parse(content: bytes, file: Path) -> list[Verdict]:
    """The verdicts of whole lines, of each pair the last one.

    Raises:
        DatasetError: they are none of verdicts.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: no file of verdicts: byte {error.start} is not UTF-8") from error
    held: dict[frozenset[str], Verdict] = {}
    for number, fields in _fields(text, file):
        if number == 1:
            if tuple(fields) != COLUMNS:
                raise DatasetError(
                    f"{file}: no file of verdicts: its first line is {','.join(fields)[:100]!r}, expected "
                    f"{','.join(COLUMNS)}"
                )
            continue
        if not fields:  # an empty line
            continue
        where = f"{file}, line {number}"
        if len(fields) != len(COLUMNS):
            raise DatasetError(
                f"{where}: {len(fields)} values, expected {len(COLUMNS)}: {','.join(COLUMNS)}. A path with a "
                'comma stands between quotation marks, "…"'
            )
        verdict = Verdict(*fields)
        if verdict.verdict not in WORDS:
            raise DatasetError(f"{where}: {_no_verdict(verdict.verdict)}")
        if not verdict.path or not verdict.other_path or len(verdict.pair) == 1:
            raise DatasetError(f"{where}: expected the paths of two crops, path and other_path")
        held.pop(verdict.pair, None)
        held[verdict.pair] = verdict
    return [verdict for verdict in held.values() if verdict.verdict != WITHDRAWN]


def _fields(text: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """The values of each line, with the number of the line that they end in."""
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        for fields in lines:
            yield lines.line_num, fields
    except csv.Error as error:
        raise DatasetError(f"{file}, line {lines.line_num}: no line of a CSV file ({error})") from error


def _no_verdict(word: str) -> str:
    near = difflib.get_close_matches(word, WORDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{word!r} is no verdict: expected one of {', '.join(WORDS)}.{hint}"


def _line(fields: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow(fields)
    return written.getvalue()


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
