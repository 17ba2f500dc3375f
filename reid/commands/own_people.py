"""People of the user's own: whom `enrolled` and `probes` of `reid.identify` name, as one set of crops."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid.commands.gallery_source import TABLES, read_source
from reid.data import Crop, DatasetError, ReidDataset
from reid.data.crops import refuse_foreign_names
from reid.data.image_folders import images_below
from reid.data.labels import clean
from reid.gallery.index import Row
from reid.people import DISTRACTOR, is_person


def own_people(enrolled: Path, probes: Path) -> ReidDataset:
    """Both as a dataset: the probes are its query, the crops of the enrolled its gallery.

    Each is a table (columns path and pid, and camid where it is known) or a folder with one folder a person.
    People are known by their pid or name, the same in both. A probe without a pid, with pid 0 or directly
    in its folder shows a stranger.

    Raises:
        DatasetError: one cannot be read, an enrolled crop names nobody, or the same image is in both.
    """
    gallery, query = _rows(enrolled), _rows(probes)
    nobody = [row for row in gallery if _person(row) is None]
    if nobody:
        raise DatasetError(
            f"{len(nobody):,} of {len(gallery):,} enrolled crops name no person, first {nobody[0].path}: "
            "give a column pid, or one folder a person"
        )
    twice = {str(row.path) for row in gallery} & {str(row.path) for row in query}
    if twice:
        raise DatasetError(
            f"{len(twice):,} images are both enrolled and looked for, first {min(twice)}: each would find "
            "itself. Take them out of one of the two"
        )
    named = {person for row in (*gallery, *query) if (person := _person(row)) is not None}
    pids = {person: number for number, person in enumerate(sorted(named), 1)}
    cameras = all(row.camid is not None for row in (*gallery, *query))

    def crops(rows: Sequence[Row]) -> tuple[Crop, ...]:
        return tuple(
            Crop(
                Path(row.path),
                DISTRACTOR if (person := _person(row)) is None else pids[person],
                row.camid or 0 if cameras else 0,
            )
            for row in rows
        )

    names = {number: person for person, number in pids.items()}
    return ReidDataset("own", enrolled.parent, (), crops(query), crops(gallery), cameras=cameras, names=names)


def _person(row: Row) -> str | None:
    """By what a person is known, None for a stranger of whom nothing is."""
    if row.name is not None:
        return row.name
    return str(row.pid) if row.pid is not None and is_person(row.pid) else None


def _rows(place: Path) -> list[Row]:
    if place.suffix.lower() in TABLES:
        source = argparse.Namespace(source=place, root=None, option=[], split=None)
        return read_source(source).rows
    found = images_below(place)
    if not found.images:
        raise DatasetError(f"no image below {place}: expected one folder a person, or images of strangers")
    refuse_foreign_names(found.images)
    return [
        Row(image, name=clean(parts[0]) if len(parts := image.relative_to(place).parts) > 1 else None)
        for image in found.images
    ]
