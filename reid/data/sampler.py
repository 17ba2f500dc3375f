"""P x K sampling: every batch holds P identities with K images of each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch


class IdentitySampler:
    """One epoch of batches of `identities` x `instances` indices, as the published code draws them.

    The images of each pid are shuffled (a pid with fewer than K: K drawn with replacement) and cut into
    chunks of K, the rest of it dropped.  While at least P pids have chunks left, P of them are drawn
    without replacement and give one chunk each; so a pid never stands twice in a batch.

    Args:
        pids: the identity of every image, in any labelling.
        identities: P, the identities in a batch.
        instances: K, the images of each.
        generator: the only source of chance; each iteration draws a new epoch from it.

    Raises:
        ValueError: P or K below 1, or P larger than the number of identities.
    """

    def __init__(
        self, pids: Sequence[int], identities: int, instances: int, generator: torch.Generator
    ) -> None:
        by_pid: dict[int, list[int]] = defaultdict(list)
        for index, pid in enumerate(pids):
            by_pid[int(pid)].append(index)
        if identities < 1 or instances < 1:
            raise ValueError(
                f"batch.identities x batch.instances must be 1 or more each, got {identities} x {instances}"
            )
        if identities > len(by_pid):
            raise ValueError(
                f"batch.identities={identities} is larger than the number of identities to train on, "
                f"{len(by_pid)}: a batch holds each at most once. Set it to {len(by_pid)} or lower."
            )
        self.images = [torch.tensor(by_pid[pid]) for pid in sorted(by_pid)]
        self.identities = identities
        self.instances = instances
        self.generator = generator

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields int64 index tensors of shape (P * K,), K neighbours of one pid."""
        chunks = [self._chunks(images) for images in self.images]
        available = list(range(len(chunks)))
        while len(available) >= self.identities:
            # The end of a Fisher-Yates shuffle: P swaps bring a uniform draw to the back of the list.
            draws = torch.rand(self.identities, generator=self.generator, dtype=torch.float64).tolist()
            for last, draw in zip(range(len(available) - 1, -1, -1), draws, strict=False):
                place = int(draw * (last + 1))
                available[place], available[last] = available[last], available[place]
            drawn = available[-self.identities :]
            yield torch.cat([chunks[pid].pop() for pid in drawn])
            available[-self.identities :] = [pid for pid in drawn if chunks[pid]]

    def _chunks(self, images: torch.Tensor) -> list[torch.Tensor]:
        if len(images) < self.instances:
            picks = torch.randint(len(images), (self.instances,), generator=self.generator)
            return [images[picks]]
        shuffled = images[self._random_order(len(images))]
        return list(shuffled[: len(images) // self.instances * self.instances].split(self.instances))

    def _random_order(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator)
