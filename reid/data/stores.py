"""List the image stores, and prune what nobody needs: `python -m reid.data.stores [list|prune]`, `--help`."""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from reid.data.store_files import FORMAT, HASHES_SUFFIX, read_facts, saved_digests, store_key, unused
from reid.locks import FileLock, Timeout
from reid.regular import read_regular

DESCRIPTION = (
    "List the stores of decoded images, or prune them.  Prune asks nothing: it removes what "
    "no opening will use (stores of an older format, what a killed process left), the stores that are "
    "named, and those unused for --unused-days.  A store that a process uses stays.  One that is missed "
    "later is built again.  Exit code 0: done; 1: a store that was named is in use, or could not be "
    "removed; 2: asked wrongly."
)
#: What the suite writes into a folder of stores; no other file is ever deleted.
OURS = re.compile(r"([0-9a-f]{24}(?:-\d+x\d+)?)\.(npy|json|lock|files\.npz|(?:.+\.)?partial)")
#: A file that is written without a lock is finished long before.
ABANDONED_S = 3600
DAY_S = 86_400
#: Of a store that this version cannot open, and never deletes.
NEWER = "of a newer version of the suite, which needs it"
#: Of a name, in the list; as much as tells stores apart.
SHORT = 12


@dataclass(frozen=True)
class StoredImages:
    """One store: `used` is the time of its last opening, and `data` where the images lay then."""

    name: str
    images: int
    height: int
    width: int
    bytes: int
    used: float
    what: str
    data: str


@dataclass(frozen=True)
class Leftover:
    """Files that no opening will use: of another format, or left by a process that was killed.

    `lock` is held by who still writes them.
    """

    why: str
    files: tuple[Path, ...]
    lock: Path | None = None


def list_stores(folder: Path) -> list[StoredImages]:
    """The stores of `folder`, those used last first."""
    found = []
    for file in _ours(folder, "json"):
        facts = read_facts(file)
        if facts is not None:
            images, height, width, _ = facts["shape"]
            array = file.with_suffix(".npy").stat()
            size = array.st_size + file.stat().st_size
            found.append(
                StoredImages(
                    file.stem, images, height, width, size, array.st_atime, facts["what"], facts["data"]
                )
            )
    return sorted(found, key=lambda store: -store.used)


def list_leftovers(folder: Path) -> list[Leftover]:
    """What no opening by this version will use; files that a process is writing are left out.

    Stores of a newer version (`NEWER`) are listed and not pruned.
    """
    stores = list_stores(folder)
    names = {store.name for store in stores}
    sizes = {(store.height, store.width) for store in stores}
    halves: dict[str, list[Path]] = {}
    for file in (*_ours(folder, "json"), *_ours(folder, "npy")):
        if file.stem not in names:
            halves.setdefault(file.stem, []).append(file)
    found = [Leftover(_other_format(folder / f"{stem}.json"), tuple(files)) for stem, files in halves.items()]
    for file in _ours(folder, "partial"):
        lock = folder / f"{file.name.partition('.')[0]}.lock"
        old = time.time() - file.stat().st_mtime > ABANDONED_S
        if lock.exists() or old:
            why = "left by a process that was killed"
            found.append(Leftover(why, (file,), lock if lock.exists() else None))
    for file in _ours(folder, HASHES_SUFFIX[1:]):
        digests = saved_digests(file)
        if not names & {store_key(digests, *size) for size in sizes}:
            found.append(Leftover("hashes of files that no store holds", (file,)))
    found += [Leftover("a lock that nobody holds", (file,), file) for file in _ours(folder, "lock")]
    return [leftover for leftover in found if leftover.lock is None or _is_free(leftover.lock)]


def remove(files: Sequence[Path], lock: Path | None = None) -> int | None:
    """Delete the files of one store or leftover; the bytes that they took, or None if it is in use."""
    freed = sum(file.stat().st_size for file in files if file.exists())
    with ExitStack() as holding:
        if lock is not None:
            try:
                holding.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                return None
        arrays = [file for file in files if file.suffix == ".npy"]
        if not all(holding.enter_context(unused(array)) for array in arrays):
            return None
        for file in files:
            file.unlink(missing_ok=True)
    return freed


def list_or_prune(folder: Path, options: argparse.Namespace) -> int:
    """List the stores of `folder`, or remove some; the exit code.

    Raises:
        OSError: the folder, or a file in it, cannot be read or removed.
    """
    return _list(options, folder) if options.action == "list" else _choose(options, folder)


