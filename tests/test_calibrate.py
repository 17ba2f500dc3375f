"""reid.calibrate and reid.fuse as a user runs them, and the probabilities that other commands show."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import composed
from conftest import Runner
from PIL import Image

from reid import compare
from reid.config.checks import ConfigError
from reid.config.schema import EvalConfig
from reid.config.settings import calibrate_settings, fuse_settings
from reid.data import load_dataset
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.gallery import Index, Row
from reid.gallery.people import people_of
from reid.inference import load_model
from reid.judging.stored_calibration import (
    StoredCalibration,
    StoredPair,
    plain,
    store_calibration,
    stored_calibration,
    usable_calibration,
)
from reid.judging.stored_open_set import StoredOpenSet, store_open_set
from reid.judging.stored_threshold import ThresholdError, feature_space
from reid.retrieval import Embeddings
from reid.retrieval.calibration import score_pairs
from reid.retrieval.fusion import alone, fit_fusion, fused, fused_distances
from reid.words import chance

STORED = StoredCalibration(
    "logistic", (0.2, 1.2), (5.0, -5.0), (StoredPair((0, 1), 30, 0.6, (0.2, 1.2), (3.0, -3.0)),), 0.5, 100,
    9000, 50, "euclidean", True, "after", False, "float32", "cross_camera", "market",
    "second half of the test", "0" * 16, 50, 0.02, (0.01, 0.04), 0.2, (0.15, 0.25), 0.3, (0.25, 0.35),
)  # fmt: skip


# ---- words


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.5, "50.0 %"),
        (0.9994, "99.9 %"),
        (0.99993, "99.99 %"),
        (0.9999999, "99.99999 %"),
        (0.0004, "0.04 %"),
        (1e-6, "0.0001 %"),
    ],
)
def test_no_chance_is_printed_as_certain(probability: float, words: str) -> None:
    assert chance(probability) == words


# ---- what is stored


def test_a_probability_follows_the_curve_the_prior_and_the_cameras() -> None:
    assert float(STORED.probability(0.7)) == pytest.approx(0.5)
    assert float(STORED.probability(0.7, 0.01)) == pytest.approx(0.01)
    assert float(STORED.probability(0.2, first=1, second=0)) == pytest.approx(1 / (1 + np.exp(-3)))
    assert float(STORED.probability(0.2, first=1, second=5)) == pytest.approx(1 / (1 + np.exp(-5)))
    assert 0 < float(STORED.probability(2.0)) < float(STORED.probability(0.0)) < 1
    assert "50.0 % of the pairs that are compared show one person" in STORED.expectation()
    assert "in calibration 1.1 % did" in STORED.expectation()
    assert "1.0 % of the pairs that are compared" in STORED.expectation(0.01)


def test_it_is_refused_in_another_space() -> None:
    STORED.check(feature_space(EvalConfig()))
    for settings in (EvalConfig(metric="cosine"), EvalConfig(neck_feature="before"), EvalConfig(flip=True)):
        with pytest.raises(ThresholdError, match="the stored calibration holds for the euclidean distance"):
            STORED.check(feature_space(settings))
        found, why = usable_calibration({"calibration": plain(STORED)}, feature_space(settings))
        assert found is None
        assert why.startswith("no probabilities: the stored calibration")
    with pytest.raises(ThresholdError, match="computed in float32"):
        STORED.check(feature_space(EvalConfig(), "bf16"))
    assert usable_calibration({}, feature_space(EvalConfig())) == (None, "")


def test_it_survives_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    meta = store_calibration(tiny_checkpoint, target, STORED)
    assert stored_calibration(meta) == stored_calibration(load_checkpoint(target).meta) == STORED
    with pytest.raises(CheckpointError, match="not one of this version"):
        stored_calibration({"calibration": {"method": "logistic"}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("distances", [1.0, 0.5]),
        ("distances", [0.1, 0.2, 0.3]),
        ("llrs", [float("nan"), 1.0]),
        ("prior", 0.0),
        ("prior", 1.0),
        ("pairs", [{"cameras": [0]}]),
        ("ece", 2.0),
    ],
)
def test_a_stored_value_that_cannot_be_is_refused(
    key: str, value: object, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model.pt"
    store_calibration(tiny_checkpoint, target, STORED)
    content = torch.load(target, weights_only=True)
    meta = json.loads(content["meta"])
    meta["calibration"][key] = value
    torch.save({**content, "meta": json.dumps(meta)}, target)
    with pytest.raises(CheckpointError, match="calibration"):
        load_checkpoint(target)


# ---- who shows it


@pytest.fixture(scope="module")
def crops(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "synthetic" / "day_tiny_0" / "query").glob("*.jpg"))


def test_python_and_compare_show_the_same_probability(
    tiny_checkpoint: Path, crops: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.pt"
    store_calibration(tiny_checkpoint, file, STORED)
    model = load_model(file, "cpu")
    assert model.calibration == STORED
    features = model.embed(crops[:2])
    sure = model.probability(features, prior=0.2)
    assert sure.shape == (2, 2)
    assert torch.equal(sure, sure.T)
    expected = STORED.probability(model.distances(features).numpy(), 0.2)
    np.testing.assert_allclose(sure.numpy(), expected)
    by_camera = model.probability(features, camids=([0, 0], [1, 1]))
    np.testing.assert_allclose(
        by_camera.numpy(), STORED.probability(model.distances(features).numpy(), None, 0, 1)
    )
    words = [str(crop) for crop in crops[:2]]
    assert compare.main([*words, "--checkpoint", str(file), "--prior", "0.2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["pairs"][0]["probability"] == pytest.approx(float(sure[0, 1]), abs=1e-6)
    assert answer["prior"] == 0.2
    assert compare.main([*words, "--checkpoint", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"1 and 2: one person with {chance(float(model.probability(features)[0, 1]))}" in printed
    assert "Probabilities assume that 50.0 % of the pairs" in printed
    assert compare.main([*words, "--checkpoint", str(file), "--metric", "cosine"]) == 0
    assert "No probabilities: the stored calibration holds" in capsys.readouterr().out


def test_without_a_calibration_nothing_is_a_probability(tiny_checkpoint: Path, crops: list[Path]) -> None:
    model = load_model(tiny_checkpoint, "cpu")
    with pytest.raises(ThresholdError, match=r"python -m reid\.calibrate checkpoint="):
        model.probability(model.embed(crops[:2]))


def test_search_says_nobody_by_the_open_set_and_how_probable_each_is(
    tiny_checkpoint: Path, crops: list[Path], tmp_path: Path
) -> None:
    from reid.commands.search import Options, limit_of, probability_of

    file = tmp_path / "model.pt"
    store_calibration(tiny_checkpoint, file, STORED)
    open_set = StoredOpenSet(
        0.3, (0.2, 0.4), "fpir_1e-1", "best", 2.0, "euclidean", True, "after", False, "float32",
        "cross_camera", "own", "second half of the own", "0" * 16, 3, 3, 3, 3, 0.1, (0.0, 0.2), 0.5,
        (0.3, 0.7), 0.01, ((3, 0.1),),
    )  # fmt: skip
    store_open_set(file, file, open_set)
    model = load_model(file, "cpu")
    index = Index.create(tmp_path / "g", model.facts, checkpoint=str(file))
    rows = [Row(crop, pid=number // 2 + 1) for number, crop in enumerate(crops[:8])]
    index.add(model.embed(crops[:8]).numpy(), rows)
    assert people_of(index) == 4
    assert people_of(index, [0, 1]) == 1
    threshold, note = limit_of(model, index, Options(), several=False)
    assert threshold == open_set
    assert "among 4 people" in note
    probable, rests_on = probability_of(model, index, Options(prior=0.5))
    assert probable is not None
    assert probable(0.7) == pytest.approx(0.5 / 4)
    assert "spread over 4 people" in rests_on
    frame = model.search(index, crops[0], top=3)
    np.testing.assert_allclose(
        frame["probability"], STORED.probability(frame["distance"].to_numpy(), 0.5 / 4)
    )
    larger = replace(open_set, sizes=((1, 0.1),))
    store_open_set(file, file, larger)
    threshold, note = limit_of(load_model(file, "cpu"), index, Options(), several=False)
    assert threshold is None  # nor is a pairwise one stored
    assert "with up to 1 enrolled people, and here are 4" in note


def test_an_image_of_nobody_known_is_a_person_of_its_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint, "cpu")
    index = Index.create(tmp_path / "g", model.facts)
    rows = [Row(f"{number}.jpg", pid=pid) for number, pid in enumerate([None, None, 0, 7, 7])]
    index.add(np.eye(5, model.model.embedding_size, dtype=np.float32), rows)
    assert people_of(index) == 3


# ---- the commands


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["method=spline"], "method=spline is not allowed: expected one of logistic, isotonic"),
        (["prior=1"], "prior=1.0 is not allowed: expected a number above 0 and below 1"),
        (["replicates=1"], "expected a number 2 or more"),
        (["output=a.bin"], r"ends in \.pt"),
    ],
)
def test_wrong_keys_are_refused(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate_settings(composed("calibrate", "checkpoint=x.pt", *typed))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("[a.pt]", "models has 1 entry: expected two or more"),
        ("[a.pt,3]", r"models\[1\]=3 is not allowed: expected a checkpoint"),
        ("[a.pt,{checkpoint: b.pt, necks: before}]", "no key models.necks"),
        ("[a.pt,{checkpoint: b.pt, metric: l1}]", r"models\[1\].metric=l1 is not allowed"),
        ("[a.pt,{checkpoint: b.pt, label: model 1}]", "two are called 'model 1'"),
    ],
)
def test_wrong_models_are_refused(models: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fuse_settings(composed("fuse", f"models={models}"))


def test_models_get_labels() -> None:
    settings = fuse_settings(composed("fuse", "models=[a.pt,{checkpoint: a.pt, neck_feature: before}]"))
    assert settings.models == [
        {"checkpoint": "a.pt", "label": "model 1"},
        {"checkpoint": "a.pt", "label": "model 2", "neck_feature": "before"},
    ]


@pytest.fixture(scope="module")
def table(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 18 drawn people, under other pids than those trained on, as a query and a gallery."""
    data = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")
    crops = sorted(crop for crop in data.train + data.query + data.gallery if crop.pid > 0)
    rows = [
        (crop.path, 1000 + crop.pid, crop.camid, ("query", "gallery")[number % 2])
        for number, crop in enumerate(crops)
    ]
    file = tmp_path_factory.mktemp("table") / "crops.csv"
    pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]).to_csv(file, index=False)
    return file


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_the_command_fixes_first_and_tests_then(
    method: str, tiny_checkpoint: Path, table: Path, tiny: list[str], run_command: Runner, tmp_path: Path
) -> None:
    written = tmp_path / "calibrated.pt"
    done = run_command(
        "reid.calibrate", f"checkpoint={tiny_checkpoint}", "dataset=table", f"dataset.file={table}",
        f"output={written}", f"method={method}", "replicates=30", tiny[-1], "device=cpu", home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/calibration.json"))
    log = (folder / "calibrate.log").read_text()
    steps = ("first half of the test", "fixed: a", "second half", "tested: expected")
    places = [log.index(step) for step in steps]
    assert places == sorted(places)
    stored = stored_calibration(load_checkpoint(written).meta)
    assert stored is not None
    record = json.loads((folder / "calibration.json").read_text())
    assert record["calibration"] == plain(stored)
    assert record["fixed"] == json.loads((folder / "fixed.json").read_text())["fixed"]
    assert (stored.method, stored.people, stored.tested_people) == (method, 9, 9)
    assert set(record["tested"]) >= {"similarity itself", "logistic", "isotonic"}
    assert stored.ece_before == record["tested"]["similarity itself"]["corrected"]
    status = json.loads((folder / "status.json").read_text())
    assert status["scores"]["calibration/ECE"] == stored.ece
    with Image.open(folder / "figures" / "reliability.png") as picture:
        assert picture.size[0] == 1080
    assert "did, which does not enter" in done.stdout
    assert "probability" in written.with_name("calibrated_card.md").read_text()


def test_two_features_are_fused_and_compared_with_each(
    tiny_checkpoint: Path, table: Path, tiny: list[str], run_command: Runner, tmp_path: Path
) -> None:
    models = ",".join(
        f"{{checkpoint: '{tiny_checkpoint}', label: {side}, neck_feature: {side}}}"
        for side in ("after", "before")
    )
    done = run_command(
        "reid.fuse", f"models=[{models}]", "dataset=table", f"dataset.file={table}", "replicates=30",
        tiny[-1], "device=cpu", home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/fusion.json"))
    record = json.loads((folder / "fusion.json").read_text())
    scores, gains = record["tested"]["scores"], record["tested"]["gains"]
    assert set(scores) == {"after", "before", "fused"}
    for label in ("after", "before"):
        for measure, gain in gains[label].items():
            assert gain["difference"] == pytest.approx(scores["fused"][measure] - scores[label][measure])
    assert set(gains["after"]) >= {"EER", "Cllr", "mAP"}
    assert len(record["fixed"]["weights"]) == 2
    assert min(record["fixed"]["weights"]) >= 0


# ---- fusion as a function


def views(seed: int, people: int = 30) -> list[Embeddings]:
    """Two models that see the same people with noise of their own; the third sees noise alone."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(1, people + 1).repeat_interleave(4)
    camids = torch.arange(4).repeat(people)
    centres = torch.randn(people, 8, generator=generator).repeat_interleave(4, 0)
    found = []
    for signal in (1.0, 1.0, 0.0):
        noise = torch.randn(len(pids), 8, generator=generator)
        found.append(Embeddings(signal * centres + noise, pids, camids).normalised())
    return found


def test_two_models_with_errors_of_their_own_are_better_together() -> None:
    fusion = fit_fusion(views(0), ["euclidean", "cosine", "euclidean"], "cross_camera")
    assert fusion.weights[0] > 5 * fusion.weights[2]
    assert fusion.weights[1] > 5 * fusion.weights[2]
    test = views(1)
    cost = [
        score_pairs(test[0], "euclidean", "cross_camera", scorer, 0.5)
        for scorer in (fused(fusion, test), alone(fusion, 0, test), alone(fusion, 1, test))
    ]
    costs = []
    for scored in cost:
        pairs = scored.totals
        costs.append(sum((scored.cost[kind] * pairs[kind]).sum() / pairs[kind].sum() / 2 for kind in (0, 1)))
    assert costs[0] < min(costs[1:])


def test_the_fused_score_is_the_weighted_sum() -> None:
    images = views(0, people=6)
    fusion = fit_fusion(images, ["euclidean", "cosine", "euclidean"], "cross_camera")
    distance = fused_distances(fusion, images, images)
    assert distance.shape == (24, 24)
    features = images[0].features.double()
    euclidean = torch.cdist(features, features)
    cosine = 1 - images[1].features.double() @ images[1].features.double().T
    third = torch.cdist(images[2].features.double(), images[2].features.double())

    def slope(number: int) -> float:
        curve = fusion.curves[number]
        if len(curve.llrs) == 1:
            return 0.0
        return (curve.llrs[-1] - curve.llrs[0]) / (curve.distances[-1] - curve.distances[0])

    expected = -sum(
        fusion.weights[number] * slope(number) * one for number, one in enumerate((euclidean, cosine, third))
    )
    off = ~torch.eye(24, dtype=torch.bool)
    np.testing.assert_allclose(distance[off], expected[off], atol=1e-3)  # type: ignore[index]


def test_other_images_are_refused() -> None:
    images = views(0, people=6)
    with pytest.raises(ValueError, match="2 models and 1 metrics"):
        fit_fusion(images[:2], ["cosine"], "cross_camera")
    turned = images[1].select(torch.arange(24).flip(0))
    with pytest.raises(ValueError, match="other images, or in another order"):
        fit_fusion([images[0], turned], ["cosine", "cosine"], "cross_camera")
