"""A trained model from Python: streams, verdicts, and objects that show themselves in a line."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reid.data import DatasetError, load_dataset
from reid.gallery import Index, IndexFault, Row
from reid.inference import TrainedModel, Verdict, load_model
from reid.judging.stored_threshold import StoredThreshold, ThresholdError
from reid.retrieval import Embeddings, evaluate, verify

pytestmark = pytest.mark.slow

STORED = StoredThreshold(
    0.9, "far_1e-2", "euclidean", True, "after", False, "cross_camera", "market", "test", "0" * 16, 200, 1000,
    90000, 0.0099, (0.008, 0.012), 0.85, (0.8, 0.9),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> TrainedModel:
    return load_model(tiny_checkpoint, "cpu")


@pytest.fixture(scope="module")
def crops(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "synthetic" / "day_tiny_0" / "query").glob("*.jpg"))


def test_every_form_of_an_image_gives_the_same_bits(model: TrainedModel, crops: list[Path]) -> None:
    arrays = [np.asarray(Image.open(crop)) for crop in crops[:3]]
    expected = model.embed(crops[:3])
    assert expected.shape == (3, 512)
    assert expected.dtype == torch.float32
    assert torch.equal(model.embed(arrays), expected)
    assert torch.equal(model.embed(np.stack(arrays)), expected)
    assert torch.equal(model.embed(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)), expected)
    one = model.embed(crops[0])
    assert one.shape == (1, 512)
    assert torch.equal(model.embed(arrays[0]), one)
    assert torch.equal(model.embed(Image.open(crops[0])), one)
    torch.set_default_dtype(torch.float64)
    try:
        assert model.embed(crops[0]).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(model.distances(one.numpy(), expected), model.distances(one, expected))
    with pytest.raises(ValueError, match=r"shapes \(512,\) and \(3, 512\): expected \(N, C\)"):
        model.distances(one[0], expected)
    assert not one.is_inference()  # a caller may go on with it as with any tensor


def test_a_frame_without_people_has_no_features(model: TrainedModel) -> None:
    assert model.embed([]).shape == (0, 512)
    assert model.embed(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 512)
    with pytest.raises(ValueError, match="batch=0: expected 1 or more"):
        model.embed([], batch=0)


def test_a_generator_is_read_as_its_images_are_needed(model: TrainedModel) -> None:
    batch, count, embedded = 8, 80, 0
    ahead, held = [], []

    def after(_module: object, _arguments: object, features: Tensor) -> None:
        nonlocal embedded
        embedded += len(features)

    def images() -> Iterator[Image.Image]:
        for number in range(count):
            assert torch.is_grad_enabled()  # the caller's code runs as the caller had it
            ahead.append(number - embedded)
            if number % batch == 0:
                held.append(sum(issubclass(type(one), Image.Image) for one in gc.get_objects()))
            yield Image.new("RGB", (16, 32), (number, 0, 0))

    hook = model.model.register_forward_hook(after)
    try:
        features = model.embed(images(), batch=batch)
    finally:
        hook.remove()
    assert len(features) == count
    assert max(ahead) < 2 * batch
    assert max(held) - held[0] <= 2 * batch + 2


def test_same_decides_by_the_stored_threshold(model: TrainedModel, crops: list[Path]) -> None:
    distance = model.distances(model.embed(crops[:2]))[0, 1].item()
    for value, same in ((distance + 0.01, True), (distance - 0.01, False)):
        verdict = replace(model, threshold=replace(STORED, value=value)).same(crops[0], Image.open(crops[1]))
        assert bool(verdict) is same
        assert verdict.distance == pytest.approx(distance)
        assert (verdict.threshold.far, verdict.threshold.tar) == (0.0099, 0.85)


def test_same_refuses_in_words(model: TrainedModel, crops: list[Path]) -> None:
    with pytest.raises(
        ThresholdError, match=r"no threshold.*python -m reid\.threshold checkpoint=/.*model\.pt"
    ):
        model.same(crops[0], crops[1])
    cosine = replace(model, threshold=replace(STORED, metric="cosine"))
    with pytest.raises(ThresholdError, match="holds for the cosine distance"):
        cosine.same(crops[0], crops[1])
    with pytest.raises(DatasetError, match="the second argument holds many images"):
        replace(model, threshold=STORED).same(crops[0], crops[:2])  # type: ignore[arg-type]


def test_search_finds_in_an_index_of_the_same_model(
    model: TrainedModel, crops: list[Path], tmp_path: Path
) -> None:
    index = Index.create(tmp_path / "gallery", model.facts)
    index.add(model.embed(crops), [Row(crop, pid=int(crop.name[:4]), camid=1) for crop in crops])
    hits = model.search(tmp_path / "gallery", crops[:2], top=3)
    assert hits["query"].tolist() == [0, 0, 0, 1, 1, 1]
    assert hits["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    distances = model.distances(model.embed(crops[:2]), model.embed(crops))
    for query in (0, 1):
        distances[query, query] = torch.inf  # an image does not find itself
        nearest = distances[query].topk(3, largest=False)
        shown = hits[hits["query"] == query]
        assert shown["path"].tolist() == [str(crops[row]) for row in nearest.indices]
        assert shown["pid"].tolist() == [int(crops[row].name[:4]) for row in nearest.indices]
        assert shown["distance"].tolist() == pytest.approx(nearest.values.tolist())
    assert hits["same"].tolist() == [None] * 6

    middle = hits["distance"][1]
    decided = replace(model, threshold=replace(STORED, value=middle)).search(
        index, Image.open(crops[0]), top=3
    )
    assert decided["path"][0] == str(crops[0])  # without a path it is an image like any other
    assert decided["same"].tolist() == [True, True, True]
    assert len(model.search(index, [])) == 0
    with pytest.raises(IndexFault, match="do not compare with this model's"):
        replace(model, space=replace(model.space, metric="cosine")).search(index, crops[0])
    with pytest.raises(IndexFault, match="nowhere"):
        model.search(tmp_path / "nowhere", crops[0])


def test_what_a_notebook_shows_is_a_line(model: TrainedModel, tiny_data: Path) -> None:
    pids, camids = torch.tensor([1, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    embeddings = Embeddings(torch.eye(4), pids, camids)
    shown = {
        repr(model): "TrainedModel(resnet18, 32 x 16 -> 512, euclidean unit after, threshold none, cpu)",
        repr(replace(model, threshold=STORED)): "threshold 0.900, cpu)",
        repr(STORED): "StoredThreshold(0.9000 for far_1e-2: FAR 1.0 %, FRR 15.0 % on market test, 200",
        repr(Verdict(0.5, STORED)): "Verdict(same: distance 0.500 <= 0.900; FAR 1.0 %, FRR 15.0 % on market)",
        repr(Verdict(1.5, STORED)): "Verdict(different: distance 1.500 > 0.900",
        repr(embeddings): "Embeddings(4 x 4, 2 people, 2 cameras)",
        repr(evaluate(embeddings, embeddings)): "Scores(mAP",
        repr(verify([0.1, 0.2], [0.9])): "Verification(threshold 0.5500 for eer, EER 0.0 %, 2 genuine and 1",
        repr(load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")):
            "ReidDataset(synthetic: 69 to train on, 18 queries, 32 gallery; 12 people to train on)",
    }  # fmt: skip
    for line, expected in shown.items():
        assert expected in line
        assert len(line) <= 100
        assert "\n" not in line
