"""The spatial transformer before a backbone: where it begins, what it samples, what files know of it."""

from pathlib import Path

import pytest
import torch
from composing import settings_of
from torch import Tensor, nn

from reid.engine.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from reid.engine.describe import build_model, model_description, rebuild_model
from reid.models import Backbone, BackboneError, ReidModel, build_backbone, load_weights
from reid.models.spatial import add_spatial_transformer

#: Of the published code at 256 x 128, where its map is 60 x 28 in 10 channels.
PUBLISHED_SHAPES = {
    "localization.0.weight": (8, 3, 7, 7),
    "localization.0.bias": (8,),
    "localization.3.weight": (10, 8, 5, 5),
    "localization.3.bias": (10,),
    "fc_loc.0.weight": (32, 16800),
    "fc_loc.0.bias": (32,),
    "fc_loc.2.weight": (6, 32),
    "fc_loc.2.bias": (6,),
}
SHIFT = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.0])


class Bare(nn.Module):
    """A network that returns its input, which shows what the transformer did to it."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def images_of(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def pair(name: str = "resnet18") -> tuple[Backbone, Backbone]:
    """The same network without and with a spatial transformer, in evaluation mode."""
    torch.manual_seed(0)
    plain = build_backbone(name).eval()
    torch.manual_seed(0)
    return plain, build_backbone(name, stn=True).eval()


def test_its_tensors_have_the_published_names_and_shapes_and_stand_beside_the_networks() -> None:
    plain, straightened = pair()
    state = straightened.state_dict()
    added = {name: tuple(t.shape) for name, t in state.items() if name not in plain.state_dict()}
    assert added == PUBLISHED_SHAPES
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("size", [(256, 128), (64, 32), (19, 45), (18, 18), (300, 131)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_begins_as_the_identity_at_any_size(
    size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    plain, straightened = pair("mobilenet_v2")
    straightened.to(memory_format=memory_format)
    images = images_of(*size)
    with torch.inference_mode():
        expected = plain(images)
        torch.testing.assert_close(
            straightened(images.contiguous(memory_format=memory_format)), expected, rtol=1e-3, atol=1e-4
        )


def test_the_map_itself_reaches_the_fully_connected_layer_at_the_published_size() -> None:
    _, net = pair()
    images = images_of(256, 128)
    seen: list[Tensor] = []
    net.get_submodule("fc_loc").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        net(images)
        localised = net.get_submodule("localization")(images)
    assert localised.shape == (2, 10, 60, 28)
    assert torch.equal(seen[0], localised.flatten(1))


def test_a_shift_by_half_an_image_moves_its_right_half_to_the_left_and_leaves_black() -> None:
    net = Bare()
    add_spatial_transformer(net)
    with torch.no_grad():
        net.get_parameter("fc_loc.2.bias").copy_(SHIFT)
    images = images_of(24, 33)
    moved = net(images)
    torch.testing.assert_close(moved[..., :25], images[..., 8:], rtol=1e-4, atol=1e-4)
    assert moved[..., 25:].abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 32), (128, 64)])
def test_gradients_reach_every_tensor_of_it(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = ReidModel(build_backbone("resnet18", stn=True), num_classes=3)
    own = [parameter for name, parameter in model.named_parameters() if "loc" in name]
    assert len(own) == len(PUBLISHED_SHAPES)
    for theta_moved in (False, True):  # theta's weights are 0 at first, and let nothing through
        if theta_moved:
            nn.init.normal_(model.get_parameter("backbone.fc_loc.2.weight"), std=1e-3)
        model.zero_grad()
        features, logits = model(images_of(*size, count=4))
        (features[0].sum() + logits.square().sum()).backward()
        reached = [bool(p.grad is not None and p.grad.abs().sum() > 0) for p in own]
        assert reached == ([True] * 8 if theta_moved else [False] * 6 + [True] * 2)


def test_under_bf16_autocast_it_places_samples_in_float32() -> None:
    plain, straightened = pair()
    images = images_of(64, 32)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        difference = (straightened(images) - plain(images)).float()
    assert difference.norm() < 0.02 * plain(images).norm()


def test_images_that_its_poolings_leave_nothing_of_are_refused() -> None:
    net = build_backbone("resnet18", stn=True)
    with pytest.raises(BackboneError, match=r"backbone\.stn=True takes images of 18 x 18 .* 17 x 32"):
        net(images_of(17, 32))


def save(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.slow
def test_weight_files_are_compared_without_it(tmp_path: Path) -> None:
    plain, straightened = pair()
    whole = load_weights(straightened, save(plain.state_dict(), tmp_path / "plain.pth"))
    assert (whole.fraction, whole.used, whole.missing, whole.total) == (1.0, 1.0, (), 100)
    assert torch.equal(straightened.get_parameter("fc_loc.2.bias"), torch.eye(2, 3).flatten())

    file = save(straightened.state_dict(), tmp_path / "with.pth")
    report = load_weights(plain, file)
    assert (report.fraction, report.used, report.unexpected) == (1.0, 1.0, ())
    assert set(report.dropped) == set(PUBLISHED_SHAPES)


@pytest.mark.slow
def test_a_trained_one_comes_back_with_the_weights_of_its_model(tmp_path: Path) -> None:
    _, trained = pair()
    with torch.no_grad():
        trained.get_parameter("fc_loc.2.bias").copy_(SHIFT)
    file = save({"model": ReidModel(trained, num_classes=2).state_dict()}, tmp_path / "model.pt")
    _, net = pair()
    report = load_weights(net, file)
    assert (report.matched, report.total) == (108, 108)
    assert torch.equal(net.get_parameter("fc_loc.2.bias"), SHIFT)


@pytest.mark.slow
def test_a_checkpoint_is_rebuilt_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    settings = settings_of("backbone=resnet18", "backbone.weights=none", "backbone.stn=true")
    model = build_model(settings, num_classes=3).eval()
    with torch.no_grad():
        model.get_parameter("backbone.fc_loc.2.bias").copy_(SHIFT)
    save_checkpoint(
        tmp_path / "model.pt", Checkpoint(model.state_dict(), {"model": model_description(settings, 3)}, {})
    )
    again = rebuild_model(read_checkpoint(tmp_path / "model.pt")).eval()
    images = images_of(64, 32)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
