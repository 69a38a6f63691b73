"""Intervals that hold for other patients and for other trainings: both are drawn.

Each difference of two models is known for every seed and every patient. The pigeonhole bootstrap (Owen, Annals of
Applied Statistics 2007) resamples both independently, and a seed and a patient weigh the product of their counts. Its
spread is not that of the mean: a resample of S seeds has (S − 1)/S of the variance between seeds, while what a
single model gets wrong about a single patient (the interaction) is in it three times. So its percentiles are moved to
where an unbiased variance wants them, with Student's t of Satterthwaite's degrees of freedom (Biometrics 1946), as
`medistill.metrics` does for labels of few patients (Hesterberg, The American Statistician 2015). `seed_coverage` says
how often the interval holds the truth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medistill.metrics.intervals import CONFIDENCE

SEED = 0


@dataclass(frozen=True)
class Crossed:
    """A figure's mean over seeds, on the data themselves and in each resample of patients and seeds.

    Attributes:
        values: (1 + R,).
        freedom: degrees of freedom of its standard error.
        widening: the standard error as a multiple of the resamples' standard deviation.
    """

    values: NDArray
    freedom: float
    widening: float

    @property
    def estimate(self) -> float:
        """On the data themselves."""
        return float(self.values[0])

    @property
    def bounds(self) -> tuple[float, float]:
        """95 % interval; NaN where the figure is undefined in a resample."""
        tail = special.ndtr(-self.widening * special.stdtrit(self.freedom, (1 + CONFIDENCE) / 2))
        lower, upper = np.quantile(self.values[1:], [tail, 1 - tail])
        return float(lower), float(upper)

    @property
    def p(self) -> float:
        """Two-sided p-value of a difference, below 0.05 where the interval leaves out 0."""
        drawn = self.values[1:]
        tail = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (len(drawn) + 1)
        return float(min(1.0, 2 * special.stdtr(self.freedom, special.ndtri(tail) / self.widening)))

    def text(self, *, sign: bool = True) -> str:
        """The estimate with its interval."""
        form = "{:+.3f}" if sign else "{:.3f}"
        lower, upper = self.bounds
        return f"{form.format(self.estimate)} [{form.format(lower)}, {form.format(upper)}]"

    def over(self, other: "Crossed") -> str:
        """This one as a share of another of the same seeds, with the interval of the ratio, in percent."""
        share = Crossed(self.values / other.values, self.freedom, self.widening)
        lower, upper = share.bounds
        return f"{share.estimate:.0%} [{lower:.0%}, {upper:.0%}]"


def cross(by_seed: NDArray, groups: int) -> Crossed:
    """Resample seeds beside the patients.

    Args:
        by_seed: (S, 1 + R), for each of two seeds or more, on the data themselves and in each resample of patients.
            Two figures of the same S and R are resampled alike, so that their ratio is paired.
        groups: number of patients.
    """
    seeds, columns = by_seed.shape
    if seeds < 2:
        raise ValueError("one seed says nothing about others")
    drawn = np.random.default_rng(SEED).multinomial(seeds, np.full(seeds, 1 / seeds), size=columns).T
    drawn[:, 0] = 1
    values = (drawn * by_seed).mean(axis=0)
    by_patients = by_seed.mean(axis=0)[1:].var(ddof=1)  # has the interaction once,
    by_seeds = by_seed[:, 0].var(ddof=1) / seeds  # and so has this
    of_one = by_seed[:, 1:].var(axis=1, ddof=1).mean()
    interaction = (of_one - by_patients) / (seeds - 1)
    both, spread = by_patients + max(by_seeds - max(interaction, 0), 0), values[1:].var(ddof=1)
    if not both or not spread:
        return Crossed(values, np.inf, 1.0)
    freedom = both**2 / (by_seeds**2 / (seeds - 1) + by_patients**2 / (groups - 1))
    return Crossed(values, float(freedom), float(np.sqrt(both / spread)))
