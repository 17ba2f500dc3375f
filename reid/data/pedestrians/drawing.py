"""A drawn set on disk: all crops or none, whoever is drawing it and however it ends."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from reid.data.crops import DatasetError, Progress, silent
from reid.data.pedestrians.plan import DRAWING, DomainName, PresetName, Shot, plan
from reid.data.pedestrians.render import Studio
from reid.limits import cores
from reid.locks import FileLock

LABEL = "synthetic.json"
_FEW = 400  # crops that one process draws sooner than others start


def ensure_drawn(
    root: Path,
    preset: PresetName,
    domain: DomainName,
    seed: int,
    progress: Progress = silent,
    workers: int | None = None,
) -> None:
    """Draw the set into `root` unless it lies there.  Of several processes, one draws and the others wait.

    It is drawn into a hidden folder beside `root` which takes its name once complete; what a killed drawing
    left there is removed by the next one.  `workers` defaults to the cores that this process may use; the
    bytes drawn do not depend on it.

    Raises:
        DatasetError: `root` holds another set or something else, or the drawing failed.
    """
    wanted: dict[str, object] = {"drawing": DRAWING, "preset": preset, "domain": domain, "seed": seed}
    if _lies_there(root, wanted):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.lock"):
        if _lies_there(root, wanted):
            return
        for dead in root.parent.glob(f".{root.name}.drawing-*"):
            shutil.rmtree(dead)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}.drawing-", dir=root.parent))
        try:
            _draw(unfinished, preset, domain, seed, progress, workers or cores())
            with (unfinished / LABEL).open("w") as file:
                json.dump(wanted, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.chmod(0o755)
            if root.exists():
                root.rmdir()  # found empty above
            unfinished.rename(root)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def draw_share(
    folder: Path, preset: PresetName, domain: DomainName, seed: int, share: int, of: int
) -> Iterator[Shot]:
    """Draw every `of`-th crop from the `share`-th on into `folder`, yielding each once it is written."""
    studio = Studio(preset, domain, seed)
    for shot in plan(preset, domain, seed)[share::of]:
        quality = studio.cameras[shot.camera].quality
        Image.fromarray(studio.render(shot)).save(folder / shot.folder / shot.name, "JPEG", quality=quality)
        yield shot


def _draw(
    folder: Path, preset: PresetName, domain: DomainName, seed: int, progress: Progress, workers: int
) -> None:
    shots = plan(preset, domain, seed)
    for name in {shot.folder for shot in shots}:
        (folder / name).mkdir()
    workers = min(workers, len(shots))
    what = f"drawing pedestrians ({preset}, {domain})"
    if workers == 1 or len(shots) < _FEW:
        for _ in progress(draw_share(folder, preset, domain, seed, 0, 1), len(shots), what):
            pass
        return
    for _ in progress(_drawn_by_workers(folder, preset, domain, seed, workers, len(shots)), len(shots), what):
        pass


def _drawn_by_workers(
    folder: Path, preset: PresetName, domain: DomainName, seed: int, workers: int, total: int
) -> Iterator[int]:
    """Count crops while `workers` processes draw them.

    Each is a fresh interpreter that prints a line a crop.  Unlike a child of multiprocessing it neither runs
    the caller's main module again nor inherits its threads, and it may be started from any worker process.
    It ends by itself when nobody reads its lines any more.
    """
    package_root = str(Path(__file__).parents[3])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reid.data.pedestrians.worker", str(folder), preset, domain, str(seed)]
    with ExitStack() as stack:
        started = []
        for share in range(workers):
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                [*command, str(share), str(workers)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append((process, errors))
        for index in range(total):
            process, errors = started[index % workers]
            assert process.stdout is not None
            if not process.stdout.readline():
                process.wait()
                errors.seek(0)
                raise DatasetError(
                    f"drawing pedestrians into {folder} stopped at crop {index} of {total}: a process "
                    f"ended with {process.returncode}. It said:\n{errors.read().strip()}"
                )
            yield index


def _lies_there(root: Path, wanted: dict[str, object]) -> bool:
    """Whether `root` holds the wanted set; False when nothing is there yet."""
    label = root / LABEL
    if label.is_file():
        try:
            found = json.loads(label.read_text())
        except ValueError:
            found = "no JSON"
        if found == wanted:
            return True
        raise DatasetError(
            f"{root} holds other drawn pedestrians than asked for: {label} says {found}, expected {wanted}. "
            f"Delete {root} to draw it again, or give this set a folder of its own (dataset.root=…)."
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DatasetError(
            f"{root} is there but was not drawn by this project: it has no {LABEL}. Pedestrians are only "
            f"drawn into a new folder: set dataset.root=… to one, or read these images by "
            f"`dataset=folder dataset.root={root}`."
        )
    return False
