"""Several processes that train one model: `torchrun --nproc-per-node N -m reid.train …`.

Every process runs the same story on the same plan of batches, and prepares the images of its P / N people.
What it needs the others for is a method of `Processes`; where there is one process, that does nothing.

The gradient.  Every process gathers the rows F = (f_0, …, f_{N-1}) of all and computes the same loss L(F) of
the whole batch: cross entropy and metric loss alike.  Wanted is

    dL/dw = sum_r (df_r/dw)^T dL/df_r,

and process r can go backward through its own f_r alone.  DistributedDataParallel takes the mean over them, so
gathering hands N dL/df_r back to f_r: the mean of N times the terms is their sum.  What the loss itself
learns (centres, proxies) sees all of F in every process: its gradient is dL/dw already, and so is their mean.
"""

import datetime
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from reid.config.checks import ConfigError
from reid.errors import RunError

T = TypeVar("T")

#: How long a process waits for the others: as long as one may build a store or rank a gallery. One that has
#: ended is noticed at once.
PATIENCE = datetime.timedelta(days=2)

_CPU = torch.device("cpu")


class LostProcessError(RunError, RuntimeError):
    """Another process of the run has ended, and this one cannot go on without it."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together: this one is `number` of `count`, and `local_number` on its machine.

    Numbers begin at 0.  All processes have to call the methods that talk in the same order. Any of those
    raises LostProcessError.
    """

    number: int = 0
    count: int = 1
    local_number: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.number == 0

    @property
    def share(self) -> tuple[int, int]:
        """(number, count): what this process takes of work that is dealt out."""
        return self.number, self.count

    def device(self, name: str) -> str:
        """What `device=name` means here: of several processes, each has the GPU of its own number.

        Raises:
            ConfigError: one GPU for all, or fewer GPUs than processes.
        """
        if self.count == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise ConfigError(
                f"device={name} is one device for {self.count} processes: expected auto, cuda or cpu. With "
                "cuda each takes the GPU of its own; CUDA_VISIBLE_DEVICES says which there are"
            )
        gpus = torch.cuda.device_count()
        if self.local_number >= gpus:
            raise ConfigError(
                f"device={name}: process {self.local_number + 1} of this machine has no GPU, PyTorch sees "
                f"{gpus}. Start torchrun with --nproc-per-node {gpus or 1}, or set device=cpu"
            )
        return f"cuda:{self.local_number}"

    def check_batch(self, identities: int, instances: int) -> None:
        """Raises ConfigError where a batch cannot be cut between identities into a part for each process."""
        if identities % self.count:
            lower = identities // self.count * self.count
            near = f"{lower} or {lower + self.count}" if lower else f"{self.count}"
            raise ConfigError(
                f"batch.identities={identities} cannot be cut into {self.count} equal parts, one for each "
                f"process. Set batch.identities={near}, or start torchrun with a --nproc-per-node that "
                f"divides {identities}"
            )
        if self.count > 1 and identities * instances == self.count:
            raise ConfigError(
                f"batch.identities={identities} x batch.instances={instances} leaves one image for each of "
                f"{self.count} processes, and no batch norm has statistics of one. Raise batch.instances"
            )

    # ---- on the host

    @contextmanager
    def talking(self) -> Iterator[None]:
        """A block that needs the other processes: where one is gone, it ends with LostProcessError."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or isinstance(error, LostProcessError) or not _is_broken(error):
                raise
            reason = str(error).partition("\n")[0][:200]
            if threading.current_thread() is threading.main_thread():
                # torchrun sends it to all that are left; this one ends by itself, and in order.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise LostProcessError(
                "another process of this run has ended (what it said stands above; without a word it was "
                "killed, often for want of memory), so this one ends too. What was saved last can be gone on "
                f"from: the same command with resume=auto. [{reason}]"
            ) from error

    def largest(self, value: int) -> int:
        """The largest of the values that the processes give."""
        if self.count == 1:
            return value
        largest = torch.tensor(value)
        with self.talking():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.largest(0)

    def broadcast(self, value: T) -> T:
        """The first process's value, in each of them."""
        if self.count == 1:
            return value
        values = [value]
        with self.talking():
            dist.broadcast_object_list(values, 0, device=_CPU)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The value of each process, by their numbers, in each of them."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        with self.talking():
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """A block in which no process talks: the others begin it when the first has been through."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def leave(self) -> None:
        """The end of a run that went well, for all together."""
        if self.count > 1:
            self.wait()
            dist.destroy_process_group()

    # ---- on the device

    def parallel(self, model: nn.Module, device: torch.device, find_unused: bool = False) -> nn.Module:
        """`model` as it is trained: in backward, its gradients become their mean over the processes.

        It begins with the first one's weights, and its batch norms keep the first one's statistics.
        find_unused: it may have parameters that its output does not depend on.
        """
        if self.count == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        with self.talking():
            return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=find_unused)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """(B / N, C) of every process -> (B, C) by number; its gradient: see the head of this file."""
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace each tensor, of the same shape in all processes, by its mean over them."""
        if self.count > 1:
            for tensor in tensors:
                if tensor is not None:
                    dist.all_reduce(tensor)
                    tensor /= self.count

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the first process's."""
        if self.count > 1:
            with self.talking():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def collect(self, mine: Tensor, count: int, batch: int) -> Tensor:
        """(M, C) of this `share`, every N-th batch of `count` items -> (count, C) of all, in order."""
        if self.count == 1:
            return mine
        batches = torch.arange(count).split(batch)
        nothing = torch.arange(0)
        dealt = [torch.cat([nothing, *batches[number :: self.count]]) for number in range(self.count)]
        padded = mine.new_zeros(max(map(len, dealt)), mine.shape[1])
        padded[: len(mine)] = mine
        received = [torch.empty_like(padded) for _ in dealt]
        with self.talking():
            dist.all_gather(received, padded)
        whole = mine.new_empty(count, mine.shape[1])
        for places, rows in zip(dealt, received, strict=True):
            whole[places.to(mine.device)] = rows[: len(places)]
        return whole


