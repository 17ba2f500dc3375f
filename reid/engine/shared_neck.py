"""A neck whose statistics are those of the whole batch, where several processes train one model."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reid.engine.distributed import ALONE, World


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch norm of the rows (B / N, C) of each of N ranks, by the statistics of the B rows of all of them.

    What torch's SyncBatchNorm does on GPUs alone, for the few rows of the neck. With g_s the gradient of the
    output rows of rank s, that of all input rows is the sum over s of what flows to them from g_s: each rank
    computes one term, and their sum is taken.
    """

    world: World = ALONE

    @torch.compiler.disable
    def forward(self, rows: Tensor) -> Tensor:
        if self.world.size == 1 or not self.training:
            return super().forward(rows)
        first = self.world.rank * len(rows)
        return super().forward(_Gather.apply(rows, self.world))[first : first + len(rows)]


def share_neck(norm: nn.Module, world: World) -> None:
    """Let the neck, where it is a batch norm, take its statistics over all ranks: in place, same names."""
    if world.size > 1 and type(norm) is nn.BatchNorm1d:
        norm.__class__ = SharedBatchNorm
        norm.world = world  # type: ignore[assignment]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: "torch.autograd.function.FunctionCtx", rows: Tensor, world: World) -> Tensor:
        ctx.rows = slice(world.rank * len(rows), (world.rank + 1) * len(rows))  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(world.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor) -> tuple[Tensor, None]:
        summed = grads[0].contiguous()
        dist.all_reduce(summed)
        return summed[ctx.rows], None  # type: ignore[attr-defined]
