"""What estimation, selection and fallback of a layer give, from their definitions, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy
import torch
from attention_library import ALL, BLOCKS, RELATIVE, WINDOW, HeadIndex
from reference import visible

# src/prefill/cuda/costs.h
COST_OF_TILE, COST_OF_COLUMN, COST_OF_SLICE = 1.35, 1 / 64, 0.25


def reference_sums(query, key, head: int, softmax_scale: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Column and diagonal sums of one head in float64, and what float32 scores may be off by, relatively."""
    q_len, kv_len = query.shape[2], key.shape[2]
    rows = torch.arange(max(0, q_len - 64), q_len, device="cuda")
    kv_head = head // (query.shape[1] // key.shape[1])
    scores = query[0, head, rows].double() @ key[0, kv_head].double().T * softmax_scale
    offset = (kv_len - q_len + rows)[:, None] - torch.arange(kv_len, device="cuda")
    weights = scores.masked_fill(offset < 0, float("-inf")).softmax(dim=-1)
    diagonal = torch.zeros(kv_len, dtype=torch.float64, device="cuda")
    diagonal.index_add_(0, offset.clamp_min(0).flatten(), weights.masked_fill(offset < 0, 0.0).flatten())
    return weights.sum(dim=0), diagonal, 1e-4 + 3e-6 * float(scores.abs().max())


