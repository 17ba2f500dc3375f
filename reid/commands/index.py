"""An index built, added to, checked, and relieved of images."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from reid.commands.camera_choice import OTHER_CAMERAS, OWN, CameraChoice, choose_camera
from reid.commands.gallery_source import Source
from reid.data import DatasetError, silent
from reid.data.crops import PictureError
from reid.data.files import in_threads, read
from reid.data.pictures import bad_lines, name_unreadable, read_picture
from reid.engine.compute import Compute
from reid.gallery import Index, IndexFault, Row
from reid.gallery.index import TABLE, absolute
from reid.inference import TrainedModel, load_model
from reid.jobs.console import ConsoleProgress
from reid.terminal import Terminal

#: Seconds after which what was embedded is written down: so much is computed again after a kill.
WRITE_EVERY = 30.0


def model_of(index: Index, checkpoint: str, device: str) -> TrainedModel:
    """The model of an index, in whose feature space it embeds.

    Raises:
        IndexFault: the checkpoint is another model's.
        CheckpointError: there is none.
    """
    space = index.facts.space
    model = load_model(
        checkpoint, device,
        metric=space.metric, feature_norm=space.feature_norm, neck_feature=space.neck_feature,
    )  # fmt: skip
    index.check(model.facts)
    return model


class Look(NamedTuple):
    """What a row's file is now: `same`, `changed` or `gone`."""

    state: str
    size: int = 0
    mtime_ns: int = 0


def look(row: Row) -> Look:
    """Compare a file with what the index says that it was: its size and time, and if they differ its bytes.

    A row that says nothing of its file is the same as long as there is one.
    """
    try:
        status = Path(row.path).stat()
    except OSError:
        return Look("gone")
    now = status.st_size, status.st_mtime_ns
    if row.digest is None or now == (row.size, row.mtime_ns):
        return Look("same", *now)
    same = status.st_size == row.size and digest_of(Path(row.path)) == row.digest
    return Look("same" if same else "changed", *now)


def digest_of(path: Path) -> str | None:
    """The sha256 of a file's bytes, None where it cannot be read."""
    try:
        return hashlib.sha256(read(path)[1]).hexdigest()
    except (PictureError, OSError):
        return None


class Decoded(NamedTuple):
    """An image as the model sees it, with what its file was; or the reason why there is none."""

    row: Row
    image: Image.Image | None
    reason: str | None


def decode(row: Row, height: int, width: int) -> Decoded:
    """Read a file once, for its pixels and its digest."""
    found = read_picture(Path(row.path))
    if found.picture is None or found.state is None or found.digest is None:
        return Decoded(row, None, found.reason)
    small = Image.fromarray(found.picture.resized(height, width))
    unsigned = found.state.mtime_ns
    mtime = unsigned - 2**64 if unsigned >= 2**63 else unsigned  # before 1970
    known = row._replace(size=found.state.size, mtime_ns=mtime, digest=found.digest.hex())
    return Decoded(known, small, None)


class Plan(NamedTuple):
    """What is to be done with the images of a source: embedded, described anew, or nothing."""

    embedded: list[Row]
    described: dict[int, Row]
    changed: int
    same: int


def plan(index: Index, rows: Sequence[Row], by_camera: bool = False) -> Plan:
    """Compare the images with those of the index: new and changed ones are to be embedded.

    by_camera: a feature depends on the camera of its row, so that another camid is a change.
    """
    numbers = {path: number for number, path in enumerate(index.paths())}
    old = [index.column(name) for name in Row._fields]
    embedded, described, changed, same = [], {}, 0, 0
    for row in rows:
        number = numbers.get(absolute(row.path))
        if number is None:
            embedded.append(row)
            continue
        before = Row(*(column[number] for column in old))
        found = look(before)
        moved = by_camera and row.camid not in (None, before.camid)
        if found.state != "same" or moved:
            changed += 1
            embedded.append(row)
            continue
        # What the source does not say stays known.
        said = {key: value for key, value in row._asdict().items() if key != "path" and value is not None}
        now = before._replace(**said)
        same += 1
        if before.digest is not None:
            now = now._replace(size=found.size, mtime_ns=found.mtime_ns)
        if now != before:
            described[number] = now
    return Plan(embedded, described, changed, same)


