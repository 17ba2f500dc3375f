"""Non-local blocks: the formula place by place, where a ResNet has them, and what a weight file needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reid.models import BackboneError, build_backbone
from reid.models.depth import layer_depths
from reid.models.non_local import NonLocal


@pytest.mark.parametrize("inner", ["half", "one"])
def test_a_block_is_that_of_the_paper(inner: Any) -> None:
    torch.manual_seed(0)
    block: Any = NonLocal(4, inner).double().eval()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    assert torch.equal(block(x), x)  # until its batch norm has learnt a weight
    convolution, norm = block.W
    torch.nn.init.normal_(norm.weight)

    def linear(layer: Any, place: Tensor) -> Tensor:
        mapped: Tensor = layer.weight[:, :, 0, 0] @ place + layer.bias
        return mapped

    with torch.no_grad():
        wanted = x.clone()
        for image in range(2):
            places = x[image].flatten(1).T
            for number, place in enumerate(places):
                y = torch.zeros(block.g.out_channels, dtype=torch.float64)
                for other in places:
                    pair = linear(block.theta, place) @ linear(block.phi, other)
                    y += pair * linear(block.g, other) / len(places)
                added = linear(convolution, y) / (1 + norm.eps) ** 0.5 * norm.weight
                wanted[image, :, number // 2, number % 2] += added
        torch.testing.assert_close(block(x), wanted)
    assert torch.autograd.gradcheck(block, (x.requires_grad_(),))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), [("resnet18", (2, 2)), ("resnet50_ibn_a", (2, 3))])
def test_a_resnet_has_them_after_its_last_blocks_and_begins_unchanged(
    name: str, blocks: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain = build_backbone(name).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    net = build_backbone(name, non_local="one", weights=str(tmp_path / "plain.pth")).eval()
    assert net.weight_report.fraction == 1.0
    assert (len(net.NL_2), len(net.NL_3)) == blocks  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 32)
    assert torch.equal(net(images), plain(images))
    order: list[str] = []
    for path, module in net.named_modules():
        if path.count(".") == 1 and path.startswith(("layer2", "layer3", "NL_")):
            module.register_forward_hook(lambda *_, path=path: order.append(path))
    net(images)
    if name == "resnet50_ibn_a":
        assert order[:6] == ["layer2.0", "layer2.1", "layer2.2", "NL_2.0", "layer2.3", "NL_2.1"]
        assert order[-2:] == ["layer3.5", "NL_3.2"]
    depths = layer_depths(net)
    assert depths["NL_2.0.g.weight"] == depths["layer2.0.conv1.weight"]
    net.train()(images).square().mean().backward()
    assert net.get_parameter("NL_3.0.W.1.weight").grad.abs().sum() > 0  # type: ignore[union-attr]


def test_other_networks_and_values_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"non_local=one does not fit backbone\.name=mobilenet_v2"):
        build_backbone("mobilenet_v2", non_local="one")
