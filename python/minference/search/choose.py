"""The pattern of every head, from what candidates cost and lose."""

from __future__ import annotations

import numpy as np


def equal_cost(errors: np.ndarray, costs: np.ndarray, cost: float) -> np.ndarray:
    """Algorithm 1's choice: in every head, the candidate with the least error among those of at most `cost`.

    errors, costs: [heads, candidates]. Returns candidates [heads]; the cheapest where none is as cheap.
    """
    affordable = costs <= cost
    found = np.where(affordable, errors, np.inf).argmin(1)
    return np.where(affordable.any(1), found, costs.argmin(1))


# Prompts are few: a head whose effect is measured as none still counts for this part of the mean weight.
_LEAST_WEIGHT = 0.1
# What an effect is divided by is at least this part of the mean squared error: the little that a nearly exact head loses
# would be noise over nothing.
_LEAST_SQUARE = 0.01


def weighed(errors: np.ndarray, costs: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Squared errors, those of each head times a weight: what they do to the answers.

    errors, costs: [layers, heads, candidates]. effects: [prompts, layers, heads], divergences in nats that each head's cheapest
    candidate makes. Their square roots count, as probability moves by the root of a divergence at most (Pinsker's
    inequality): a prompt whose answer is lost for good does not outweigh all others.
    """
    moved = np.sqrt(np.maximum(effects, 0)).mean(0)
    cheapest = np.take_along_axis(errors, costs.argmin(-1)[..., None], -1)[..., 0]
    tiny = np.finfo(float).tiny
    weights = moved / np.maximum(cheapest**2, max(_LEAST_SQUARE * (cheapest**2).mean(), tiny))
    weights = weights / max(weights.mean(), tiny) + _LEAST_WEIGHT
    return weights[..., None] * errors**2


def shared_cost(losses: np.ndarray, costs: np.ndarray, cost: float) -> np.ndarray:
    """The choice that loses least in all heads together at a mean cost of at most `cost`: heads that need little leave
    their share to those that need much.

    losses, costs: [heads, candidates]. Returns candidates [heads]. Every head starts at its cheapest candidate and
    climbs the lower convex hull of (cost, loss), steepest step first (Fox, 1966: exact for such steps up to the
    last one that fits).
    """
    num_heads = len(losses)
    chosen = np.zeros(num_heads, dtype=np.int64)
    steps = []
    for head in range(num_heads):
        hull = _hull(costs[head], losses[head])
        chosen[head] = hull[0]
        for place, (before, after) in enumerate(zip(hull, hull[1:])):
            paid = costs[head, after] - costs[head, before]
            gained = losses[head, before] - losses[head, after]
            steps.append((-gained / paid, head, place, after, paid))
    budget = cost * num_heads - costs[np.arange(num_heads), chosen].sum()
    stopped = set()
    for _, head, _, after, paid in sorted(steps):
        if head in stopped:
            continue
        if paid > budget:
            stopped.add(head)
            continue
        budget -= paid
        chosen[head] = after
    return chosen


def _hull(costs: np.ndarray, losses: np.ndarray) -> list[int]:
    """Candidates on the lower convex hull from the cheapest to the one that loses least."""
    hull: list[int] = []
    for candidate in np.lexsort((losses, costs)).tolist():
        if hull and losses[candidate] >= losses[hull[-1]]:
            continue
        # As cheap and better.
        if hull and costs[candidate] == costs[hull[-1]]:
            hull.pop()
        while len(hull) >= 2 and _slope(costs, losses, hull[-2], hull[-1]) >= _slope(
            costs, losses, hull[-1], candidate
        ):
            hull.pop()
        hull.append(candidate)
    return hull


def _slope(costs: np.ndarray, losses: np.ndarray, before: int, after: int) -> float:
    return (losses[after] - losses[before]) / (costs[after] - costs[before])
