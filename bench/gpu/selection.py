"""MInference 1.0's published selection and the index contract's cover, in torch and Python."""

from __future__ import annotations

import bisect
import random

import torch
from attention_library import ALL, BLOCKS, RELATIVE, HeadIndex

LAST_QUERIES, FORCED_COLUMNS, FORCED_OFFSETS = 64, 30, 100


def published(query: torch.Tensor, key: torch.Tensor, vertical: int, slash: int) -> HeadIndex:
    """query, key [N, D] of one head: columns and tiles of the largest sums over the last 64 queries."""
    num_tokens = key.shape[0]
    position = torch.arange(num_tokens - LAST_QUERIES, num_tokens, device=key.device)[:, None]
    offset = position - torch.arange(num_tokens, device=key.device)
    scores = query[-LAST_QUERIES:].float() @ key.float().T * key.shape[1] ** -0.5
    weights = scores.masked_fill(offset < 0, float("-inf")).softmax(dim=-1)
    columns = weights.sum(dim=0)
    diagonals = torch.zeros_like(columns).index_add_(0, offset.clamp_min(0).flatten(), weights.flatten())
    columns[:FORCED_COLUMNS] = diagonals[:FORCED_OFFSETS] = float("inf")
    kept_columns = columns.topk(min(vertical, num_tokens)).indices.sort().values
    kept_offsets = diagonals.topk(min(slash, num_tokens)).indices.sort().values
    return HeadIndex(RELATIVE, cover(kept_offsets.tolist()), tuple(kept_columns.tolist()))


def cover(offsets: list[int]) -> tuple[int, ...]:
    """Starts of the tiles that cover the union of [-s, -s + 64), from the right. offsets ascending."""
    tiles, last = [], -offsets[0] + 63
    while True:
        tiles.append(last - 63)
        # The next key of the union below the tile: in the band of the first offset that reaches below it.
        i = bisect.bisect_left(offsets, 64 - last)
        if i == len(offsets):
            return tuple(tiles)
        last = min(last - 64, 63 - offsets[i])


def top_blocks(query: torch.Tensor, key: torch.Tensor, top_k: int) -> HeadIndex:
    """query, key [N, D] of one head, N a multiple of 64: each 64 rows' best key blocks by mean-pooled scores."""
    pooled_query, pooled_key = (x.float().unflatten(0, (-1, 64)).mean(dim=1) for x in (query, key))
    scores = pooled_query @ pooled_key.T
    scores[:, 0] = float("inf")
    scores.fill_diagonal_(float("inf"))
    blocks = torch.arange(scores.shape[0], device=scores.device)
    scores.masked_fill_(blocks[None] > blocks[:, None], float("-inf"))
    kept = scores.topk(min(top_k, len(blocks))).indices.sort().values.tolist()
    return HeadIndex(BLOCKS, blocks=tuple(tuple(j for j in row if j <= b) for b, row in enumerate(kept)))


def random_squares(num_tokens: int, share: float, seed: int, first_row: int = 0) -> HeadIndex:
    """Random squares of 128 rows by 128 keys, the diagonal's among them, of the rows from `first_row` on, a multiple of
    128."""
    rng = random.Random(seed)
    lists: list[tuple[int, ...]] = []
    for square in range(first_row // 128, -(-num_tokens // 128)):
        others = rng.sample(range(square), round(share * (square + 1) - 0.5))
        squares = sorted([*others, square])
        lists += [
            tuple(j for s in squares for j in (2 * s, 2 * s + 1) if j <= b)
            for b in (2 * square, 2 * square + 1)
        ]
    return HeadIndex(BLOCKS, blocks=tuple(lists[: -(-(num_tokens - first_row) // 64)]))


def count_pairs(head: HeadIndex, num_tokens: int) -> int:
    """Pairs that the index computes, each once; num_tokens a multiple of 64."""
    if head.form == ALL:
        return num_tokens * (num_tokens + 1) // 2
    if head.form == BLOCKS:
        below = sum(bisect.bisect_left(blocks, b) for b, blocks in enumerate(head.blocks))
        return 64 * 64 * below + 64 * 65 // 2 * sum(b in blocks for b, blocks in enumerate(head.blocks))
    position = torch.arange(0, num_tokens, 64, device="cuda")[:, None]
    tiles = torch.tensor(head.tiles, device="cuda")[None]
    whole = tiles[:, tiles[0] <= -63]
    pairs = int((position + whole + 64).clamp(0, 64).sum()) * 64
    row = torch.arange(64, device="cuda")
    for start in head.tiles:
        if start > -63:
            keys = torch.minimum(position + start + 64, position + row + 1) - (position + start).clamp_min(0)
            pairs += int(keys.clamp_min(0).sum())
    if head.columns:
        covered = torch.zeros(num_tokens + 64, dtype=torch.bool, device="cuda")
        for start in head.tiles:
            covered[max(num_tokens + start, 0) : num_tokens + start + 64] = True
        columns = torch.tensor(head.columns, device="cuda")[None]
        for first in range(0, position.shape[0], 256):
            distance = columns - position[first : first + 256]
            seen = distance < 64
            kept = seen & ~covered[torch.where(seen, distance + num_tokens, 0)]
            pairs += int(((64 - distance.clamp_min(0)) * kept).sum())
    return pairs
