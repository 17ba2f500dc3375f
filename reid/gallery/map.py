"""A map of embeddings on a plane: by PCA at once, by t-SNE in a process of its own."""

from __future__ import annotations

from types import TracebackType

from torch import Tensor

#: More images than these are not laid out by t-SNE: `choose_images` draws so many.
MOST_IMAGES = 5000


def choose_images(pids: Tensor, count: int = MOST_IMAGES, seed: int = 0) -> Tensor:
    """(min(count, N),) rising rows, drawn by `seed`: of each person the same share, and at least one image."""
    raise NotImplementedError


def pca_map(features: Tensor) -> Tensor:
    """(N, 2) float32 in [-1, 1]: the two directions of the largest variance; the same for the same features."""
    raise NotImplementedError


class TsneMap:
    """t-SNE of features (N, C), N at most MOST_IMAGES, computed by another process, on one core.

    The same features and seed give the same map. `close` (or leaving the `with` block) ends the process.
    """

    def __init__(self, features: Tensor, seed: int = 0) -> None:
        raise NotImplementedError

    def result(self) -> Tensor | None:
        """(N, 2) float32 in [-1, 1], or None as long as it is computed. Does not wait.

        Raises:
            RuntimeError: the process failed; the message has its reason.
        """
        raise NotImplementedError

    def wait(self, seconds: float | None = None) -> Tensor | None:
        """As `result`, after at most so many seconds of waiting."""
        raise NotImplementedError

    def close(self) -> None:
        """End the process if it still computes."""

    def __enter__(self) -> TsneMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
