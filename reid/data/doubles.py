"""Queries that find themselves: pictures that lie in the query and, byte by byte, in the gallery."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reid.data.crops import Crop, PictureError
from reid.data.files import read
from reid.people import is_person


class Double(NamedTuple):
    """A query, and the gallery image of the same person that is the same file or holds the same bytes."""

    query: Crop
    gallery: Crop


def find_doubles(query: Sequence[Crop], gallery: Sequence[Crop], cross_camera: bool) -> list[Double]:
    """The queries whose own picture is among their matches, each once.

    Files are read only where a match has the size of the query's file.  Under `cross_camera` a match is by
    another camera.  A match is never of the query's own tracklet.  Files that cannot be read are left out.
    """
    files = _Files()
    people = {crop.pid for crop in query if is_person(crop.pid)}
    alike: dict[tuple[int, int | None], list[Crop]] = defaultdict(list)
    for crop in gallery:
        if crop.pid in people:
            alike[crop.pid, files.size(crop.path)].append(crop)
    doubles = []
    for crop in query:
        matches = (
            match
            for match in alike[crop.pid, files.size(crop.path)]
            if not (cross_camera and match.camid == crop.camid)
            and (crop.tracklet is None or match.tracklet != crop.tracklet)
            and files.same(crop.path, match.path)
        )
        if (match := next(matches, None)) is not None:
            doubles.append(Double(crop, match))
    return doubles


class _Files:
    """Sizes and hashes of files, each read once; None for those that cannot be read."""

    def __init__(self) -> None:
        self._sizes: dict[Path, int | None] = {}
        self._hashes: dict[Path, bytes | None] = {}

    def size(self, path: Path) -> int | None:
        if path not in self._sizes:
            try:
                self._sizes[path] = path.stat().st_size
            except (OSError, ValueError):  # ValueError: a NUL in the name
                self._sizes[path] = None
        return self._sizes[path]

    def same(self, one: Path, other: Path) -> bool:
        return self._hash(one) is not None and self._hash(one) == self._hash(other)

    def _hash(self, path: Path) -> bytes | None:
        if path not in self._hashes:
            try:
                self._hashes[path] = hashlib.sha256(read(path)[1]).digest()
            except (OSError, PictureError):
                self._hashes[path] = None
        return self._hashes[path]
