"""The source tree of a version of the suite: a commit of this repository, or a folder."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def source_tree(version: str) -> Iterator[Path]:
    """The folder that holds the files of `version`; those of a commit are gone at the end of the block.

    Raises:
        SystemExit: it is neither a folder with reid/ in it nor a commit.
    """
    if (Path(version) / "reid").is_dir():
        yield Path(version).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="version-") as temporary:
        archive, source = Path(temporary) / "source.tar", Path(temporary) / "source"
        # The files alone: a work tree would have to be registered, and forgotten again.
        command = ["git", "archive", "-o", str(archive), version]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{version} is neither a folder that holds reid/ nor a commit: {done.stderr}")
        source.mkdir()
        subprocess.run(["tar", "-xf", str(archive), "-C", str(source)], check=True)
        yield source
