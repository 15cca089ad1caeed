"""Masked attention in float64, and the pairs of an index painted from its definition alone."""

from __future__ import annotations

import torch
from attention_library import BLOCKS, RELATIVE, WINDOW, HeadIndex


def visible(
    head: HeadIndex, rows: torch.Tensor, q_len: int, kv_len: int, causal: bool = True
) -> torch.Tensor:
    """Which keys the given rows of one head compute: bool [len(rows), kv_len]."""
    position = (kv_len - q_len + rows)[:, None]
    key = torch.arange(kv_len, device=rows.device)[None]
    dense = (rows >= q_len - head.last_dense_rows)[:, None]
    return (key <= position if causal else key >= 0) & (dense | _listed(head, rows, position, key))


def _listed(head: HeadIndex, rows: torch.Tensor, position: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    kv_len = key.shape[1]
    if head.form == WINDOW:
        return ((position - key).abs() < head.local) | (key < head.sink)
    if head.form == BLOCKS:
        kept = torch.zeros(len(head.blocks), kv_len // 64 + 1, dtype=torch.bool)
        for block, blocks in enumerate(head.blocks):
            kept[block, list(blocks)] = True
        return kept.to(rows.device)[(rows // 64)[:, None], key // 64]
    if head.form != RELATIVE:
        return torch.ones_like(position == key)
    member = torch.zeros(kv_len, dtype=torch.bool, device=rows.device)
    member[torch.tensor(head.columns, dtype=torch.int64, device=rows.device)] = True
    painted = member.expand(len(rows), -1).clone()
    tile_keys = torch.zeros(
        2 * kv_len + 64, dtype=torch.bool
    )  # at kv_len + (key - position of the row block)
    for start in head.tiles:
        tile_keys[max(kv_len + start, 0) : kv_len + start + 64] = True
    block_position = position - (rows % 64)[:, None]
    painted |= tile_keys.to(rows.device)[kv_len + key - block_position]
    return painted


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, softmax_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """query [rows, D], key and value [kv_len, D], mask [rows, kv_len] -> out, lse in float64."""
    scores = query.double() @ key.double().T * softmax_scale
    scores = scores.masked_fill(~mask, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.clamp_min(-1e300)[:, None])
    return weights @ value.double(), lse
