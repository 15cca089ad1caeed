"""The library's search calls on torch tensors and NumPy arrays."""

from __future__ import annotations

import numpy as np

from .. import _context, _library
from .._arrays import arrays_of, on_cuda
from .._checks import require_number
from . import on_device

# minference_score, so that an array of these is one of those.
SCORE = np.dtype(
    [
        ("error", np.float64),
        ("kept_mass", np.float64),
        ("kept_mass_last", np.float64),
        ("cost", np.float64),
        ("pairs", np.int64),
        ("all_pairs", np.int64),
    ]
)


def _candidate_array(candidates, num_heads: int) -> np.ndarray:
    array = np.asarray(candidates)
    if array.ndim != 3 or array.shape[1:] != (num_heads, 5) or array.dtype.kind not in "iu" or not len(array):
        raise ValueError(
            f"candidates must be integers [num_candidates, query heads, 5] = [at least 1, {num_heads}, 5], "
            f"got shape {list(array.shape)} of {array.dtype}"
        )
    return np.ascontiguousarray(array, dtype=np.int32)


def score_patterns(query, key, value, candidates, softmax_scale: float = 0.0) -> np.ndarray:
    """What patterns cost and lose in one layer of one sequence, causal, against dense attention by the same kernel.

    Parameters
    ----------
    query, key, value
        ``[1, Hq, q_len, D]`` and ``[1, Hkv, kv_len, D]``, as for `minference.prefill_attention`.
    candidates : integers ``[num_candidates, Hq, 5]``
        Patterns, see `minference.patterns`; each head has its own.
    softmax_scale : float
        0 stands for ``1 / sqrt(D)``.

    Returns
    -------
    ``[num_candidates, Hq]`` of `SCORE`
        error: of the output, sqrt(sum |out - dense|^2 / sum |dense|^2). cost: of attention over dense attention's, as
        the kernel pays for tiles, columns and row blocks; on CUDA, the share of all causal pairs.
    """
    wanted = _candidate_array(candidates, query.shape[1])
    scores = np.empty(wanted.shape[:2], SCORE)
    if on_cuda(query):
        on_device.score(query, key, value, wanted, softmax_scale, scores)
        return scores
    arrays = arrays_of(query)
    described = [arrays.describe(x, name) for x, name in ((query, "query"), (key, "key"), (value, "value"))]
    args = _library.ScorePatternsArgs(
        query=described[0][1],
        key=described[1][1],
        value=described[2][1],
        softmax_scale=softmax_scale,
        candidates=wanted.ctypes.data,
        num_candidates=len(wanted),
    )
    _library.load().score_patterns(_context.current(), args, scores.ctypes.data)
    return scores


def fit_patterns(
    query, key, candidates, free_size, cost: float, softmax_scale: float = 0.0, shared: bool = False
) -> np.ndarray:
    """Candidates of equal cost: in every head, the largest free size that costs at most `cost`.

    Parameters
    ----------
    candidates : integers ``[num_candidates, Hq, 5]``
        A-shape, vertical-slash or block-sparse. The free size they come with does not matter.
    free_size : integers ``[num_candidates]``
        0 or 1: which of a pattern's two sizes is free.
    cost : float
        Share of dense attention's, above 0.
    shared : bool
        The heads of a candidate get one size, whose mean cost over heads counts.

    Returns
    -------
    int32 ``[num_candidates, Hq, 5]``
        The free size is 1 where even that costs more.
    """
    wanted = _candidate_array(candidates, query.shape[1])
    free = np.ascontiguousarray(free_size, dtype=np.int32)
    if free.shape != wanted.shape[:1]:
        raise ValueError(f"free_size must have shape [{len(wanted)}], got {list(free.shape)}")
    cost = require_number(cost, "cost", "above 0", lambda x: x > 0)
    if on_cuda(query):
        fitted = wanted.copy()
        on_device.fit(query, key, fitted, free, cost, softmax_scale, shared)
        return fitted
    fitted = np.empty_like(wanted)
    arrays = arrays_of(query)
    described = [arrays.describe(x, name) for x, name in ((query, "query"), (key, "key"))]
    args = _library.FitArgs(
        query=described[0][1],
        key=described[1][1],
        softmax_scale=softmax_scale,
        candidates=wanted.ctypes.data,
        free_size=free.ctypes.data,
        num_candidates=len(wanted),
        cost=cost,
        shared=shared,
    )
    _library.load().fit_patterns(_context.current(), args, fitted.ctypes.data)
    return fitted
