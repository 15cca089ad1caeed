"""Structured synthetic heads on the GPU: minference.synthetic's head parameters, torch's random numbers."""

from __future__ import annotations

import math

import numpy as np
import torch

from minference import synthetic


def _pairs_to_rows(
    real: torch.Tensor, imaginary: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    return torch.cat((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=1).bfloat16()


def make_qkv(
    num_tokens: int, head_types: list[str], num_kv_heads: int, seed: int = 0, head_dim: int = 128
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query [1, Hq, N, D], key and value [1, Hkv, N, D], bfloat16. Deterministic for a seed, N and D."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    pairs = synthetic._Pairs(head_dim)
    root_dim = math.sqrt(head_dim)
    group = len(head_types) // num_kv_heads

    def gpu(values) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), device="cuda").float()

    def noise(deviation: float) -> torch.Tensor:
        return torch.randn(num_tokens, pairs.count, generator=generator, device="cuda") * deviation

    def uniform() -> torch.Tensor:
        return torch.rand(num_tokens, generator=generator, device="cuda")

    turns = torch.arange(num_tokens, device="cuda", dtype=torch.float64)[:, None] * torch.as_tensor(
        synthetic._turns_per_token(pairs.count), device="cuda"
    )
    angle = 2 * math.pi * (turns - turns.round()).float()
    cos, sin = angle.cos(), angle.sin()
    topics = torch.as_tensor(synthetic._topic_of_token(seed, num_tokens), device="cuda")
    sinks = synthetic._NUM_SINKS
    topic_pairs, still_pairs = (
        slice(pairs.first_topic, pairs.first_still),
        slice(pairs.first_still, pairs.count),
    )

    query = torch.empty(1, len(head_types), num_tokens, head_dim, dtype=torch.bfloat16, device="cuda")
    key = torch.empty(1, num_kv_heads, num_tokens, head_dim, dtype=torch.bfloat16, device="cuda")
    value = torch.empty_like(key)
    for h in range(num_kv_heads):
        kv_head = synthetic._KvHead(seed, h, pairs, root_dim)
        mean, phase = gpu(kv_head.mean), 2 * math.pi * gpu(kv_head.phase)
        real = noise(synthetic._NOISE) + mean * phase.cos()
        imaginary = noise(synthetic._NOISE) + mean * phase.sin()
        real[:sinks, : pairs.first_still] *= 0.2
        imaginary[:sinks, : pairs.first_still] *= 0.2
        height = (
            synthetic._COLUMN_HEIGHT_MAX * (0.55 + 0.45 * uniform()) * (uniform() < synthetic._COLUMN_SHARE)
        )
        height[:sinks] = 0.0
        still = height[:, None] * gpu(kv_head.column)
        still[:sinks] += synthetic._SINK_HEIGHT * gpu(kv_head.sink_heights)[:, None] * gpu(kv_head.sink)
        topical = synthetic._topic_strength(root_dim) * gpu(kv_head.topics)[topics]
        topical[:sinks] = 0.0
        for part, offset in ((real, 0), (imaginary, 1)):
            part[:, still_pairs] += still[:, offset::2]
            part[:, topic_pairs] += topical[:, offset::2]
        key[0, h] = _pairs_to_rows(real, imaginary, cos, sin)
        value[0, h] = (
            torch.randn(num_tokens, head_dim, generator=generator, device="cuda") + gpu(kv_head.value_mean)
        ).bfloat16()
        value[0, h, :sinks] *= 0.05
        for g in range(group):
            q = h * group + g
            head = synthetic._QueryHead(
                seed, q, synthetic.HEAD_TYPES[head_types[q]], kv_head, pairs, root_dim
            )
            real, imaginary = noise(head.noise) + gpu(head.real), noise(head.noise) + gpu(head.imaginary)
            if head.topic:
                real[:, topic_pairs] += head.topic * gpu(kv_head.topics)[topics][:, 0::2]
                imaginary[:, topic_pairs] += head.topic * gpu(kv_head.topics)[topics][:, 1::2]
            query[0, q] = _pairs_to_rows(real, imaginary, cos, sin)
    return query, key, value