def adaptive_reference(column_sums, diagonal_sums, share: float) -> tuple[list[int], list[int], set[int]]:
    """docs/algorithm.md, "Selection: adaptive", in float64. Sums are float32 [kv_len].

    Columns, offsets, and the keys whose mass is, but for rounding, that of the last of the 128 columns that are
    always kept: which of them are kept is left to rounding.
    """
    column, diagonal = column_sums.cpu().double(), diagonal_sums.cpu().double()
    n = len(column)
    bands = (n + 63) // 64
    largest = float(torch.finfo(torch.float32).max)

    def prefix(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.zeros(1, dtype=torch.float64), x.cumsum(0)))

    before = prefix(diagonal)
    k = torch.arange(n)
    begin, end = (n - 64 - k).clamp_min(0), n - k
    own = (column - (before[end] - before[begin]) / 64).float().clamp_min(0)
    worth = (own.double() / COST_OF_COLUMN).float()
    worth[:30] = largest
    order = own.clone()
    order[:30] = float("inf")
    ranked = torch.sort(order, descending=True, stable=True)
    least = ranked.indices[:128]
    cut = ranked.values[len(least) - 1]
    ties = set(torch.nonzero((own - cut).abs() <= 1e-6 * cut + 1e-9).flatten().tolist())
    own_before = prefix(own.double())
    o = torch.arange(n)
    even = (own_before[n - o] - own_before[(n - 64 - o).clamp_min(0)]) / 64
    band = o // 64
    band_worth = torch.zeros(bands, dtype=torch.float64).index_add_(0, band, (diagonal - even).clamp_min(0))
    band_worth = band_worth.float()
    band_worth[:2] = largest
    middle = torch.minimum((begin // 64 + 1) * 64, end)
    starts = torch.arange(bands) * 64
    band_mass = before[(starts + 64).clamp_max(n)] - before[starts]

    def kept_mass(threshold: float) -> float:
        kept = torch.cat((band_worth >= threshold, torch.tensor([False])))
        left = column - kept[begin // 64] * (before[middle] - before[begin])
        left = left - kept[middle // 64] * (before[end] - before[middle])
        return float(band_mass[kept[:bands]].sum() + left[worth >= threshold].clamp_min(0).sum())

    threshold, wanted = 0.0, share * float(before[-1])
    if wanted < float(before[-1]):
        # src/kernels/select/threshold.h: thresholds of 2^-44 up to 2^20, and 0.
        def threshold_of(code: int) -> float:
            return float(numpy.uint32((code + (83 << 7)) << 16).view(numpy.float32)) if code else 0.0

        code = 0
        for bit in (1 << i for i in reversed(range(13))):
            if kept_mass(threshold_of(code | bit)) >= wanted:
                code |= bit
        threshold = threshold_of(code)
    columns = set(least.tolist())
    if threshold > 0:
        columns |= set(torch.nonzero(worth >= threshold).flatten().tolist())
    offsets = set()
    for j in torch.nonzero(band_worth >= threshold).flatten().tolist():
        offsets |= {64 * j, min(64 * j + 64, n - 1)}
    return sorted(columns), sorted(offsets), ties


def published_differs(
    reference: torch.Tensor, members: list[int], budget: int, forced: int, tolerance: float
) -> str:
    """ "" when the members are float64's, but for sums within 1e-3 of the cut."""
    n = len(reference)
    count = min(budget, n)
    if len(members) != count:
        return f"{len(members)} members instead of {count}"
    ranked = reference.clone()
    ranked[: min(forced, count)] = float("inf")
    order = torch.sort(ranked, descending=True, stable=True).indices
    cut = float(ranked[order[count - 1]])
    expected = set(order[:count].tolist())
    for member in expected ^ set(members):
        if not abs(float(ranked[member]) - cut) <= max(1e-3, 2 * tolerance) * cut + 1e-12:
            return f"member {member} has {float(ranked[member]):.3e}, the cut is {cut:.3e}"
    return ""


@dataclasses.dataclass
class _Slice:
    """Rows of a row block that share their keys, by the positions of the block and of the first and last row."""

    block: int
    origin: int
    first: int
    last: int
    key_end: int  # no row sees a key at or behind it
    dense: bool


def _slices(last_dense_rows: int, q_len: int, kv_len: int, causal: bool) -> Iterator[_Slice]:
    boundary = max(q_len - last_dense_rows, 0)
    cuts = sorted({*range(0, q_len, 64), boundary, q_len})
    for begin, end in zip(cuts, cuts[1:]):
        first, last = kv_len - q_len + begin, kv_len - q_len + end - 1
        key_end = last + 1 if causal else kv_len
        yield _Slice(begin // 64, kv_len - q_len + begin // 64 * 64, first, last, key_end, begin >= boundary)


def _tiles_of(keys: int) -> int:
    return (keys + 63) // 64


def _window_tiles(head: HeadIndex, rows: _Slice) -> int:
    sink = min(head.sink, rows.key_end)
    begin = max(rows.first - head.local + 1, 0)
    end = min(rows.last + head.local, rows.key_end) if head.local else begin
    if begin <= sink:
        return _tiles_of(max(end, sink))
    return _tiles_of(max(end - begin, 0)) + _tiles_of(sink)


def cost_of(head: HeadIndex, q_len: int, kv_len: int, causal: bool = True) -> float:
    """What src/prefill/cuda/costs.h makes of an index, row block by row block."""
    starts, columns = numpy.array(head.tiles, dtype=numpy.int64), numpy.array(head.columns, dtype=numpy.int64)
    covered = numpy.zeros(2 * kv_len + 256, dtype=bool)
    for start in starts:
        covered[kv_len + start + 64 : kv_len + start + 128] = True  # key - origin at + kv_len + 64
    cost = 0.0
    for rows in _slices(head.last_dense_rows, q_len, kv_len, causal):
        cost += COST_OF_SLICE
        if rows.dense or head.form == ALL:
            cost += COST_OF_TILE * _tiles_of(rows.key_end)
        elif head.form == BLOCKS:
            cost += COST_OF_TILE * sum(64 * j < rows.key_end for j in head.blocks[rows.block])
        elif head.form == WINDOW:
            cost += COST_OF_TILE * _window_tiles(head, rows)
        else:
            assert head.form == RELATIVE
            begin = rows.origin + starts
            cost += COST_OF_TILE * numpy.count_nonzero((begin + 64 > 0) & (begin < rows.key_end))
            distance = columns[columns < rows.key_end] - rows.origin + kv_len + 64
            cost += COST_OF_COLUMN * numpy.count_nonzero(~covered[distance])
    return cost


def dense_cost_of(q_len: int, kv_len: int, causal: bool = True) -> float:
    slices = _slices(0, q_len, kv_len, causal)
    return sum(_tiles_of(rows.key_end) + COST_OF_SLICE for rows in slices)


def count_pairs(head: HeadIndex, q_len: int, kv_len: int, causal: bool = True) -> int:
    """Pairs that an index computes, painted."""
    rows = torch.arange(q_len, device="cuda")
    return sum(int(visible(head, some, q_len, kv_len, causal).sum()) for some in rows.split(1024))
