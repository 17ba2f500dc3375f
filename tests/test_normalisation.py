"""How pixels are normalised travels with a model: into its checkpoint, and from there to all that use it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import settings_of
from least_meta import least_meta
from torch import nn

from reid.config.checks import ConfigError
from reid.config.schema import ImageConfig
from reid.data import Crop
from reid.data.image_store import ImageStore
from reid.engine.card import model_card
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import build_model, preprocessing, rebuild_model
from reid.engine.optimizers import Optimizers
from reid.engine.session import Session
from reid.engine.start import begin, open_start
from reid.gallery.facts import Facts
from reid.inference import load_model
from reid.judging.embed import embed
from reid.models import ReidModel, build_backbone
from reid.models.trunk import as_backbone
from reid.normalisation import IMAGENET, Normalisation

HALF = Normalisation((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
COMPUTE = Compute(torch.device("cpu"))
IMAGE = ImageConfig(height=32, width=16)
NET = ("backbone=resnet18", "backbone.weights=none")
STATED = ("image.mean=[0.5,0.4,0.3]", "image.std=[0.5,0.25,0.2]")


def saved(model: ReidModel, path: Path) -> Path:
    """A checkpoint of a ResNet18 of four classes."""
    meta = least_meta(model.num_classes)
    meta["model"]["backbone"] = {"name": "resnet18", "weights": "none"}
    meta["preprocessing"] = preprocessing(IMAGE, model)
    save_checkpoint(path, Checkpoint(model.state_dict(), meta, {"optimizer": {}}))
    return path


@pytest.fixture(scope="module")
def model() -> ReidModel:
    return build_model(settings_of(*NET, *STATED), 4).eval()


@pytest.fixture(scope="module")
def checkpoint(model: ReidModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(model, tmp_path_factory.mktemp("half") / "model.pt")


def by_hand(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> (N, 3, H, W), by the formula."""
    return torch.from_numpy((images / 255.0 - np.array(HALF.mean)) / np.array(HALF.std)).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_a_checkpoint_takes_it_to_python_and_to_the_evaluation(model: ReidModel, checkpoint: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), np.uint8)
    with torch.inference_mode():
        expected = model(by_hand(images).float())
    loaded = load_model(checkpoint, "cpu", feature_norm=False)
    torch.testing.assert_close(loaded.embed(list(images)), expected, rtol=1e-4, atol=1e-5)
    crops = tuple(Crop(Path(f"{number}.jpg"), number, 0) for number in range(3))
    store = ImageStore(crops, np.arange(3), images, "content")
    judged = embed(loaded.model, store, COMPUTE, normalise=False).features
    torch.testing.assert_close(judged, expected, rtol=1e-4, atol=1e-5)


def test_an_index_and_the_card_say_it(model: ReidModel, checkpoint: Path) -> None:
    loaded = load_model(checkpoint, "cpu")
    stored = Facts.from_json(json.loads(json.dumps(loaded.facts.as_json())))
    assert stored.difference(loaded.facts) == ""
    plain = {**loaded.meta, "preprocessing": preprocessing(IMAGE, ReidModel(build_backbone("resnet18"), 4))}
    other = Facts.of(model.state_dict(), stored.size, plain, loaded.space, None)
    assert "their images had mean" in stored.difference(other)
    assert "normalised by mean 0.5 0.4 0.3, std 0.5 0.25 0.2" in model_card(loaded.meta)
    assert "normalised" not in model_card(plain)


def test_what_a_weight_file_states_is_followed_and_a_key_goes_before_it() -> None:
    backbone = as_backbone(nn.Identity(), "pixels", 3)
    model = ReidModel(backbone, 2)
    assert (model.normalisation, model.states_normalisation) == (IMAGENET, False)
    assert "stated" not in preprocessing(IMAGE, model)
    backbone.pixel_mean, backbone.pixel_std = HALF  # as a reader of weights does
    assert model.normalisation == HALF
    assert preprocessing(IMAGE, model) == {
        **preprocessing(IMAGE, ReidModel(as_backbone(nn.Identity(), "pixels", 3), 2)),
        "mean": list(HALF.mean), "std": list(HALF.std), "stated": True,
    }  # fmt: skip
    one = build_model(settings_of(*NET, "image.std=[0.5,0.25,0.2]"), 4)
    assert one.normalisation == Normalisation(IMAGENET.mean, HALF.std)


