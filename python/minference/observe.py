"""What each head of a patched model computes and where its attention goes: the material for tables and pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from . import _library, functions, patterns
from .patch import plans_of
from .recording import record
from .report import Report

# Sizes of the attention maps: rows that are looked at, and bins of keys.
MAP_ROWS, MAP_BINS = 160, 160


@dataclass(frozen=True)
class Head:
    """One query head in one call.

    head: its number in the layer, on a tensor-parallel rank too (`Report`s there begin with the rank's first head). pattern: five integers, see `minference.patterns`. columns,
    offsets: members chosen online, None for patterns without any. attention: [MAP_ROWS, MAP_BINS] attention mass of evenly
    spaced rows over evenly sized bins of keys, or None.
    """

    layer: int
    head: int
    pattern: tuple[int, ...]
    columns: np.ndarray | None
    offsets: np.ndarray | None
    q_len: int
    kv_len: int
    attention: np.ndarray | None


def _map_rows(q_len: int) -> np.ndarray:
    """The rows of an attention map: the middles of MAP_ROWS equal slices."""
    return ((np.arange(MAP_ROWS) + 0.5) * q_len / MAP_ROWS).astype(np.int64)


def _attention_map(query: torch.Tensor, key: torch.Tensor, scale: float, window: int) -> np.ndarray:
    """[Hq, MAP_ROWS, MAP_BINS] from query [Hq, q_len, D] and key [Hkv, kv_len, D]; window as in `CallMask`."""
    num_heads, q_len, head_dim = query.shape
    kv_len = key.shape[1]
    rows = torch.from_numpy(_map_rows(q_len)).to(query.device)
    keys = torch.arange(kv_len, device=query.device)
    bins = keys * MAP_BINS // kv_len
    behind = (rows + (kv_len - q_len))[:, None] - keys[None, :]
    hidden = (behind < 0) | (behind >= window) if window else behind < 0
    maps = torch.zeros(num_heads, len(rows), MAP_BINS, device=query.device)
    for h in range(num_heads):
        head_keys = key[h * key.shape[0] // num_heads]
        scores = query[h, rows].float() @ head_keys.float().T * (scale or head_dim**-0.5)
        mass = scores.masked_fill_(hidden, -torch.inf).softmax(-1)
        maps[h].index_add_(1, bins, mass)
    return maps.cpu().numpy()


class _Observer:
    """A recorder in front of `minference.record`'s: looks at the first call of one layer, then passes on."""

    def __init__(self, recorder, heads: list[Head], with_attention: bool):
        self._recorder, self._heads, self._with_attention = recorder, heads, with_attention
        self._seen = False

    def __call__(self, plan, query, key, value, call, scale, out):
        self._recorder(plan, query, key, value, call, scale, out)
        if self._seen:
            return
        self._seen = True
        num_heads, q_len, kv_len = *query.shape[1:3], key.shape[2]
        heads = torch.as_tensor(plan.heads_for(call.window, num_heads))
        first = plan.first_head(num_heads)
        members = self._members(heads, query[:1], key[:1], scale)
        maps = [None] * num_heads
        if self._with_attention:
            maps = _attention_map(query[0], key[0], scale, call.window)
        for h, pattern in enumerate(heads.tolist()):
            columns, offsets = members.get(h, (None, None))
            self._heads.append(
                Head(plan.layer, first + h, tuple(pattern), columns, offsets, q_len, kv_len, maps[h])
            )

    @staticmethod
    def _members(heads, query, key, scale):
        chosen = [
            h for h, p in enumerate(heads.tolist()) if p[0] in (_library.VERTICAL_SLASH, _library.ADAPTIVE)
        ]
        if not chosen:
            return {}
        column_sums, diagonal_sums = functions.estimate(query, key, softmax_scale=scale or None)
        columns, offsets = functions.select(
            column_sums[0][chosen], diagonal_sums[0][chosen], heads[chosen].numpy()
        )
        return dict(zip(chosen, zip(columns, offsets)))


@contextlib.contextmanager
def observe(model, with_attention: bool = False) -> Iterator[tuple[Report, list[Head]]]:
    """`minference.record` with kept mass, and the heads' members in the first call of every layer.

    with_attention: make attention maps too. Yields the report and a list that fills while the model runs.
    """
    heads: list[Head] = []
    with record(model, kept_mass=True) as report:
        for plan in plans_of(model).values():
            plan.recorder = _Observer(plan.recorder, heads, with_attention)
        yield report, heads


def computed_share(head: Head, resolution: int = MAP_BINS) -> np.ndarray | None:
    """[resolution, resolution]: share of each cell's pairs that the head computes; NaN above the diagonal, None for
    block-sparse heads, whose blocks are not in a `Head`.

    Painted from the members as in docs/algorithm.md: keys at most 63 after P - offset, P the first row of the row block.
    """
    if head.pattern[0] == _library.BLOCK_SPARSE:
        return None
    picture = np.zeros((resolution, resolution))
    begins = np.arange(resolution) * head.kv_len // resolution
    widths = np.diff(np.append(begins, head.kv_len))
    past = head.kv_len - head.q_len
    for i, row in enumerate(((np.arange(resolution) + 0.5) * head.q_len / resolution).astype(np.int64)):
        keys = _keys_of_row(head, int(row), past)
        picture[i] = np.add.reduceat(keys, begins) / np.maximum(widths, 1)
        picture[i, begins > row + past] = np.nan
    return picture


def _keys_of_row(head: Head, row: int, past: int) -> np.ndarray:
    """Whether each key is computed for a row: float [kv_len]."""
    kind, first_size, second_size, last_dense_rows = head.pattern[:4]
    keys = np.zeros(head.kv_len)
    position = row + past
    if kind == patterns.dense()[0] or row >= head.q_len - last_dense_rows:
        keys[:] = 1
    elif kind == _library.A_SHAPE:
        keys[:first_size] = 1
        keys[max(position - second_size + 1, 0) :] = 1
    else:
        block_begin = row // 64 * 64 + past
        for begin in block_begin - head.offsets:
            keys[max(begin, 0) : max(begin + 64, 0)] = 1
        keys[head.columns] = 1
    keys[position + 1 :] = 0
    return keys
