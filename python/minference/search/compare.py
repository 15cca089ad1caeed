"""Selections side by side on one layer: what each costs, computes and loses, head by head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import patterns
from . import scoring
from .candidates import FAMILIES, templates
from .capture import Layer

# Shares of the estimated mass that adaptive heads keep; they have no size to fit.
_SHARES = (0.8, 0.9, 0.95, 0.99)


def compare(layer: Layer, costs: Sequence[float]) -> list[dict]:
    """Every family fitted to each cost in every head, and adaptive heads.

    Returns rows with selection, wanted_cost (None for adaptive), and lists over heads: patterns, error, cost, density,
    kept_mass, kept_mass_last.
    """
    num_heads = layer.query.shape[1]
    heads, free = templates(FAMILIES, num_heads)
    named, candidates = [], []
    for cost in costs:
        fitted = scoring.fit_patterns(layer.query, layer.key, heads, free, cost, layer.softmax_scale)
        candidates += list(fitted)
        named += [(family.name, cost) for family in FAMILIES]
    for share in _SHARES:
        candidates.append(patterns.layer_array(patterns.adaptive(share), num_heads))
        named.append((f"adaptive ({100 * share:g} %)", None))
    scores = scoring.score_patterns(
        layer.query, layer.key, layer.value, np.stack(candidates), layer.softmax_scale
    )
    return [
        {
            "layer": layer.name,
            "selection": name,
            "wanted_cost": cost,
            "patterns": candidate.tolist(),
            "density": (found["pairs"] / found["all_pairs"]).tolist(),
        }
        | {column: found[column].tolist() for column in ("error", "cost", "kept_mass", "kept_mass_last")}
        for (name, cost), candidate, found in zip(named, candidates, scores)
    ]


def over_heads(row: dict) -> dict:
    """A row's figures of the whole layer: root mean square of errors, means of the others, and the worst heads."""
    error, kept = np.array(row["error"]), np.array(row["kept_mass"])
    return {
        "cost": float(np.mean(row["cost"])),
        "density": float(np.mean(row["density"])),
        "error": float(np.sqrt((error**2).mean())),
        "worst_error": float(error.max()),
        "kept_mass": float(kept.mean()),
        "worst_kept_mass": float(kept.min()),
        "kept_mass_last": float(np.mean(row["kept_mass_last"])),
    }
