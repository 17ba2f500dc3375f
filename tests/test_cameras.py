"""What a run makes of the cameras: batches balanced over them, embeddings of them, and who knows them."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import composed, settings_of

from reid import compare, extract, index, search
from reid.commands.camera_choice import OTHER_CAMERAS, choose_camera
from reid.commands.export import fix_camera, origin_of
from reid.config.checks import ConfigError
from reid.config.identity import config_hash, resume_hash
from reid.config.schema import EvalConfig
from reid.config.settings import typed_train_settings
from reid.data import Crop, DatasetError, ReidDataset
from reid.data.augment import Augmentation
from reid.data.batches import BatchRecipe, TrainingBatches
from reid.data.image_store import ImageStore, open_store
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import build_model, model_description, preprocessing
from reid.engine.prepare import check_balanced, check_learnt_cameras
from reid.engine.start import begin, open_start
from reid.gallery import Index
from reid.inference import TrainedModel, load_model
from reid.judging.domains import Domain, by_learnt_cameras, same_cameras
from reid.judging.embed import embed

VIT = (
    "backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.weights=none", "image.height=32",
    "image.width=16",
)  # fmt: skip
MARKET = {"name": "market", "root": "/a/market"}
DUKE = {"name": "duke", "root": "/a/duke"}


@pytest.fixture(scope="module")
def crops(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "synthetic" / "day_tiny_0" / "query").glob("*.jpg"))[:4]


@pytest.fixture(scope="module")
def store(crops: list[Path], tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """Four crops of two people, by the cameras 2, 5, 2 and 9."""
    labelled = [
        Crop(path, row // 2, camid) for row, (path, camid) in enumerate(zip(crops, (2, 5, 2, 9), strict=True))
    ]
    return open_store(labelled, 32, 16, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained ViT that has learnt the cameras 2 and 5."""
    return saved(tmp_path_factory.mktemp("model") / "model.pt", (2, 5))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> TrainedModel:
    return load_model(checkpoint, "cpu")


def saved(path: Path, camids: tuple[int, ...]) -> Path:
    settings = settings_of(*VIT, "backbone.cameras=true")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(settings, 5, camids=camids)
    meta: dict[str, Any] = {
        "model": model_description(settings, 5, camids),
        "preprocessing": preprocessing(settings.image, network),
        "dataset": MARKET, "pids": [1, 2, 3, 4, 5], "eval": asdict(settings.eval), "config": {},
        "config_hash": "0" * 16, "without_camids": {"mAP": 0.5, "mAP_without": 0.421, "split": "test"},
    }  # fmt: skip
    save_checkpoint(path, Checkpoint(network.state_dict(), meta, {}))
    return path


def dataset(name: str, camids: tuple[int, ...], known: bool = True) -> ReidDataset:
    shown = tuple(Crop(Path(f"{row}.jpg"), 1, camid) for row, camid in enumerate(camids))
    return ReidDataset(name, Path(), shown, shown, shown, cameras=known)


# ---- balanced batches


def test_a_set_without_two_cameras_of_anybody_is_not_balanced() -> None:
    crops = [Crop(Path(f"{number}.jpg"), number // 4, number // 4 % 2) for number in range(16)]
    with pytest.raises(DatasetError, match="balanced does not fit mine: nobody in it was seen by two"):
        check_balanced(crops, "mine")
    check_balanced([*crops, Crop(Path("last.jpg"), 0, 1)], "mine")


# ---- the config


def test_cameras_tell_experiments_apart_and_none_is_as_before() -> None:
    plain, learnt = settings_of(*VIT), settings_of(*VIT, "backbone.cameras=true")
    older = settings_of(*VIT)
    del older.backbone["cameras"], older.backbone["camera_weight"]
    off = settings_of(*VIT, "backbone.cameras=false")
    weak = settings_of(*VIT, "backbone.cameras=true", "backbone.camera_weight=1")
    for digest in (config_hash, resume_hash):
        assert digest(plain) == digest(older) == digest(off)
        assert len({digest(plain), digest(learnt), digest(weak)}) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.cameras=all", "backbone.cameras=all is not allowed: expected true"),
        ("backbone.cameras=[0,1.5]", "expected true .the cameras of the training set., how many"),
        ("backbone.camera_weight=1", "Set backbone.cameras=true too"),
        ("backbone.camera_weight=strong", "camera_weight=strong is not allowed: expected a number"),
    ],
)
def test_what_is_no_camera_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed_train_settings(composed("train", *VIT, override))


