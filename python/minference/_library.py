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


class Sized(Structure):
    """A struct that begins with its own size, as the ABI asks."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class ContextOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("num_threads", c_int32),
        ("num_cpus", c_int32),
        ("cpus", POINTER(c_int32)),
        ("isa", c_char_p),
        ("parallel_for", c_void_p),
        ("parallel_for_state", c_void_p),
    ]


class Statistics(Sized):
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


class PrefillArgs(Sized):
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
        ("share_index", c_int32),
    ]


class EstimateArgs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("column_sums", Tensor),
        ("diagonal_sums", Tensor),
        ("softmax_scale", c_float),
    ]


class SelectArgs(Sized):
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


class IndexArgs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("softmax_scale", c_float),
        ("non_causal", c_int32),
        ("heads", c_void_p),
        ("num_heads", c_int64),
        ("fallback", c_int32),
        ("share_index", c_int32),
    ]


class IndexHead(Sized):
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


class AttentionArgs(Sized):
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


class GatherArgs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("pages", Tensor),
        ("token_offsets", c_void_p),
        ("page_size", c_int64),
        ("dim_offsets", c_void_p),
        ("table", c_void_p),
        ("table_size", c_int64),
        ("out", Tensor),
    ]


class ScorePatternsArgs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("softmax_scale", c_float),
        ("candidates", c_void_p),
        ("num_candidates", c_int64),
    ]


class FitArgs(Sized):
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


HANDLE = POINTER(c_void_p)

# The result of a function that can fail: a minference_status, which `Library` turns into an exception.
STATUS = "status"

# name: (result, arguments)
_PROTOTYPES = {
    "version": (c_char_p, []),
    "abi_version": (c_uint32, []),
    "last_status": (c_int32, []),
    "last_error": (c_char_p, []),
    "context_create": (STATUS, [POINTER(ContextOptions), HANDLE]),
    "context_destroy": (None, [c_void_p]),
    "context_num_threads": (c_int32, [c_void_p]),
    "context_isa": (c_char_p, [c_void_p]),
    "openmp_parallel_for": (None, [c_void_p, c_int64, c_void_p, c_void_p]),
    "kernel_name": (c_char_p, [c_char_p, c_char_p, c_int32, c_int64]),
    "patterns_load": (STATUS, [c_char_p, HANDLE]),
    "patterns_parse": (STATUS, [c_char_p, c_size_t, c_char_p, HANDLE]),
    "patterns_builtin": (STATUS, [c_char_p, HANDLE]),
    "patterns_create": (STATUS, [c_int64, c_int64, c_void_p, c_char_p, HANDLE]),
    "patterns_destroy": (None, [c_void_p]),
    "builtin_count": (c_int64, []),
    "builtin_model": (c_char_p, [c_int64]),
    "patterns_num_layers": (c_int64, [c_void_p]),
    "patterns_num_query_heads": (c_int64, [c_void_p]),
    "patterns_source": (c_char_p, [c_void_p]),
    "patterns_layer": (STATUS, [c_void_p, c_int64, c_void_p]),
    "patterns_check": (STATUS, [c_void_p, c_int64, c_int64]),
    "patterns_json": (STATUS, [c_void_p, POINTER(c_char_p)]),
    "patterns_save": (STATUS, [c_void_p, c_char_p]),
    "prefill": (STATUS, [c_void_p, POINTER(PrefillArgs), POINTER(Statistics)]),
    "estimate": (STATUS, [c_void_p, POINTER(EstimateArgs)]),
    "select": (STATUS, [c_void_p, POINTER(SelectArgs)]),
    "index_vertical_slash": (STATUS, [POINTER(Tensor), POINTER(Tensor), c_int64, c_int64, c_int32, HANDLE]),
    "index_create": (STATUS, [c_void_p, POINTER(IndexArgs), HANDLE]),
    "index_destroy": (None, [c_void_p]),
    "index_num_heads": (c_int64, [c_void_p]),
    "index_get": (STATUS, [c_void_p, c_int64, POINTER(IndexHead)]),
    "attention": (STATUS, [c_void_p, POINTER(AttentionArgs)]),
    "gather": (STATUS, [c_void_p, POINTER(GatherArgs)]),
    "score_patterns": (STATUS, [c_void_p, POINTER(ScorePatternsArgs), c_void_p]),
    "fit_patterns": (STATUS, [c_void_p, POINTER(FitArgs), c_void_p]),
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


class Functions:
    """A loaded library's functions without their prefix, statuses turned into exceptions.

    `prototypes` is {name: (result, arguments)}, and has last_error.
    """

    def __init__(self, path, prefix, prototypes):
        self.path = path
        self._library = ctypes.CDLL(str(path))
        for name, (result, arguments) in prototypes.items():
            try:
                function = getattr(self._library, prefix + name)
            except AttributeError:
                raise ImportError(f"{path}: must export {prefix}{name}, does not") from None
            function.argtypes = arguments
            if result is STATUS:
                function.restype = c_int32
                function.errcheck = self._check
            else:
                function.restype = result
            setattr(self, name, function)

    def _check(self, status, function, arguments):
        if status != 0:
            raise _EXCEPTIONS.get(status, RuntimeError)(self.last_error().decode(errors="replace"))
        return status


class Library(Functions):
    """libminference: every function of minference.h."""

    def __init__(self, path):
        super().__init__(path, "minference_", _PROTOTYPES)
        if self.abi_version() != ABI_VERSION:
            raise ImportError(f"{path}: ABI version must be {ABI_VERSION}, got {self.abi_version()}")


def load_named(make, file_name, variable):
    """`make` of the path in environment variable `variable`, or of the file beside the package.

    Raises
    ------
    ImportError
        If there is none, it cannot be loaded, or `make` refuses it.
    """
    override = os.environ.get(variable)
    # An editable install has two folders: the sources', and the one that holds what was built.
    folders = sys.modules[__package__].__path__
    candidates = [Path(override)] if override else [Path(folder) / file_name for folder in folders]
    for path in candidates:
        if path.exists():
            try:
                return make(path)
            except OSError as error:
                raise ImportError(f"{path}: cannot be loaded: {error}") from error
    places = ", ".join(str(path) for path in candidates)
    raise ImportError(
        f"{file_name} must lie beside the package or be named by {variable}, looked at {places}"
    )


@functools.cache
def load() -> Library:
    """Load ``libminference.so``, whose ABI version must be ours, as `load_named` says."""
    return load_named(Library, "libminference.so", "MINFERENCE_LIBRARY")