def test_a_run_that_begins_with_a_model_takes_images_as_that_did(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(*NET, f"init_from={checkpoint}")
    model = build_model(settings, 7)
    begin(model, open_start(checkpoint, settings))
    assert model.normalisation == HALF
    assert not caplog.messages
    settings = settings_of(*NET, f"init_from={checkpoint}", "image.mean=[0.1,0.1,0.1]")
    model = build_model(settings, 7)
    begin(model, open_start(checkpoint, settings))
    assert model.normalisation == Normalisation((0.1, 0.1, 0.1), IMAGENET.std)
    assert "normalised by mean 0.5 0.4 0.3, std 0.5 0.25 0.2, this run normalises by" in caplog.text
    caplog.clear()
    settings = settings_of(*NET, f"init_from={checkpoint}", "image.mean=[0.5,0.4,0.3]")
    begin(build_model(settings, 7), open_start(checkpoint, settings))
    assert "this run normalises by mean 0.5 0.4 0.3, std 0.229 0.224 0.225" in caplog.text


def test_the_numbers_of_a_model_go_before_those_that_its_network_has_by_itself(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(*NET, f"init_from={checkpoint}")
    model = build_model(settings, 7)
    model.backbone.pixel_mean = model.backbone.pixel_std = (0.5, 0.5, 0.5)  # as PersonViT's has
    begin(model, open_start(checkpoint, settings))
    assert model.normalisation == HALF
    assert not caplog.messages


def test_a_resumed_run_keeps_it_though_no_weight_file_is_read_again(tmp_path: Path) -> None:
    def session() -> Session:
        net = nn.Sequential(nn.Conv2d(3, 8, (8, 4)), nn.ReLU())
        model = ReidModel(as_backbone(net, "tiny", channels=8), 4)
        optimizers = Optimizers(torch.optim.SGD(model.parameters(), 0.1))
        return Session(tmp_path, model, optimizers, COMPUTE, least_meta(4))

    first = session()
    first.model.normalisation = HALF
    first.meta["preprocessing"] = preprocessing(IMAGE, first.model)
    first.start()
    again = session()
    again.resume()
    assert again.model.normalisation == HALF
    assert again.meta["preprocessing"] == first.meta["preprocessing"]


def test_a_checkpoint_without_it_is_of_imagenets(tmp_path: Path) -> None:
    model = build_model(settings_of(*NET), 4)
    path = saved(model, tmp_path / "model.pt")
    loaded = load_checkpoint(path)
    assert rebuild_model(loaded).normalisation == IMAGENET
    for key in ("mean", "std"):
        del loaded.meta["preprocessing"][key]
    assert rebuild_model(loaded).normalisation == IMAGENET


@pytest.mark.slow
def test_a_network_of_timm_takes_images_as_they_are_stated() -> None:
    """Unstated, images by ImageNet's numbers are brought to what its own weights expect."""
    net = build_backbone("vit_tiny_patch16_224", library="timm", image_size=[32, 16]).eval()
    pixels = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
        unstated = net((pixels - mean) / std)
        net.pixel_mean = net.pixel_std = (0.5, 0.5, 0.5)  # those of timm for this network
        stated = net((pixels - 0.5) / 0.5)
    torch.testing.assert_close(stated, unstated, rtol=1e-4, atol=1e-5)


def test_scale_and_shift_between_two_normalisations() -> None:
    pixels = torch.rand(3, 3, dtype=torch.float64)

    def normalised(by: Normalisation) -> torch.Tensor:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in by)
        return (pixels - mean) / std

    scale, shift = (torch.tensor(values, dtype=torch.float64) for values in HALF.from_other(IMAGENET))
    torch.testing.assert_close(normalised(IMAGENET) * scale + shift, normalised(HALF))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("image.mean=[0.5]", r"image.mean=\[0.5\] is not allowed: expected three numbers, of red, green"),
        ("image.std=[0,1,1]", "image.std=.* expected numbers above 0 to 1"),
        ("image.mean=[123,117,104]", "pixels are numbers from 0 to 1 here.* Divide numbers of pixels"),
        ("image.sizes=[64]", "image.sizes: '64' is no stage"),
        ("image.sizes=[64x32@3,64x32@4]", "image.sizes: the stages have 7 epochs together"),
        ("head=parts image.sizes=[64x32,256x128]", "head.stripes=6 does not fit image.sizes with 64x32"),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("dataset=synthetic", *override.split())


@pytest.mark.slow
def test_a_network_of_one_size_is_not_trained_at_several() -> None:
    settings = settings_of(
        "backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.weights=none", "image.height=32",
        "image.width=16", "image.sizes=[16x16,32x16]",
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"vit_tiny_patch16_224 does not take images of 16x16 .*transformer"
    ):
        build_model(settings, 4)
