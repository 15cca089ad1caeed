"""The operations of `_calls` on torch CUDA tensors, by ``libminference_cuda.so``.

Work goes to the current stream of the tensors' device and is not waited for, but for statistics.
"""

from __future__ import annotations

import ctypes
import functools

import torch

from . import _cuda_library, _library
from ._arrays import require_four_dimensions
from ._statistics import Statistics

_DTYPES = {torch.float16: _library.F16, torch.bfloat16: _library.BF16}
_CUDA = 1
# Addresses and strides that the copy engine takes are multiples of this.
_ALIGNMENT = 16


class CudaArrays:
    """How to describe and make the tensors of one GPU, as `_arrays.TorchArrays` for the CPU's."""

    def __init__(self, device):
        self.device = device

    def describe(self, tensor, name):
        """The tensor, copied if the library cannot express or copy its memory, and its minference_tensor."""
        device = self.device
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a torch tensor as query is, got {type(tensor).__name__}")
        if tensor.device != device:
            raise ValueError(f"{name} must be on query's device {device}, got {tensor.device}")
        if tensor.dtype not in _DTYPES:
            raise NotImplementedError(
                f"{name} must have dtype float16 or bfloat16 on CUDA, got {tensor.dtype}"
            )
        require_four_dimensions(tensor.ndim, name, tensor.shape)
        size = tensor.element_size()
        if (
            tensor.stride(3) != 1
            or tensor.data_ptr() % _ALIGNMENT
            or any(stride * size % _ALIGNMENT for stride in tensor.stride()[:3])
        ):
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        return tensor, tensor_of(tensor)

    def written(self, tensor, name):
        """The minference_tensor of a tensor that the library writes."""
        return tensor_of(tensor)

    def empty(self, shape, like):
        return torch.empty(shape, dtype=like.dtype, device=self.device)

    def empty_f32(self, shape):
        return torch.empty(shape, device=self.device)


def tensor_of(tensor):
    """The minference_tensor of a float32, float16 or bfloat16 tensor of four dimensions on a GPU."""
    dtype = _library.F32 if tensor.dtype == torch.float32 else _DTYPES[tensor.dtype]
    return _library.Tensor(tensor.data_ptr(), tensor.shape, tensor.stride(), dtype, _CUDA)


def run(name, call, device):
    """Run a call with a workspace of its own on the device's current stream."""
    library = _cuda_library.load()
    size = ctypes.c_size_t()
    with torch.cuda.device(device):
        getattr(library, f"{name}_workspace")(ctypes.byref(call), ctypes.byref(size))
        # Freed in the stream's order: the allocator gives it to later work of this stream only.
        workspace = torch.empty(size.value, dtype=torch.uint8, device=device)
        call.workspace, call.workspace_bytes = workspace.data_ptr(), size.value
        call.stream = torch.cuda.current_stream(device).cuda_stream
        getattr(library, name)(ctypes.byref(call))


def refusal(dtype, head_dim, heads):
    """Why the library has no kernel for a layer; "" when it has.

    Parameters
    ----------
    heads : torch.Tensor
        int32 ``[num_query_heads, 5]`` on the CPU.
    """
    if dtype not in _DTYPES:
        return f"dtype must be float16 or bfloat16, got {dtype}"
    return _refusal(_DTYPES[dtype], head_dim, heads.numpy().tobytes())


@functools.lru_cache(maxsize=1024)
def _refusal(dtype, head_dim, heads):
    num_heads = len(heads) // ctypes.sizeof(_library.HeadPattern)
    # Only sizes are looked at; the address stands for any.
    strides = (num_heads * head_dim, head_dim, head_dim, 1)
    tensor = _library.Tensor(256, (1, num_heads, 1, head_dim), strides, dtype, _CUDA)
    records = ctypes.create_string_buffer(heads, len(heads))
    call = _cuda_library.PrefillCall(
        query=tensor,
        key=tensor,
        value=tensor,
        out=tensor,
        heads=ctypes.addressof(records),
        num_heads=num_heads,
    )
    try:
        _cuda_library.load().prefill_workspace(ctypes.byref(call), ctypes.byref(ctypes.c_size_t()))
    except (ImportError, NotImplementedError) as error:
        return str(error)
    return ""


def prefill(arguments, device, want_statistics, block_table):
    """Run a layer.

    Parameters
    ----------
    arguments : dict
        The fields that the call has in common with the CPU library's.

    Returns
    -------
    Statistics or None
    """
    call = _cuda_library.PrefillCall(**arguments)
    num_sequences = call.num_sequences if call.sequences else call.query.shape[0]
    if block_table is not None:
        block_table = _checked_block_table(block_table, num_sequences, device)
        call.block_table, call.block_table_stride = block_table.data_ptr(), block_table.shape[1]
    if not want_statistics:
        run("prefill", call, device)
        return None
    pairs = torch.empty((num_sequences, call.num_heads), dtype=torch.int64, device=device)
    call.pairs = pairs.data_ptr()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    begin.record(stream)
    run("prefill", call, device)
    end.record(stream)
    statistics = _statistics(call, pairs.cpu().numpy())
    statistics.seconds_attend = begin.elapsed_time(end) / 1000
    return statistics