def test_a_set_without_the_cameras_is_refused() -> None:
    with pytest.raises(DatasetError, match="does not fit people, which has no camera ids"):
        check_learnt_cameras(dataset("people", (0, 0), known=False), True)
    with pytest.raises(DatasetError, match="does not fit one, which has a single camera"):
        check_learnt_cameras(dataset("one", (3, 3)), True)
    with pytest.raises(
        DatasetError, match=r"cameras=4 leaves out 4, 7 of the camids .*\(2 to 7\): set .*=true"
    ):
        check_learnt_cameras(dataset("many", (2, 7, 4)), 4)
    for cameras in (True, 8, [2, 4, 7, 9]):
        check_learnt_cameras(dataset("many", (2, 7, 4)), cameras)


# ---- training


def test_batches_carry_the_cameras_of_their_own_share(store: ImageStore) -> None:
    recipe = BatchRecipe(2, 2, Augmentation(padding=2), seed=0)
    device = torch.device("cpu")
    for share in ((0, 1), (0, 2), (1, 2)):
        batches = TrainingBatches(store, store.pids, recipe, device, share, camids=True)
        plan = batches.plan(1)
        (batch,) = batches.of(plan, 1)
        size = 4 // share[1]
        assert batch.camids is not None
        assert len(batch.images) == size
        of_all = store.camids[plan[0]]
        assert batch.camids.tolist() == of_all[share[0] * size :][:size].tolist()
    plain = TrainingBatches(store, store.pids, recipe, device)
    assert next(plain.of(plan, 1)).camids is None


