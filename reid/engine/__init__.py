"""A model trained: the loop, the schedule, checkpoints, seeds and devices."""

from reid.engine.schedule import learning_rate

__all__ = ["learning_rate"]
