"""A model trained: the loop, the schedule, checkpoints, seeds and devices."""

from typing import TYPE_CHECKING

from reid.lazy import lazy_names

if TYPE_CHECKING:
    from reid.engine.schedule import learning_rate
else:
    __getattr__ = lazy_names(__name__, {"schedule": ["learning_rate"]})

__all__ = ["learning_rate"]
