"""Attention functions for torch tensors, on the CPU or a GPU, and NumPy arrays.

Everywhere: query is ``[B, Hq, q_len, D]``, key and value are ``[B, Hkv, kv_len, D]`` with ``Hq % Hkv == 0``
(query head h reads key head ``h // (Hq // Hkv)``; nothing is repeated), all of one dtype: float32 or float16,
for torch also bfloat16. Any strides. Query row i stands at key position ``kv_len - q_len + i``. D is a
multiple of 8 up to 256. Scores, softmax and sums are float32. Forward only. CUDA tensors are float16 or
bfloat16, with q_len up to kv_len, and block-sparse heads are causal; work goes to the current stream. torch.compile
and torch.export see each call of an attention function as one node, ``torch.ops.minference.*``; members are tensors there.
"""

from __future__ import annotations

import sys

from . import _calls, _library, patterns
from ._arrays import arrays_of, is_traced, on_cuda, require_four_dimensions
from ._checks import any_array, require_boolean, require_integer, require_number

_FALLBACKS = {"auto": _library.FALLBACK_AUTO, "off": _library.FALLBACK_OFF}


def _is_traced(query):
    """Whether a call must go through torch's dispatcher: it is traced, or `query` has no memory of its own."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(query, torch.Tensor):
        return False
    return is_traced() or type(query) not in (torch.Tensor, torch.nn.Parameter)


def _scale(softmax_scale):
    """In the ABI, 0 stands for 1 / sqrt(head_dim)."""
    if softmax_scale is None:
        return 0.0
    # What lies outside rounds to 0 or to infinity.
    return require_number(
        softmax_scale,
        "softmax_scale",
        "finite and not 0 as a float32",
        lambda x: 2.0**-150 < abs(x) < 2.0**128 - 2.0**103,
    )


def _require_blocks_of_64(block_size_M, block_size_N):
    if block_size_M != 64 or block_size_N != 64:
        raise ValueError(f"block_size_M and block_size_N must be 64, got {block_size_M} and {block_size_N}")


def _sequence_array(sequences):
    import numpy

    array = any_array(sequences)
    if array.ndim != 2 or array.shape[1] != 5 or array.dtype.kind not in "iu":
        raise ValueError(
            "sequences must be integers [num_sequences, 5] (batch, q_begin, q_len, kv_begin, kv_len), "
            f"got shape {list(array.shape)} of {array.dtype}"
        )
    return numpy.ascontiguousarray(array, dtype=numpy.int64)


def prefill_attention(
    query,
    key,
    value,
    heads,
    *,
    softmax_scale=None,
    causal=True,
    sequences=None,
    block_table=None,
    fallback="auto",
    share_index=False,
    return_lse=False,
    return_statistics=False,
):
    """Attention of a whole layer, every query head by its own pattern.

    Parameters
    ----------
    query, key, value : torch.Tensor or numpy.ndarray
        See the module's notes on shapes and dtypes.
    heads : array_like of int
        One pattern of `minference.patterns` for all query heads, or ``[Hq, 5]``, one for each.
    softmax_scale : float, optional
        ``1 / sqrt(D)`` when left out.
    causal : bool
        False computes without a causal mask: dense, A-shape (then ``abs(q - k) < local``) and block-sparse
        only.
    sequences : array_like of int, optional
        ``[num_sequences, 5]``: rows ``[q_begin, q_begin + q_len)`` of batch entry ``batch`` attend to keys
        ``[kv_begin, kv_begin + kv_len)`` of the same entry, as (batch, q_begin, q_len, kv_begin, kv_len).
        Describes padded and packed batches; every entry whole when left out. Rows in no sequence get out = 0
        and lse = -inf.
    block_table : torch.Tensor, optional
        int32 ``[num_sequences, most pages]`` on a GPU: key and value are pools of pages, ``[num_pages, Hkv,
        page_size, D]``, and key k of sequence i is row ``k % page_size`` of page ``block_table[i, k //
        page_size]``. A cache ``[num_pages, page_size, Hkv, D]`` is passed as ``cache.transpose(1, 2)``.
        Needs `sequences`, with kv_begin 0. CUDA tensors only.
    fallback : {"auto", "off"}
        "auto" runs short calls, and heads whose pattern would cost more than dense attention, densely.
    share_index : bool
        The query heads of a key head with patterns of one kind compute the same pairs: those that the sum of their
        estimates selects with the largest of each of their sizes (docs/algorithm.md, "One index for a group").
    return_lse : bool
        Return the logarithm of each row's sum of exponentials too.
    return_statistics : bool
        Return a `minference.Statistics` too.

    Returns
    -------
    out : like query
    lse : float32 ``[B, Hq, q_len]``
        Natural logarithm. Only with `return_lse`.
    statistics : Statistics
        Only with `return_statistics`.

    Raises
    ------
    ValueError
        For arguments that break a rule; the message names argument, rule and value.
    NotImplementedError
        For what is legal, but not supported on this machine or in this version.
    """
    if not isinstance(fallback, str) or fallback not in _FALLBACKS:
        raise ValueError(f'fallback must be "auto" or "off", got {fallback!r}')
    share_index = require_boolean(share_index, "share_index")
    causal, return_lse = require_boolean(causal, "causal"), require_boolean(return_lse, "return_lse")
    return_statistics = require_boolean(return_statistics, "return_statistics")
    scale = _scale(softmax_scale)
    if _is_traced(query):
        if return_statistics:
            raise NotImplementedError("return_statistics must be False under torch.compile and torch.export")
        if block_table is not None:
            raise NotImplementedError("block_table must be None under torch.compile and torch.export")
        from . import _torch_ops

        out, lse = _torch_ops.prefill(
            query, key, value, heads, sequences, scale, causal, _FALLBACKS[fallback], share_index
        )
        return (out, lse) if return_lse else out
    arrays_of(query)
    require_four_dimensions(len(query.shape), "query", query.shape)
    heads = patterns.layer_array(heads, query.shape[1])
    out, lse, statistics = _calls.prefill(
        query,
        key,
        value,
        heads,
        None if sequences is None else _sequence_array(sequences),
        scale,
        causal,
        _FALLBACKS[fallback],
        share_index,
        block_table=block_table,
        want_lse=return_lse,
        want_statistics=return_statistics,
    )
    results = [out] + [lse] * return_lse + [statistics] * return_statistics
    return results[0] if len(results) == 1 else tuple(results)


def dense_attention(query, key, value, *, softmax_scale=None, causal=True, return_lse=False):
    """Attention over every (causal) pair. Parameters and results are those of `prefill_attention`."""
    return prefill_attention(
        query, key, value, patterns.dense(), softmax_scale=softmax_scale, causal=causal, return_lse=return_lse
    )


def streaming_forward(query, key, value, n_init, n_local, *, softmax_scale=None, return_lse=False):
    """A-shape attention: position q attends to keys k with ``0 <= q - k < n_local`` or ``k < n_init``, exactly.

    Parameters
    ----------
    n_init, n_local : int
        Sizes of the sink and of the local window, at least 0.

    The other parameters and the results are those of `prefill_attention`. MInference 1.0's function of this
    name scales by the padded head_dim; this one by the true one.
    """
    pattern = patterns.a_shape(require_integer(n_init, "n_init"), require_integer(n_local, "n_local"))
    return prefill_attention(
        query, key, value, pattern, softmax_scale=softmax_scale, fallback="off", return_lse=return_lse
    )


def block_sparse_attention(
    query, key, value, top_k, block_size_M=64, block_size_N=64, *, softmax_scale=None, return_lse=False
):
    """Causal attention to the best `top_k` key blocks of every 64 query rows.

    A block of 64 rows keeps the blocks that it overlaps on the diagonal, the first block, and then the best
    by the product of mean query and mean key, ``max(top_k, forced)`` in all.

    Parameters
    ----------
    top_k : int
        At least 0; above the number of blocks, all are kept.
    block_size_M, block_size_N : int
        64.

    The other parameters and the results are those of `prefill_attention`.
    """
    _require_blocks_of_64(block_size_M, block_size_N)
    pattern = patterns.block_sparse(require_integer(top_k, "top_k"))
    return prefill_attention(
        query, key, value, pattern, softmax_scale=softmax_scale, fallback="off", return_lse=return_lse
    )


def vertical_slash_sparse_attention(
    query,
    key,
    value,
    v_idx,
    s_idx,
    block_size_M=64,
    block_size_N=64,
    *,
    softmax_scale=None,
    causal=True,
    return_lse=False,
):
    """Attention to given columns and diagonals.

    Each diagonal offset s of a block of 64 query rows keeps a 64 wide range of keys, ``P - s .. P - s + 63``
    with P the position of the block's first row; the union of the ranges is covered by 64-key tiles, which
    with the columns are what is computed: every pair of a listed column or diagonal, each once, and the rest
    of the tiles (docs/algorithm.md, "The index contract").

    Parameters
    ----------
    v_idx : integer array ``[B, Hq, NNZ_V]``
        Columns: key positions in ``[0, kv_len)``, in any order. Duplicates count once.
    s_idx : integer array ``[B, Hq, NNZ_S]``
        Diagonals: offsets ``q - k`` in ``[0, kv_len)``; 0 is the main diagonal. Without `causal` they may
        reach down to ``1 - q_len``.
    block_size_M, block_size_N : int
        64.
    causal : bool
        Whether keys after the query's position are left out.

    The other parameters and the results are those of `prefill_attention`.
    """
    _require_blocks_of_64(block_size_M, block_size_N)
    causal, return_lse = require_boolean(causal, "causal"), require_boolean(return_lse, "return_lse")
    scale = _scale(softmax_scale)
    if _is_traced(query):
        from . import _torch_ops

        out, lse = _torch_ops.vertical_slash(query, key, value, v_idx, s_idx, scale, causal)
        return (out, lse) if return_lse else out
    arrays = arrays_of(query)
    require_four_dimensions(len(query.shape), "query", query.shape)
    columns, offsets = arrays.members(v_idx, "v_idx"), arrays.members(s_idx, "s_idx")
    for name, members in (("v_idx", columns), ("s_idx", offsets)):
        if len(members.shape) != 3 or tuple(members.shape[:2]) != tuple(query.shape[:2]):
            raise ValueError(
                f"{name} must have shape [batch, query heads, count] = {list(query.shape[:2])} + [count], "
                f"got {list(members.shape)}"
            )
    out, lse = _calls.vertical_slash(query, key, value, columns, offsets, scale, causal, return_lse)
    return (out, lse) if return_lse else out


def estimate(query, key, *, softmax_scale=None):
    """Attention mass of the last ``min(64, q_len)`` rows by column and by diagonal.

    Returns
    -------
    column_sums : float32 ``[B, Hq, kv_len]``
        Sum over those rows of the causal softmax at key k.
    diagonal_sums : float32 ``[B, Hq, kv_len]``
        The same at key ``q - o``, for offset o.
    """
    arrays = arrays_of(query)
    if not on_cuda(query):
        arrays.describe(query, "query")
        arrays.describe(key, "key")
    return _calls.estimate(query, key, _scale(softmax_scale))


def select(column_sums, diagonal_sums, heads):
    """Choose columns and diagonals from the sums of `estimate`.

    Parameters
    ----------
    column_sums, diagonal_sums : float32 ``[Hq, kv_len]``
        One batch entry of `estimate`'s results.
    heads : array_like of int
        Vertical-slash or adaptive patterns, as in `prefill_attention`.

    Returns
    -------
    columns, offsets : lists of Hq int32 NumPy arrays
        Ascending and unique.
    """
    arrays_of(column_sums, "column_sums")
    for name, sums in (("column_sums", column_sums), ("diagonal_sums", diagonal_sums)):
        shape = list(getattr(sums, "shape", ()))
        if len(shape) != 2:
            raise ValueError(
                f"{name} must have shape [query heads, kv_len], got {shape or type(sums).__name__}"
            )
    if tuple(column_sums.shape) != tuple(diagonal_sums.shape):
        raise ValueError(
            f"diagonal_sums must have column_sums' shape {list(column_sums.shape)}, got {list(diagonal_sums.shape)}"
        )
    for name, sums in (("column_sums", column_sums), ("diagonal_sums", diagonal_sums)):
        if str(sums.dtype).split(".")[-1] != "float32":
            raise ValueError(f"{name} must have dtype float32, got {sums.dtype}")
    return _calls.select(column_sums, diagonal_sums, patterns.layer_array(heads, column_sums.shape[0]))
