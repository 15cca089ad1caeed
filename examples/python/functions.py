"""One head's attention in steps: what the last queries look at, the best of it, and attention over just that."""

import numpy as np

import minference
from minference import patterns
from minference.synthetic import make_qkv

tokens = 8192
# [1, heads, tokens, head_dim] arrays of a made-up head that looks like a language model's.
query, key, value = (x[None] for x in make_qkv(tokens, 1, 1, head_dim=64, head_types=["local"]))
pattern = patterns.adaptive(share=0.95)

column_sums, diagonal_sums = minference.estimate(query, key)
columns, offsets = minference.select(column_sums[0], diagonal_sums[0], pattern)
out = minference.vertical_slash_sparse_attention(
    query, key, value, columns[0][None, None], offsets[0][None, None]
)

# The same in one call, which also says how much it computed.
same, lse, statistics = minference.prefill_attention(
    query, key, value, pattern, fallback="off", return_lse=True, return_statistics=True
)
assert np.array_equal(out, same)

_, dense_lse = minference.dense_attention(query, key, value, return_lse=True)
print(f"density {statistics.density.mean():.1%}, attention mass kept {np.exp(lse - dense_lse).mean():.1%}")