def _checked_block_table(block_table, num_sequences, device):
    if not isinstance(block_table, torch.Tensor) or block_table.dtype != torch.int32:
        raise ValueError(
            f"block_table must be an int32 tensor, got {getattr(block_table, 'dtype', type(block_table).__name__)}"
        )
    if block_table.device != device:
        raise ValueError(f"block_table must be on query's device {device}, got {block_table.device}")
    if block_table.ndim != 2 or block_table.shape[0] != num_sequences or block_table.shape[1] == 0:
        raise ValueError(
            f"block_table must have shape [num_sequences, pages] = [{num_sequences}, at least 1], "
            f"got {list(block_table.shape)}"
        )
    return block_table.contiguous()


def _all_pairs(call):
    """All pairs of a head in each sequence, causal ones when the call is."""
    lengths = [(call.query.shape[2], call.key.shape[2])] * call.query.shape[0]
    if call.sequences:
        records = (_library.Sequence * call.num_sequences).from_address(call.sequences)
        lengths = [(record.q_len, record.kv_len) for record in records]
    return [q * kv if call.non_causal else q * (2 * kv - q + 1) // 2 for q, kv in lengths]


def _statistics(call, pairs):
    """The steps are not timed apart; a head with a sparse pattern and all pairs counts as one that fell back."""
    import numpy

    records = (_library.HeadPattern * call.num_heads).from_address(call.heads)
    sparse = numpy.array([record.pattern != _library.DENSE for record in records])
    everything = numpy.array(_all_pairs(call), dtype=numpy.int64)[:, None]
    return Statistics(
        density=numpy.where(everything == 0, 0.0, pairs / numpy.maximum(everything, 1)),
        fallback=sparse & (pairs == everything),
        pairs=int(pairs.sum()),
        all_pairs=int(everything.sum()) * call.num_heads,
        seconds_estimate=0.0,
        seconds_select=0.0,
        seconds_index=0.0,
        seconds_attend=0.0,
    )


def vertical_slash(arguments, columns, offsets, kv_len, causal, arrays):
    """Attention of one sequence over columns and offsets, integer tensors ``[Hq, n]``; arguments as for `prefill`."""
    if not causal:
        raise NotImplementedError("causal must be True on CUDA, got False")
    columns, offsets = (members.to(arrays.device, torch.int32).contiguous() for members in (columns, offsets))
    call = _cuda_library.AttentionCall(**arguments)
    if call.softmax_scale == 0:
        call.softmax_scale = call.query.shape[3] ** -0.5
    index = _vertical_slash_index(columns, offsets, call.query.shape[2], kv_len)
    call.capacity = index.capacity
    call.heads, call.tiles = index.heads.data_ptr(), index.tiles.data_ptr()
    call.columns = index.columns.data_ptr()
    run("attention", call, arrays.device)


class Index:
    """Room for an index of `num_heads` heads: int32 tensors ``[num_heads, 5]``, ``[num_heads, capacity]``."""

    def __init__(self, num_heads, capacity, device):
        self.capacity = capacity
        self.heads, self.tiles, self.columns = (
            torch.empty((num_heads, size), dtype=torch.int32, device=device)
            for size in (5, max(capacity.tiles, 1), max(capacity.columns, 1))
        )


def _vertical_slash_index(columns, offsets, q_len, kv_len):
    """The index of one sequence; columns and offsets int32 ``[Hq, n]``, contiguous."""
    num_heads = columns.shape[0]
    index = Index(num_heads, _cuda_library.Capacity(-(-kv_len // 64) + 1, columns.shape[1]), columns.device)
    call = _cuda_library.VerticalSlashCall(
        q_len=q_len,
        kv_len=kv_len,
        num_heads=num_heads,
        columns=columns.data_ptr(),
        column_stride=columns.shape[1],
        offsets=offsets.data_ptr(),
        offset_stride=offsets.shape[1],
        capacity=index.capacity,
        index_heads=index.heads.data_ptr(),
        tiles=index.tiles.data_ptr(),
        index_columns=index.columns.data_ptr(),
    )
    run("vertical_slash", call, columns.device)
    return index


def estimate(query, key, softmax_scale):
    device = query.device
    arrays = CudaArrays(device)
    query, key = (arrays.describe(x, name)[0] for x, name in ((query, "query"), (key, "key")))
    batch, num_heads, kv_len = query.shape[0], query.shape[1], key.shape[2]
    sums = torch.empty((2, batch, num_heads, kv_len), device=device)
    # A list of its own for each head: the index, which is not wanted, needs a pattern and room.
    heads = (_library.HeadPattern * num_heads)(
        *[_library.HeadPattern(_library.VERTICAL_SLASH, (0, 0), 0, 0)] * num_heads
    )
    for b in range(batch):
        call = _cuda_library.IndexCall(
            query=tensor_of(query[b : b + 1]),
            key=tensor_of(key[b : b + 1]),
            softmax_scale=softmax_scale,
            fallback=_library.FALLBACK_OFF,
            heads=ctypes.addressof(heads),
            num_heads=num_heads,
            column_sums=sums[0, b].data_ptr(),
            diagonal_sums=sums[1, b].data_ptr(),
        )
        _cuda_library.load().index_capacity(ctypes.byref(call), ctypes.byref(call.capacity))
        index = Index(num_heads, call.capacity, device)
        call.index_heads = index.heads.data_ptr()
        call.tiles, call.columns = index.tiles.data_ptr(), index.columns.data_ptr()
        run("index", call, device)
    return sums[0], sums[1]
