"""The sets that took over Market's layout: CUHK03-NP, VeRi-776, Occluded-DukeMTMC; and all as configs."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from composing import composed
from PIL import Image

from reid.config.settings import train_settings
from reid.data import DatasetError, ReidDataset, load_dataset

MARKET = ("bounding_box_train", "query", "bounding_box_test")


class LikeMarket(NamedTuple):
    """How a set is read, where its crops lie, two names to train on, one to look for and one to find."""

    name: str
    options: dict[str, Any]
    folders: tuple[str, str, str]
    names: tuple[str, str, str, str]
    counts: str
    source: str


SETS = [
    LikeMarket(
        "cuhk03",
        {"labels": labels},
        tuple(f"{labels}/{folder}" for folder in MARKET),  # type: ignore[arg-type]
        ("0001_c1_1.png", "0001_c2_6.png", "0003_c1_12.png", "0003_c2_13.png"),
        counts,
        "Zhong et al., CVPR 2017",
    )
    for labels, counts in (("detected", "7,365 / 1,400 / 5,332"), ("labeled", "7,368 / 1,400 / 5,328"))
] + [
    LikeMarket(
        "veri776",
        {},
        ("image_train", "image_query", "image_test"),
        (
            "0001_c001_00016450_0.jpg",
            "0001_c020_00017690_1.jpg",
            "0002_c002_00030600_0.jpg",
            "0002_c003_00084280_0.jpg",
        ),
        "37,778 / 1,678 / 11,579",
        "Liu et al., ECCV 2016",
    ),
    LikeMarket(
        "occluded_duke",
        {},
        MARKET,
        ("0001_c2_f0046182.jpg", "0001_c5_f0058043.jpg", "0005_c2_f0046985.jpg", "0005_c5_f0059366.jpg"),
        "15,618 / 2,210 / 17,661",
        "withdrawn by its authors in 2019",
    ),
]
each_set = pytest.mark.parametrize("one", SETS, ids=lambda one: "-".join([one.name, *one.options.values()]))


def write_crops(root: Path, one: LikeMarket) -> Path:
    train, query, gallery = (root / folder for folder in one.folders)
    for folder, name in zip((train, train, query, gallery), one.names, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (10, 20, 30)).save(folder / name)
    return root


def read(root: Path, one: LikeMarket) -> ReidDataset:
    return load_dataset(one.name, root, official=False, **one.options)


@each_set
def test_names_tell_identity_and_camera_from_0(one: LikeMarket, tmp_path: Path) -> None:
    write_crops(tmp_path, one)
    (tmp_path / one.folders[0] / f"._{one.names[0]}").write_bytes(b"resource fork")
    dataset = read(tmp_path, one)
    crops = dataset.train + dataset.query + dataset.gallery
    assert [crop.path.name for crop in crops] == list(one.names)
    for crop in crops:
        pid, camera, *_ = crop.path.name.split("_")
        assert (crop.pid, crop.camid) == (int(pid), int(camera[1:]) - 1)
    assert (dataset.strays, dataset.junk) == (1, 0)


@each_set
def test_other_counts_are_refused_with_both(one: LikeMarket, tmp_path: Path) -> None:
    write_crops(tmp_path, one)
    with pytest.raises(DatasetError, match=rf"expected {one.counts} images .* found 2 / 1 / 1\.") as caught:
        load_dataset(one.name, tmp_path, **one.options)
    in_markets_layout = one.folders != SETS[2].folders
    assert ("dataset=folder" in str(caught.value)) == in_markets_layout
    assert ("dataset.official=false" in str(caught.value)) != in_markets_layout


@each_set
def test_missing_folders_are_named_with_the_layout_and_where_to_get_it(
    one: LikeMarket, tmp_path: Path
) -> None:
    (tmp_path / one.folders[1]).mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, one)
    looked_for, rest = str(caught.value).split("\n", 1)
    assert [str(tmp_path / folder) in looked_for for folder in one.folders] == [True, False, True]
    assert all(f"{tmp_path / folder}/{one.names[0]}" in rest for folder in one.folders)
    assert one.source in rest
    assert "make quickstart" in rest


@each_set
def test_a_name_without_identity_or_camera_is_refused_with_an_example(
    one: LikeMarket, tmp_path: Path
) -> None:
    stray = write_crops(tmp_path, one) / one.folders[2] / "portrait.jpg"
    Image.new("RGB", (8, 16)).save(stray)
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, one)
    assert str(stray) in str(caught.value)
    assert one.names[0] in str(caught.value)


@each_set
def test_a_person_trained_on_and_looked_for_is_refused_by_the_folders_names(
    one: LikeMarket, tmp_path: Path
) -> None:
    write_crops(tmp_path, one)
    Image.new("RGB", (8, 16)).save(tmp_path / one.folders[1] / one.names[0])
    train, query = (folder.rpartition("/")[2] for folder in one.folders[:2])
    with pytest.raises(DatasetError, match=f"both in {train} and in {query} "):
        read(tmp_path, one)


def test_detected_and_labeled_are_two_sets(tmp_path: Path) -> None:
    write_crops(tmp_path, SETS[0])
    assert load_dataset("cuhk03", tmp_path, official=False).name == "cuhk03_detected"
    with pytest.raises(DatasetError, match=r"labeled/bounding_box_train"):
        load_dataset("cuhk03", tmp_path, labels="labeled", official=False)
    with pytest.raises(DatasetError, match=r"dataset\.labels='labelled': expected one of detected, labeled"):
        load_dataset("cuhk03", tmp_path, labels="labelled")


@each_set
def test_the_notice_holds_the_terms_of_use(one: LikeMarket, tmp_path: Path) -> None:
    notice = read(write_crops(tmp_path, one), one).notice
    assert (
        "withdrawn by its authors in 2019" if one.name == "occluded_duke" else "do not redistribute"
    ) in notice
    assert ("eval.protocol=cross_camera" in notice) == (one.name == "veri776")


@pytest.mark.parametrize("name", sorted({one.name for one in SETS} | {"cuhk01", "msmt17"}))
def test_each_reader_takes_what_its_yaml_gives(name: str, tmp_path: Path) -> None:
    """The default is the official set: nothing lies there, and the reader says so."""
    settings = train_settings(composed("train", f"dataset={name}", f"data.root={tmp_path}"))
    assert settings.dataset["official"] is True
    with pytest.raises(DatasetError, match=rf"is not there: looked for {tmp_path}/\w"):
        load_dataset(**settings.dataset)
