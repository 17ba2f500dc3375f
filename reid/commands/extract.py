"""The features of images, written whole or not at all; the suffix of the output chooses the format."""

from __future__ import annotations

import argparse
import csv
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reid.commands.camera_choice import NO_CAMERA_SAID, CameraChoice, choose_camera
from reid.data import DatasetError
from reid.data.image_folders import FoundImages
from reid.data.pictures import name_unreadable, unreadable
from reid.engine.compute import Compute
from reid.engine.errors import CheckpointError
from reid.inference import TrainedModel, load_model
from reid.jobs.console import ConsoleProgress
from reid.judging.quality import stored_quality
from reid.terminal import Terminal

Features = npt.NDArray[np.float32]
Quality = npt.NDArray[np.float64]
Writer = Callable[[Path, list[str], Features, Mapping[str, str], Quality | None], None]


def write_parquet(
    file: Path, paths: list[str], features: Features, facts: Mapping[str, str], quality: Quality | None
) -> None:
    """Columns `path` and `feature`, a fixed-size list of float32, and `quality` where there is one; `facts`
    go into the schema's metadata."""
    import pyarrow.parquet  # of no use to the other formats

    # From their bytes: `pyarrow.array` would import pandas, as long as a network takes for the features.
    words = [path.encode() for path in paths]
    ends = np.cumsum([0, *map(len, words)], dtype=np.int32)
    names = pyarrow.StringArray.from_buffers(
        len(words), pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(words))
    )
    flat = pyarrow.Array.from_buffers(
        pyarrow.float32(), features.size, [None, pyarrow.py_buffer(np.ascontiguousarray(features))]
    )
    column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    table = pyarrow.Table.from_arrays([names, column], names=["path", "feature"])
    if quality is not None:
        numbers = pyarrow.py_buffer(np.ascontiguousarray(quality))
        values = pyarrow.Array.from_buffers(pyarrow.float64(), len(quality), [None, numbers])
        table = table.append_column("quality", values)
    pyarrow.parquet.write_table(table.replace_schema_metadata(dict(facts)), file)


def write_npz(
    file: Path, paths: list[str], features: Features, facts: Mapping[str, str], quality: Quality | None
) -> None:
    """Arrays `path` (N,), `features` (N, C), `quality` (N,) where there is one, and `facts`, a JSON text."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "path": np.array(paths), "features": features, "facts": np.array(json.dumps(dict(facts))),
    }  # fmt: skip
    if quality is not None:
        arrays["quality"] = quality
    with file.open("wb") as handle:
        np.savez(handle, allow_pickle=True, **arrays)


def write_csv(
    file: Path, paths: list[str], features: Features, facts: Mapping[str, str], quality: Quality | None
) -> None:
    """Columns `path`, f0, f1, …, and `quality` where there is one; each number with as many digits as bring
    the same one back."""
    more = [[]] * len(paths) if quality is None else [[str(one)] for one in quality.tolist()]
    with file.open("w", newline="") as handle:
        rows = csv.writer(handle)
        last = [] if quality is None else ["quality"]
        rows.writerow(["path", *(f"f{number}" for number in range(features.shape[1])), *last])
        rows.writerows(
            [path, *map(str, row), *end] for path, row, end in zip(paths, features, more, strict=True)
        )


WRITERS: dict[str, Writer] = {".parquet": write_parquet, ".npz": write_npz, ".csv": write_csv}


def facts_of(model: TrainedModel, choice: CameraChoice) -> dict[str, str]:
    """What the features are, as text: two files of features compare only where these agree."""
    facts = {**asdict(model.space), **model.facts.network}
    if choice.camera is not None:
        facts["camera"] = choice.camera
    return {
        "reid.checkpoint": Path(model.name).name,
        "reid.config_hash": str(model.meta["config_hash"]),
        **{f"reid.{key}": str(value) for key, value in facts.items()},
    }


def write_whole(
    file: Path,
    paths: list[str],
    features: Features,
    facts: Mapping[str, str],
    write: Writer,
    quality: Quality | None = None,
) -> None:
    """Write beside `file` and rename: it is there whole or not at all.

    Raises:
        OSError: no room, no rights; what was there before is untouched.
    """
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial, paths, features, facts, quality)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def run(options: argparse.Namespace, found: FoundImages) -> int:
    """What `python -m reid.extract` does with its options and the images that it found; the exit code.

    Raises:
        UsageError: images cannot be read, or the checkpoint cannot be used.
        OSError: the output cannot be written.
    """
    output: Path = options.output
    errors = Terminal(stderr=True, soft_wrap=True)
    progress = ConsoleProgress(errors)
    Compute.set_up(options.device)
    model = load_model(options.checkpoint, options.device)
    choice = choose_camera(model, options.camera, NO_CAMERA_SAID)
    if options.quality and stored_quality(model.meta) is None:
        raise CheckpointError(
            f"--quality: {model.name} carries no model of quality. Fit one: python -m reid.evaluate "
            f"checkpoint={model.name} eval.quality=true card=true"
        )
    bad = unreadable(found.images, progress)
    if bad and (options.on_bad_image == "raise" or len(bad) == len(found.images)):
        skip = "" if len(bad) == len(found.images) else ", or leave them out with --on-bad-image skip"
        raise DatasetError(f"{name_unreadable(bad)}\nReplace or delete them{skip}.")
    if bad:
        errors.print(f"left out: {name_unreadable(bad)}", highlight=False)
    kept = [image for image in found.images if image not in bad]
    camids = choice.camids([None] * len(kept))
    features = model.embed(kept, options.batch, progress, camids=camids).numpy()
    paths = [image.relative_to(options.folder).as_posix() for image in kept]
    quality = None
    if options.quality:
        again = choice.camids([None] * len(kept))
        quality = model.quality(kept, options.batch, camids=again)["quality"].to_numpy(np.float64)
    write_whole(output, paths, features, facts_of(model, choice), WRITERS[output.suffix.lower()], quality)
    count, width = features.shape
    skipped = f", {len(bad)} images left out" if bad else ""
    others = f". {found.describe()}" if found.left_out else ""
    print(
        f"{output}: {count:,} features of {width} numbers ({model.space.describe()}){skipped}; "
        f"{model.name}{others}"
    )
    return 0
