"""A neck whose statistics are those of the whole batch, where several processes train one model."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reid.engine.distributed import ALONE, Processes


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch norm of the rows (B / N, C) of each of N processes, by the statistics of all B rows.

    What torch's SyncBatchNorm does on GPUs alone, for the few rows of the neck. With g_s the gradient of the
    output rows of process s, that of all input rows is the sum over s of what flows to them from g_s: each
    process computes one term, and their sum is taken.
    """

    processes: Processes = ALONE

    @torch.compiler.disable
    def forward(self, rows: Tensor) -> Tensor:
        if self.processes.count == 1 or not self.training:
            return super().forward(rows)
        first = self.processes.number * len(rows)
        return super().forward(_Gather.apply(rows, self.processes))[first : first + len(rows)]


def share_neck(head: nn.Module, processes: Processes) -> None:
    """Let the batch norms of a head take their statistics over all processes: in place, same names."""
    for norm in head.modules() if processes.count > 1 else ():
        if type(norm) is nn.BatchNorm1d:
            norm.__class__ = SharedBatchNorm
            norm.processes = processes  # type: ignore[assignment]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: "torch.autograd.function.FunctionCtx", rows: Tensor, processes: Processes) -> Tensor:
        ctx.rows = slice(processes.number * len(rows), (processes.number + 1) * len(rows))  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(processes.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor) -> tuple[Tensor, None]:
        summed = grads[0].contiguous()
        dist.all_reduce(summed)
        return summed[ctx.rows], None  # type: ignore[attr-defined]
