"""Drawn pedestrians, to look through a graph with where the crops of a run's test set are not at hand."""

import numpy as np

from reid.data.pedestrians.plan import plan
from reid.data.pedestrians.render import Studio


def drawn_crops(count: int) -> list[np.ndarray]:
    """`count` crops (128, 64, 3) uint8 RGB of different people where there are as many; at most 64."""
    studio = Studio("tiny", "day", 0)
    shots = plan("tiny", "day", 0)
    step = max(1, len(shots) // count)
    return [studio.render(shot) for shot in shots[::step][:count]]
