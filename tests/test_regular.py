"""A FIFO in the place of a file: nothing that the suite reads waits for somebody who writes into it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reid.data import Crop, DatasetError
from reid.data.corrections import read_verdicts
from reid.data.image_store import open_store
from reid.data.store_files import FileHashes, read_facts
from reid.engine.checkpoint import load_checkpoint
from reid.engine.errors import CheckpointError
from reid.engine.rundir import read_status
from reid.regular import read_regular
from reid.sweeps.sweep_file import job_statuses, read_sweep
from reid.tracking import TrackingError, store_of
from reid.tracking.journal import Journal


@pytest.mark.parametrize(
    ("name", "read", "answer"),
    [
        ("status.json", read_status, None),
        ("sweep.json", read_sweep, None),
        ("journal.sent", lambda folder: Journal(folder).sent(), None),
        ("journal.jsonl", store_of, TrackingError),
        ("journal.jsonl", lambda folder: Journal(folder).acquire(), TrackingError),
        ("last.pt", lambda folder: load_checkpoint(folder / "last.pt"), CheckpointError),
        ("verdicts.csv", lambda folder: read_verdicts(folder / "verdicts.csv"), DatasetError),
        ("a.json", lambda folder: read_facts(folder / "a.json"), None),
        ("a.json", lambda folder: read_regular(folder / "a.json"), OSError),
    ],
)
def test_a_fifo_is_refused_at_once(
    name: str, read: Callable[[Path], object], answer: type[Exception] | None, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / name)
    if answer is None:
        assert read(tmp_path) is None
        return
    with pytest.raises(answer, match=r"regular file|no checkpoint at"):
        read(tmp_path)


def test_the_status_of_a_job_may_be_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    os.mkfifo(tmp_path / "0" / "status.json")
    (job,) = job_statuses(tmp_path)
    assert (job.status, job.error) == ("FAILED", "no status.json: the job was killed")


def test_files_of_an_image_store_may_be_fifos(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.new("RGB", (4, 8), (200, 10, 10)).save(path)
    crops, folder = [Crop(path, 1, 0)], tmp_path / "stores"
    pixels = np.array(open_store(crops, 8, 4, folder).pixels)
    for file in sorted(folder.iterdir()):
        file.unlink()
        os.mkfifo(file)
        if file.suffix == ".npz":
            assert not FileHashes([path], folder).load()
        again = open_store(crops, 8, 4, folder)
        np.testing.assert_array_equal(again.pixels, pixels)
