"""What chance decides of the images of a batch: for each of them, or once for all."""

import torch

from reid.data.augment import BatchShape


def uniform(
    columns: int, batch: BatchShape, generator: torch.Generator, for_each: bool = True
) -> torch.Tensor:
    """(B, columns), float32, uniform in [0, 1): a row of its own for each image, or the same for all."""
    part, _, _, device = batch
    count = part.whole if for_each else 1
    drawn = torch.rand(count, columns, generator=generator, device=device)
    return drawn[part.rows] if for_each else drawn.expand(part.rows.stop - part.rows.start, -1)


def between(low: float, high: float, drawn: torch.Tensor) -> torch.Tensor:
    """Numbers from [0, 1) brought to [low, high)."""
    return low + (high - low) * drawn
