"""The loop, the schedule, checkpoints, seeds, devices and the sweep callback."""

from reid.engine.schedule import learning_rate

__all__ = ["learning_rate"]
