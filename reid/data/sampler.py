"""P x K sampling: every batch holds P identities with K images of each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch


class IdentitySampler:
    """One epoch of batches of `identities` x `instances` indices, as the published code draws them.

    The images of each pid are shuffled (a pid with fewer than K: K drawn with replacement) and cut into
    chunks of K, the rest of it dropped.  While at least P pids have chunks left, P of them are drawn
    without replacement and give one chunk each; so a pid never stands twice in a batch.

    With `camids` the images of a pid are dealt out to its chunks camera by camera, in place of being cut as
    they lie: each camera is in as many chunks as possible, in no chunk with two images more than in another.
    The random draws stay, so the batches hold the same people as without `camids`, and of each of them the
    same images are dropped.  (A pid with fewer than K images has each of them in its chunk, and those of
    different cameras are repeated first; these are other draws.)  Positives that two cameras saw are what
    the test asks for: camera-aware sampling as FastReID's `BalancedIdentitySampler` has it (arXiv
    2006.02631), but with each image at most once in an epoch.

    Args:
        pids: the identity of every image, in any labelling.
        identities: P, the identities in a batch.
        instances: K, the images of each.
        generator: the only source of chance; each iteration draws a new epoch from it.
        camids: the camera of every image, to balance the images of each pid over them; None: by chance.

    Raises:
        ValueError: P or K below 1, or P larger than the number of identities.
    """

    def __init__(
        self,
        pids: Sequence[int],
        identities: int,
        instances: int,
        generator: torch.Generator,
        camids: Sequence[int] | None = None,
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
        self.camids = None if camids is None else torch.tensor(camids)

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
            if self.camids is not None:
                return [self._all_and_more(images)]
            picks = torch.randint(len(images), (self.instances,), generator=self.generator)
            return [images[picks]]
        order = self._random_order(len(images))
        count = len(images) // self.instances
        kept = images[order][: count * self.instances]
        if self.camids is None:
            return list(kept.split(self.instances))
        by_camera = kept[self.camids[kept].argsort(stable=True)]
        # A column each. Which of them comes last, and may be left over at the end of the epoch, is chance.
        return list(by_camera.view(self.instances, count).roll(int(order[0]) % count, dims=1).T)

    def _all_and_more(self, images: torch.Tensor) -> torch.Tensor:
        """K images of fewer: all of them in random order, each camera's first before any camera's second,
        and again from the beginning."""
        assert self.camids is not None
        images = images[self._random_order(len(images))]
        cameras = self.camids[images]
        earlier_of_camera = (cameras[:, None] == cameras).tril(-1).sum(1)
        images = images[earlier_of_camera.argsort(stable=True)]
        return images[torch.arange(self.instances) % len(images)]

    def _random_order(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator)
