"""The C ABI's operations on arrays. Arguments are already in the forms that the library takes."""

from __future__ import annotations

import ctypes
import re

from . import _context, _library
from ._arrays import arrays_of, on_cuda
from ._statistics import Statistics


def _address(array):
    return arrays_of(array).address(array)


class _Layer:
    """One layer's tensors, described, and its results; keeps alive the copies that describing made."""

    def __init__(self, query, key, value, want_lse, out=None):
        if on_cuda(query):
            from ._cuda_calls import CudaArrays

            arrays = CudaArrays(query.device)
        else:
            arrays = arrays_of(query)
        self.arrays = arrays
        self.query, query_tensor = arrays.describe(query, "query")
        self.key, key_tensor = arrays.describe(key, "key")
        self.value, value_tensor = arrays.describe(value, "value")
        batch, num_heads, q_len, _ = self.query.shape
        self.out = arrays.empty(self.query.shape, self.query) if out is None else out
        self._lse = arrays.empty_f32((batch, num_heads, q_len, 1)) if want_lse else None
        # By the names that they have in the arguments of every call.
        self.tensors = {
            "query": query_tensor,
            "key": key_tensor,
            "value": value_tensor,
            "out": arrays.written(self.out, "out"),
            "lse": arrays.written(self._lse, "lse") if want_lse else _library.Tensor(),
        }

    @property
    def lse(self):
        """``[B, Hq, q_len]`` or None."""
        return None if self._lse is None else self._lse[..., 0]


def prefill(
    query,
    key,
    value,
    heads,
    sequences=None,
    softmax_scale=0.0,
    causal=True,
    fallback=_library.FALLBACK_AUTO,
    share_index=False,
    block_table=None,
    out=None,
    want_lse=False,
    want_statistics=False,
):
    """Run a layer.

    Parameters
    ----------
    heads : array
        int32 ``[num_query_heads, 5]``, on the CPU, contiguous.
    sequences : array, optional
        int64 ``[num_sequences, 5]``, on the CPU, contiguous; every entry whole when left out.
    softmax_scale : float
        0 stands for ``1 / sqrt(D)``.
    share_index : bool
        As in `minference.prefill_attention`.
    block_table : torch.Tensor, optional
    out : array, optional
        Where to write; made contiguous when left out.

    Returns
    -------
    tuple
        out, lse ``[B, Hq, q_len]`` or None, `Statistics` or None.
    """
    layer = _Layer(query, key, value, want_lse, out)
    # The same in both libraries.
    arguments = dict(
        layer.tensors,
        softmax_scale=softmax_scale,
        non_causal=not causal,
        # No address stands for every entry whole, and an empty tensor has none: any will do for no rows.
        sequences=None if sequences is None else _address(sequences) or _address(heads),
        num_sequences=0 if sequences is None else len(sequences),
        heads=_address(heads),
        num_heads=len(heads),
        fallback=fallback,
        share_index=share_index,
    )
    if on_cuda(query):
        from . import _cuda_calls

        statistics = _cuda_calls.prefill(arguments, query.device, want_statistics, block_table)
    elif block_table is not None:
        raise NotImplementedError("block_table must be None for tensors on the CPU")
    else:
        statistics = _prefill_on_cpu(_library.PrefillArgs(**arguments), want_statistics)
    return layer.out, layer.lse, statistics


def _prefill_on_cpu(args, want_statistics):
    if not want_statistics:
        _library.load().prefill(_context.current(), args, None)
        return None
    import numpy

    shape = (args.num_sequences if args.sequences else args.query.shape[0], args.query.shape[1])
    density, fallback = numpy.zeros(shape), numpy.zeros(shape, dtype=numpy.int32)
    raw = _library.Statistics(
        head_density=density.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        head_fallback=fallback.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
    )
    _library.load().prefill(_context.current(), args, raw)
    return Statistics(
        density,
        fallback.astype(bool),
        raw.pairs,
        raw.all_pairs,
        raw.seconds_estimate,
        raw.seconds_select,
        raw.seconds_index,
        raw.seconds_attend,
    )


class Index:
    """An index handle: which pairs each head of one sequence computes. Immutable."""

    def __init__(self, columns, offsets, q_len, kv_len, causal, arrays):
        self._library = _library.load()
        self.handle = ctypes.c_void_p()
        try:
            self._library.index_vertical_slash(
                arrays.describe(columns, "v_idx", of_members=True)[1],
                arrays.describe(offsets, "s_idx", of_members=True)[1],
                q_len,
                kv_len,
                not causal,
                ctypes.byref(self.handle),
            )
        except ValueError as error:
            # The ABI's names for these arguments are others.
            name, rest = re.match(r"(columns|offsets)?(.*)", str(error), re.DOTALL).groups()
            raise ValueError({"columns": "v_idx", "offsets": "s_idx"}.get(name, "") + rest) from None

    def __del__(self):
        if getattr(self, "handle", None):
            self._library.index_destroy(self.handle)


