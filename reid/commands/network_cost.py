"""What one network costs to use: parameters, multiply-adds, memory and time, each measured or counted.

All is of the way from pixels to features, as an evaluation takes it. The classifier is not counted, since
features do without it, and reading and resizing images is not timed.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from reid.models import ReidModel

#: Calls before the clock starts, and the fewest that are timed.
WARM_UP, LEAST_REPEATS = 2, 5


@dataclass(frozen=True)
class Timed:
    """One network with one size of batch.

    Attributes:
        activations: bytes; the most that tensors take that are alive at once, weights aside. What a kernel
            takes for itself meanwhile is not seen.
        latency, p90: median and 90th percentile of a call, in seconds.
        repeats: how many calls were timed.
    """

    batch: int
    activations: int
    latency: float
    p90: float
    repeats: int

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.batch / self.latency


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: how many numbers the features depend on.
        multiply_adds: of one image: of convolutions, matrix products and attention; half of what
            `torch.utils.flop_counter` counts, which takes a multiply-add for two operations. Norms,
            activations and poolings are not in it.
        weights: bytes of parameters and of what norms keep, the classifier's too.
        timed: by the size of the batch.
    """

    parameters: int
    multiply_adds: int
    weights: int
    timed: Sequence[Timed]


def measure(
    model: ReidModel, device: torch.device, height: int, width: int, batches: Sequence[int], seconds: float
) -> Cost:
    """The cost of a model that lies on `device`, for images of `height` x `width` pixels.

    seconds: how long each size of batch is timed, at least LEAST_REPEATS calls.
    """
    model.eval()
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    parameters = used_parameters(model, image)
    with torch.no_grad():
        multiply_adds = count_multiply_adds(model, image)
        timed = [_time(model, image.expand(size, -1, -1, -1).contiguous(), seconds) for size in batches]
    kept = {id(tensor): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return Cost(parameters, multiply_adds, sum(kept.values()), timed)


def used_parameters(model: ReidModel, image: Tensor) -> int:
    """How many numbers of the model its features depend on: those that get a gradient of them."""
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    parameters = list(model.parameters())
    try:
        model.requires_grad_()
        with torch.enable_grad():
            gradients = torch.autograd.grad(model(image).sum(), parameters, allow_unused=True)
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)
    return sum(
        parameter.numel()
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    )


def count_multiply_adds(model: ReidModel, image: Tensor) -> int:
    """Of one image (1, 3, H, W), see `Cost`."""
    # The counter does not know the CPU's fused attention; as two matrix products it does.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


def _time(model: ReidModel, images: Tensor, seconds: float) -> Timed:
    images = images.contiguous(memory_format=torch.channels_last)
    with _Alive() as alive:
        model(images)
    cuda = images.device.type == "cuda"

    def call() -> float:
        start = time.perf_counter()
        model(images)
        if cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - start

    for _ in range(WARM_UP):
        call()
    spent = [call() for _ in range(LEAST_REPEATS)]
    while sum(spent) < seconds:
        spent.append(call())
    p90 = statistics.quantiles(spent, n=10, method="inclusive")[-1]
    return Timed(len(images), alive.most, statistics.median(spent), p90, len(spent))


class _Alive(TorchDispatchMode):
    """While it holds, counts the bytes of new tensors that are alive at once; `most` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        arguments = {
            _storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        found = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                storage = _storage(leaf)
                if storage._cdata not in self._known | arguments:  # neither a view nor one that is counted
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return found

    def _gone(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
