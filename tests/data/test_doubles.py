"""Queries whose own picture is in the gallery, frames of tracklets without cameras: what no score shows."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from reid.config.schema import DataConfig, ImageConfig
from reid.data import Crop, ReidDataset, silent
from reid.data.audit import audit
from reid.data.doubles import find_doubles
from reid.engine.prepare import open_judged_data


@pytest.fixture
def crops(tmp_path: Path) -> list[Crop]:
    """Person 1: the query a, its copy b, c of other bytes and the same size.  Person 2: the copy d."""
    for name, shade in (("a", 1), ("c", 2)):
        Image.new("RGB", (16, 32), (shade, 0, 0)).save(tmp_path / f"{name}.bmp")
    for name in ("b", "d"):
        shutil.copy(tmp_path / "a.bmp", tmp_path / f"{name}.bmp")
    return [
        Crop(tmp_path / f"{name}.bmp", pid, cam)
        for name, pid, cam in zip("abcd", (1, 1, 1, 2), (0, 1, 1, 1), strict=True)
    ]


def test_a_double_has_the_bytes_of_a_query_and_is_one_of_its_matches(crops: list[Crop]) -> None:
    a, b, c, d = crops
    assert find_doubles([a], [c, d, b], cross_camera=True) == [(a, b)]
    assert find_doubles([a], [c, d], cross_camera=False) == []
    same_camera = b._replace(camid=0)
    assert find_doubles([a], [same_camera], cross_camera=True) == []
    assert find_doubles([a], [same_camera], cross_camera=False) == [(a, same_camera)]
    assert find_doubles([a], [a], cross_camera=False) == [(a, a)]
    nobody = [crop._replace(pid=0) for crop in (a, b)]
    assert find_doubles(nobody[:1], nobody[1:], cross_camera=False) == []
    gone = a._replace(path=a.path.with_name("gone.bmp"))
    assert find_doubles([gone], [gone], cross_camera=False) == []


@pytest.mark.parametrize("cameras", [True, False])
def test_the_audit_finds_it(cameras: bool, crops: list[Crop], tmp_path: Path) -> None:
    a, b, c, _ = crops
    dataset = ReidDataset("made", tmp_path, (), (a,), (b, c), cameras=cameras)
    (finding,) = audit(dataset).findings
    assert (finding.kind, finding.cases) == ("query_in_gallery", (f"{a.path} = {b.path} (pid 1)",))
    seen_by_one = replace(dataset, gallery=(b._replace(camid=0), c))
    assert bool(audit(seen_by_one).findings) != cameras


def test_judging_warns_of_it_where_no_camera_tells_them_apart(
    crops: list[Crop], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c, _ = crops
    dataset = ReidDataset("made", tmp_path, (), (a,), (b, c), cameras=False)
    sizes = ImageConfig(height=32, width=16), DataConfig(store=str(tmp_path / "store"))
    with caplog.at_level(logging.WARNING):
        open_judged_data(dataset, *sizes, silent, "cross_camera")
        assert not caplog.records
        open_judged_data(dataset, *sizes, silent, "ignore_camera")
    assert (
        f"1 of 1 queries have their own picture, the same bytes, in the gallery ({a.path} = {b.path})"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["0001C1T0001F001", "0001C1T0001F002"], 2),
        (["0001_C1_F0001_X1", "0001_C1_F0002_X1"], 2),
        (["frame_00012", "frame_00013"], 2),
        (["tracklet_0001/1", "tracklet_0001/2"], 2),
        (["0001C1T0001F001", "a", "b"], 0),
        (["0002_001", "IMG_1234", "f1"], 0),
    ],
)
def test_frames_without_cameras_are_a_finding(names: list[str], found: int, tmp_path: Path) -> None:
    crops = []
    for shade, name in enumerate(names):
        path = tmp_path / "p1" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (shade, 0, 0)).save(path)
        crops.append(Crop(path, 1, 0))
    dataset = ReidDataset("made", tmp_path, tuple(crops), (), (), cameras=False)
    assert {finding.kind: len(finding.cases) for finding in audit(dataset).findings} == (
        {"tracklet_frames": found} if found else {}
    )
    assert audit(replace(dataset, cameras=True)).findings == ()
