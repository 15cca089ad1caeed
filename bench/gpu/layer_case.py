"""A random layer call on the GPU: shapes, tensors and patterns, drawn from a seed."""

from __future__ import annotations

import random

import torch
from check import strided
from layer_library import (
    A_SHAPE,
    ADAPTIVE,
    BLOCK_SPARSE,
    DENSE,
    VERTICAL_SLASH,
    HeadPattern,
    pattern_of,
)

BUDGETS = ((0, 0), (30, 50), (100, 100), (30, 800), (100, 800), (500, 700), (1000, 6096), (3500, 100))
LENGTHS = (1, 2, 5, 63, 64, 65, 100, 127, 128, 129, 191, 200, 511, 777, 1000, 1543, 2048, 3001, 5000, 20011)


def largest(patterns: list[HeadPattern]) -> HeadPattern:
    """Patterns of one kind, merged."""
    return pattern_of(
        patterns[0].pattern,
        *(max(p.size[i] for p in patterns) for i in range(2)),
        share_ppm=max(p.share_ppm for p in patterns),
        last_dense_rows=max(p.last_dense_rows for p in patterns),
    )


class Case:
    pad = 8  # strides are multiples of this many elements

    def __init__(self, seed: int):
        rng = self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.dtype = rng.choice([torch.bfloat16, torch.float16])
        self.dim = rng.choice([64, 96, 128, 64, 96, 128, 8, 24, 72, 80, 136, 192, 256])
        self.kv_heads, self.group = rng.choice([(1, 1), (2, 4), (1, 7), (3, 2), (2, 1), (1, 3)])
        self.num_heads = self.kv_heads * self.group
        self.kv_len = rng.choice(LENGTHS)
        kv_len = self.kv_len
        self.q_len = rng.choice([kv_len, kv_len, 1, min(kv_len, 100), kv_len - kv_len // 3])
        self.scale = self.dim**-0.5
        self.causal = rng.random() < 0.85
        self.block_sparse = rng.random() < 0.3
        self.dense_rows = rng.choice([(0,), (0,), (0, 0, 1, 17, 64, 100, 130, 5000)])
        self.given = [self.pattern() for _ in range(self.num_heads)]
        self.query, self.key, self.value = (
            strided(self, h, n, rng)
            for h, n in ((self.num_heads, self.q_len), (self.kv_heads, kv_len), (self.kv_heads, kv_len))
        )
        spread = rng.choice([0.3, 1.0, 3.0, 30.0])
        for tensor in (self.query, self.key, self.value):
            tensor.copy_(torch.randn(tensor.shape, device="cuda"))
        # A few keys that stand out, and values that are the same everywhere in some heads: ties.
        loud = torch.rand(kv_len, device="cuda") < 0.02
        self.key[0, :, loud] *= 3.0
        self.key.mul_(spread)
        if rng.random() < 0.15:
            self.key[0, 0].copy_(self.key[0, 0, :1].expand(kv_len, -1))
        self.share_index = rng.random() < 0.4
        # What each head computes, and the heads that it computes it with.
        self.sharing = [self.sharing_with(h) for h in range(self.num_heads)]
        self.patterns = [largest([self.given[h] for h in heads]) for heads in self.sharing]

    def sharing_with(self, head: int) -> list[int]:
        """docs/algorithm.md, "One index for a group"."""
        kind, first = self.given[head].pattern, head - head % self.group
        if not self.share_index or kind == DENSE:
            return [head]
        return [h for h in range(first, first + self.group) if self.given[h].pattern == kind]

    def pattern(self) -> HeadPattern:
        kinds = [VERTICAL_SLASH, VERTICAL_SLASH, VERTICAL_SLASH, ADAPTIVE, A_SHAPE, DENSE]
        kinds += [BLOCK_SPARSE] * self.block_sparse
        kind = self.rng.choice(kinds if self.causal else [A_SHAPE, DENSE])
        rows = self.rng.choice(self.dense_rows)
        if kind == VERTICAL_SLASH:
            return pattern_of(kind, *self.rng.choice(BUDGETS), last_dense_rows=rows)
        if kind == ADAPTIVE:
            share = self.rng.choice([1, 500000, 900000, 950000, 999000, 1000000])
            return pattern_of(kind, share_ppm=share, last_dense_rows=rows)
        if kind == BLOCK_SPARSE:
            return pattern_of(kind, self.rng.choice([0, 1, 3, 5, 17, 1000]), last_dense_rows=rows)
        if kind == A_SHAPE:
            sizes = self.rng.choice([0, 1, 64, 130, 5000]), self.rng.choice([0, 1, 63, 200, 5000])
            return pattern_of(kind, *sizes, last_dense_rows=rows)
        return pattern_of(kind, last_dense_rows=rows)

    def dense_rows_of(self, head: int) -> int:
        return min(self.patterns[head].last_dense_rows, self.q_len)

    def __str__(self) -> str:
        return (
            f"{self.dtype} head_dim {self.dim} heads {self.num_heads}/{self.kv_heads} "
            f"q_len {self.q_len} kv_len {self.kv_len} causal {self.causal} shared {self.share_index} "
            f"dense rows {[p.last_dense_rows for p in self.patterns]}"
        )

    def is_gated(self) -> bool:
        """src/prefill/gate.cc"""
        all_pairs = self.q_len * (2 * self.kv_len - self.q_len + 1) // 2
        return self.q_len < 128 or all_pairs < 3 * 128 * self.kv_len

    def estimated(self) -> list[int]:
        """Heads that are estimated; of those that share an index, the first."""
        heads = [h for h, sharing in enumerate(self.sharing) if h == sharing[0]]
        return [h for h in heads if self.patterns[h].pattern in (VERTICAL_SLASH, ADAPTIVE)]

    def is_estimated(self, head: int) -> bool:
        return self.patterns[head].pattern in (VERTICAL_SLASH, ADAPTIVE)
