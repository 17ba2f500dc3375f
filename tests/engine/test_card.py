"""The card of a checkpoint: what it says of data, scores and use, and what it must not show."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from least_meta import least_meta

from reid.engine.card import card_path, model_card
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.engine.checkpoint_meta import check_meta
from reid.judging.stored_scores import store_scores

ROW = {
    "dataset": "market", "own": True, "split": "test", "protocol": "cross_camera", "reranked": False,
    "data_fingerprint": "0" * 16, "queries": 3368, "people": 750, "gallery": 15913,
    "values": {"mAP": 0.759, "rank-1": 0.881, "rank-5": 0.95, "rank-10": 0.97, "mINP": 0.4},
    "intervals": {"mAP": [0.74, 0.78], "rank-1": [0.87, 0.89]},
}  # fmt: skip
THRESHOLD = {
    "value": 0.9, "target": "far_1e-2", "metric": "euclidean", "dataset": "folder secret people",
    "split": "test", "identities": 200, "genuine_pairs": 1000, "impostor_pairs": 90000,
    "far": 0.0099, "far_interval": [0.008, 0.012], "tar": 0.85, "tar_interval": [0.8, 0.9],
}  # fmt: skip


def meta(**changes: Any) -> dict[str, Any]:
    return {**least_meta(3), **copy.deepcopy(changes)}


def test_scores_are_in_percent_with_their_intervals_and_a_threshold_with_its_rates() -> None:
    of_other_data = {**ROW, "dataset": "msmt17", "own": False, "intervals": {}}
    whole = meta(dataset={"name": "market"}, scores=[ROW, of_other_data], threshold=THRESHOLD)
    check_meta(whole)
    card = model_card(whole)
    assert (
        "| market, test split | 75.9 [74.0, 78.0] | 88.1 [87.0, 89.0] | 40.0 | 3,368 of 750 people |" in card
    )
    assert "| msmt17, test split, **never trained on** | 75.9 | 88.1 | 40.0 |" in card
    assert "0.99 [0.8, 1.2] % of the pairs of two people" in card
    assert "15.0 [10.0, 20.0] % of the pairs of one person were missed" in card
    assert "secret" not in card


def test_scores_on_a_second_folder_take_the_place_of_no_others(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    own, other = ({**ROW, "dataset": "folder", "own": own, "data_fingerprint": mark * 16}
                  for own, mark in ((True, "a"), (False, "b")))  # fmt: skip
    save_checkpoint(file, Checkpoint({"classifier.weight": torch.zeros(3, 1)}, meta(scores=[own]), {}))
    for row in (other, {**other, "data_fingerprint": "c" * 16}, other, {**own, "data_fingerprint": "d" * 16}):
        found = store_scores(file, file, [row])["scores"]
    assert [(row["own"], row["data_fingerprint"][0]) for row in found] == [
        (True, "d"), (False, "b"), (False, "c"),
    ]  # fmt: skip


def test_an_older_checkpoint_says_that_its_scores_are_not_stored() -> None:
    card = model_card(least_meta(3))
    assert "## Scores\n\nNot stored." in card
    assert "No threshold is stored" in card


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"name": "market"}, ["academic use only"]),
        ({"name": "duke"}, ["withdrawn by its authors in 2019", "Do not publish"]),
        ({"name": "folder", "root": "/home/alice/people"}, ["own data"]),
        ({"name": "mine.reader", "root": "/home/alice/people"}, ["own data"]),
        ({"name": "unknown"}, ["another project"]),
        (
            {"name": "joint", "parts": [{"name": "market", "root": "/d"}, {"name": "msmt17", "root": "/d"}]},
            ["Market-1501", "MSMT17"],
        ),
    ],
)
def test_the_terms_of_the_data_are_named_and_no_place(dataset: dict[str, Any], words: list[str]) -> None:
    card = model_card(meta(dataset=dataset))
    assert all(word in card for word in words)
    assert "alice" not in card


def test_the_terms_of_what_it_began_with_hold_too() -> None:
    begun = {"reid.init_from": "people/model.pt", "reid.init_from.sha256": "ab" * 32}
    card = model_card(
        meta(begun={**begun, "reid.init_from.trained_on": "duke, market"}, config={"epochs": 3})
    )
    assert "began with a model trained on duke, whose terms hold too: DukeMTMC-reID: **withdrawn" in card
    assert "began with a model trained on market, whose terms hold too: Market-1501" in card
    assert "people/" not in card


def test_texts_of_the_config_stay_out_since_they_may_be_paths() -> None:
    config = {
        "loss._target_": "reid.losses.Mine",
        "loss.margin": 0.3,
        "loss.file": "/home/alice/x",
        "epochs": 3,
    }
    card = model_card(meta(config=config))
    assert "Mine(margin=0.3)" in card
    assert "alice" not in card


def test_the_losses_of_a_mix_and_the_classifier_are_named() -> None:
    config = {
        "loss._target_": "reid.losses.Mix",
        "loss.first._target_": "reid.losses.RankedListLoss",
        "loss.first.alpha": 2.0,
        "head._target_": "reid.models.heads.GeM",
        "head.classifier": "circle",
        "head.norm": "batch",
        "head.scale": 16,
    }
    card = model_card(meta(config=config))
    assert "Mix(first.alpha=2, first=RankedListLoss)" in card
    assert "GeM(scale=16, classifier=circle)" in card


def test_it_lies_beside_its_checkpoint(tmp_path: Any) -> None:
    assert card_path(tmp_path / "model.pt").name == "model_card.md"