#: One process without torchrun.
ALONE = Processes()


def join() -> Processes:
    """The processes that torchrun started, once all of them are there; `ALONE` without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or not dist.is_torchelastic_launched():
        return ALONE
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    # Both at once: tensors of the GPUs go through NCCL, what the hosts agree on makes no GPU wait.
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=PATIENCE)
    return Processes(int(os.environ["RANK"]), count, int(os.environ["LOCAL_RANK"]))


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of `model` take its statistics over all processes: torch's, in place.

    Raises:
        ConfigError: one of another class, of which torch would keep the statistics alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            raise ConfigError(
                f"sync_bn=true does not fit this backbone: {name} is a {type(module).__name__}, which does "
                "more than torch's SyncBatchNorm. Set sync_bn=false, or take a backbone of our own"
            )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


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
        return super().forward(_GatherAndSum.apply(rows, self.processes))[first : first + len(rows)]


def share_neck(head: nn.Module, processes: Processes) -> None:
    """Let the batch norms of a head take their statistics over all processes: in place, same names."""
    for norm in head.modules() if processes.count > 1 else ():
        if type(norm) is nn.BatchNorm1d:
            norm.__class__ = SharedBatchNorm
            norm.processes = processes  # type: ignore[assignment]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: "torch.autograd.function.FunctionCtx", rows: Tensor, processes: Processes) -> Tensor:
        ctx.processes, ctx.count = processes, len(rows)  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(processes.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor) -> tuple[Tensor, None]:
        processes, count = ctx.processes, ctx.count  # type: ignore[attr-defined]
        own = grads[0][processes.number * count : (processes.number + 1) * count]
        return processes.count * own, None


class _GatherAndSum(torch.autograd.Function):
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


def _is_broken(error: RuntimeError) -> bool:
    """Whether this is how gloo or NCCL tell that a process at the other end is gone."""
    message = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in message or "nccl" in message
