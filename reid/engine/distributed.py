"""Several processes that train one model: `torchrun --nproc-per-node N -m reid.train …`.

Every rank runs the same story on the same plan of batches, and prepares the images of its P / N identities.
What a rank cannot do alone is asked of its `World`; where there is one process, that does nothing.

The gradient.  Every rank gathers the rows F = (f_0, …, f_{N-1}) of all ranks and computes the same loss L(F)
of the whole batch: cross entropy and metric loss alike.  Wanted is

    dL/dw = sum_r (df_r/dw)^T dL/df_r,

and rank r can go backward through its own f_r alone.  DistributedDataParallel takes the mean over ranks, so
gathering hands N dL/df_r back to f_r: the mean of N times the terms is their sum.  What the loss itself
learns (centres, proxies) sees all of F on every rank: its gradient is dL/dw already, and so is their mean.
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

T = TypeVar("T")

#: How long a rank waits for the others: as long as one may build a store or rank a gallery. One that has
#: ended is noticed at once.
PATIENCE = datetime.timedelta(days=2)

_CPU = torch.device("cpu")


class LostRankError(RuntimeError):
    """Another process of the run has ended, and this one cannot go on without it."""


@dataclass(frozen=True)
class World:
    """The processes that train together: this one is `rank` of `size`, `local_rank` on its machine.

    All ranks have to call the methods that talk in the same order. Raises LostRankError from any of those.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this rank writes and speaks for all."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(number, count): what this rank takes of work that is dealt out."""
        return self.rank, self.size

    def device(self, asked: str) -> str:
        """What `device` names here: of several processes, each has the GPU of its local rank.

        Raises:
            ConfigError: one GPU for all, or fewer GPUs than processes.
        """
        if self.size == 1 or asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
            return asked
        if asked not in ("auto", "cuda"):
            raise ConfigError(
                f"device={asked} is one device for {self.size} processes: expected auto, cuda or cpu. With "
                "cuda each takes the GPU of its own; CUDA_VISIBLE_DEVICES says which there are"
            )
        gpus = torch.cuda.device_count()
        if self.local_rank >= gpus:
            raise ConfigError(
                f"device={asked}: process {self.local_rank + 1} of this machine has no GPU, PyTorch sees "
                f"{gpus}. Start torchrun with --nproc-per-node {gpus or 1}, or set device=cpu"
            )
        return f"cuda:{self.local_rank}"

    def check_batch(self, identities: int, instances: int) -> None:
        """Raises ConfigError where a batch cannot be cut between identities into a part for each rank."""
        if identities % self.size:
            lower = identities // self.size * self.size
            near = f"{lower} or {lower + self.size}" if lower else f"{self.size}"
            raise ConfigError(
                f"batch.identities={identities} cannot be cut into {self.size} equal parts, one for each "
                f"process. Set batch.identities={near}, or start torchrun with a --nproc-per-node that "
                f"divides {identities}"
            )
        if self.size > 1 and identities * instances == self.size:
            raise ConfigError(
                f"batch.identities={identities} x batch.instances={instances} leaves one image for each of "
                f"{self.size} processes, and no batch norm has statistics of one. Raise batch.instances"
            )

    # ---- on the host

    @contextmanager
    def talking(self) -> Iterator[None]:
        """A block that needs the other ranks: where one is gone, it ends with LostRankError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or isinstance(error, LostRankError) or not _is_broken(error):
                raise
            told = str(error).partition("\n")[0][:200]
            if threading.current_thread() is threading.main_thread():
                # torchrun sends it to all that are left; this one ends by itself, and in order.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise LostRankError(
                "another process of this run has ended (what it said stands above; without a word it was "
                "killed, often for want of memory), so this one ends too. What was saved last can be gone on "
                f"from: the same command with resume=auto. [{told}]"
            ) from error

    def largest(self, value: int) -> int:
        """The largest of what the ranks give."""
        if self.size == 1:
            return value
        told = torch.tensor(value)
        with self.talking():
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told)

    def wait(self) -> None:
        """Return when all ranks have come here."""
        self.largest(0)

    def first_says(self, value: T) -> T:
        """What the first rank gives; what the others give does not count."""
        if self.size == 1:
            return value
        told = [value]
        with self.talking():
            dist.broadcast_object_list(told, 0, device=_CPU)
        return told[0]

    def all_say(self, value: T) -> list[T]:
        """What each rank gives, by rank."""
        if self.size == 1:
            return [value]
        told: list[T | None] = [None] * self.size
        with self.talking():
            dist.all_gather_object(told, value)
        return told  # type: ignore[return-value]

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """A block in which no rank talks: the others begin it when the first has been through."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def leave(self) -> None:
        """The end of a run that went well, for all together."""
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()

    # ---- on the device

    def parallel(self, model: nn.Module, device: torch.device, find_unused: bool = False) -> nn.Module:
        """`model` as it is trained: in backward, its gradients become their mean over the ranks.

        It begins with the first rank's weights, and its batch norms keep the first rank's statistics.
        find_unused: it may have parameters that its output does not depend on.
        """
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        with self.talking():
            return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=find_unused)

    def gather(self, rows: Tensor) -> Tensor:
        """(B / N, C) of every rank -> (B, C) by rank; the gradient is derived at the head of this file."""
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace each tensor, of the same shape on all ranks, by its mean over them."""
        if self.size > 1:
            for tensor in tensors:
                if tensor is not None:
                    dist.all_reduce(tensor)
                    tensor /= self.size

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the first rank's."""
        if self.size > 1:
            with self.talking():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def collect(self, mine: Tensor, count: int, batch: int) -> Tensor:
        """(M, C) of this rank's `share`, every N-th batch of `count` items -> (count, C) of all, in order."""
        if self.size == 1:
            return mine
        batches = torch.arange(count).split(batch)
        nothing = torch.arange(0)
        dealt = [torch.cat([nothing, *batches[rank :: self.size]]) for rank in range(self.size)]
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
ALONE = World()


def join() -> World:
    """The world that torchrun started this process in, once all of it is there; `ALONE` without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not dist.is_torchelastic_launched():
        return ALONE
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    # Both at once: tensors of the GPUs go through NCCL, what the hosts agree on makes no GPU wait.
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=PATIENCE)
    return World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of `model` take its statistics over all ranks: torch's, in place.

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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: "torch.autograd.function.FunctionCtx", rows: Tensor, world: World) -> Tensor:
        ctx.world, ctx.count = world, len(rows)  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(world.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor) -> tuple[Tensor, None]:
        world, count = ctx.world, ctx.count  # type: ignore[attr-defined]
        own = grads[0][world.rank * count : (world.rank + 1) * count]
        return world.size * own, None


def _is_broken(error: RuntimeError) -> bool:
    """Whether this is how gloo or NCCL tell that a process at the other end is gone."""
    told = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in told or "nccl" in told
