"""What a user writes, checked as strictly as mypy can (`make lint`): the public names give types, not Any."""
# mypy: disallow-any-expr, disallow-untyped-calls, disallow-any-generics, warn-return-any, strict-equality

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from PIL import Image

from reid import api
from reid.data import Crop, ReidDataset, load_dataset
from reid.gallery import Facts, Index, Row
from reid.inference import TrainedModel, Verdict, load_model, newest_model
from reid.retrieval import Embeddings, Scores, evaluate


def frames() -> Iterator[Image.Image]:
    yield Image.new("RGB", (64, 128))


def use(model: TrainedModel, image: Path) -> None:
    features = model.embed(frames())
    assert_type(features, torch.Tensor)
    model.embed([str(image), image, Image.open(image), torch.zeros(3, 128, 64, dtype=torch.uint8)])
    model.embed(np.zeros((128, 64, 3), np.uint8))
    assert_type(model.distances(features), torch.Tensor)
    verdict = model.same(image, str(image))
    assert_type(verdict, Verdict)
    assert_type(verdict.distance, float)
    assert_type(bool(verdict), bool)
    assert_type(model.facts, Facts)
    index = Index.create("gallery", model.facts)
    zeros = np.zeros((1, 512), np.float32)
    index.add(zeros, [Row(image, pid=1)])
    model.search(index, image, top=5)


def train_and_judge(root: Path) -> tuple[float, str]:
    run = api.train(["experiment=quickstart", f"data.root={root}"])
    assert_type(run, api.Run)
    assert_type(run.scores, dict[str, float])
    assert_type(run.folder, Path)
    assert_type(run.model, TrainedModel)
    assert_type(api.evaluate([f"checkpoint={run.folder}"]), api.Run)
    use(load_model(newest_model(), device="cpu"), root / "a.jpg")
    return run.scores["test/mAP"], str(run.run_id)


def score(root: Path) -> float:
    dataset = load_dataset("market", root)
    assert_type(dataset, ReidDataset)
    assert_type(dataset.query[0], Crop)
    embeddings = Embeddings(torch.eye(2), torch.ones(2).long(), torch.arange(2))
    scores = evaluate(embeddings, embeddings)
    assert_type(scores, Scores)
    return scores.mAP
