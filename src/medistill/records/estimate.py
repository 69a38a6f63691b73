"""A figure with its interval, as it is measured, written and shown."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        estimate: on the data themselves; None where it is undefined.
        lower, upper: bounds of the 95 % interval; None where more than 5 % of the resamples were undefined, or where
            these say nothing of the spread.
        dropped: number of undefined resamples.
    """

    estimate: float | None
    lower: float | None = None
    upper: float | None = None
    dropped: int = 0

    @classmethod
    def read(cls, mapping: Mapping[str, float | None], key: str) -> "Estimate":
        """What `flat` wrote under `key`, without `dropped`; what the mapping lacks is None."""
        return cls(mapping.get(key), mapping.get(f"{key}_lower"), mapping.get(f"{key}_upper"))

    def flat(self, key: str) -> dict[str, float | None]:
        """The figure and its bounds as three entries: `key`, `key_lower`, `key_upper`."""
        return {key: self.estimate, f"{key}_lower": self.lower, f"{key}_upper": self.upper}

    def interval(self) -> dict[str, float | None]:
        """`estimate`, `lower` and `upper`."""
        return {"estimate": self.estimate, "lower": self.lower, "upper": self.upper}
