"""Camera embeddings of a transformer: what is added to which tokens, and for which image."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reid.engine.optimizers import build_optimizer
from reid.models import Backbone, BackboneError, ReidModel, build_backbone

SIZE = (32, 32)
VIT: dict[str, Any] = {"name": "vit_tiny_patch16_224", "library": "timm", "image_size": SIZE}


@pytest.fixture(scope="module")
def vit() -> Backbone:
    """Two blocks of a ViT that has learnt the cameras 2, 3 and 7."""
    torch.manual_seed(0)
    backbone: Any = build_backbone(**VIT, cameras=[7, 2, 3], camera_weight=1.5)
    backbone.blocks = backbone.blocks[:2]
    vit: Backbone = backbone.eval()
    return vit


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def naive(backbone: Any, image: Tensor, embedding: Tensor, tokens: slice) -> Tensor:
    """TransReID's formula for one image, in float64: the class token after the blocks."""
    net = copy.deepcopy(backbone).double()
    patches = net.patch_embed(image.double()[None] * net.input_scale + net.input_shift)
    sequence = torch.cat([net.cls_token, patches], dim=1) + net.pos_embed
    for place in range(*tokens.indices(sequence.shape[1])):
        sequence[0, place] += 1.5 * embedding.double()[0]
    return net.norm(net.blocks(sequence))[0, 0]


@torch.no_grad()
@pytest.mark.parametrize(("which", "tokens"), [("all", slice(None)), ("class", slice(0, 1))])
def test_each_image_gets_the_embedding_of_its_camera(
    vit: Any, images: Tensor, which: str, tokens: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vit.cameras == (2, 3, 7)
    monkeypatch.setattr(vit.pos_drop, "camera_tokens", which)
    rows = [vit.sie_embed[2], vit.sie_embed[0], vit.sie_embed.mean(0), vit.sie_embed[1]]
    seen = vit(images, torch.tensor([7, 2, 5, 3]))[:, :, 0, 0]  # 5 is none of the cameras
    for image, row, found in zip(images, rows, seen, strict=True):
        torch.testing.assert_close(found.double(), naive(vit, image, row, tokens), rtol=0, atol=1e-5)
    without = vit(images)[:, :, 0, 0]
    torch.testing.assert_close(without[2], seen[2])
    assert not torch.allclose(without[0], seen[0], atol=1e-3)


@torch.no_grad()
def test_images_without_a_camera_may_be_taken_for_those_of_one(vit: Backbone, images: Tensor) -> None:
    model = ReidModel(vit, 3).eval()
    model.default_camera = 3
    try:
        torch.testing.assert_close(model(images), model(images, torch.full((4,), 3)))
    finally:
        model.default_camera = None
    with pytest.raises(ValueError, match="camid 4 is no camera that the model has learnt: it knows 2, 3, 7"):
        model.default_camera = 4
    assert ReidModel(build_backbone("mobilenet_v2"), 3).cameras == ()


def test_a_copy_has_embeddings_of_its_own_and_all_of_them_learn(vit: Backbone, images: Tensor) -> None:
    """A copy is what an average of the weights is judged by; gradients reach the rows that were seen."""
    other = copy.deepcopy(vit)
    with torch.no_grad():
        before = vit(images, torch.tensor([2, 3, 7, 7]))
        other.get_parameter("sie_embed").zero_()
        assert torch.equal(vit(images, torch.tensor([2, 3, 7, 7])), before)
        assert not torch.equal(other(images, torch.tensor([2, 3, 7, 7])), before)
    other(images, torch.tensor([2, 7, 7, 2])).square().sum().backward()
    gradient = other.get_parameter("sie_embed").grad
    assert gradient is not None
    assert gradient.flatten(1).norm(dim=1).gt(0).tolist() == [True, False, True]


def test_they_learn_as_fast_as_the_head(vit: Backbone) -> None:
    options = {
        "_target_": "torch.optim.SGD", "lr": 1.0, "weight_decay": 0.1, "bias_lr_factor": 1.0,
        "bias_weight_decay": 0.1, "layer_decay": 0.5,
    }  # fmt: skip
    model = ReidModel(vit, 3)
    rate = {
        id(parameter): group["lr"]
        for group in build_optimizer(model, options).param_groups
        for parameter in group["params"]
    }
    assert rate[id(vit.get_parameter("sie_embed"))] == 1.0 > rate[id(vit.get_parameter("pos_embed"))]


def test_a_file_without_them_fits_and_one_with_them_brings_them(tmp_path: Path) -> None:
    plain = build_backbone(**VIT)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    learnt = build_backbone(**VIT, cameras=2, weights=str(tmp_path / "plain.pth"))
    assert learnt.weight_report.fraction == 1
    assert learnt.cameras == (0, 1)
    table = torch.rand(2, 1, 192)
    torch.save({**plain.state_dict(), "sie_embed": table}, tmp_path / "transreid.pth")
    again = build_backbone(**VIT, cameras=2, weights=str(tmp_path / "transreid.pth"))
    assert torch.equal(again.get_parameter("sie_embed"), table)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_without_tokens_are_refused(name: str) -> None:
    with pytest.raises(
        BackboneError, match=rf"backbone\.cameras does not fit backbone\.name={name}: .* ViTs"
    ):
        build_backbone(name, cameras=2)


def test_swins_are_refused_and_true_stands_for_a_training_set() -> None:
    with pytest.raises(BackboneError, match=r"does not fit backbone\.name=swin"):
        build_backbone("swin_tiny_patch4_window7_224", library="timm", image_size=(64, 32), cameras=2)
    with pytest.raises(BackboneError, match="cameras=true stands for the cameras of the training set"):
        build_backbone(**VIT, cameras=True)


def test_threads_that_share_a_model_get_their_own_cameras(vit: Backbone, images: Tensor) -> None:
    """The page of browse embeds so."""
    with torch.no_grad():
        camids = [torch.full((4,), camid) for camid in (2, 3, 7)] * 6
        expected = [vit(images, some) for some in camids[:3]]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda some: _seen(vit, images, some), camids))
    for one, other in zip(found, expected * 6, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def _seen(vit: Backbone, images: Tensor, camids: Tensor) -> Tensor:
    return vit(images, camids)
