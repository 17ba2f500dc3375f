"""Layouts: values and gradients stay what they were, and lie in memory as the map does."""

import pytest
import torch

from reid.models.ibn import InstanceBatchNorm2d
from reid.models.layout import lay_out, layout_of

LAYOUTS = pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])


@LAYOUTS
def test_a_pooled_maps_gradient_is_the_means_and_lies_as_the_map_does(
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    drawn = torch.randn(3, 5, 4, 2)
    weight = torch.randn(3, 5)
    maps = [drawn.clone(memory_format=layout).requires_grad_() for _ in range(2)]
    assert layout_of(maps[0]) is layout
    pooled = lay_out(maps[0], layout).mean(dim=(2, 3)), maps[1].mean(dim=(2, 3))
    assert torch.equal(pooled[0], pooled[1])
    ours, plain = (
        torch.autograd.grad((it * weight).sum(), at)[0] for it, at in zip(pooled, maps, strict=True)
    )
    assert torch.equal(ours, plain)
    assert layout_of(ours) is layout


@LAYOUTS
def test_instance_and_batch_norm_are_those_of_the_two_halves(
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    norm = InstanceBatchNorm2d(6)
    images = torch.randn(4, 6, 5, 3).contiguous(memory_format=layout).requires_grad_()
    plain = images.detach().clone().requires_grad_()
    weight = torch.randn(4, 6, 5, 3)
    seen = []
    images.register_hook(lambda gradient: seen.append(layout_of(gradient)))
    out = norm(images)
    (out * weight).sum().backward()
    expected = torch.cat(
        [torch.nn.InstanceNorm2d(3)(plain[:, :3]), torch.nn.BatchNorm2d(3)(plain[:, 3:])], dim=1
    )
    (expected * weight).sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(images.grad, plain.grad)
    assert layout_of(out) is layout
    assert seen == [layout]