def _choose(options: argparse.Namespace, folder: Path) -> int:
    stores = list_stores(folder)
    chosen = {store.name: store for store in stores if _is_old(store, options.unused_days)}
    for name in options.names:
        matches = [store for store in stores if store.name.startswith(name)]
        if len(matches) != 1:
            print(
                f"reid.data.stores: {len(matches)} stores in {folder} are called {name}…: "
                "python -m reid.data.stores list names them",
                file=sys.stderr,
            )
            return 2
        chosen[matches[0].name] = matches[0]
    return _prune(folder, list(chosen.values()), options.names)


def _prune(folder: Path, chosen: Sequence[StoredImages], named: Sequence[str]) -> int:
    total, refused = 0, False
    for store in chosen:
        freed = remove([folder / f"{store.name}.json", folder / f"{store.name}.npy"])
        if freed is None:
            refused = refused or any(store.name.startswith(name) for name in named)
            print(f"in use, left: {_describe(store)}")
        else:
            total += freed
            print(f"removed: {_describe(store)}")
    for leftover in list_leftovers(folder):
        names = ", ".join(file.name for file in leftover.files)
        if leftover.why == NEWER:
            print(f"left: {names} ({NEWER})")
            continue
        freed = remove(leftover.files, leftover.lock)
        if freed is None:
            print(f"in use, left: {names} ({leftover.why})")
        else:
            total += freed
            print(f"removed: {names} ({leftover.why})")
    print(f"{_size(total)} freed in {folder}")
    return 1 if refused else 0


def _list(options: argparse.Namespace, folder: Path) -> int:
    stores, leftovers = list_stores(folder), list_leftovers(folder)
    size = sum(file.stat().st_size for leftover in leftovers for file in leftover.files)
    if options.json:
        listing = {
            "folder": str(folder), "stores": [asdict(store) for store in stores],
            "leftovers": [{"why": left.why, "files": list(map(str, left.files))} for left in leftovers],
        }  # fmt: skip
        print(json.dumps(listing, indent=2))
        return 0
    print(f"image stores in {folder}")
    if stores:
        print(_line("name", "images", "pixels", "size", "last used", "of"))
    for store in stores:
        used = datetime.fromtimestamp(store.used).strftime("%Y-%m-%d %H:%M")
        pixels = f"{store.height}x{store.width}"
        of = f"{store.what} in {store.data}"
        print(_line(store.name[:SHORT], f"{store.images:,}", pixels, _size(store.bytes), used, of))
    print(f"{len(stores)} stores, {_size(sum(store.bytes for store in stores))}")
    if size:
        print(f"{_size(size)} more that no opening will use: python -m reid.data.stores prune removes it")
    return 0


def _line(name: str, images: str, pixels: str, size: str, used: str, of: str) -> str:
    return f"{name:{SHORT}}  {images:>9}  {pixels:>9}  {size:>10}  {used:16}  {of}"


def _describe(store: StoredImages) -> str:
    pixels = f"{store.height}x{store.width}"
    return f"{store.name} ({store.images:,} {store.what} of {pixels}, {_size(store.bytes)}; {store.data})"


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _is_old(store: StoredImages, days: float | None) -> bool:
    return days is not None and time.time() - store.used > days * DAY_S


def _other_format(file: Path) -> str:
    try:
        form = json.loads(read_regular(file)).get("format")
    except (OSError, ValueError, AttributeError, RecursionError):
        return "half a store"
    if form == FORMAT:
        return "half a store"
    return NEWER if type(form) is int and form > FORMAT else "of an older format"


def _ours(folder: Path, ending: str) -> Iterator[Path]:
    for file in sorted(folder.glob("*")):
        match = OURS.fullmatch(file.name)
        if match is not None and match[2].endswith(ending):
            yield file


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is done, with which stores of which folder."""
    parser.add_argument("action", nargs="?", choices=("list", "prune"), default="list")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="stores to prune, by the beginning of a name"
    )
    parser.add_argument("--store", metavar="FOLDER", help="where they lie (default: as data.store)")
    parser.add_argument(
        "--unused-days", type=float, metavar="N", help="prune stores that were not opened for N days"
    )
    parser.add_argument("--json", action="store_true", help="list everything as JSON")


if __name__ == "__main__":
    from reid.jobs import data_commands

    sys.exit(data_commands.stores())
