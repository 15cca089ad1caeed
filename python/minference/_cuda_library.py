"""ctypes face of the CUDA library's C ABI (``include/minference/minference_cuda.h``); as `_library` for the other."""

from __future__ import annotations

import functools
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p

from ._library import STATUS, Functions, Sized, Tensor, load_named

ALL, RELATIVE, WINDOW, BLOCKS = 0, 1, 2, 3
BEST, SM90, SM80 = 0, 1, 2


class Capacity(Structure):
    _fields_ = [("tiles", c_int32), ("columns", c_int32)]


class AttentionCall(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("out", Tensor),
        ("lse", Tensor),
        ("softmax_scale", c_float),
        ("capacity", Capacity),
        ("heads", c_void_p),
        ("tiles", c_void_p),
        ("columns", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
        ("stream", c_void_p),
        ("non_causal", c_int32),
        ("kernel", c_int32),
        ("row_offsets", c_void_p),
        ("key_blocks", c_void_p),
        ("block_capacity", c_int32),
        ("last_dense_rows", c_void_p),
    ]


class IndexCall(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("softmax_scale", c_float),
        ("fallback", c_int32),
        ("heads", c_void_p),
        ("num_heads", c_int64),
        ("capacity", Capacity),
        ("index_heads", c_void_p),
        ("tiles", c_void_p),
        ("columns", c_void_p),
        ("pairs", c_void_p),
        ("offsets", c_void_p),
        ("offset_counts", c_void_p),
        ("offset_capacity", c_int32),
        ("column_sums", c_void_p),
        ("diagonal_sums", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
        ("stream", c_void_p),
        ("non_causal", c_int32),
        ("last_dense_rows", c_void_p),
        ("row_offsets", c_void_p),
        ("key_blocks", c_void_p),
        ("block_capacity", c_int32),
        ("share_index", c_int32),
    ]


class VerticalSlashCall(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("q_len", c_int64),
        ("kv_len", c_int64),
        ("num_heads", c_int64),
        ("columns", c_void_p),
        ("num_columns", c_void_p),
        ("column_stride", c_int32),
        ("offset_stride", c_int32),
        ("offsets", c_void_p),
        ("num_offsets", c_void_p),
        ("capacity", Capacity),
        ("index_heads", c_void_p),
        ("tiles", c_void_p),
        ("index_columns", c_void_p),
        ("pairs", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
        ("stream", c_void_p),
    ]


class PrefillCall(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("out", Tensor),
        ("lse", Tensor),
        ("softmax_scale", c_float),
        ("fallback", c_int32),
        ("sequences", c_void_p),
        ("num_sequences", c_int64),
        ("heads", c_void_p),
        ("num_heads", c_int64),
        ("column_capacity", c_int32),
        ("pairs", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
        ("stream", c_void_p),
        ("block_table", c_void_p),
        ("block_table_stride", c_int64),
        ("non_causal", c_int32),
        ("share_index", c_int32),
    ]


_CALLS = {
    "attention": AttentionCall,
    "index": IndexCall,
    "vertical_slash": VerticalSlashCall,
    "prefill": PrefillCall,
}

_PROTOTYPES = {
    "last_error": (c_char_p, []),
    "index_capacity": (STATUS, [POINTER(IndexCall), POINTER(Capacity)]),
    **{name: (STATUS, [POINTER(call)]) for name, call in _CALLS.items()},
    **{f"{name}_workspace": (STATUS, [POINTER(call), POINTER(c_size_t)]) for name, call in _CALLS.items()},
}


def open_library(path) -> Functions:
    """The library at `path`."""
    return Functions(path, "minference_cuda_", _PROTOTYPES)


@functools.cache
def load() -> Functions:
    """Load ``libminference_cuda.so``: the path in ``MINFERENCE_CUDA_LIBRARY``, or the one beside the package.

    Raises
    ------
    ImportError
        If there is none or it cannot be loaded.
    """
    return load_named(open_library, "libminference_cuda.so", "MINFERENCE_CUDA_LIBRARY")