def vertical_slash(query, key, value, columns, offsets, softmax_scale, causal, want_lse):
    """Attention over columns and offsets, integer arrays ``[B, Hq, n]``. Returns out, and lse or None."""
    layer = _Layer(query, key, value, want_lse)
    batch, kv_len = layer.query.shape[0], layer.key.shape[2]
    if layer.key.shape[0] != batch or layer.value.shape[0] != batch:
        raise ValueError(
            f"key and value must have query's batch of {batch}, "
            f"got {layer.key.shape[0]} and {layer.value.shape[0]}"
        )
    if on_cuda(query):
        from . import _cuda_calls

        attend = _cuda_calls.vertical_slash
    else:
        attend = _vertical_slash_on_cpu
    # The ABI takes one sequence a call.
    arguments = dict(layer.tensors, softmax_scale=softmax_scale)
    entry_bytes = [tensor.stride[0] * _ITEM_BYTES.get(tensor.dtype, 0) for tensor in layer.tensors.values()]
    for tensor in layer.tensors.values():
        tensor.shape[0] = min(tensor.shape[0], 1)
    for b in range(batch):
        attend(arguments, columns[b], offsets[b], kv_len, causal, layer.arrays)
        for tensor, step in zip(layer.tensors.values(), entry_bytes):
            tensor.data = tensor.data and tensor.data + step
    return layer.out, layer.lse


_ITEM_BYTES = {_library.F32: 4, _library.F16: 2, _library.BF16: 2}


def _vertical_slash_on_cpu(arguments, columns, offsets, kv_len, causal, arrays):
    q_len = arguments["query"].shape[2]
    index = Index(columns[None, :, None], offsets[None, :, None], q_len, kv_len, causal, arrays)
    args = _library.AttentionArgs(**arguments, index=index.handle)
    _library.load().attention(_context.current(), args)


def estimate(query, key, softmax_scale):
    """Column and diagonal sums of the last 64 rows, each ``[B, Hq, kv_len]`` f32."""
    if key.shape[0] != query.shape[0]:
        raise ValueError(f"key must have query's batch of {query.shape[0]}, got {key.shape[0]}")
    if on_cuda(query):
        from . import _cuda_calls

        return _cuda_calls.estimate(query, key, softmax_scale)
    arrays = arrays_of(query)
    batch, num_heads, kv_len = query.shape[0], query.shape[1], key.shape[2]
    columns, diagonals = (arrays.empty_f32((batch, num_heads, 1, kv_len)) for _ in range(2))
    for b in range(batch):
        entry = slice(b, b + 1)
        # The copies that describe may make must outlive the call.
        kept = [
            arrays.describe(array[entry], name)
            for array, name in (
                (query, "query"),
                (key, "key"),
                (columns, "column_sums"),
                (diagonals, "diagonal_sums"),
            )
        ]
        args = _library.EstimateArgs(
            query=kept[0][1],
            key=kept[1][1],
            column_sums=kept[2][1],
            diagonal_sums=kept[3][1],
            softmax_scale=softmax_scale,
        )
        _library.load().estimate(_context.current(), args)
    return columns[:, :, 0], diagonals[:, :, 0]


def select(column_sums, diagonal_sums, heads):
    """Members of every head of one sequence, from sums ``[Hq, kv_len]``: two lists of int32 arrays.

    Heads are those of `prefill`.
    """
    import numpy

    if on_cuda(column_sums):
        column_sums, diagonal_sums = column_sums.cpu(), diagonal_sums.cpu()

    arrays = arrays_of(column_sums)
    kept = [
        arrays.describe(sums[None, :, None], name)
        for sums, name in ((column_sums, "column_sums"), (diagonal_sums, "diagonal_sums"))
    ]
    num_heads, kv_len = column_sums.shape
    columns, offsets = (numpy.empty((num_heads, kv_len), dtype=numpy.int32) for _ in range(2))
    column_counts, offset_counts = (numpy.empty(num_heads, dtype=numpy.int64) for _ in range(2))
    args = _library.SelectArgs(
        column_sums=kept[0][1],
        diagonal_sums=kept[1][1],
        heads=_address(heads),
        num_heads=len(heads),
        columns=columns.ctypes.data,
        column_capacity=kv_len,
        column_counts=column_counts.ctypes.data,
        offsets=offsets.ctypes.data,
        offset_capacity=kv_len,
        offset_counts=offset_counts.ctypes.data,
    )
    _library.load().select(_context.current(), args)
    return (
        [row[:count].copy() for row, count in zip(columns, column_counts)],
        [row[:count].copy() for row, count in zip(offsets, offset_counts)],
    )


def gather(pages, token_offsets, dim_offsets, table, length):
    """The first `length` tokens of one sequence in a paged cache, ``[num_heads, length, head_dim]``, contiguous.

    Parameters
    ----------
    pages : array
        ``[num_pages, num_heads, elements]``: the pool; what one page holds of one head lies in an order of the host's own.
    token_offsets, dim_offsets : array
        int32 ``[page_size]`` and ``[head_dim]``, contiguous: element (token, dim) lies at the sum of both.
    table : array
        int32, contiguous: the sequence's pages in order, and perhaps more.
    """
    arrays = arrays_of(pages, "pages")
    out = arrays.empty((1, pages.shape[1], length, len(dim_offsets)), pages)
    pages, pages_tensor = arrays.describe(pages[:, :, None], "pages")
    args = _library.GatherArgs(
        pages=pages_tensor,
        token_offsets=arrays.address(token_offsets),
        page_size=len(token_offsets),
        dim_offsets=arrays.address(dim_offsets),
        table=arrays.address(table),
        table_size=len(table),
        out=arrays.describe(out, "out")[1],
    )
    _library.load().gather(_context.current(), args)
    return out[0]
