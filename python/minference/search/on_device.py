"""`scoring`'s operations by calls of prefill: for tensors on a GPU, and tensors of any device that `_calls` takes.

A pattern's cost here is the share of the causal pairs that it computes: the GPU kernels take about as long for a pair in
a tile as for one in a column (docs/kernels/select-sm90.md, "Costs").
"""

from __future__ import annotations

import numpy as np

from .. import _calls, _library, patterns

_LAST_ROWS = 64
_BLOCK = 64


def _prefill(query, key, value, heads: np.ndarray, softmax_scale: float, want_lse: bool):
    return _calls.prefill(
        query,
        key,
        value,
        heads,
        softmax_scale=softmax_scale,
        fallback=_library.FALLBACK_OFF,
        want_lse=want_lse,
        want_statistics=True,
    )


def score(query, key, value, candidates: np.ndarray, softmax_scale: float, scores: np.ndarray) -> None:
    """Fill `scores`, `scoring.SCORE` ``[num_candidates, Hq]``. Memory: two outputs of the layer."""
    num_heads = query.shape[1]
    everything = patterns.layer_array(patterns.dense(), num_heads)
    dense, dense_lse, statistics = _prefill(query, key, value, everything, softmax_scale, True)
    whole = [float(dense[0, head].double().square().sum()) for head in range(num_heads)]
    all_pairs = statistics.all_pairs // num_heads
    for candidate, found in zip(candidates, scores):
        out, lse, statistics = _prefill(query, key, value, candidate, softmax_scale, True)
        # A head at a time: differences in double precision are four times as large as outputs.
        moved = [
            float((out[0, head].double() - dense[0, head].double()).square().sum())
            for head in range(num_heads)
        ]
        kept = (lse[0].double() - dense_lse[0].double()).exp()
        found["error"] = [np.sqrt(m / w) if m else 0.0 for m, w in zip(moved, whole)]
        found["kept_mass"] = kept.mean(-1).cpu().numpy()
        found["kept_mass_last"] = kept[:, -_LAST_ROWS:].mean(-1).cpu().numpy()
        found["cost"] = statistics.density[0]
        found["pairs"] = np.rint(statistics.density[0] * all_pairs)
        found["all_pairs"] = all_pairs


def fit(
    query, key, candidates: np.ndarray, free_size, cost: float, softmax_scale: float, shared: bool
) -> None:
    """Set the free sizes of `candidates`, int32 ``[num_candidates, Hq, 5]``, as `scoring.fit_patterns` says."""
    for heads, free in zip(candidates, free_size):
        _fit_one(query, key, heads, 1 + int(free), cost, softmax_scale, shared)


def _fit_one(
    query, key, heads: np.ndarray, size: int, cost: float, softmax_scale: float, shared: bool
) -> None:
    """Bisect the sizes of all heads in step, or with `shared` one for all."""
    kv_len = key.shape[2]
    limit = -(-kv_len // _BLOCK) if heads[0, 0] == _library.BLOCK_SPARSE else kv_len
    groups = 1 if shared else len(heads)
    # low is affordable, or 1; everything above high is not.
    low, high = np.ones(groups, dtype=np.int64), np.full(groups, limit, dtype=np.int64)
    while (low < high).any():
        middle = low + (high - low + 1) // 2
        heads[:, size] = middle
        density = _prefill(query, key, key, heads, softmax_scale, False)[2].density[0]
        paid = density.mean(keepdims=True) if shared else density
        affordable = paid <= cost
        low, high = np.where(affordable, middle, low), np.where(affordable, high, middle - 1)
    heads[:, size] = low
