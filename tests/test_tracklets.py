"""Tracklets from a table to a judgement, a threshold and a search."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from reid.commands.evaluate import check_same_space
from reid.commands.search import Options, queries_of, search
from reid.commands.threshold import joined, pairs_of, together
from reid.config.identity import without_defaults
from reid.config.schema import DataConfig, EvalConfig, ImageConfig
from reid.config.settings import as_trained
from reid.data import Crop, DatasetError, ReidDataset, load_dataset, silent
from reid.data.division import divide
from reid.data.split import write_split
from reid.distance import normalise
from reid.engine.compute import Compute
from reid.engine.prepare import JudgedData, check_judgeable, open_judged_data, with_protocol_of
from reid.gallery import Facts, Index, Row
from reid.judging.embed import embed, embed_as
from reid.judging.judge import describe, judge
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold, ThresholdError, feature_space
from reid.models import ReidModel
from reid.models.trunk import as_backbone
from reid.retrieval import EvaluationError, pair_totals

COMPUTE = Compute(torch.device("cpu"))
TRACKLETS = replace(EvalConfig(), tracklets=True)


def model() -> ReidModel:
    """A network whose feature is the mean colour of the image."""
    return ReidModel(as_backbone(nn.Identity(), "net", 3), num_classes=2, neck="none").eval()


def table(folder: Path, rows: list[tuple[int, int, str, str]], columns: str = "") -> Path:
    """A table of images of drawn noise: pid, camid, tracklet, split each."""
    lines = ["path,pid,camid,tracklet,split"]
    for number, (pid, camid, tracklet, split) in enumerate(rows):
        pixels = np.random.default_rng([number, pid]).integers(0, 256, (32, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,{pid},{camid},{tracklet},{split}")
    file = folder / "crops.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


ROWS = [
    (1, 0, "a", "query"), (1, 0, "a", "query"), (1, 1, "b", "gallery"), (1, 1, "b", "gallery"),
    (1, 0, "a", "gallery"), (2, 1, "c", "gallery"), (2, 0, "d", "query"), (2, 1, "", "gallery"),
    (3, 0, "e", "train"), (3, 1, "f", "train"),
]  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> ReidDataset:
    return load_dataset("table", tmp_path, file=str(table(tmp_path, ROWS)))


def test_a_table_numbers_its_tracklets(dataset: ReidDataset) -> None:
    assert [crop.tracklet for crop in dataset.query] == [0, 0, 3]
    assert [crop.tracklet for crop in dataset.gallery] == [1, 1, 0, 2, None]
    assert [crop.tracklet for crop in dataset.train] == [4, 5]


def test_a_tracklet_of_two_people_or_cameras_is_refused(tmp_path: Path) -> None:
    for row, what in (((2, 0, "a", "query"), "person"), ((1, 1, "a", "query"), "camera")):
        file = table(tmp_path, [*ROWS, row])
        with pytest.raises(
            DatasetError, match=rf"line 12: tracklet a is of {what} . here and of {what} . in .*line 2"
        ):
            load_dataset("table", tmp_path, file=str(file))
    file.write_text("path,pid,tracklet_id\na.jpg,1,2\n")
    with pytest.raises(DatasetError, match="Rename 'tracklet_id' to 'tracklet'"):
        load_dataset("table", tmp_path, file=str(file))


def test_folders_of_a_person_may_be_tracklets(tmp_path: Path) -> None:
    for place in (
        "ann/one/1.png",
        "ann/one/2.png",
        "ann/two/1.png",
        "bob/1.png",
        "bob/2.png",
        "bob/one/1.png",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(tmp_path / place)
    plain = load_dataset("folders", tmp_path)
    assert {crop.tracklet for crop in plain.train + plain.query + plain.gallery} == {None}
    found = load_dataset("folders", tmp_path, tracklets="folder")
    number = {
        crop.path.relative_to(tmp_path).as_posix(): crop.tracklet
        for crop in found.train + found.query + found.gallery
    }
    assert number == {
        "ann/one/1.png": 0, "ann/one/2.png": 0, "ann/two/1.png": 1,
        "bob/1.png": None, "bob/2.png": None, "bob/one/1.png": 2,
    }  # fmt: skip
    # A key at its default is not there for a hash.
    assert without_defaults({"dataset": {"name": "folders", "tracklets": "none"}}) == {
        "dataset": {"name": "folders"}
    }


def test_tracklets_are_divided_whole_and_written_down(tmp_path: Path) -> None:
    crops = [
        Crop(tmp_path / f"{pid}-{camid}-{number}-{frame}.png", pid, camid, 100 * pid + 10 * camid + number)
        for pid in (1, 2, 3, 4)
        for camid in (0, 1)
        for number in (0, 1)
        for frame in (0, 1, 2)
    ]
    division = divide(crops, cameras=True, seed=0)
    in_query, in_gallery = ({crop.tracklet for crop in some} for some in (division.query, division.gallery))
    assert len(division.query) == 3 * len(in_query) == 3 * 4
    assert not in_query & in_gallery
    whole = ReidDataset("some", tmp_path, (), (), ())
    assert write_split(tmp_path / "split.csv", whole, division)
    head, first, *_ = (tmp_path / "split.csv").read_text().splitlines()
    assert head == "path,pid,camid,split,tracklet"
    assert first.rsplit(",", 1)[1] == str(division.train[0].tracklet)
    alone = divide([crop._replace(tracklet=None) for crop in crops], cameras=True, seed=0)
    write_split(tmp_path / "alone.csv", whole, alone)
    assert (tmp_path / "alone.csv").read_text().splitlines()[0] == "path,pid,camid,split"


def test_parts_of_a_joint_set_keep_their_tracklets_apart(tmp_path: Path) -> None:
    parts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        parts.append({"name": "table", "root": tmp_path / name, "file": str(table(tmp_path / name, ROWS))})
    joint = load_dataset("joint", tmp_path, parts=parts)
    assert [crop.tracklet for crop in joint.train] == [4, 5, 10, 11]


def judged(dataset: ReidDataset, folder: Path) -> JudgedData:
    return open_judged_data(dataset, ImageConfig(32, 16), DataConfig(store=str(folder / "store")), silent)


def test_rows_of_a_judgement_are_tracklets(dataset: ReidDataset, tmp_path: Path) -> None:
    data = judged(dataset, tmp_path)
    found = judge(model(), data.query, data.gallery, TRACKLETS, COMPUTE)
    assert found is not None
    assert found.query.pids.tolist() == [1, 2]
    assert found.gallery.pids.tolist() == [1, 1, 2, 2]
    frames = embed(model(), data.query, COMPUTE, normalise=True).features
    expected = normalise(torch.stack([(frames[0] + frames[1]) / 2, frames[2]]))
    torch.testing.assert_close(found.query.features, expected)
    assert "mean of each tracklet" in describe(TRACKLETS, "x")
    # Pictures of the rows: the middle frame of each.
    rows = data.rows_of(TRACKLETS)
    assert [crop.path.name for crop in rows.query.crops] == ["01.png", "06.png"]
    assert torch.equal(rows.query.read(torch.tensor([0])), data.query.read(torch.tensor([1])))
    assert data.rows_of(EvalConfig()) is data
    # By single images the frame of the own tracklet in the gallery is junk, also where cameras do not count.
    single = judge(
        model(), data.query, data.gallery, replace(EvalConfig(), protocol="ignore_camera"), COMPUTE
    )
    assert single is not None
    assert len(single.query) == 3
    ranks = [rank for rank in single.scores.first_match.tolist() if rank]
    assert max(ranks) <= 4  # of five gallery images one at least is left out


def test_a_frame_is_weighted_by_the_length_of_its_feature(dataset: ReidDataset, tmp_path: Path) -> None:
    data = judged(dataset, tmp_path)
    raw = embed(model(), data.query, COMPUTE, normalise=False).features.double()
    norms = raw.norm(dim=1)
    unit = raw / norms[:, None]
    expected = (unit[0] * norms[0] + unit[1] * norms[1]) / (norms[0] + norms[1])
    weighted = embed_as(model(), data.query, COMPUTE, replace(TRACKLETS, tracklet_pooling="quality"))
    torch.testing.assert_close(
        weighted.features[0].double(), expected / expected.norm(), rtol=1e-5, atol=1e-6
    )


def test_the_data_decide_unless_something_is_said(
    dataset: ReidDataset, caplog: pytest.LogCaptureFixture
) -> None:
    assert with_protocol_of(dataset, EvalConfig(), ()).tracklets is True
    assert "judged per tracklet" in caplog.text
    assert with_protocol_of(dataset, replace(EvalConfig(), tracklets=False), ()).tracklets is False
    plain = replace(
        dataset,
        query=tuple(crop._replace(tracklet=None) for crop in dataset.query),
        gallery=tuple(crop._replace(tracklet=None) for crop in dataset.gallery),
    )
    assert with_protocol_of(plain, EvalConfig(), ()) == EvalConfig()
    with pytest.raises(DatasetError, match="names no tracklets"):
        with_protocol_of(plain, TRACKLETS, ())


def test_nobody_is_found_by_the_own_tracklet_alone(dataset: ReidDataset) -> None:
    lonely = replace(dataset, gallery=tuple(crop for crop in dataset.gallery if crop.tracklet == 0))
    with pytest.raises(EvaluationError, match="own camera"):
        check_judgeable(lonely, EvalConfig())
    with pytest.raises(EvaluationError, match="own tracklet"):
        check_judgeable(lonely, replace(EvalConfig(), protocol="ignore_camera"))


# ---- thresholds


def threshold(pooling: str) -> StoredThreshold:
    return StoredThreshold(
        0.5, "eer", "euclidean", True, "after", False, "cross_camera", "x", "test", "0", 9, 9, 9, 0.1, (0.0,
        0.2), 0.9, (0.8, 1.0), "float32", pooling,
    )  # fmt: skip


def test_a_threshold_of_tracklets_is_refused_for_single_crops() -> None:
    crops, tracklets = feature_space(EvalConfig()), feature_space(TRACKLETS)
    assert crops == FeatureSpace("euclidean", True, "after")
    assert tracklets.pooling == "mean"
    assert "mean over a tracklet" in tracklets.describe()
    threshold("mean").check(tracklets)
    threshold("none").check(crops)
    with pytest.raises(
        ThresholdError, match=r"measured on tracklets \(mean of their frames\).*eval.tracklets=false"
    ):
        threshold("mean").check(crops)
    with pytest.raises(ThresholdError, match=r"single crops.*eval.tracklets=true eval.tracklet_pooling=max"):
        threshold("none").check(feature_space(replace(TRACKLETS, tracklet_pooling="max")))
    # What an older checkpoint remembers.
    assert (
        feature_space({"metric": "cosine", "feature_norm": True, "neck_feature": "after"}).pooling == "none"
    )


def test_pairs_are_those_of_tracklets(dataset: ReidDataset, tmp_path: Path) -> None:
    data = judged(dataset, tmp_path)
    stores = together(data)
    assert list(stores) == ["query and gallery"]
    images = joined([embed_as(model(), store, COMPUTE, TRACKLETS) for store in stores.values()])
    # a (query and gallery as one), b, c, d and an image of none
    assert images.pids.tolist() == [1, 2, 1, 2, 2]
    crops = dataset.query + dataset.gallery
    expected = pair_totals(images.pids, images.camids, "cross_camera", images.tracklets)
    assert pairs_of(crops, TRACKLETS) == expected == (3, 6)
    assert pairs_of(crops, EvalConfig()) == (3 * 2 + 2, 5 * 3)


def test_a_model_that_was_judged_by_tracklets_takes_single_images_elsewhere() -> None:
    trained = {"tracklets": True, "tracklet_pooling": "max", "flip": True}
    again = as_trained(EvalConfig(), trained, [])
    assert (again.tracklets, again.tracklet_pooling, again.flip) == (None, "max", True)
    assert as_trained(EvalConfig(tracklets=False), trained, ["eval.tracklets=false"]).tracklets is False
    check_same_space(replace(EvalConfig(), tracklets=True), asdict(EvalConfig()))


# ---- search


def index_of(folder: Path, rows: list[Row], places: list[float]) -> Index:
    facts = Facts.of(
        {"weight": torch.zeros(2, 2)}, 2, {"model": {"backbone": {"name": "x"}}, "preprocessing": {}},
        FeatureSpace("euclidean", False, "after"), None, {},
    )  # fmt: skip
    index = Index.create(folder, facts)
    index.add(np.array([[place, 0.0] for place in places], np.float32), rows, facts)
    return index


def test_of_a_tracklet_the_nearest_frame_is_a_hit(tmp_path: Path) -> None:
    rows = [
        Row("/c/0.jpg", 1, tracklet="a"), Row("/c/1.jpg", 1, tracklet="a"), Row("/c/2.jpg", 2, tracklet="b"),
        Row("/c/3.jpg", 2, tracklet="b"), Row("/c/4.jpg", 3), Row("/c/5.jpg", 3),
    ]  # fmt: skip
    index = index_of(tmp_path / "gallery", rows, [1, 2, 3, 2.5, 4, 5])
    assert index.has_tracklets
    assert Index.open(tmp_path / "gallery").row(3).tracklet == "b"

    def hits(query: Tensor, path: str, top: int) -> list[int]:
        found, *_ = search(index, [query], [[Path(path)]], Options(top=top))
        return [int(row) for row in found.rows[0] if row >= 0]

    query = torch.tensor([[0.0, 0.0]])
    assert hits(query, "/q.jpg", 2) == [0, 3]
    assert hits(query, "/q.jpg", 10) == [0, 3, 4, 5]
    # Its own picture and the other frame of that tracklet are none.
    assert hits(query, "/c/1.jpg", 2) == [3, 4]
    assert queries_of(["x", None, "x", None]) == [[0, 2], [1], [3]]


def test_an_index_without_tracklets_is_as_it_was(tmp_path: Path) -> None:
    from pyarrow import parquet

    index = index_of(tmp_path / "gallery", [Row("/c/0.jpg", 1)], [1])
    assert not index.has_tracklets
    assert "tracklet" not in parquet.read_schema(tmp_path / "gallery" / "table.parquet").names
    assert Index.open(tmp_path / "gallery").row(0) == Row("/c/0.jpg", 1)
