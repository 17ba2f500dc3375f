"""Images a second of one core: a graph in onnxruntime and its model in PyTorch, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reid.export.graph import Graph
from reid.models import ReidModel

#: Images that pass at once, and how often; the quickest of them counts, since others disturb a machine.
IMAGES, ROUNDS = 16, 7


@dataclass(frozen=True)
class Speed:
    """Images a second of one core, in float32 by PyTorch and as the graph computes."""

    torch: float
    graph: float

    @property
    def factor(self) -> float:
        return self.graph / self.torch


@torch.inference_mode()
def measure_speed(
    path: Path, model: ReidModel, size: tuple[int, int], rounds: int = ROUNDS, flip: bool = False
) -> Speed:
    """Both take turns on the same noise, with one thread each, so that a busy machine disturbs both alike.

    model: on the CPU, in evaluation mode; it takes channels last in memory, as the suite runs it.
    flip: whether the graph takes the mirror image too, as PyTorch then does.
    """
    values = np.random.default_rng(0).uniform(0, 1, (IMAGES, 3, *size)).astype(np.float32)
    pixels = torch.from_numpy(values).to(memory_format=torch.channels_last)
    graph = Graph(path, threads=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def by_torch() -> None:
        model(pixels)
        if flip:
            model(pixels.flip(3))

    try:
        calls: tuple[Callable[[], object], ...] = (by_torch, lambda: graph(values))
        quickest = [float("inf")] * len(calls)
        for turn in range(rounds + 1):
            for number, call in enumerate(calls):
                started = time.perf_counter()
                call()
                if turn:  # the first one allocates
                    quickest[number] = min(quickest[number], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return Speed(*(IMAGES / seconds for seconds in quickest))
