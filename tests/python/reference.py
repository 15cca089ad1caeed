"""Attention in float64 under a mask, and masks painted from the index contract alone (docs/algorithm.md)."""

import torch

# Error bounds of docs/numerics.md: twice the naive computation of the same precision, plus this.
ALLOWANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}
LSE_ALLOWANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}


def repeated(tensor, num_heads):
    return tensor.repeat_interleave(num_heads // tensor.shape[1], dim=1)


def scores(query, key, scale):
    return query @ repeated(key, query.shape[1]).transpose(2, 3) * scale


def masked_attention(query, key, value, mask, scale=None):
    """float64 out and lse of attention over the true elements of mask ``[B, Hq, q_len, kv_len]``."""
    query, key, value = query.double(), key.double(), value.double()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    masked = scores(query, key, scale).masked_fill(~mask, -torch.inf)
    lse = masked.logsumexp(-1)
    probabilities = (masked - lse[..., None]).exp().nan_to_num(0.0)
    return probabilities @ repeated(value, query.shape[1]), lse


def naive_attention(query, key, value, mask, scale=None):
    """The same with float32 scores and sums, and probabilities rounded to the inputs' dtype."""
    dtype = query.dtype
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    masked = scores(query.float(), key.float(), scale).masked_fill(~mask, -torch.inf)
    weights = (masked - masked.amax(-1, keepdim=True)).exp().nan_to_num(0.0)
    sums = weights.sum(-1, keepdim=True).clamp_min(1e-30)
    out = weights.to(dtype).float() @ repeated(value, query.shape[1]).float() / sums
    return out.to(dtype), masked.logsumexp(-1)


def row_error(out, exact):
    """Largest relative error of a row, by 2-norms."""
    return ((out.double() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-30)).max().item()


def assert_attention(out, lse, query, key, value, mask, scale=None):
    exact, exact_lse = masked_attention(query, key, value, mask, scale)
    naive, naive_lse = naive_attention(query, key, value, mask, scale)
    assert row_error(torch.as_tensor(out), exact) <= 2 * row_error(naive, exact) + ALLOWANCE[query.dtype]
    if lse is not None:
        # Rows without keys are -inf in all three; their difference is no number.
        naive_error = (naive_lse.double() - exact_lse).nan_to_num(0.0).abs().max().item()
        bound = 2 * naive_error + LSE_ALLOWANCE[query.dtype]
        torch.testing.assert_close(torch.as_tensor(lse).double(), exact_lse, atol=bound, rtol=0)


def positions(q_len, kv_len):
    return torch.arange(q_len)[:, None] + (kv_len - q_len), torch.arange(kv_len)[None, :]


def causal_mask(q_len, kv_len):
    rows, keys = positions(q_len, kv_len)
    return keys <= rows


def a_shape_mask(q_len, kv_len, sink, local, last_dense_rows=0):
    rows, keys = positions(q_len, kv_len)
    kept = (keys < sink) | (rows - keys < local)
    kept |= torch.arange(q_len)[:, None] >= q_len - last_dense_rows
    return kept & (keys <= rows)


def vertical_slash_mask(q_len, kv_len, columns, offsets, causal=True):
    mask = torch.zeros(q_len, kv_len, dtype=torch.bool)
    relative = sorted({key for offset in set(offsets) for key in range(-offset, -offset + 64)}, reverse=True)
    tiles = []
    for key in relative:
        if not tiles or key < tiles[-1][0]:
            tiles.append((key - 63, key))
    for begin in range(0, q_len, 64):
        rows = slice(begin, min(begin + 64, q_len))
        first = kv_len - q_len + begin
        for low, high in tiles:
            mask[rows, max(first + low, 0) : max(first + high + 1, 0)] = True
        mask[rows, sorted(set(columns))] = True
    return mask & causal_mask(q_len, kv_len) if causal else mask


def block_sparse_mask(query, key, top_k):
    """``[B, Hq, q_len, kv_len]``."""
    batch, num_heads, q_len, _ = query.shape
    kv_len = key.shape[2]
    keys = repeated(key, num_heads).double()
    pooled_keys = torch.stack([block.mean(2) for block in keys.split(64, dim=2)], dim=2)
    mask = torch.zeros(batch, num_heads, q_len, kv_len, dtype=torch.bool)
    for begin in range(0, q_len, 64):
        rows = query[:, :, begin : begin + 64].double()
        first = kv_len - q_len + begin
        last = first + rows.shape[2] - 1
        forced = {0, *range(first // 64, last // 64 + 1)}
        ranking = (rows.mean(2, keepdim=True) * pooled_keys).sum(-1)
        for b in range(batch):
            for head in range(num_heads):
                order = sorted(set(range(last // 64 + 1)) - forced, key=lambda j: -ranking[b, head, j].item())
                for block in [*forced, *order[: max(top_k - len(forced), 0)]]:
                    mask[b, head, begin : begin + rows.shape[2], block * 64 : block * 64 + 64] = True
    return mask & causal_mask(q_len, kv_len)