def test_a_run_that_begins_with_a_model_of_other_cameras_learns_its_own(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(*VIT, "backbone.cameras=true", f"init_from={checkpoint}")
    mine = build_model(settings, 3, camids=(0, 1, 2))
    before = mine.backbone.get_parameter("sie_embed").clone()
    message, _ = begin(mine, open_start(checkpoint, settings))
    assert "dropped: " in message
    assert "backbone.sie_embed" in message
    assert torch.equal(mine.backbone.get_parameter("sie_embed"), before)
    assert not caplog.messages


# ---- a trained model


def test_an_evaluation_lets_the_model_know_its_own_cameras_alone(
    model: TrainedModel, store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Compute(model.device)
    own = embed(model.model, store, compute, normalise=True, batch=3)
    assert torch.equal(own.camids, store.camids)
    paths = [crop.path for crop in store.crops]
    torch.testing.assert_close(own.features, model.embed(paths, camids=[2, 5, 2, None]))
    without = embed(model.model, store, compute, normalise=True, cameras=False)
    torch.testing.assert_close(without.features, model.embed(paths, camids=[None] * 4))
    torch.testing.assert_close(own.features[3], without.features[3])
    assert not torch.allclose(own.features[:3], without.features[:3], atol=1e-3)

    def judged(data: ReidDataset, keys: dict[str, Any]) -> EvalConfig:
        domain = Domain(data.name, True, data, EvalConfig(), same_cameras(keys, MARKET))
        return by_learnt_cameras(model.model, domain)

    assert judged(dataset("market", (2, 5)), MARKET).cameras
    assert not caplog.messages
    assert judged(dataset("market", (2, 5, 9)), MARKET).cameras
    assert "nobody to train on was seen by the cameras 9 of market" in caplog.messages[-1]
    assert not judged(dataset("duke", (2, 5)), DUKE).cameras
    assert "the model has learnt the cameras of other data than duke" in caplog.messages[-1]


def test_the_cameras_of_a_part_of_joint_data_have_other_numbers() -> None:
    joint = {"name": "joint", "root": "/a", "parts": [MARKET, DUKE]}
    assert same_cameras(joint, {**joint, "root": "/b/a"})
    assert not same_cameras(DUKE, joint)


def test_embed_says_once_what_stands_in_for_camids(
    checkpoint: Path, crops: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(checkpoint, "cpu")
    features = model.embed(crops)
    model.embed(crops[0])
    (message,) = caplog.messages
    assert message.endswith(
        "has learnt the cameras 2, 5, and images come without camids: they are embedded with the mean of the "
        "learnt camera embeddings. That gave mAP 42.1 % in place of 50.0 % on the test split of its own data"
    )
    torch.testing.assert_close(model.embed(iter(crops), camids=iter([None] * 4)), features)
    by_5 = model.embed(crops, 3, camids=5)
    torch.testing.assert_close(by_5, model.embed(crops, camids=[5, 5, 5, 5]))
    assert not torch.allclose(by_5, features, atol=1e-3)
    assert model.embed([], camids=[]).shape == (0, 192)
    with pytest.raises(
        ValueError, match=r"camid 3 of .* is no camera that the model has learnt: .* 2, 5, or None"
    ):
        model.embed(crops, camids=3)
    with pytest.raises(ValueError, match="camids: none is left for"):
        model.embed(crops, camids=[2, 5, 2])
    with pytest.raises(ValueError, match="more of them than images"):
        model.embed(crops, camids=[2, 5, 2, 5, 5])


def test_a_mirror_image_is_of_the_same_camera(
    model: TrainedModel, crops: list[Path], store: ImageStore
) -> None:
    mirrored = replace(model, space=replace(model.space, flip=True))
    expected = embed(
        model.model, store.subset(store.crops[:2]), Compute(model.device), normalise=True, flip=True
    )
    torch.testing.assert_close(mirrored.embed(crops[:2], camids=[2, 5]), expected.features)


def test_a_model_without_cameras_takes_no_notice_of_camids(
    tiny_checkpoint: Path, crops: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    plain = load_model(tiny_checkpoint, "cpu")
    assert torch.equal(plain.embed(crops), plain.embed(crops, camids=7))
    assert plain.cameras == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_file_for_another_program_takes_all_images_for_those_of_one_camera(
    checkpoint: Path, tiny_checkpoint: Path, crops: list[Path]
) -> None:
    model = load_model(checkpoint, "cpu")
    for camera, words in ((None, "no --camera was given"), ("7", "--camera 7 is none of them")):
        with pytest.raises(ConfigError, match=rf"has learnt the cameras 2, 5, .* {words}\. Give --camera N"):
            fix_camera(model, camera)
    fix_camera(model, "5")
    torch.testing.assert_close(model.embed(crops), model.embed(crops, camids=5))
    assert origin_of(model).description["camera"] == 5
    fix_camera(model, "mean")
    torch.testing.assert_close(model.embed(crops), model.embed(crops, camids=[None] * 4))
    with pytest.raises(ConfigError, match=r"has learnt no cameras\. Leave --camera out"):
        fix_camera(load_model(tiny_checkpoint, "cpu"), "5")


def test_a_gallery_and_its_queries_are_embedded_with_the_camera_that_is_named(
    checkpoint: Path,
    model: TrainedModel,
    crops: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = tmp_path / "crops.csv"
    lines = [f"{path},{camid}" for path, camid in zip(crops, (2, 5, 2, 9), strict=True)]
    table.write_text("\n".join(["path,camid", *lines]))
    gallery = tmp_path / "gallery"
    words = [str(table), "-o", str(gallery), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert index.main(words) == 2
    assert "Give --camera N" in " ".join(capsys.readouterr().err.split())
    assert not gallery.exists()  # bad input costs nothing
    assert index.main([*words, "--camera", "own"]) == 0
    kept = Index.open(gallery)
    places = [kept.paths().index(str(path)) for path in crops]
    expected = model.embed(crops, camids=[2, 5, 2, None])
    torch.testing.assert_close(torch.from_numpy(kept.features(places)), expected)

    asked = ["--gallery", str(gallery), "--json", "--device", "cpu"]
    assert search.main([str(crops[0]), *asked]) == 2
    assert "an image does not say which camera saw it" in " ".join(capsys.readouterr().err.split())
    assert search.main([str(crops[0]), *asked, "--camera", "own"]) == 2  # one image has no row
    capsys.readouterr()
    assert search.main([str(crops[0]), *asked, "--camera", "5"]) == 0
    distance = json.loads(capsys.readouterr().out)["queries"][0]["nearest"]["distance"]
    query = model.embed(crops[0], camids=5)
    assert distance == pytest.approx(model.distances(query, expected[1:]).min().item(), abs=1e-5)
    assert search.main([str(table), *asked, "--camera", "own"]) == 0
    capsys.readouterr()

    folder, output = crops[0].parent, tmp_path / "features.npz"
    told = [str(folder), "-o", str(output), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert extract.main(told) == 2
    assert extract.main([*told, "--camera", "2"]) == 0
    with np.load(output) as written:
        row = written["path"].tolist().index(crops[0].name)
        features = torch.from_numpy(written["features"][row : row + 1])
    torch.testing.assert_close(features, model.embed(crops[0], camids=2))

    pair = [*map(str, crops[:2]), "--checkpoint", str(checkpoint), "--device", "cpu", "--json"]
    assert compare.main(pair) == 2
    assert compare.main([*pair, "--camera", "mean"]) == 0


def test_own_cameras_need_rows_that_say_them(model: TrainedModel) -> None:
    with pytest.raises(ConfigError, match="nothing says which cameras"):
        choose_camera(model, "own", OTHER_CAMERAS, own=False)
    for own, offered in ((True, True), (False, False), (None, False)):
        with pytest.raises(ConfigError) as refusal:
            choose_camera(model, None, OTHER_CAMERAS, own)
        assert ("--camera own" in str(refusal.value)) == offered
    choice = choose_camera(model, "own", OTHER_CAMERAS, own=True)
    assert choice.camids([2, None, 7]) == [2, None, None]
    assert choice.strangers([2, None, 7]).startswith(
        "2 of 3 images are of no camera that the model has learnt"
    )
    assert choose_camera(model, "mean", OTHER_CAMERAS, own=True).strangers([7]) == ""


def test_an_image_whose_row_says_another_camera_now_is_embedded_anew(
    checkpoint: Path,
    model: TrainedModel,
    crops: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gallery, table = tmp_path / "gallery", tmp_path / "crops.csv"
    words = [str(table), "-o", str(gallery), "--checkpoint", str(checkpoint), "--device", "cpu"]
    table.write_text(f"path,camid\n{crops[0]},\n{crops[1]},5\n")
    assert index.main([*words, "--camera", "own"]) == 0
    assert "1 of 2 images are of no camera that the model has learnt" in capsys.readouterr().err
    table.write_text(f"path,camid\n{crops[0]},2\n{crops[1]},5\n")
    assert index.main([*words, "--camera", "own"]) == 0
    captured = capsys.readouterr()
    assert "1 embedded" in captured.out
    assert "1 images that were there keep the camera" in captured.err
    kept = Index.open(gallery)
    row = kept.paths().index(str(crops[0]))
    torch.testing.assert_close(torch.from_numpy(kept.features([row])), model.embed(crops[0], camids=2))
