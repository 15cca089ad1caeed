"""The functions on CUDA tensors against the same functions on the CPU and against float64."""

import numpy
import pytest
import torch
from reference import ALLOWANCE, LSE_ALLOWANCE, masked_attention, naive_attention, row_error

import minference
from minference import _cuda_calls, _cuda_library, patterns

LENGTH = 2048


def layer(
    q_len=LENGTH, kv_len=LENGTH, heads=4, kv_heads=2, head_dim=64, dtype=torch.bfloat16, batch=2, seed=0
):
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, heads, q_len), (batch, kv_heads, kv_len), (batch, kv_heads, kv_len)
    return [torch.randn(*shape, head_dim, generator=generator).to(dtype) for shape in shapes]


def on_gpu(tensors):
    return [tensor.cuda() for tensor in tensors]


def causal_mask(q_len, kv_len):
    return torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)


def require_exact(results, mask, query, key, value):
    out, lse = results
    query, key, value, mask = on_gpu((query, key, value, mask))
    mask = mask.expand(*query.shape[:3], key.shape[2])
    exact, exact_lse = masked_attention(query, key, value, mask)
    naive, naive_lse = naive_attention(query, key, value, mask)
    allowance = ALLOWANCE[query.dtype]
    assert row_error(out, exact) <= 2 * row_error(naive, exact) + allowance
    assert (lse.double() - exact_lse).abs().max() <= 2 * (naive_lse.double() - exact_lse).abs().max() + (
        LSE_ALLOWANCE[query.dtype]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [8, 40, 64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("q_len", [LENGTH, 300, 1])
@pytest.mark.parametrize("causal", [True, False])
def test_dense_attention(dtype, head_dim, q_len, causal):
    tensors = layer(q_len=q_len, head_dim=head_dim, dtype=dtype, batch=1)
    results = minference.dense_attention(*on_gpu(tensors), causal=causal, return_lse=True)
    assert results[0].is_cuda and results[0].dtype == dtype and results[1].dtype == torch.float32
    mask = causal_mask(q_len, LENGTH) if causal else torch.ones(q_len, LENGTH, dtype=torch.bool)
    require_exact(results, mask, *tensors)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("last_dense_rows", [0, 100])
@pytest.mark.parametrize("causal", [True, False])
def test_a_shape(head_dim, last_dense_rows, causal):
    tensors = layer(head_dim=head_dim)
    out, lse, statistics = minference.prefill_attention(
        *on_gpu(tensors),
        patterns.a_shape(70, 300, last_dense_rows),
        causal=causal,
        fallback="off",
        return_lse=True,
        return_statistics=True,
    )
    position = torch.arange(LENGTH)
    distance = position[:, None] - position
    everything = distance >= 0 if causal else torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    mask = (distance.abs() < 300) | (position < 70) | (position >= LENGTH - last_dense_rows)[:, None]
    mask &= everything
    require_exact((out, lse), mask, *tensors)
    assert statistics.pairs == 8 * int(mask.sum())
    assert statistics.all_pairs == 8 * int(everything.sum())


def test_streaming_forward():
    tensors = layer()
    results = minference.streaming_forward(*on_gpu(tensors), 70, 300, return_lse=True)
    position = torch.arange(LENGTH)
    distance = position[:, None] - position
    mask = (distance >= 0) & ((distance < 300) | (position < 70))
    require_exact(results, mask, *tensors)


def test_vertical_slash_equals_the_cpu():
    tensors = layer(q_len=700)
    generator = torch.Generator().manual_seed(1)
    columns = torch.randint(0, LENGTH, (2, 4, 100), generator=generator)
    offsets = torch.randint(0, LENGTH, (2, 4, 9), generator=generator)
    expected, expected_lse = minference.vertical_slash_sparse_attention(
        *tensors, columns, offsets, return_lse=True
    )
    for members in ((columns, offsets), (columns.cuda(), offsets.cuda().int())):
        out, lse = minference.vertical_slash_sparse_attention(*on_gpu(tensors), *members, return_lse=True)
        assert row_error(out.cpu(), expected.double()) <= 3 * ALLOWANCE[torch.bfloat16]
        assert (lse.cpu() - expected_lse).abs().max() <= 2e-3


def long_layer(head_dim=128):
    """One sequence of 4,096 tokens whose keys differ in size, so that some stand out."""
    query, key, value = layer(4096, 4096, heads=4, kv_heads=1, head_dim=head_dim, batch=1, seed=3)
    sizes = torch.rand(4096, 1, generator=torch.Generator().manual_seed(4)) ** 8
    return [query, (key.float() * (0.2 + 3 * sizes)).to(key.dtype), value]


@pytest.mark.parametrize("head_dim", [24, 80, 128, 256])
def test_estimate_and_select_equal_the_cpu(head_dim):
    query, key, _ = long_layer(head_dim)
    expected = minference.estimate(query, key)
    sums = minference.estimate(query.cuda(), key.cuda())
    for ours, theirs in zip(sums, expected):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=2e-3, atol=1e-6)
    chosen = minference.select(sums[0][0], sums[1][0], patterns.vertical_slash(100, 200))
    again = minference.select(sums[0][0].cpu(), sums[1][0].cpu(), patterns.vertical_slash(100, 200))
    for ours, theirs in zip(chosen, again):
        assert all(numpy.array_equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize(
    "pattern",
    [
        patterns.vertical_slash(100, 800),
        patterns.vertical_slash(100, 800, last_dense_rows=130),
        patterns.adaptive(0.95),
        patterns.a_shape(64, 512),
        patterns.a_shape(64, 512, last_dense_rows=130),
        patterns.block_sparse(10),
        patterns.block_sparse(10, last_dense_rows=130),
    ],
)
@pytest.mark.parametrize("head_dim", [80, 128, 256])
@pytest.mark.parametrize("share_index", [False, True])
def test_prefill_is_near_the_cpu_and_counts_the_same_pairs(pattern, head_dim, share_index):
    tensors = long_layer(head_dim)
    options = {"share_index": share_index, "return_statistics": True}
    expected, theirs = minference.prefill_attention(*tensors, pattern, **options)
    out, ours = minference.prefill_attention(*on_gpu(tensors), pattern, **options)
    if share_index:
        assert len(set(ours.density[0])) == 1
    assert ours.all_pairs == theirs.all_pairs
    assert ours.density.shape == theirs.density.shape == (1, 4)
    if pattern[0] != patterns.adaptive(0.95)[0]:
        # What a column costs beside a tile, which adaptive heads weigh, differs between the devices.
        assert numpy.array_equal(ours.fallback, theirs.fallback)
        assert numpy.allclose(ours.density, theirs.density, rtol=1e-3)
        assert row_error(out.cpu(), expected.double()) <= 3 * ALLOWANCE[torch.bfloat16]


def test_heads_of_several_kinds_share_with_their_own():
    tensors = long_layer()
    slash = patterns.vertical_slash
    heads = [slash(100, 60), patterns.dense(), slash(60, 100), patterns.block_sparse(10)]
    options = {"share_index": True, "return_lse": True, "return_statistics": True}
    expected, expected_lse, theirs = minference.prefill_attention(*tensors, heads, **options)
    out, lse, ours = minference.prefill_attention(*on_gpu(tensors), heads, **options)
    assert numpy.allclose(ours.density, theirs.density, rtol=1e-3)
    assert ours.density[0, 0] == ours.density[0, 2] < 1 and ours.density[0, 1] == 1
    assert row_error(out.cpu(), expected.double()) <= 3 * ALLOWANCE[torch.bfloat16]
    assert (lse.cpu() - expected_lse).abs().max() <= 2e-3


@pytest.mark.parametrize("q_len", [2048, 700, 100])
def test_block_sparse_equals_the_cpu(q_len):
    tensors = layer(q_len=q_len)
    for top_k in (0, 3, 7, 100):
        expected = minference.block_sparse_attention(*tensors, top_k)
        out = minference.block_sparse_attention(*on_gpu(tensors), top_k)
        assert row_error(out.cpu(), expected.double()) <= 3 * ALLOWANCE[torch.bfloat16]


def test_padded_batches_and_any_strides():
    tensors = layer(batch=2)
    sequences = [(0, 100, 1900, 100, 1900), (1, 0, 2000, 0, 2000)]
    expected = minference.prefill_attention(*tensors, patterns.dense(), sequences=sequences)
    # [B, length, H, D + 1] has rows that no copy engine takes.
    odd = [
        torch.nn.functional.pad(x.transpose(1, 2), (0, 1)).cuda()[..., :64].transpose(1, 2) for x in tensors
    ]
    out = minference.prefill_attention(*odd, patterns.dense(), sequences=sequences)
    assert (out[0, :, :100] == 0).all() and (out[1, :, 2000:] == 0).all()
    assert (
        row_error(out.cpu()[1:, :, :2000], expected[1:, :, :2000].double()) <= 3 * ALLOWANCE[torch.bfloat16]
    )
    assert (
        row_error(out.cpu()[:1, :, 100:2000], expected[:1, :, 100:2000].double())
        <= 3 * ALLOWANCE[torch.bfloat16]
    )


def attend(kernel, query, key, value):
    """Dense attention on tensors as they lie: the public functions first copy those of odd strides."""
    out = torch.full_like(query, float("nan"))
    tensors = {"query": query, "key": key, "value": value, "out": out}
    described = {name: _cuda_calls.tensor_of(tensor) for name, tensor in tensors.items()}
    call = _cuda_library.AttentionCall(**described, softmax_scale=0.125, kernel=kernel)
    _cuda_calls.run("attention", call, query.device)
    return out


@pytest.mark.parametrize("kernel", [_cuda_library.BEST, _cuda_library.SM80])
@pytest.mark.parametrize("heads, q_len, kv_len", [(2, 1, 1), (2, 1, 300), (1, 300, 300), (1, 1, 1)])
@pytest.mark.parametrize("stride", [0, 65, 2**40 + 1])
def test_the_stride_of_a_single_head_or_row_may_be_any(kernel, heads, q_len, kv_len, stride):
    tensors = on_gpu(layer(q_len, kv_len, heads=heads, kv_heads=heads, batch=1))
    strides = [[stride if n == 1 else step for n, step in zip(x.shape, x.stride())] for x in tensors]
    odd = [x.as_strided(x.shape, steps) for x, steps in zip(tensors, strides)]
    assert torch.equal(attend(kernel, *odd), attend(kernel, *tensors))


@pytest.mark.parametrize("dim", [1, 2])
def test_keys_and_values_of_stride_0_equal_their_copies(dim):
    query, *key_value = on_gpu(layer(batch=1))
    expanded = [x.narrow(dim, 0, 1).expand_as(x) for x in key_value]
    copies = [x.contiguous() for x in expanded]
    sm80, best = _cuda_library.SM80, _cuda_library.BEST
    assert torch.equal(attend(sm80, query, *expanded), attend(sm80, query, *copies))
    # On Hopper the copies go to the other kernel.
    out, expected = attend(best, query, *expanded), attend(best, query, *copies)
    assert row_error(out, expected.double()) <= 3 * ALLOWANCE[torch.bfloat16]


@pytest.mark.parametrize(
    "pattern", [patterns.vertical_slash(100, 800), patterns.block_sparse(10), patterns.dense()]
)
def test_a_layer_of_expanded_heads_equals_one_of_their_copies(pattern):
    query, *key_value = on_gpu(long_layer())
    expanded = [x[:, :1].expand(-1, 4, -1, -1) for x in key_value]
    copies = [x.contiguous() for x in expanded]
    out, lse = minference.prefill_attention(query, *expanded, pattern, return_lse=True)
    expected, expected_lse = minference.prefill_attention(query, *copies, pattern, return_lse=True)
    assert row_error(out, expected.double()) <= 3 * ALLOWANCE[torch.bfloat16]
    assert (lse - expected_lse).abs().max() <= 2e-3


@pytest.mark.parametrize("page_size", [16, 64, 128])
@pytest.mark.parametrize(
    "pattern", [patterns.vertical_slash(100, 800), patterns.a_shape(64, 512), patterns.dense()]
)
def test_paged_keys_and_values_give_the_bits_of_contiguous_ones(page_size, pattern):
    """Two sequences, one a later chunk, in shuffled pages of a cache as vLLM lays it out."""
    lengths = [4096, 2999]
    chunks = [layer(n, n, heads=4, kv_heads=2, batch=1, seed=n) for n in lengths]
    num_pages = [-(-n // page_size) for n in lengths]
    table = torch.full((2, max(num_pages)), -1, dtype=torch.int32)
    order = torch.randperm(sum(num_pages) + 3, generator=torch.Generator().manual_seed(5)).int()
    caches = [
        torch.full((len(order), page_size, 2, 64), float("nan"), dtype=torch.bfloat16) for _ in range(2)
    ]
    for i, (_, *key_value) in enumerate(chunks):
        pages = order[sum(num_pages[:i]) :][: num_pages[i]]
        table[i, : num_pages[i]] = pages
        for cache, rows in zip(caches, key_value):
            padded = torch.nn.functional.pad(
                rows[0].transpose(0, 1), (0, 0, 0, 0, 0, -lengths[i] % page_size)
            )
            cache[pages.long()] = padded.reshape(num_pages[i], page_size, 2, 64)
    # Packed rows of both: all of the first sequence, the last 1,500 of the second.
    query = torch.cat([chunks[0][0], chunks[1][0][:, :, -1500:]], dim=2).cuda()
    sequences = [(0, 0, 4096, 0, 4096), (0, 4096, 1500, 0, 2999)]
    out, lse = minference.prefill_attention(
        query,
        *(cache.cuda().transpose(1, 2) for cache in caches),
        pattern,
        sequences=sequences,
        block_table=table.cuda(),
        return_lse=True,
    )
    for (_, begin, q_len, _, _), (_, key, value) in zip(sequences, chunks):
        alone, alone_lse = minference.prefill_attention(
            query[:, :, begin : begin + q_len], key.cuda(), value.cuda(), pattern, return_lse=True
        )
        assert torch.equal(out[:, :, begin : begin + q_len], alone)
        assert torch.equal(lse[:, :, begin : begin + q_len], alone_lse)


def test_bad_block_tables_are_named():
    query, key, value = on_gpu(layer(batch=1))
    pages = [x.reshape(32, 2, 64, 64) for x in (key, value)]
    table = torch.arange(32, dtype=torch.int32, device="cuda")[None]
    rows = [(0, 0, LENGTH, 0, LENGTH)]

    def call(table, sequences=rows):
        minference.prefill_attention(query, *pages, patterns.dense(), sequences=sequences, block_table=table)

    for bad, message in (
        (table.long(), "block_table must be an int32 tensor"),
        (table.cpu(), "block_table must be on query's device"),
        (table[0], "block_table must have shape"),
        (table[:, :31], r"sequences\[0\].kv_len must be from 0 to 1984"),
    ):
        with pytest.raises(ValueError, match=message):
            call(bad)
    with pytest.raises(ValueError, match=r"kv_begin must be 0 with a block table"):
        call(table, [(0, 0, 64, 64, 64)])
    with pytest.raises(ValueError, match="sequences must not be NULL"):
        call(table, None)


def test_work_goes_to_the_current_stream():
    tensors = on_gpu(layer())
    expected = minference.dense_attention(*tensors)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        query = tensors[0] * 1.0
        for _ in range(5):
            out = minference.dense_attention(query, *tensors[1:])
    stream.synchronize()
    assert torch.equal(out, expected)


def test_a_layer_in_a_graph():
    tensors = on_gpu(long_layer())
    expected = minference.prefill_attention(*tensors, patterns.vertical_slash(100, 800))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = minference.prefill_attention(*tensors, patterns.vertical_slash(100, 800))
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


def test_compiled():
    tensors = on_gpu(long_layer())
    compiled = torch.compile(
        lambda *x: minference.prefill_attention(*x, patterns.vertical_slash(100, 800)),
        backend="aot_eager",
        fullgraph=True,
    )
    expected = minference.prefill_attention(*tensors, patterns.vertical_slash(100, 800))
    assert torch.equal(compiled(*tensors), expected)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda q, k, v: (q, k.cpu(), v), ValueError, "key must be on query's device cuda:0, got cpu"),
        (lambda q, k, v: (q, k, v.half()), ValueError, "value.dtype must be"),
        (
            lambda q, k, v: (q.float(), k.float(), v.float()),
            NotImplementedError,
            "must have dtype float16 or bfloat16 on CUDA",
        ),
        (lambda q, k, v: (q[..., :36], k[..., :36], v[..., :36]), NotImplementedError, "multiple of 8 .*36"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        minference.dense_attention(*change(*on_gpu(layer())))


def test_more_queries_than_keys_are_refused():
    query, key, value = on_gpu(layer())
    with pytest.raises(NotImplementedError, match="q_len must be <= kv_len = 100 on CUDA, got 2048"):
        minference.dense_attention(query, key[:, :, :100], value[:, :, :100], causal=False)


def test_what_is_chosen_online_is_causal():
    with pytest.raises(ValueError, match="must be dense, A-shape or block-sparse when non_causal"):
        minference.prefill_attention(*on_gpu(layer()), patterns.adaptive(0.95), causal=False)
    with pytest.raises(NotImplementedError, match="must not be block-sparse when non_causal on CUDA"):
        minference.prefill_attention(*on_gpu(layer()), patterns.block_sparse(4), causal=False)
