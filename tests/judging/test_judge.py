"""Every evaluation setting means what it says, on features and a model small enough to work by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from reid.config.schema import DataConfig, EvalConfig, ImageConfig
from reid.data import Crop, DatasetError, ReidDataset
from reid.data.crops import silent
from reid.data.image_store import ImageStore, open_store
from reid.engine.compute import Compute
from reid.engine.finite import DivergedError, check_finite
from reid.engine.prepare import open_judged_data
from reid.judging.domains import label_of, read_domains, same_domain
from reid.judging.embed import embed
from reid.judging.judge import (
    check_memory,
    describe,
    judge,
    judged_rows,
    judged_values,
    score,
)
from reid.models import ReidModel
from reid.models.trunk import as_backbone
from reid.retrieval import Embeddings, EvaluationError, evaluate, expand_queries, rerank
from reid.tracking.names import check_names

CPU = torch.device("cpu")
COMPUTE = Compute(CPU)
PLAIN = EvalConfig()


class LeftHalf(nn.Module):
    """A network that sees the left half of an image alone."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, :, : images.shape[3] // 2]


class Diverged(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * torch.nan


class Broken(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no more memory")


def model_of(net: nn.Module) -> ReidModel:
    return ReidModel(as_backbone(net, "net", 3), num_classes=2, neck="none").eval()


def test_features_that_are_none_are_refused(store: ImageStore) -> None:
    model = model_of(Diverged())
    with pytest.raises(EvaluationError, match="4 of 4 feature rows hold NaN"):
        judge(model, store, store, PLAIN, COMPUTE)


def test_a_buffer_that_is_none_is_named() -> None:
    model = nn.BatchNorm1d(3)
    check_finite(model)
    assert isinstance(model.running_var, Tensor)
    model.running_var[1] = torch.inf
    with pytest.raises(DivergedError, match=r"1 of the model's 4 tensors .*\(running_var\)"):
        check_finite(model)


def test_too_many_unreadable_images_are_refused_before_any_training(tmp_path: Path) -> None:
    crops = []
    for n, (pid, camid) in enumerate([(1, 0), (2, 1), (1, 1), (2, 0)]):
        path = tmp_path / f"{n}.png"
        Image.new("RGB", (16, 32), (n, n, n)).save(path)
        crops.append(Crop(path, pid, camid))
    dataset = ReidDataset("some", tmp_path, (), tuple(crops[:2]), tuple(crops[2:]))
    image, data = ImageConfig(height=32, width=16), DataConfig(store=str(tmp_path / "store"))
    skipping = replace(data, on_bad_image="skip")
    assert len(open_judged_data(dataset, image, skipping, silent, "cross_camera").query) == 2
    for crop in dataset.query:
        crop.path.write_bytes(b"")
    with pytest.raises(EvaluationError):
        open_judged_data(dataset, image, skipping, silent, "cross_camera")
    assert len(open_judged_data(dataset, image, skipping, silent).query) == 0


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Four images of two people by two cameras, each pair of images like each other."""
    crops = []
    for n, (pid, camid) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
        pixels = np.random.default_rng(pid).integers(0, 256, (32, 16, 3), np.uint8)
        pixels[0, 0] = n
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        crops.append(Crop(tmp_path / f"{n}.png", pid, camid))
    return open_store(crops, 32, 16, tmp_path / "store")


def embeddings(features: list[list[float]], pids: list[int], camera: int) -> Embeddings:
    return Embeddings(torch.tensor(features), torch.tensor(pids), torch.full((len(pids),), camera))


# ---- features


def test_flip_is_the_mean_of_an_image_and_its_mirror_image(store: ImageStore) -> None:
    """The left half and the right half, averaged, are the whole."""
    flipped = embed(model_of(LeftHalf()), store, COMPUTE, normalise=False, flip=True)
    whole = embed(model_of(nn.Identity()), store, COMPUTE, normalise=False)
    left = embed(model_of(LeftHalf()), store, COMPUTE, normalise=False)
    torch.testing.assert_close(flipped.features, whole.features)
    assert not torch.allclose(left.features, whole.features)


def test_flip_comes_before_the_norm(store: ImageStore) -> None:
    flipped = embed(model_of(LeftHalf()), store, COMPUTE, normalise=True, flip=True).features
    torch.testing.assert_close(flipped.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(
        flipped, embed(model_of(nn.Identity()), store, COMPUTE, normalise=True).features
    )


def test_a_failed_judgement_leaves_the_model_as_it_was(store: ImageStore) -> None:
    model = model_of(Broken())
    with pytest.raises(RuntimeError, match="no more memory"):
        judge(model, store, store, replace(PLAIN, neck_feature="before"), COMPUTE)
    assert model.eval_feature == "after"


@pytest.mark.parametrize(
    ("norm", "metric", "length"), [(True, "euclidean", 1), (False, "cosine", 1), (False, "euclidean", None)]
)
def test_raw_features_are_ranked_by_euclidean_distance_alone(
    store: ImageStore, norm: bool, metric: str, length: int | None
) -> None:
    settings = replace(PLAIN, feature_norm=norm, metric=metric)
    judgement = judge(model_of(nn.Identity()), store, store, settings, COMPUTE)
    assert judgement is not None
    lengths = judgement.query.features.norm(dim=1)
    assert bool((lengths - 1).abs().max() < 1e-5) == (length == 1)
    header = describe(settings, "market")
    assert ("L2-normalised" in header) == (length == 1)
    assert f"{metric} distance" in header


def test_query_expansion_by_hand() -> None:
    gallery = torch.tensor([[2.0, 0.0], [0.0, 8.0], [4.0, 0.0]])
    query = torch.tensor([[0.0, 0.0], [0.0, 9.0]])
    expected = torch.tensor([[2.0, 0.0], [2 / 3, 17 / 3]])
    torch.testing.assert_close(expand_queries(query, gallery, 2), expected)
    torch.testing.assert_close(expand_queries(query, gallery, 9), (query + torch.tensor([6.0, 8.0])) / 4)
    with pytest.raises(ValueError, match="count is 0"):
        expand_queries(query, gallery, 0)


def test_an_expanded_query_is_normalised_again_and_finds_what_it_did_not() -> None:
    query = embeddings([[1.0, 0.0]], [1], 0)
    gallery = embeddings([[0.8, 0.6], [0.8, -0.62], [0.6, 0.8]], [1, 2, 1], 1).normalised()
    plain = score(query, gallery, PLAIN).scores
    expanded = score(query, gallery, replace(PLAIN, query_expansion=1))
    assert plain.mAP == pytest.approx((1 + 2 / 3) / 2)
    assert expanded.scores.mAP == 1
    assert expanded.query.features.norm().item() == pytest.approx(1)


# ---- re-ranking and its names


def people() -> tuple[Embeddings, Embeddings]:
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(6).repeat(6)
    features = torch.randn(6, 8, generator=generator)[pids] + torch.randn(36, 8, generator=generator)
    whole = Embeddings(features, pids + 1, (torch.arange(36) // 6) % 3).normalised()
    return whole.select(torch.arange(12)), whole.select(torch.arange(12, 36))


def test_a_reranked_score_stands_beside_the_plain_one_under_its_own_names() -> None:
    query, gallery = people()
    settings = replace(PLAIN, rerank=True, rerank_k1=5, rerank_k2=2, rerank_lambda=0.5)
    judgement = score(query, gallery, settings)
    distance = rerank(query.features, gallery.features, 5, 2, 0.5)
    plain, reranked = evaluate(query, gallery), evaluate(query, gallery, distance=distance)
    assert plain.mAP != reranked.mAP

    values = judged_values("test", judgement)
    assert (values["test/mAP"], values["test/rerank/mAP"]) == (plain.mAP, reranked.mAP)
    assert values["test/rerank/rank-1"] == reranked.rank(1)
    rows = judged_rows("last epoch", judgement, settings)
    assert list(rows) == ["last epoch", "last epoch, re-ranked (k1 5, k2 2, lambda 0.5)"]


def test_without_reranking_there_is_one_score() -> None:
    judgement = score(*people(), PLAIN)
    assert judgement.reranked is None
    assert not [name for name in judged_values("test", judgement) if "rerank" in name]
    assert list(judged_rows("a", judgement, PLAIN)) == ["a"]


def test_the_header_says_how() -> None:
    settings = replace(PLAIN, flip=True, query_expansion=3, neck_feature="before", split="val")
    assert describe(settings, "duke") == (
        "duke, val split: feature before the neck, mean with the mirror image, L2-normalised, queries "
        "expanded by their 3 nearest, euclidean distance, cross_camera protocol"
    )


def test_reranking_that_cannot_fit_is_refused_in_words() -> None:
    million = 10**6
    check_memory(million, million, 512, PLAIN, CPU)  # no re-ranking, no need
    with pytest.raises(
        EvaluationError, match=r"eval.rerank needs about .* GiB .*cpu has .* free.*rerank=false"
    ):
        check_memory(million, million, 512, replace(PLAIN, rerank=True), CPU)


# ---- many datasets


def entry(label: str, root: Path, **keys: Any) -> dict[str, Any]:
    return {"label": label, "name": "synthetic", "root": str(root), "preset": "tiny", **keys}


def test_domains_are_read_in_their_order_and_the_own_one_is_known(tiny_data: Path, tmp_path: Path) -> None:
    root = tiny_data / "synthetic" / "day_tiny_0"
    market = {"label": "market", "name": "market", "root": str(root), "official": False}
    own = {"name": "synthetic", "root": "/elsewhere/day_tiny_0", "preset": "tiny"}
    domains = read_domains([entry("day", root), market], own, PLAIN, silent)
    assert [(domain.label, domain.own) for domain in domains] == [("day", True), ("market", False)]
    assert len(domains[0].dataset.query) == len(domains[1].dataset.query) == 18


def test_all_that_is_missing_is_listed_at_once_and_nothing_is_drawn(tmp_path: Path) -> None:
    entries = [
        entry("day", tmp_path / "drawn"),
        {"label": "market", "name": "market", "root": str(tmp_path / "m")},
        {"label": "duke", "name": "duke", "root": str(tmp_path / "d")},
    ]
    with pytest.raises(DatasetError) as caught:
        read_domains(entries, entries[0], PLAIN, silent)
    message = str(caught.value)
    assert message.startswith("2 of the 3 eval.datasets cannot be judged on.")
    assert f"{tmp_path}/m/query" in message
    assert f"{tmp_path}/d/query" in message
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize(
    ("change", "same"),
    [({"root": "/b/market1501"}, True), ({"root": "/b/other"}, False), ({"name": "duke"}, False)],
)
def test_a_domain_is_its_name_options_and_folder_name(change: dict[str, Any], same: bool) -> None:
    trained_on = {"name": "market", "root": "/a/market1501", "official": True}
    assert same_domain({**trained_on, **change}, trained_on) == same


def test_the_parts_of_a_joint_dataset_were_trained_on() -> None:
    day, night = ({"name": "synthetic", "root": f"/data/{part}", "domain": part} for part in ("day", "night"))
    joint = {"name": "joint", "root": "/data", "parts": [day, {"name": "market", "root": "/data/market"}]}
    assert same_domain({**day, "root": "/moved/day"}, joint)
    assert not same_domain(night, joint)
    assert same_domain(joint, joint)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("market", "market"),
        ("synthetic+synthetic_night", "synthetic_synthetic_night"),
        ("my crops (1)", "my_crops_1"),
        ("..", "data"),
    ],
)
def test_any_name_of_a_dataset_makes_a_label_that_the_tracker_takes(name: str, label: str) -> None:
    assert label_of(name) == label
    check_names([f"reid.data.fingerprint/{label}"], "tag")
