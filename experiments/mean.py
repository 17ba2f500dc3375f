"""How sure a mean and a difference of means are: Student's t over seeds, paired by seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

#: What a 95 % interval leaves on its upper side.
_TAIL = 0.025


@dataclass(frozen=True)
class Mean:
    """A mean with half of its 95 % interval, NaN for a single value."""

    value: float
    half: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """`value ± t sqrt(s^2 / n)`, t with n - 1 degrees of freedom, s the sample standard deviation.

        Raises:
            ValueError: no value.
        """
        count = len(values)
        if not count:
            raise ValueError("the mean of no value; expected one at least")
        value = sum(values) / count
        if count == 1:
            return cls(value, math.nan, 1)
        variance = sum((one - value) ** 2 for one in values) / (count - 1)
        return cls(value, float(stdtrit(count - 1, 1 - _TAIL)) * math.sqrt(variance / count), count)

    @property
    def exceeds_noise(self) -> bool:
        """Whether the interval leaves out zero; False where there is none."""
        return abs(self.value) > self.half

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if math.isnan(self.half) else f" ± {self.half:.1f}")

    def signed(self) -> str:
        return f"{self.value:+.1f}" + ("" if math.isnan(self.half) else f" ± {self.half:.1f}")
