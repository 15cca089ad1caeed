import numpy
import pytest
import torch
from reference import (
    a_shape_mask,
    assert_attention,
    block_sparse_mask,
    causal_mask,
    masked_attention,
    vertical_slash_mask,
)

import minference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# batch, query heads, kv heads, q_len, kv_len, head_dim
SHAPES = [
    (1, 1, 1, 1, 1, 64),
    (2, 4, 2, 65, 65, 64),
    (1, 7, 1, 130, 257, 80),
    (2, 8, 8, 63, 191, 96),
    (1, 4, 1, 200, 200, 128),
    (1, 2, 2, 97, 333, 192),
    (1, 2, 1, 70, 70, 256),
    (2, 2, 2, 129, 129, 72),
]


def inputs(shape, dtype, seed=0):
    """Views whose heads and rows are not contiguous, as attention layers make them."""
    batch, num_heads, num_kv_heads, q_len, kv_len, head_dim = shape
    generator = torch.Generator().manual_seed(seed)

    def make(heads, length, width):
        storage = torch.randn(batch, length, heads, width, generator=generator).to(dtype)
        return storage.transpose(1, 2)[..., :head_dim]

    return (
        make(num_heads, q_len, head_dim + 3),
        make(num_kv_heads, kv_len, head_dim),
        make(num_kv_heads, kv_len, head_dim),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_attention(shape, dtype):
    query, key, value = inputs(shape, dtype)
    out, lse = minference.dense_attention(query, key, value, return_lse=True)
    assert out.dtype == dtype and out.shape == query.shape and lse.shape == query.shape[:3]
    assert_attention(out, lse, query, key, value, causal_mask(shape[3], shape[4]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_streaming_forward_is_exact(shape, dtype):
    query, key, value = inputs(shape, dtype)
    out, lse = minference.streaming_forward(query, key, value, 5, 33, return_lse=True)
    assert_attention(out, lse, query, key, value, a_shape_mask(shape[3], shape[4], 5, 33))


def test_tri_shape_computes_the_last_rows_densely():
    shape = (1, 2, 1, 150, 300, 64)
    query, key, value = inputs(shape, torch.float32)
    heads = minference.patterns.a_shape(4, 20, last_dense_rows=50)
    out, lse = minference.prefill_attention(query, key, value, heads, fallback="off", return_lse=True)
    assert_attention(out, lse, query, key, value, a_shape_mask(150, 300, 4, 20, 50))


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64, torch.int16, torch.uint8])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_vertical_slash_computes_the_pairs_of_the_contract(shape, index_dtype):
    batch, num_heads, _, q_len, kv_len, _ = shape
    query, key, value = inputs(shape, torch.float32)
    generator = torch.Generator().manual_seed(1)
    limit = min(kv_len, torch.iinfo(index_dtype).max)
    columns = torch.randint(limit, (batch, num_heads, 9), generator=generator).to(index_dtype)
    offsets = torch.randint(limit, (batch, num_heads, 4), generator=generator).to(index_dtype)
    columns[..., 3] = columns[..., 0]
    offsets[..., 2] = 0
    out, lse = minference.vertical_slash_sparse_attention(
        query, key, value, columns, offsets, return_lse=True
    )
    mask = torch.stack(
        [
            torch.stack([vertical_slash_mask(q_len, kv_len, c.tolist(), s.tolist()) for c, s in zip(*entry)])
            for entry in zip(columns, offsets)
        ]
    )
    assert_attention(out, lse, query, key, value, mask)


def test_vertical_slash_without_offsets_leaves_rows_without_keys():
    query, key, value = inputs((1, 1, 1, 70, 70, 64), torch.float32)
    columns = torch.tensor([[[40]]])
    out, lse = minference.vertical_slash_sparse_attention(
        query, key, value, columns, torch.empty(1, 1, 0, dtype=torch.int32), return_lse=True
    )
    assert torch.all(out[:, :, :40] == 0) and torch.all(lse[:, :, :40] == -torch.inf)
    assert_attention(out[:, :, 40:], lse[:, :, 40:], query[:, :, 40:], key, value, torch.arange(70) == 40)


def test_vertical_slash_without_a_causal_mask_takes_signed_offsets():
    query, key, value = inputs((1, 2, 2, 100, 140, 64), torch.float32)
    columns, offsets = [3, 139], [-90, 0, 77]
    arrays = (torch.tensor(members).expand(1, 2, len(members)) for members in (columns, offsets))
    out = minference.vertical_slash_sparse_attention(query, key, value, *arrays, causal=False)
    mask = vertical_slash_mask(100, 140, columns, offsets, causal=False)
    assert_attention(out, None, query, key, value, mask)


@pytest.mark.parametrize("top_k", [0, 1, 3, 1000])
@pytest.mark.parametrize("shape", [(2, 4, 2, 300, 300, 64), (1, 2, 1, 130, 500, 96)])
def test_block_sparse_keeps_the_best_blocks(shape, top_k):
    query, key, value = inputs(shape, torch.float32)
    out, lse = minference.block_sparse_attention(query, key, value, top_k, return_lse=True)
    assert_attention(out, lse, query, key, value, block_sparse_mask(query, key, top_k))


@pytest.mark.parametrize(
    "heads", [minference.patterns.vertical_slash(700, 700), minference.patterns.adaptive(1.0)]
)
def test_full_budget_is_dense(heads):
    query, key, value = inputs((1, 4, 2, 300, 450, 64), torch.float32)
    out, lse = minference.prefill_attention(query, key, value, heads, fallback="off", return_lse=True)
    assert_attention(out, lse, query, key, value, causal_mask(300, 450))


def test_the_heads_of_a_key_head_share_what_their_sums_select():
    query, key, value = inputs((1, 5, 1, 700, 700, 64), torch.float32)
    vertical_slash, dense = minference.patterns.vertical_slash, minference.patterns.dense()
    heads = [vertical_slash(40, 110), dense, vertical_slash(31, 120)] + [
        minference.patterns.block_sparse(n) for n in (3, 5)
    ]
    out, lse, statistics = minference.prefill_attention(
        query, key, value, heads, fallback="off", share_index=True, return_lse=True, return_statistics=True
    )
    column_sums, diagonal_sums = (
        sums[0, [0, 2]].sum(0, keepdim=True) for sums in minference.estimate(query, key)
    )
    columns, offsets = minference.select(column_sums, diagonal_sums, vertical_slash(40, 120))
    slash = vertical_slash_mask(700, 700, columns[0].tolist(), offsets[0].tolist())
    pooled = query[:, 3:].sum(1, keepdim=True)
    blocks = block_sparse_mask(pooled, key, 5)[0, 0]
    masks = torch.stack([slash, causal_mask(700, 700), slash, blocks, blocks])
    assert_attention(out, lse, query, key, value, masks[None])
    numpy.testing.assert_allclose(statistics.density[0], masks.sum((1, 2)).numpy() / (700 * 701 / 2))


def test_every_head_follows_its_own_pattern():
    query, key, value = inputs((1, 3, 1, 200, 200, 64), torch.float32)
    heads = [
        minference.patterns.dense(),
        minference.patterns.a_shape(2, 10),
        minference.patterns.block_sparse(1),
    ]
    out, statistics = minference.prefill_attention(
        query, key, value, heads, fallback="off", return_statistics=True
    )
    masks = torch.stack(
        [causal_mask(200, 200), a_shape_mask(200, 200, 2, 10), block_sparse_mask(query, key, 1)[0, 2]]
    )
    assert_attention(out, None, query, key, value, masks[None])
    numpy.testing.assert_allclose(statistics.density[0], masks.sum((1, 2)).numpy() / (200 * 201 / 2))
    assert statistics.pairs == masks.sum() and not statistics.fallback.any() and statistics.seconds > 0


def test_sequences_equal_the_same_sequences_alone():
    query, key, value = inputs((2, 4, 2, 260, 300, 64), torch.bfloat16)
    heads = minference.patterns.vertical_slash(40, 60)
    # batch entry 0 is padded on the left, entry 1 holds two packed sequences
    sequences = [(0, 25, 235, 65, 235), (1, 0, 140, 0, 180), (1, 140, 120, 180, 120)]
    out, lse = minference.prefill_attention(
        query, key, value, heads, sequences=sequences, fallback="off", return_lse=True
    )
    assert torch.all(out[0, :, :25] == 0) and torch.all(lse[0, :, :25] == -torch.inf)
    for batch, q_begin, q_len, kv_begin, kv_len in sequences:
        rows, keys = slice(q_begin, q_begin + q_len), slice(kv_begin, kv_begin + kv_len)
        alone = minference.prefill_attention(
            query[batch : batch + 1, :, rows],
            key[batch : batch + 1, :, keys],
            value[batch : batch + 1, :, keys],
            heads,
            fallback="off",
        )
        assert torch.equal(out[batch, :, rows], alone[0])


@pytest.mark.parametrize("dtype", [numpy.float32, numpy.float16])
def test_numpy_equals_torch(dtype):
    tensors = inputs((2, 4, 2, 130, 150, 64), getattr(torch, numpy.dtype(dtype).name))
    arrays = [tensor.numpy() for tensor in tensors]
    columns, offsets = numpy.arange(0, 150, 7), numpy.array([0, 80])
    index = [numpy.broadcast_to(members, (2, 4, len(members))) for members in (columns, offsets)]
    for function, arguments in (
        (minference.dense_attention, ()),
        (minference.streaming_forward, (3, 20)),
        (minference.block_sparse_attention, (2,)),
        (minference.vertical_slash_sparse_attention, index),
    ):
        out = function(*arrays, *arguments)
        assert isinstance(out, numpy.ndarray) and out.dtype == dtype
        torch_arguments = [torch.tensor(a) if isinstance(a, numpy.ndarray) else a for a in arguments]
        numpy.testing.assert_array_equal(out, function(*tensors, *torch_arguments).numpy())


def test_numpy_views_of_any_kind():
    query, key, value = (tensor.numpy() for tensor in inputs((1, 2, 2, 90, 90, 64), torch.float32))
    expected = minference.dense_attention(query, key, value)
    reversed_twice = query[:, :, ::-1].copy()[:, :, ::-1]
    strided = numpy.repeat(query, 2, axis=-1)[..., ::2]
    unaligned = (
        numpy.frombuffer(b"\0" + query.tobytes(), numpy.uint8)[1:].view(numpy.float32).reshape(query.shape)
    )
    for view in (reversed_twice, strided, unaligned):
        numpy.testing.assert_array_equal(minference.dense_attention(view, key, value), expected)


def test_softmax_scale():
    query, key, value = inputs((1, 2, 2, 90, 90, 64), torch.float32)
    out, lse = minference.dense_attention(query, key, value, softmax_scale=0.3, return_lse=True)
    assert_attention(out, lse, query, key, value, causal_mask(90, 90), scale=0.3)


def test_expanded_keys_are_not_copied_wrongly():
    query, key, value = inputs((2, 4, 1, 90, 90, 64), torch.float32)
    key, value = key[:1].expand(2, 4, 90, 64), value[:1].expand(2, 4, 90, 64)
    out = minference.dense_attention(query, key, value)
    assert_attention(out, None, query, key, value, causal_mask(90, 90))


def test_estimate_and_select_follow_the_last_rows():
    query, key, _ = inputs((2, 4, 2, 100, 180, 64), torch.float32)
    columns, diagonals = minference.estimate(query, key)
    assert columns.shape == diagonals.shape == (2, 4, 180)
    last = query[:, :, -64:]
    eye = torch.eye(180, dtype=torch.float64).expand(2, 2, 180, 180)
    probabilities, _ = masked_attention(last, key, eye, causal_mask(64, 180))
    torch.testing.assert_close(columns.double(), probabilities.sum(2), atol=1e-4, rtol=1e-3)
    by_offset = torch.zeros(2, 4, 180, dtype=torch.float64)
    for row in range(64):
        position = 180 - 64 + row
        by_offset[..., : position + 1] += probabilities[:, :, row, : position + 1].flip(-1)
    torch.testing.assert_close(diagonals.double(), by_offset, atol=1e-4, rtol=1e-3)

    chosen_columns, chosen_offsets = minference.select(
        columns[1], diagonals[1], minference.patterns.vertical_slash(40, 120)
    )
    for head in range(4):
        assert len(chosen_columns[head]) == 40 and len(chosen_offsets[head]) == 120
        # MInference 1.0 always keeps the first 30 columns and the first 100 diagonals.
        best = columns[1, head].clone()
        best[:30] = torch.inf
        assert set(chosen_columns[head].tolist()) == set(best.topk(40).indices.tolist())
        best = diagonals[1, head].clone()
        best[:100] = torch.inf
        assert set(chosen_offsets[head].tolist()) == set(best.topk(120).indices.tolist())


def test_empty_calls():
    query, key, value = inputs((1, 2, 2, 0, 5, 64), torch.float32)
    assert minference.dense_attention(query, key, value).shape == (1, 2, 0, 64)
