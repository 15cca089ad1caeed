"""ctypes face of the C ABI (``include/minference/minference.h``): structs, prototypes, errors.

Nothing here copies or owns data; names and meanings are those of the header.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)
from pathlib import Path

ABI_VERSION = 1

F32, F16, BF16, I32, I64 = 1, 2, 3, 4, 5
DENSE, A_SHAPE, VERTICAL_SLASH, BLOCK_SPARSE, ADAPTIVE = 0, 1, 2, 3, 4
FALLBACK_AUTO, FALLBACK_OFF = 0, 1


class Tensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("shape", c_int64 * 4),
        ("stride", c_int64 * 4),
        ("dtype", c_int32),
        ("device", c_int32),
    ]


class Sequence(Structure):
    _fields_ = [
        ("batch", c_int64),
        ("q_begin", c_int64),
        ("q_len", c_int64),
        ("kv_begin", c_int64),
        ("kv_len", c_int64),
    ]


class HeadPattern(Structure):
    _fields_ = [
        ("pattern", c_int32),
        ("size", c_int32 * 2),
        ("last_dense_rows", c_int32),
        ("share_ppm", c_int32),
    ]


class _Sized(Structure):
    """A struct that begins with its own size, as the ABI asks."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class ContextOptions(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("num_threads", c_int32),
        ("num_cpus", c_int32),
        ("cpus", POINTER(c_int32)),
        ("isa", c_char_p),
        ("parallel_for", c_void_p),
        ("parallel_for_state", c_void_p),
    ]


class Statistics(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("seconds_estimate", c_double),
        ("seconds_select", c_double),
        ("seconds_index", c_double),
        ("seconds_attend", c_double),
        ("pairs", c_int64),
        ("all_pairs", c_int64),
        ("head_density", POINTER(c_double)),
        ("head_fallback", POINTER(c_int32)),
    ]


class PrefillArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("out", Tensor),
        ("lse", Tensor),
        ("softmax_scale", c_float),
        ("non_causal", c_int32),
        ("sequences", c_void_p),
        ("num_sequences", c_int64),
        ("heads", c_void_p),
        ("num_heads", c_int64),
        ("fallback", c_int32),
    ]


class EstimateArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("column_sums", Tensor),
        ("diagonal_sums", Tensor),
        ("softmax_scale", c_float),
    ]


class SelectArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("column_sums", Tensor),
        ("diagonal_sums", Tensor),
        ("heads", c_void_p),
        ("num_heads", c_int64),
        ("columns", c_void_p),
        ("column_capacity", c_int64),
        ("column_counts", c_void_p),
        ("offsets", c_void_p),
        ("offset_capacity", c_int64),
        ("offset_counts", c_void_p),
    ]


class IndexArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("softmax_scale", c_float),
        ("non_causal", c_int32),
        ("heads", c_void_p),
        ("num_heads", c_int64),
        ("fallback", c_int32),
    ]


class IndexHead(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("form", c_int32),
        ("tiles", POINTER(c_int32)),
        ("num_tiles", c_int64),
        ("columns", POINTER(c_int32)),
        ("num_columns", c_int64),
        ("sink", c_int64),
        ("local", c_int64),
        ("row_offsets", POINTER(c_int64)),
        ("num_row_offsets", c_int64),
        ("key_blocks", POINTER(c_int32)),
        ("num_key_blocks", c_int64),
        ("last_dense_rows", c_int64),
        ("pairs", c_int64),
        ("all_pairs", c_int64),
        ("memory_bytes", c_int64),
    ]


class AttentionArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("out", Tensor),
        ("lse", Tensor),
        ("softmax_scale", c_float),
        ("index", c_void_p),
    ]


class ScorePatternsArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("softmax_scale", c_float),
        ("candidates", c_void_p),
        ("num_candidates", c_int64),
    ]


class FitArgs(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("softmax_scale", c_float),
        ("candidates", c_void_p),
        ("free_size", c_void_p),
        ("num_candidates", c_int64),
        ("cost", c_double),
        ("shared", c_int32),
    ]


_HANDLE = POINTER(c_void_p)

# The result of a function that can fail: a minference_status, which `Library` turns into an exception.
_STATUS = "status"

