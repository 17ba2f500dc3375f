"""A map of embeddings on a plane: by PCA at once, by t-SNE in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from reid.distance import full_products

#: More images than these are not laid out by t-SNE: `choose_images` draws so many.
MOST_IMAGES = 5000
#: Principal components that t-SNE gets, as its authors have it (van der Maaten & Hinton, JMLR 2008).
REDUCED = 50
PERPLEXITY = 30.0


def choose_images(pids: Tensor, count: int = MOST_IMAGES, seed: int = 0) -> Tensor:
    """(min(count, N),) rising rows of N images, drawn by `seed`: of each person the same share.

    The share of a person differs from that of all by less than one image.
    """
    drawn = torch.randperm(len(pids), generator=torch.Generator().manual_seed(seed))
    drawn = drawn[pids.cpu()[drawn].sort(stable=True).indices]  # by person, in drawn order
    sizes = pids.cpu().unique(return_counts=True)[1]
    size = sizes.repeat_interleave(sizes).double()
    place = torch.arange(len(pids)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    offsets = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    share = (place + offsets.repeat_interleave(sizes)) / size
    return drawn[share.argsort(stable=True)[:count]].sort().values


def pca_map(features: Tensor) -> Tensor:
    """(N, 2) float32 in [-1, 1]: features (N, C) along the two directions of their largest variance.

    A direction points where its largest number is above 0, so that equal features have equal maps.
    """
    return _scaled(_projected(features, 2))


def tsne_map(features: Tensor, seed: int = 0) -> Tensor:
    """(N, 2) float32 in [-1, 1] by t-SNE of the first REDUCED principal components, on one core.

    It begins with the map of PCA; `seed` decides what is left to chance. Under 5 images PCA's map is taken.
    """
    if len(features) < 5:
        return pca_map(features)
    # They take a second to import, and only who waits for t-SNE pays it.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = _projected(features, REDUCED).numpy()
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    with threadpool_limits(1):
        placed = TSNE(
            perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed, n_jobs=1
        ).fit_transform(reduced)
    return _scaled(torch.from_numpy(placed))


class TsneMap:
    """`tsne_map` in a process of its own, so that whoever asked goes on and can call it off.

    `close` (or leaving the `with` block) ends the process.
    """

    def __init__(self, features: Tensor, seed: int = 0) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would take over threads of torch
        self._results, results = spawn.Pipe(duplex=False)
        values = features.detach().cpu().float().numpy()
        self._process = spawn.Process(target=_work, args=(results, values, seed), daemon=True)
        self._process.start()
        results.close()
        self._found: Tensor | None = None

    def result(self, wait: float = 0.0) -> Tensor | None:
        """(N, 2) float32 in [-1, 1], or None where it is not there after at most `wait` seconds.

        Raises:
            RuntimeError: the process failed or was ended.
        """
        if self._found is None and self._results.closed:
            raise RuntimeError("the map was called off")
        if self._found is None and self._results.poll(wait):
            try:
                found = self._results.recv()
            except EOFError:
                self._process.join()
                found = f"its process ended with code {self._process.exitcode}"
            self.close()
            if isinstance(found, str):
                raise RuntimeError(f"t-SNE failed: {found}")
            self._found = torch.from_numpy(found)
        return self._found

    def close(self) -> None:
        """End the process if it still computes."""
        self._results.close()
        self._process.terminate()
        self._process.join()

    def __enter__(self) -> TsneMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _work(results: Connection, features: np.ndarray, seed: int) -> None:
    if multiprocessing.parent_process() is not None:  # Ctrl-C is for whoever started it, who ends it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
    try:
        results.send(tsne_map(torch.from_numpy(features), seed).numpy())
    except Exception as error:  # it is told to whoever waits, who has no terminal of this process
        results.send(f"{type(error).__name__}: {error}")


def _projected(features: Tensor, count: int) -> Tensor:
    """(N, min(count, N, C)) float32 on the CPU: the principal components, the largest first.

    By subspace iteration (Halko et al., SIAM Review 2011), which takes a second for 20,000 features of 2048
    numbers where all components would take many.
    """
    centred = features.detach().cpu().float()
    centred = centred - centred.mean(dim=0)
    most = min(centred.shape)
    with full_products(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the subspace that it begins with is drawn
        found = torch.pca_lowrank(centred, min(count + 10, most), center=False, niter=8)
        directions = found[2][:, : min(count, most)]
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        return centred @ (directions * largest.sign())


def _scaled(places: Tensor) -> Tensor:
    """In [-1, 1], both axes by one factor; two columns, the second 0 where there is but one."""
    places = torch.nn.functional.pad(places.double(), (0, 2 - places.shape[1]))
    return (places / places.abs().max().clamp(min=torch.finfo(torch.float64).tiny)).float()
