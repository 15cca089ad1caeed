"""Masked attention in float64, and the pairs of an index painted from its definition alone."""

from __future__ import annotations

import torch
from kernel import RELATIVE, WINDOW, HeadIndex


def visible(head: HeadIndex, rows: torch.Tensor, q_len: int, kv_len: int) -> torch.Tensor:
    """Which keys the given rows of one head compute: bool [len(rows), kv_len]."""
    position = (kv_len - q_len + rows)[:, None]
    key = torch.arange(kv_len, device=rows.device)[None]
    causal = key <= position
    if head.form == WINDOW:
        return causal & ((position - key < head.local) | (key < head.sink))
    if head.form != RELATIVE:
        return causal
    member = torch.zeros(kv_len, dtype=torch.bool, device=rows.device)
    member[torch.tensor(head.columns, dtype=torch.int64, device=rows.device)] = True
    painted = member.expand(len(rows), -1).clone()
    tile_keys = torch.zeros(
        2 * kv_len + 64, dtype=torch.bool
    )  # at kv_len + (key - position of the row block)
    for start in head.tiles:
        tile_keys[max(kv_len + start, 0) : kv_len + start + 64] = True
    block_position = (kv_len - q_len + rows // 64 * 64)[:, None]
    painted |= tile_keys.to(rows.device)[kv_len + key - block_position]
    return causal & painted


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, softmax_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """query [rows, D], key and value [kv_len, D], mask [rows, kv_len] -> out, lse in float64."""
    scores = query.double() @ key.double().T * softmax_scale
    scores = scores.masked_fill(~mask, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.clamp_min(-1e300)[:, None])
    return weights @ value.double(), lse
