"""Networks recognised by the published names and shapes, which also load in every published form of file."""

import json
from pathlib import Path

import published_networks as published
import pytest
import torch
from torch import Tensor

from reid.models import WeightsError, backbone_names, build_backbone, load_weights
from reid.models.matching import compare
from reid.models.recognise import choose, recognise

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "backbones.json").read_text())
PUBLISHED = ("resnet34", "resnet50", "se_resnet50", "se_resnext50", "resnet50_ibn_a")


def state(name: str) -> dict[str, Tensor]:
    """The published names and shapes, each tensor a single number behind its shape."""
    shapes = GOLDEN[f"{name}_state"]
    return {key: torch.tensor(1.0 + i).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_names_and_shapes_tell_the_network(name: str) -> None:
    assert recognise(state(name), names=PUBLISHED) == name


@pytest.mark.slow
def test_every_backbone_is_looked_at() -> None:
    assert recognise(state("resnet50")) == "resnet50"
    assert set(PUBLISHED) < set(backbone_names())


@pytest.mark.slow
def test_a_few_tensors_more_do_not_matter_and_one_less_does() -> None:
    tensors = state("resnet34")
    assert recognise({**tensors, "extra.weight": torch.zeros(1)}, names=PUBLISHED) == "resnet34"
    del tensors["layer3.5.bn2.bias"]
    with pytest.raises(WeightsError, match=r"nearest is resnet34: 179 of its 180 .*layer3\.5\.bn2\.bias"):
        recognise(tensors, names=PUBLISHED)


@pytest.mark.slow
def test_transformers_are_told_by_the_names_of_their_files() -> None:
    names = ("personvit_small", "transreid_ssl_vit_small", "clip_vit_base_16", "solider_swin_tiny")
    files = {
        "solider_swin_tiny": published.solider_shapes(96, (2, 2, 6, 2), (3, 6, 12, 24)),
        "clip_vit_base_16": {
            f"visual.{key}": shape for key, shape in published.clip_shapes(768, 12, 196, 512).items()
        },
    }
    for name, shapes in files.items():
        hollow = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
        assert recognise(hollow, names) == name
    hollow = {key: torch.zeros(()).expand(size) for key, size in published.vit_shapes(384, 12, 128).items()}
    with pytest.raises(WeightsError, match=r"fit personvit_small and transreid_ssl_vit_small equally well"):
        recognise(hollow, names)


def test_two_networks_of_the_same_tensors_have_to_be_told_apart() -> None:
    tensors = state("resnet34")
    same, more = (
        compare(tensors, tensors, "file"),
        compare(tensors, {**tensors, "extra": torch.zeros(1)}, "file"),
    )
    with pytest.raises(WeightsError, match=r"fit a and c equally well.*--backbone"):
        choose({"a": same, "b": more, "c": same})
    assert choose({"a": more, "b": same}) == "b"


#: (network, how its published file wraps the tensors, what stands beside them)
FILES = {
    "torchvision": ("resnet34", "", ("fc.weight", "fc.bias")),
    "Cadene and timm's legacy SE": ("se_resnet50", "", ("last_linear.weight", "last_linear.bias")),
    "IBN-Net, v1.0": ("resnet50_ibn_a", "", ("fc.weight", "fc.bias")),
    "IBN-Net, older": ("resnet50_ibn_a", "module.", ("module.fc.weight", "module.fc.bias")),
}


@pytest.mark.parametrize("form", FILES)
def test_published_imagenet_files_load_whole(form: str, tmp_path: Path) -> None:
    name, prefix, classifier = FILES[form]
    tensors = state(name)
    stored = {prefix + key: tensor for key, tensor in tensors.items()} | dict.fromkeys(
        classifier, torch.zeros(2)
    )
    torch.save({"state_dict": stored, "epoch": 90} if prefix else stored, tmp_path / "file.pth")
    net = build_backbone(name)
    report = load_weights(net, str(tmp_path / "file.pth"))
    assert (report.fraction, report.used) == (1.0, 1.0)
    assert report.dropped == tuple(key.removeprefix(prefix) for key in classifier)
    own = net.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in tensors.items())
