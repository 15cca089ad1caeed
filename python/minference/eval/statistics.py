"""Means with intervals, differences of paired samples, and the critical density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

_RESAMPLES = 10_000
_SEED = 0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def _unseen(samples: int) -> float:
    """The largest probability of an event that `samples` samples without one leave possible, at the lower or upper end of
    the interval (Clopper and Pearson, 1934, for zero events)."""
    return 1 - ((1 - CONFIDENCE) / 2) ** (1 / samples)


def mean(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> Estimate:
    """Mean of values in [low, high] with its bootstrap percentile interval (Efron, 1979); the same for the same values.

    Where all values are equal a bootstrap shows no spread at all; then the interval reaches as far as values of `low` or
    `high` that were not met in so many samples can move the mean.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("values must not be empty")
    middle = float(array.mean())
    if (array == array[0]).all():
        unseen = _unseen(array.size)
        return Estimate(middle, middle - unseen * (middle - low), middle + unseen * (high - middle))
    rng = np.random.default_rng(_SEED)
    picks = rng.integers(0, array.size, (_RESAMPLES, array.size))
    tail = 50 * (1 - CONFIDENCE)
    below, above = np.percentile(array[picks].mean(1), [tail, 100 - tail])
    return Estimate(middle, float(below), float(above))


def accuracy(scores: Sequence[float]) -> Estimate:
    """Mean score: with Wilson's interval (1927) where every score is 0 or 1, else with `mean`'s."""
    if not set(scores) <= {0, 1}:
        return mean(scores)
    count, share = len(scores), sum(scores) / len(scores)
    squared = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = sqrt(squared * (share * (1 - share) / count + squared / (4 * count**2))) / (1 + squared / count)
    return Estimate(share, max(middle - half, 0.0), min(middle + half, 1.0))


def difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Mean of value - baseline over pairs, all in [0, 1]: the same prompts, in the same order."""
    if len(values) != len(baseline):
        raise ValueError(f"values and baseline must be pairs, got {len(values)} and {len(baseline)}")
    return mean(np.asarray(values, float) - np.asarray(baseline, float), -1.0, 1.0)


def critical_density(points: Sequence[tuple[float, Estimate]]) -> float | None:
    """The largest density at which accuracy is below dense's, of (density, difference from dense); None where it never
    is. Below means that the whole 95 % interval is."""
    lost = [density for density, estimate in points if estimate.high < 0]
    return max(lost) if lost else None