def run(options: argparse.Namespace, source: Source) -> int:
    """What `python -m reid.index SOURCE` does; the exit code.

    Raises:
        UsageError: images cannot be read, or the checkpoint cannot be used.
        OSError: the index cannot be written.
    """
    errors = Terminal(stderr=True, soft_wrap=True, highlight=False)
    Compute.set_up(options.device)
    old = Index.open(options.output) if (options.output / TABLE).exists() else None
    if old is None:
        model = load_model(options.checkpoint, options.device)
    else:
        model = model_of(old, options.checkpoint, options.device)
    own = any(row.camid is not None for row in source.rows)
    choice = choose_camera(model, options.camera, OTHER_CAMERAS, own)
    remembered = _remembered(options.checkpoint)
    if old is None:
        index = Index.create(options.output, model.facts, checkpoint=remembered)
    else:
        index = old
        index.remember(remembered)
    rows = index.numbered(source.rows)
    todo = plan(index, rows, by_camera=choice.camera == OWN)
    started = time.perf_counter()
    if todo.described:
        index.add(index.features(list(todo.described)), list(todo.described.values()), model.facts)
    bad = _embed(index, model, todo.embedded, options, errors, choice)
    seconds = time.perf_counter() - started
    why = index.arrange(options.kind, _bytes(options.memory))
    added = len(todo.embedded) - len(bad)
    parts = [
        f"{added:,} embedded" + (f" in {seconds:.1f} s ({added / seconds:.0f} a second)" if added else "")
    ]
    parts += [f"{todo.changed:,} of them had changed"] if todo.changed else []
    parts += [f"{todo.same:,} were there"] if todo.same else []
    parts += [f"{len(todo.described):,} of these described anew"] if todo.described else []
    parts += [f"{len(bad):,} left out"] if bad else []
    notes = [*source.notes, choice.strangers([row.camid for row in todo.embedded])]
    if model.cameras and todo.same:
        notes.append(
            f"the {todo.same:,} images that were there keep the camera that they were embedded with; another "
            "--camera reaches those alone that are removed (--remove-path) and added again"
        )
    for note in filter(None, notes):
        errors.print(note)
    print(f"{options.output}: {len(index):,} images ({source.what}: {'; '.join(parts)}); {model.name}")
    print(why)
    gone = sum(not index.place(number).exists() for number in range(len(index)))
    if gone:
        print(f"the files of {gone:,} images have gone: python -m reid.index -o {options.output} --check")
    return 0


