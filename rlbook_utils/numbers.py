"""Numbers as a reader writes them, and how far the seeds behind a number lie apart."""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, stdtrit


class Spread(NamedTuple):
    """How far seeds lie apart. low, high: [...]. covers: True for a 95 % interval, False for the seeds' own range."""

    low: np.ndarray
    high: np.ndarray
    covers: bool

    @property
    def name(self) -> str:
        return "95 % interval" if self.covers else "range"


def spread_of(samples: np.ndarray, statistic: str = "mean") -> Spread:
    """The 95 % interval of the mean or median over seeds where there are enough of them, else their range.

    samples: [S, ...]. The mean of five or more seeds has Student's t interval, which covers 95 % for normal samples
    and less for skewed ones (88 % for five draws of an exponential). The median of six or more lies between two order
    statistics with at least that probability, whatever the distribution (Conover 1999, section 3.2). Fewer seeds
    cannot carry such a claim: their range is their smallest and largest value, and covers the mean of three normal
    samples three times in four. Raises ValueError for another statistic.
    """
    samples = np.asarray(samples, float)
    seeds = len(samples)
    if statistic == "mean" and seeds >= 5:
        middle = samples.mean(0)
        half = stdtrit(seeds - 1, 0.975) * samples.std(0, ddof=1) / np.sqrt(seeds)
        return Spread(middle - half, middle + half, True)
    if statistic == "median" and seeds >= 6:
        left_out = int((bdtr(np.arange(seeds), seeds, 0.5) <= 0.025).sum()) - 1  # on either side
        ordered = np.sort(samples, axis=0)
        return Spread(ordered[left_out], ordered[seeds - 1 - left_out], True)
    if statistic not in ("mean", "median"):
        raise ValueError(f"The statistic is {statistic!r}; it has to be 'mean' or 'median'.")
    return Spread(samples.min(0), samples.max(0), False)


def number(value: float) -> str:
    """A number as a reader would write it: four digits, thousands separated."""
    if not np.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
