"""A batch seen as rows of pixels: (B, 3, H, W), channels last in memory, as (B, H, 3 W).

The last axis is then long and dense, which is what vector units and memory copies want: several times
faster on a CPU than the same arithmetic over an axis of three channels.
"""

from functools import cache

import torch


def pixel_rows(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> (B, H, 3 W); a view if the channels are last in memory, else a copy."""
    return images.permute(0, 2, 3, 1).flatten(2)


def images_of(rows: torch.Tensor) -> torch.Tensor:
    """(B, H, 3 W) -> (B, 3, H, W), a view with channels last in memory."""
    return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


@cache
def per_column(values: tuple[float, ...], width: int, device: torch.device) -> torch.Tensor:
    """One value a channel as a row (3 W), float32; kept, since copying it to a GPU makes the host wait."""
    return torch.tensor(values, device=device).repeat(width)