def _embed(
    index: Index,
    model: TrainedModel,
    rows: Sequence[Row],
    options: argparse.Namespace,
    errors: Terminal,
    choice: CameraChoice,
) -> dict[Path, str]:
    """Embed and add images, written down now and then; those that cannot be read, each with what is wrong."""
    bad: dict[Path, str] = {}
    facts = model.facts
    waiting: list[tuple[np.ndarray, list[Row]]] = []
    written = time.monotonic()

    def write() -> None:
        nonlocal written
        if waiting:
            rows = [row for _, some in waiting for row in some]
            index.add(np.concatenate([part for part, _ in waiting]), rows, facts)
        waiting.clear()
        written = time.monotonic()

    batches = _decoded(rows, model, options.batch)
    steps = -(-len(rows) // options.batch)
    try:
        for decoded in ConsoleProgress(errors)(batches, steps, "embedding batches of images"):
            good = [one for one in decoded if one.image is not None]
            if good:
                images = [one.image for one in good if one.image is not None]
                camids = choice.camids([one.row.camid for one in good])
                features = model.embed(images, options.batch, silent, camids=camids).numpy()
                waiting.append((features, [one.row for one in good]))
            new = {Path(one.row.path): str(one.reason) for one in decoded if one.image is None}
            bad |= new
            if time.monotonic() - written > WRITE_EVERY:
                write()
            if new and options.on_bad_image == "raise":
                raise DatasetError(
                    f"{name_unreadable(new)}\nReplace or delete them, or leave them out with --on-bad-image "
                    f"skip; what came before is in {options.output}."
                )
    finally:  # Ctrl-C too
        write()
    if bad:
        errors.print(f"left out: {name_unreadable(bad)}")
    return bad


def _decoded(rows: Sequence[Row], model: TrainedModel, batch: int) -> Iterator[list[Decoded]]:
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        with in_threads(lambda row: decode(row, model.height, model.width), some) as found:
            yield list(found)


def _remembered(checkpoint: str) -> str:
    """What the index calls its model by: the absolute path of a file or folder, or a run's id."""
    path = Path(checkpoint).expanduser()
    return str(path.absolute()) if path.exists() else checkpoint


def look_after(options: argparse.Namespace) -> int:
    """What `python -m reid.index` does without images to add; the exit code."""
    index = Index.open(options.output)
    if options.check:
        return _check(index, options)
    if options.kind is not None:
        print(index.arrange(options.kind, _bytes(options.memory)))
        return 0
    if options.remove_gone:
        gone = [path for number, path in enumerate(index.paths()) if not index.place(number).exists()]
        removed = index.remove(paths=gone)
    else:
        people = set(options.remove_person)
        pids, names = index.column("pid"), index.column("name")
        wanted = {
            pid
            for pid, name in zip(pids, names, strict=True)
            if pid is not None and {str(pid), name} & people
        }
        found = {str(pid) for pid in pids} | set(names)
        missing = [f"person {word}" for word in options.remove_person if word not in found]
        known = set(map(str, index.table.path)) | set(index.paths())
        paths = [absolute(Path(path).expanduser()) for path in options.remove_path]
        missing += [path for path in paths if path not in known]
        if missing:
            raise IndexFault(f"{options.output} has no {missing[0]}: nothing was removed")
        removed = index.remove(paths=paths, pids=wanted)
    print(f"{options.output}: {removed:,} images removed, {len(index):,} stay")
    print(index.arrange(memory=_bytes(options.memory)))  # the codes of those who stay
    return 0


def _bytes(gibibytes: float | None) -> int | None:
    return None if gibibytes is None else int(gibibytes * 2**30)


def _check(index: Index, options: argparse.Namespace) -> int:
    """Name the files that have gone or changed, and segments whose bytes have; 1 if there are any."""
    console = Terminal(soft_wrap=True, highlight=False)
    rows = [index.row(number) for number in range(len(index))]
    with in_threads(look, rows, ConsoleProgress(Terminal(stderr=True)), "looking at files") as found:
        looks = list(found)
    damaged = index.damaged_files()
    troubles = {
        "have gone": [row.path for row, now in zip(rows, looks, strict=True) if now.state == "gone"],
        "have changed": [row.path for row, now in zip(rows, looks, strict=True) if now.state == "changed"],
    }
    space = index.facts.space.describe()
    console.print(f"{options.output}: {len(index):,} images, {space}; model {index.facts.model[:12]}…")
    console.print(f"checkpoint: {index.checkpoint}; threshold: {_threshold(index)}")
    for words, paths in troubles.items():
        if paths:
            lines = bad_lines([(str(path), words.removeprefix("have ")) for path in paths])
            console.print("\n".join([f"{len(paths):,} files {words}:", *lines]))
    if troubles["have changed"]:
        console.print("add them again to have them embedded anew")
    if troubles["have gone"]:
        console.print(
            f"to forget those that have gone: python -m reid.index -o {options.output} --remove-gone"
        )
    for name in damaged:
        console.print(f"{name} is damaged: its bytes are not those that were written. Make the index anew")
    if not damaged and not any(troubles.values()):
        console.print("nothing has gone or changed")
    return int(bool(damaged or any(troubles.values())))


def _threshold(index: Index) -> str:
    threshold = index.facts.threshold
    return f"{threshold.value:.4f} (for {threshold.target})" if threshold else "none"
