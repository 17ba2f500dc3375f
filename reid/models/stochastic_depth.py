"""Stochastic depth: in training, the residual branch of a block is left out for some images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.ops import stochastic_depth

#: The last module of a block's residual branch, whichever of these the block has: of SE networks, MobileNets
#: and ResNets. What such a block adds its shortcut to is the output of this one.
_LAST = ("se_module", "block", "conv", "bn3", "bn2")


@dataclass(frozen=True)
class _Drop:
    """A forward hook, so that the names of the tensors stay those of the weight files.

    The block says whether it is training: its last module may be a batch norm that keeps its statistics.
    """

    rate: float
    block: nn.Module

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return stochastic_depth(output, self.rate, "row", self.block.training)


def add_stochastic_depth(blocks: Iterable[nn.Module], rate: float | None) -> None:
    """Let block l of L leave its residual branch out for a share of rate l / L of the images, in place.

    Deep networks with stochastic depth (Huang et al., ECCV 2016, arXiv 1603.09382, eq. 2 and 4). The branch
    of the other images is divided by the share that stays, so that a test needs no change.

    blocks: of torchvision's or timm's ResNets, SE networks and MobileNets, from the images to the head. One
        without a shortcut counts, and drops nothing.
    rate: from 0 to below 1; None is 0.
    """
    if not rate:
        return
    blocks = list(blocks)
    for number, block in enumerate(blocks, start=1):
        if getattr(block, "use_res_connect", True):
            last = next(name for name in _LAST if hasattr(block, name))
            block.get_submodule(last).register_forward_hook(_Drop(rate * number / len(blocks), block))