# name: (result, arguments)
_PROTOTYPES = {
    "version": (c_char_p, []),
    "abi_version": (c_uint32, []),
    "last_error": (c_char_p, []),
    "context_create": (_STATUS, [POINTER(ContextOptions), _HANDLE]),
    "context_destroy": (None, [c_void_p]),
    "context_num_threads": (c_int32, [c_void_p]),
    "context_isa": (c_char_p, [c_void_p]),
    "openmp_parallel_for": (None, [c_void_p, c_int64, c_void_p, c_void_p]),
    "kernel_name": (c_char_p, [c_char_p, c_char_p, c_int32, c_int64]),
    "patterns_load": (_STATUS, [c_char_p, _HANDLE]),
    "patterns_parse": (_STATUS, [c_char_p, c_size_t, c_char_p, _HANDLE]),
    "patterns_builtin": (_STATUS, [c_char_p, _HANDLE]),
    "patterns_create": (_STATUS, [c_int64, c_int64, c_void_p, c_char_p, _HANDLE]),
    "patterns_destroy": (None, [c_void_p]),
    "builtin_count": (c_int64, []),
    "builtin_model": (c_char_p, [c_int64]),
    "patterns_num_layers": (c_int64, [c_void_p]),
    "patterns_num_query_heads": (c_int64, [c_void_p]),
    "patterns_source": (c_char_p, [c_void_p]),
    "patterns_layer": (_STATUS, [c_void_p, c_int64, c_void_p]),
    "patterns_check": (_STATUS, [c_void_p, c_int64, c_int64]),
    "patterns_json": (_STATUS, [c_void_p, POINTER(c_char_p)]),
    "patterns_save": (_STATUS, [c_void_p, c_char_p]),
    "prefill": (_STATUS, [c_void_p, POINTER(PrefillArgs), POINTER(Statistics)]),
    "estimate": (_STATUS, [c_void_p, POINTER(EstimateArgs)]),
    "select": (_STATUS, [c_void_p, POINTER(SelectArgs)]),
    "index_vertical_slash": (_STATUS, [POINTER(Tensor), POINTER(Tensor), c_int64, c_int64, c_int32, _HANDLE]),
    "index_create": (_STATUS, [c_void_p, POINTER(IndexArgs), _HANDLE]),
    "index_destroy": (None, [c_void_p]),
    "index_num_heads": (c_int64, [c_void_p]),
    "index_get": (_STATUS, [c_void_p, c_int64, POINTER(IndexHead)]),
    "attention": (_STATUS, [c_void_p, POINTER(AttentionArgs)]),
    "score_patterns": (_STATUS, [c_void_p, POINTER(ScorePatternsArgs), c_void_p]),
    "fit_patterns": (_STATUS, [c_void_p, POINTER(FitArgs), c_void_p]),
}

# minference_status -> exception
_EXCEPTIONS = {
    1: ValueError,
    2: NotImplementedError,
    3: MemoryError,
    4: RuntimeError,
    5: OSError,
    6: RuntimeError,
}


class Library:
    """The loaded library: every function of the header without its prefix, statuses turned into exceptions."""

    def __init__(self, path):
        self.path = path
        self._library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _PROTOTYPES.items():
            try:
                function = getattr(self._library, "minference_" + name)
            except AttributeError:
                raise ImportError(f"{path}: must export minference_{name}, does not") from None
            function.argtypes = arguments
            if result is _STATUS:
                function.restype = c_int32
                function.errcheck = self._check
            else:
                function.restype = result
            setattr(self, name, function)
        if self.abi_version() != ABI_VERSION:
            raise ImportError(f"{path}: ABI version must be {ABI_VERSION}, got {self.abi_version()}")

    def _check(self, status, function, arguments):
        if status != 0:
            raise _EXCEPTIONS.get(status, RuntimeError)(self.last_error().decode(errors="replace"))
        return status


def _candidates():
    override = os.environ.get("MINFERENCE_LIBRARY")
    if override:
        return [Path(override)]
    # An editable install has two folders: the sources', and the one that holds what was built.
    return [Path(folder) / "libminference.so" for folder in sys.modules[__package__].__path__]


@functools.cache
def load() -> Library:
    """Load ``libminference.so``: the path in ``MINFERENCE_LIBRARY``, or the one beside the package.

    Raises
    ------
    ImportError
        If there is none, it cannot be loaded, or its ABI version is not ours.
    """
    candidates = _candidates()
    for path in candidates:
        if path.exists():
            try:
                return Library(path)
            except OSError as error:
                raise ImportError(f"{path}: cannot be loaded: {error}") from error
    places = ", ".join(str(path) for path in candidates)
    raise ImportError(
        f"libminference.so must lie beside the package or be named by MINFERENCE_LIBRARY, looked at {places}"
    )
