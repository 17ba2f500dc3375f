"""The sets that took over Market's layout: CUHK03-NP, VeRi-776, Occluded-DukeMTMC; and all as configs."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from composing import composed
from PIL import Image

from reid.config.settings import train_settings
from reid.data import DatasetError, ReidDataset, load_dataset

MARKET = ("bounding_box_train", "query", "bounding_box_test")


class Kin(NamedTuple):
    """How a set is read, where its crops lie, two names to train on, one to look for and one to find."""

    name: str
    options: dict[str, Any]
    folders: tuple[str, str, str]
    names: tuple[str, str, str, str]
    counts: str
    ask: str


KIN = [
    Kin(
        "cuhk03",
        {"labels": labels},
        tuple(f"{labels}/{folder}" for folder in MARKET),  # type: ignore[arg-type]
        ("0001_c1_1.png", "0001_c2_6.png", "0003_c1_12.png", "0003_c2_13.png"),
        counts,
        "Zhong et al., CVPR 2017",
    )
    for labels, counts in (("detected", "7,365 / 1,400 / 5,332"), ("labeled", "7,368 / 1,400 / 5,328"))
] + [
    Kin(
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
    Kin(
        "occluded_duke",
        {},
        MARKET,
        ("0001_c2_f0046182.jpg", "0001_c5_f0058043.jpg", "0005_c2_f0046985.jpg", "0005_c5_f0059366.jpg"),
        "15,618 / 2,210 / 17,661",
        "withdrawn by its authors in 2019",
    ),
]
kin = pytest.mark.parametrize("kin", KIN, ids=lambda kin: "-".join([kin.name, *kin.options.values()]))


def lay(root: Path, kin: Kin) -> Path:
    train, query, gallery = (root / folder for folder in kin.folders)
    for folder, name in zip((train, train, query, gallery), kin.names, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (10, 20, 30)).save(folder / name)
    return root


def read(root: Path, kin: Kin) -> ReidDataset:
    return load_dataset(kin.name, root, official=False, **kin.options)


@kin
def test_names_tell_identity_and_camera_from_0(kin: Kin, tmp_path: Path) -> None:
    lay(tmp_path, kin)
    (tmp_path / kin.folders[0] / f"._{kin.names[0]}").write_bytes(b"resource fork")
    dataset = read(tmp_path, kin)
    crops = dataset.train + dataset.query + dataset.gallery
    assert [crop.path.name for crop in crops] == list(kin.names)
    for crop in crops:
        pid, camera, *_ = crop.path.name.split("_")
        assert (crop.pid, crop.camid) == (int(pid), int(camera[1:]) - 1)
    assert (dataset.strays, dataset.junk) == (1, 0)


@kin
def test_other_counts_are_refused_with_both(kin: Kin, tmp_path: Path) -> None:
    lay(tmp_path, kin)
    with pytest.raises(DatasetError, match=rf"expected {kin.counts} images .* found 2 / 1 / 1\.") as caught:
        load_dataset(kin.name, tmp_path, **kin.options)
    in_markets_layout = kin.folders != KIN[2].folders
    assert ("dataset=folder" in str(caught.value)) == in_markets_layout
    assert ("dataset.official=false" in str(caught.value)) != in_markets_layout


@kin
def test_missing_folders_are_named_with_the_layout_and_where_to_ask(kin: Kin, tmp_path: Path) -> None:
    (tmp_path / kin.folders[1]).mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, kin)
    looked_for, rest = str(caught.value).split("\n", 1)
    assert [str(tmp_path / folder) in looked_for for folder in kin.folders] == [True, False, True]
    assert all(f"{tmp_path / folder}/{kin.names[0]}" in rest for folder in kin.folders)
    assert kin.ask in rest
    assert "make quickstart" in rest


@kin
def test_a_name_that_does_not_tell_is_refused_with_one_that_does(kin: Kin, tmp_path: Path) -> None:
    stray = lay(tmp_path, kin) / kin.folders[2] / "portrait.jpg"
    Image.new("RGB", (8, 16)).save(stray)
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, kin)
    assert str(stray) in str(caught.value)
    assert kin.names[0] in str(caught.value)


@kin
def test_somebody_trained_on_and_looked_for_is_refused_by_the_folders_names(kin: Kin, tmp_path: Path) -> None:
    lay(tmp_path, kin)
    Image.new("RGB", (8, 16)).save(tmp_path / kin.folders[1] / kin.names[0])
    train, query = (folder.rpartition("/")[2] for folder in kin.folders[:2])
    with pytest.raises(DatasetError, match=f"both in {train} and in {query} "):
        read(tmp_path, kin)


def test_detected_and_labeled_are_two_sets(tmp_path: Path) -> None:
    lay(tmp_path, KIN[0])
    assert load_dataset("cuhk03", tmp_path, official=False).name == "cuhk03_detected"
    with pytest.raises(DatasetError, match=r"labeled/bounding_box_train"):
        load_dataset("cuhk03", tmp_path, labels="labeled", official=False)
    with pytest.raises(DatasetError, match=r"dataset\.labels='labelled': expected one of detected, labeled"):
        load_dataset("cuhk03", tmp_path, labels="labelled")


@kin
def test_terms_are_told(kin: Kin, tmp_path: Path) -> None:
    notice = read(lay(tmp_path, kin), kin).notice
    assert (
        "withdrawn by its authors in 2019" if kin.name == "occluded_duke" else "do not redistribute"
    ) in notice
    assert ("eval.protocol=cross_camera" in notice) == (kin.name == "veri776")


@pytest.mark.parametrize("name", sorted({kin.name for kin in KIN} | {"cuhk01", "msmt17"}))
def test_each_reader_takes_what_its_yaml_gives(name: str, tmp_path: Path) -> None:
    """The default is the official set: nothing lies there, and the reader says so."""
    settings = train_settings(composed("train", f"dataset={name}", f"data.root={tmp_path}"))
    assert settings.dataset["official"] is True
    with pytest.raises(DatasetError, match=rf"is not there: looked for {tmp_path}/\w"):
        load_dataset(**settings.dataset)
