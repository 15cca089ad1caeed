"""Wrong arguments raise, with a message that names argument, rule and value; right ones never crash."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minference


def arrays(q_len=20, kv_len=20, heads=4, kv_heads=2, head_dim=64, dtype=torch.float32):
    return (
        torch.randn(1, heads, q_len, head_dim).to(dtype),
        torch.randn(1, kv_heads, kv_len, head_dim).to(dtype),
        torch.randn(1, kv_heads, kv_len, head_dim).to(dtype),
    )


Q, K, V = arrays()
INDEX = torch.zeros(1, 4, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            TypeError,
            "query must be a torch tensor or a NumPy array, got list",
            lambda: minference.dense_attention([1], K, V),
        ),
        (
            TypeError,
            "key must be a torch tensor as query is",
            lambda: minference.dense_attention(Q, K.numpy(), V),
        ),
        (
            TypeError,
            "value must be a NumPy array as query is",
            lambda: minference.dense_attention(Q.numpy(), K.numpy(), V),
        ),
        (ValueError, "query must have 4 dimensions", lambda: minference.dense_attention(Q[0], K, V)),
        (ValueError, "key must have 4 dimensions", lambda: minference.dense_attention(Q, K[0], V)),
        (
            ValueError,
            "dtype float32, float16 or bfloat16, got torch.float64",
            lambda: minference.dense_attention(Q.double(), K, V),
        ),
        (
            ValueError,
            "dtype float32 or float16, got float64",
            lambda: minference.dense_attention(*(x.double().numpy() for x in (Q, K, V))),
        ),
        (ValueError, "key.dtype must be 1, got 3", lambda: minference.dense_attention(Q, K.bfloat16(), V)),
        (
            ValueError,
            r"key.shape\[1\] must divide query.shape\[1\] = 4, got 3",
            lambda: minference.dense_attention(*arrays(kv_heads=3)),
        ),
        (
            ValueError,
            r"key.shape\[3\] must be 64, got 32",
            lambda: minference.dense_attention(Q, K[..., :32], V),
        ),
        (
            ValueError,
            r"value.shape\[2\] must be 20, got 19",
            lambda: minference.dense_attention(Q, K, V[:, :, 1:]),
        ),
        (
            ValueError,
            "must be <= kv_len = 10 when causal, got 20",
            lambda: minference.dense_attention(*arrays(kv_len=10)),
        ),
        (NotImplementedError, "head_dim", lambda: minference.dense_attention(*arrays(head_dim=20))),
        (NotImplementedError, "head_dim", lambda: minference.dense_attention(*arrays(head_dim=264))),
        (
            NotImplementedError,
            "block_table must be None for tensors on the CPU",
            lambda: minference.prefill_attention(
                Q, K, V, minference.patterns.dense(), block_table=torch.zeros(1, 1, dtype=torch.int32)
            ),
        ),
        (
            NotImplementedError,
            "must be on the CPU, got meta",
            lambda: minference.dense_attention(Q.to("meta"), K, V),
        ),
        (
            ValueError,
            "softmax_scale must be finite and not 0",
            lambda: minference.dense_attention(Q, K, V, softmax_scale=0),
        ),
        (
            ValueError,
            "softmax_scale must be finite and not 0",
            lambda: minference.dense_attention(Q, K, V, softmax_scale=float("nan")),
        ),
        (ValueError, "n_init must be an integer", lambda: minference.streaming_forward(Q, K, V, -1, 5)),
        (ValueError, "n_local must be an integer", lambda: minference.streaming_forward(Q, K, V, 1, 2.5)),
        (ValueError, "top_k must be an integer", lambda: minference.block_sparse_attention(Q, K, V, 2**31)),
        (
            ValueError,
            "block_size_M and block_size_N must be 64",
            lambda: minference.block_sparse_attention(Q, K, V, 1, 128, 64),
        ),
        (
            ValueError,
            "block_size_M and block_size_N must be 64",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX, INDEX, 64, 32),
        ),
        (
            ValueError,
            r"v_idx must have shape \[batch, query heads, count\]",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX[:, :2], INDEX),
        ),
        (
            ValueError,
            "s_idx must hold integers",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX, INDEX.float()),
        ),
        (
            ValueError,
            r"v_idx\[0\] must be in \[0, 20\), got 20",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX + 20, INDEX),
        ),
        (
            ValueError,
            r"s_idx\[0\] must be in \[0, 20\), got -1",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX, INDEX - 1),
        ),
        (
            ValueError,
            "v_idx must hold positions that fit int32",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX.long() + 2**40, INDEX),
        ),
        (
            ValueError,
            "heads must be one pattern of 5 integers",
            lambda: minference.prefill_attention(Q, K, V, [[0] * 5] * 3),
        ),
        (
            ValueError,
            "heads must be one pattern of 5 integers",
            lambda: minference.prefill_attention(Q, K, V, (0.5,) * 5),
        ),
        (ValueError, r"heads\[0\].pattern", lambda: minference.prefill_attention(Q, K, V, (9, 0, 0, 0, 0))),
        (
            ValueError,
            r"heads must fit int32",
            lambda: minference.prefill_attention(Q, K, V, (1, 2**31, 0, 0, 0)),
        ),
        (
            ValueError,
            'fallback must be "auto" or "off"',
            lambda: minference.prefill_attention(Q, K, V, minference.patterns.dense(), fallback="never"),
        ),
        (
            ValueError,
            r"sequences must be integers \[num_sequences, 5\]",
            lambda: minference.prefill_attention(Q, K, V, minference.patterns.dense(), sequences=[1, 2]),
        ),
        (
            ValueError,
            r"sequences\[0\].batch",
            lambda: minference.prefill_attention(
                Q, K, V, minference.patterns.dense(), sequences=[(1, 0, 1, 0, 1)]
            ),
        ),
        (ValueError, "share must be at least 1e-6 and at most 1", lambda: minference.patterns.adaptive(1.5)),
        (
            ValueError,
            "share must be at least 1e-6 .*got nan",
            lambda: minference.patterns.adaptive(float("nan")),
        ),
        (ValueError, "share must be at least 1e-6 .*got 'a'", lambda: minference.patterns.adaptive("a")),
        (ValueError, "num_threads must be an integer from 1", lambda: minference.set_num_threads(0)),
        (ValueError, "num_threads must be an integer .*'abc'", lambda: minference.set_num_threads("abc")),
        (
            ValueError,
            "softmax_scale must be finite and not 0 as a float32, got 'a'",
            lambda: minference.dense_attention(Q, K, V, softmax_scale="a"),
        ),
        (
            ValueError,
            r'fallback must be "auto" or "off", got \[1\]',
            lambda: minference.prefill_attention(Q, K, V, minference.patterns.dense(), fallback=[1]),
        ),
        (ValueError, "query must have dtype", lambda: minference.dense_attention(Q.int(), K.int(), V.int())),
        (
            ValueError,
            "softmax_scale must be .* got 1e-50",
            lambda: minference.dense_attention(Q, K, V, softmax_scale=1e-50),
        ),
        (
            ValueError,
            "return_lse must be True or False, got np.True_",
            lambda: minference.dense_attention(Q, K, V, return_lse=numpy.True_),
        ),
        (
            ValueError,
            "causal must be True or False, got 'no'",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX, INDEX, causal="no"),
        ),
        (
            ValueError,
            "query must have 4 dimensions",
            lambda: minference.vertical_slash_sparse_attention(Q[0], K, V, INDEX, INDEX),
        ),
        (
            ValueError,
            "v_idx must hold integers, rows of one length",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, [[[1], [1, 2]]], INDEX),
        ),
        (
            ValueError,
            "s_idx must hold integers",
            lambda: minference.vertical_slash_sparse_attention(Q, K, V, INDEX, None),
        ),
        (
            ValueError,
            "s_idx must fit int64, got 18446744073709551615",
            lambda: minference.vertical_slash_sparse_attention(
                *(x.numpy() for x in (Q, K, V)), INDEX.numpy(), numpy.full((1, 4, 1), 2**64 - 1, numpy.uint64)
            ),
        ),
        (
            ValueError,
            r"sequences must be integers \[num_sequences, 5\]",
            lambda: minference.prefill_attention(
                Q, K, V, minference.patterns.dense(), sequences=[[1], [2, 3]]
            ),
        ),
        (
            ValueError,
            "key must have query's batch of 1, got 3",
            lambda: minference.estimate(Q, K.expand(3, -1, -1, -1)),
        ),
        (
            ValueError,
            r"diagonal_sums must have column_sums' shape \[2, 8\], got \[2, 9\]",
            lambda: minference.select(torch.ones(2, 8), torch.ones(2, 9), minference.patterns.adaptive()),
        ),
        (
            ValueError,
            "column_sums must have dtype float32, got torch.float16",
            lambda: minference.select(
                torch.ones(2, 8).half(), torch.ones(2, 8).half(), minference.patterns.adaptive()
            ),
        ),
        (
            ValueError,
            "num_threads must be an integer from 1 to 4096",
            lambda: minference.set_num_threads(5000),
        ),
        (
            TypeError,
            "column_sums must be a torch tensor or a NumPy array, got list",
            lambda: minference.select([[1.0]], [[1.0]], minference.patterns.adaptive()),
        ),
    ],
)
def test_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_names_of_minference_1_0_that_are_missing():
    with pytest.raises(
        NotImplementedError, match="patch_hf is not available here; available: .*minference_patch"
    ):
        from minference import patch_hf  # noqa: F401
    assert not hasattr(minference, "nonsense")


pattern_rows = st.tuples(
    st.integers(-1, 5),
    st.integers(-2, 50),
    st.integers(-2, 50),
    st.integers(-2, 50),
    st.integers(-1, 1_000_001),
)


@settings(max_examples=150, deadline=None)
@given(
    query=st.tuples(
        st.integers(0, 2), st.integers(0, 4), st.integers(0, 70), st.sampled_from([0, 8, 24, 63, 64])
    ),
    key=st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 70), st.sampled_from([8, 24, 64])),
    heads=st.lists(pattern_rows, max_size=4),
    sequences=st.none() | st.lists(st.tuples(*[st.integers(-1, 40)] * 5), max_size=3),
    dtype=st.sampled_from([numpy.float32, numpy.float16]),
    fallback=st.sampled_from(["auto", "off"]),
    causal=st.booleans(),
)
def test_any_call_returns_numbers_or_raises(query, key, heads, sequences, dtype, fallback, causal):
    query, key = numpy.ones(query, dtype), numpy.ones(key, dtype)
    try:
        out = minference.prefill_attention(
            query, key, key, heads, sequences=sequences or None, fallback=fallback, causal=causal
        )
    except (ValueError, NotImplementedError) as error:
        assert "got" in str(error)
    else:
        assert out.shape == query.shape and numpy.isfinite(out).all()


@settings(max_examples=60, deadline=None)
@given(
    columns=st.lists(st.integers(-2, 40), max_size=6),
    offsets=st.lists(st.integers(-2, 40), max_size=6),
    q_len=st.integers(1, 40),
)
def test_members_outside_the_keys_are_refused(columns, offsets, q_len):
    query, key = numpy.ones((1, 1, q_len, 8), numpy.float32), numpy.ones((1, 1, 40, 8), numpy.float32)
    index = [numpy.array(members, dtype=numpy.int64).reshape(1, 1, -1) for members in (columns, offsets)]
    legal = all(0 <= member < 40 for member in columns + offsets)
    try:
        out = minference.vertical_slash_sparse_attention(query, key, key, *index)
    except ValueError:
        assert not legal
    else:
        assert legal and set(numpy.unique(out)) <= {0.0, 1.0}
