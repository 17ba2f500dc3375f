"""Drawn pedestrians: what is promised of their bytes, their layout and their difficulty."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reid.data.crops import DatasetError, ReidDataset
from reid.data.datasets import synthetic
from reid.data.layout import FOLDERS
from reid.data.pedestrians.drawing import LABEL, ensure_drawn
from reid.data.pedestrians.identity import LEAST_DIFFERENCE, draw_identities
from reid.data.pedestrians.plan import GALLERY, PRESETS, QUERY, Shot, plan
from reid.data.pedestrians.render import Studio

T = TypeVar("T")

GOLDEN = Path(__file__).parents[1] / "golden" / "synthetic.npz"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ReidDataset:
    return synthetic.load(tmp_path_factory.mktemp("drawn") / "tiny", "tiny")


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_drawing_again_by_more_processes_gives_the_same_bytes(
    tiny: ReidDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reid.data.pedestrians.drawing._FEW", 0)
    ensure_drawn(tmp_path / "again", "tiny", "day", 0, workers=2)
    assert digests(tmp_path / "again") == digests(tiny.root)


def test_a_crop_does_not_depend_on_the_crops_before_it() -> None:
    shots = plan("tiny", "day", 0)
    studio = Studio("tiny", "day", 0)
    forwards = [studio.render(shot) for shot in shots[:6]]
    backwards = [studio.render(shot) for shot in reversed(shots[:6])]
    np.testing.assert_array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize("domain", ["day", "night"])
def test_pixels_agree_with_the_stored_ones_to_two_grey_levels(domain: str) -> None:
    """Every second pixel of crops drawn on another day, perhaps by another numpy."""
    with np.load(GOLDEN) as golden:
        names, pixels = golden[f"{domain}_names"].tolist(), golden[f"{domain}_pixels"]
    studio = Studio("tiny", domain, 0)  # type: ignore[arg-type]
    shots = {shot.name: shot for shot in plan("tiny", domain, 0)}  # type: ignore[arg-type]
    for name, expected in zip(names, pixels, strict=True):
        drawn = studio.render(shots[name])
        assert drawn.shape == (128, 64, 3)
        assert drawn.dtype == np.uint8
        assert np.abs(drawn[::2, ::2].astype(int) - expected).max() <= 2, name


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("domain", ["day", "night"])
def test_a_preset_holds_what_it_promises(preset: str, domain: str) -> None:
    size = PRESETS[preset]
    shots = plan(preset, domain, 0)  # type: ignore[arg-type]
    assert len({(shot.folder, shot.name) for shot in shots}) == len(shots)
    people = {kind: {s.person for s in shots if s.kind == kind} for kind in ("person", "stranger", "junk")}
    assert len(people["person"]) == size.train_people + size.test_people
    assert not people["stranger"] & people["person"]
    assert sum(shot.kind == "stranger" for shot in shots) == 2 * size.strangers > 0
    assert sum(shot.kind == "junk" for shot in shots) == size.junk > 0
    assert all(shot.folder == "bounding_box_test" for shot in shots if shot.kind != "person")
    for person in range(size.train_people):
        training = [shot for shot in shots if shot.person == person and shot.folder == "bounding_box_train"]
        assert len(training) >= 4
        assert len({shot.camera for shot in training}) >= 2


def test_small_is_as_large_as_the_quickstart_needs() -> None:
    size = PRESETS["small"]
    assert size.train_people >= 100
    assert size.test_people >= 50
    assert size.cameras == 4


@pytest.mark.slow
def test_it_reads_as_market_does(tiny: ReidDataset) -> None:
    assert tiny.name == "synthetic"
    assert sorted(path.name for path in tiny.root.iterdir()) == sorted((*FOLDERS, LABEL))
    assert {crop.pid for crop in tiny.train} == set(range(1, 13))
    assert {crop.pid for crop in tiny.query} == set(range(13, 19))
    assert 0 in {crop.pid for crop in tiny.gallery}
    assert tiny.junk == PRESETS["tiny"].junk
    assert tiny.strays == 0
    with Image.open(tiny.train[0].path) as image:
        assert image.format == "JPEG"
        assert image.size == (64, 128)


def test_every_query_has_a_match_by_another_camera(tiny: ReidDataset) -> None:
    for query in tiny.query:
        assert any(crop.pid == query.pid and crop.camid != query.camid for crop in tiny.gallery)


def test_no_two_people_look_alike_and_more_people_change_nobody() -> None:
    people = draw_identities(3, 0, 60)
    assert draw_identities(3, 0, 20) == people[:20]
    assert all(a.differs_from(b) >= LEAST_DIFFERENCE for a in people for b in people if a is not b)


def test_domains_and_seeds_share_nobody_and_no_camera() -> None:
    studios = [Studio("tiny", "day", 0), Studio("tiny", "night", 0), Studio("tiny", "day", 1)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not set(studios[a].people) & set(studios[b].people)
        assert not set(studios[a].cameras) & set(studios[b].cameras)


def test_another_drawing_than_the_wanted_one_is_refused(tiny: ReidDataset) -> None:
    before = digests(tiny.root)
    with pytest.raises(DatasetError, match=r"holds other drawn pedestrians(.|\n)*Delete"):
        synthetic.load(tiny.root, "tiny", seed=1)
    assert digests(tiny.root) == before


def test_a_folder_of_somebody_else_is_never_drawn_into(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="was not drawn by this project"):
        synthetic.load(tmp_path, "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_set_with_crops_removed_is_refused(tiny: ReidDataset, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny.root, tmp_path / "copy")
    (copy / "query" / tiny.query[0].path.name).unlink()
    with pytest.raises(DatasetError, match="crops were drawn, found"):
        synthetic.load(copy, "tiny")


@pytest.mark.parametrize("options", [{"preset": "huge"}, {"domain": "dusk"}, {"seed": -1}])
def test_a_wrong_option_is_refused_before_anything_is_drawn(
    tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(DatasetError, match=f"dataset.{next(iter(options))}="):
        synthetic.load(tmp_path / "set", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_drawing_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
        for index, item in enumerate(items):
            if index == 5:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        synthetic.load(tmp_path / "tiny", "tiny", progress=interrupted)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_what_a_killed_drawing_left_is_swept_away(tmp_path: Path) -> None:
    dead = tmp_path / ".tiny.drawing-killed" / "query"
    dead.mkdir(parents=True)
    (dead / "0001_c1s1_000001_01.jpg").write_bytes(b"half")
    dataset = synthetic.load(tmp_path / "tiny", "tiny")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["tiny"]
    assert json.loads((dataset.root / LABEL).read_text())["preset"] == "tiny"


def stripe_histograms(shots: list[Shot]) -> NDArray[np.float64]:
    """8 x 8 x 8 RGB bins over each of six horizontal stripes of crops of `small`; a stripe sums to 1."""
    studio, rows = Studio("small", "day", 0), []
    for shot in shots:
        bins = studio.render(shot).astype(int) >> 5
        index = (bins[..., 0] * 8 + bins[..., 1]) * 8 + bins[..., 2]
        stripes = np.array_split(index, 6)
        rows.append(np.concatenate([np.bincount(s.ravel(), minlength=512) / s.size for s in stripes]))
    return np.array(rows)


def mean_average_precision(distances: NDArray[np.float64], queries: list[Shot], others: list[Shot]) -> float:
    """Cross-camera protocol, spelled out."""
    precisions = []
    for query, row in zip(queries, distances, strict=True):
        kept = [
            (distance, shot.person == query.person)
            for distance, shot in zip(row, others, strict=True)
            if not (shot.person == query.person and shot.camera == query.camera)
        ]
        ranks = [rank for rank, (_, match) in enumerate(sorted(kept, key=lambda pair: pair[0]), 1) if match]
        precisions.append(np.mean([found / rank for found, rank in enumerate(ranks, 1)]))
    return float(np.mean(precisions))


@pytest.mark.slow
def test_colour_histograms_alone_stay_under_a_map_of_0_35() -> None:
    shots = [shot for shot in plan("small", "day", 0) if shot.kind != "junk"]
    # The crops to train on, which are most, need not be drawn.
    queries, others = ([shot for shot in shots if shot.folder == folder] for folder in (QUERY, GALLERY))
    query, gallery = stripe_histograms(queries), stripe_histograms(others)
    unit_query, unit_gallery = (h / np.linalg.norm(h, axis=1, keepdims=True) for h in (query, gallery))
    distances = {
        "euclidean": ((query**2).sum(1)[:, None] - 2 * query @ gallery.T + (gallery**2).sum(1)),
        "cosine": -unit_query @ unit_gallery.T,
        "hellinger": -np.sqrt(query) @ np.sqrt(gallery).T,
        "intersection": np.array([np.abs(gallery - row).sum(axis=1) for row in query]),
    }
    scores = {metric: mean_average_precision(table, queries, others) for metric, table in distances.items()}
    assert max(scores.values()) < 0.35, scores
