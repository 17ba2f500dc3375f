"""Where in a crop its feature comes from: by hand, and for every head and kind of backbone."""

import pytest
import torch
from torch import nn

from reid.judging.activation import activation_map
from reid.models import ReidModel, build_backbone
from reid.models.heads import build_head
from reid.models.trunk import Backbone, as_backbone


def pixels_as_map() -> Backbone:
    """The image itself is the feature map."""
    return as_backbone(nn.Identity(), "pixels", 3)


def test_the_share_of_each_place_by_hand() -> None:
    model = ReidModel(pixels_as_map(), 2, neck="none").eval()
    image = torch.zeros(1, 3, 2, 2)
    image[0, :, 0, 0] = torch.tensor([4.0, 0, 0])
    image[0, :, 0, 1] = torch.tensor([0.0, 2, 0])
    image[0, :, 1, 0] = torch.tensor([-1.0, 0, 0])
    # The mean is f = (3, 2, 0) / 4; <f, x_p> / 4 is proportional to 12, 4, -3 and 0.
    expected = torch.tensor([[1.0, 4 / 12], [0, 0]])
    torch.testing.assert_close(activation_map(model, image), expected)
    # Enlarged to twice the height: half-way places have the mean weighted 3 : 1.
    rows = torch.stack([expected[0], (3 * expected[0] + expected[1]) / 4, expected[0] / 4, expected[1]])
    torch.testing.assert_close(activation_map(model, image, size=(4, 2)), rows)
    assert activation_map(model, torch.zeros(1, 3, 2, 2)).abs().max() == 0


def test_a_neck_weighs_the_channels() -> None:
    model = ReidModel(pixels_as_map(), 2).eval()
    with torch.no_grad():
        model.head.bottleneck.weight.copy_(torch.tensor([1.0, 3.0, 1.0]))
    image = torch.zeros(1, 3, 1, 2)
    image[0, 0, 0, 0] = image[0, 1, 0, 1] = 2.0
    # f is (1, 3, 0): the places give it 1 and 9 parts of 10.
    torch.testing.assert_close(
        activation_map(model, image), torch.tensor([[1 / 9, 1.0]]), atol=1e-4, rtol=1e-4
    )
    model.eval_feature = "before"
    torch.testing.assert_close(activation_map(model, image), torch.ones(1, 2))


@pytest.mark.parametrize("head", ["BNNeck", "GeM", "MaxAvg", "Parts"])
def test_an_empty_place_contributes_nothing_under_every_head(head: str) -> None:
    options = {"_target_": f"reid.models.heads.{head}", **({"stripes": 2} if head == "Parts" else {})}
    torch.manual_seed(0)
    backbone = pixels_as_map()
    model = ReidModel(backbone, 4, head=build_head(options, backbone.channels, 4)).eval()
    image = torch.rand(1, 3, 6, 3) + 0.1
    image[0, :, 2, 1] = 0
    found = activation_map(model, image)
    assert found.shape == (6, 3)
    assert found[2, 1] < 1e-6
    assert found.max() == 1
    assert (found > 0).sum() >= 12
    torch.testing.assert_close(activation_map(model, image, size=(12, 6)).shape, torch.Size((12, 6)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "timm"])
def test_every_kind_of_backbone_has_a_map(name: str) -> None:
    of_timm = {"name": "vit_tiny_patch16_224", "library": "timm", "image_size": (64, 32), "pooling": "patch"}
    options = of_timm if name == "timm" else {"name": name}
    model = ReidModel(build_backbone(weights="none", **options), 4).eval()
    found = activation_map(model, torch.randn(1, 3, 64, 32), size=(128, 64))
    assert found.shape == (128, 64)
    assert 0 <= found.min() < found.max() <= 1


def test_one_image_and_a_model_that_is_not_trained_are_expected() -> None:
    model = ReidModel(pixels_as_map(), 2)
    with pytest.raises(ValueError, match="training mode"):
        activation_map(model, torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"expected one image, \(1, 3, H, W\)"):
        activation_map(model.eval(), torch.zeros(2, 3, 2, 2))
