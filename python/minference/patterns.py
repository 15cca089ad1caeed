"""Head patterns: what each query head of each layer computes during prefill.

A pattern is five int32, ``(pattern, size0, size1, last_dense_rows, share_ppm)``, the fields of the C ABI's
``minference_head_pattern``. The functions here make one; a layer is an int32 array ``[num_query_heads, 5]``.
"""

from __future__ import annotations

import ctypes
import os

from . import _library
from ._checks import any_array, require_integer, require_name, require_number, require_path


def dense():
    """Every causal pair."""
    return (_library.DENSE, 0, 0, 0, 0)


def a_shape(sink=128, local=3968, last_dense_rows=0):
    """Keys ``k < sink`` and keys with ``0 <= q - k < local``; with `last_dense_rows`, TriShape.

    The defaults are MInference 1.0's (its ``n_init`` and ``n_local``).
    """
    return (_library.A_SHAPE, sink, local, last_dense_rows, 0)


def vertical_slash(vertical=1000, slash=6096, last_dense_rows=0):
    """The best `vertical` columns and `slash` diagonals by the last 64 queries, chosen as in MInference 1.0.

    The defaults are what MInference 1.0 gives to heads that its files leave out.
    """
    return (_library.VERTICAL_SLASH, vertical, slash, last_dense_rows, 0)


def block_sparse(top_k, last_dense_rows=0):
    """The best `top_k` blocks of 64 keys for every 64 query rows, by mean-pooled scores."""
    return (_library.BLOCK_SPARSE, top_k, 0, last_dense_rows, 0)


def adaptive(share=0.95, last_dense_rows=0):
    """Vertical-slash with the cheapest members that keep `share`, from 1e-6 to 1, of the estimated mass."""
    share = require_number(share, "share", "at least 1e-6 and at most 1", lambda x: 1e-6 <= x <= 1)
    return (_library.ADAPTIVE, 0, 0, last_dense_rows, round(share * 1_000_000))


def _require_int32(array, name):
    import numpy

    limits = numpy.iinfo(numpy.int32)
    if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
        raise ValueError(f"{name} must fit int32, got values from {array.min()} to {array.max()}")


def layer_array(heads, num_query_heads):
    """An int32 NumPy array ``[num_query_heads, 5]`` from one pattern for all heads, or from one for each."""
    import numpy

    array = any_array(heads)
    if array.dtype.kind not in "iu" or array.shape not in ((5,), (num_query_heads, 5)):
        raise ValueError(
            "heads must be one pattern of 5 integers or an integer array [num_query_heads, 5] = "
            f"[{num_query_heads}, 5], "
            f"got shape {list(array.shape)} of {array.dtype}"
        )
    _require_int32(array, "heads")
    return numpy.ascontiguousarray(numpy.broadcast_to(array, (num_query_heads, 5)), dtype=numpy.int32)


class HeadPatterns:
    """The patterns of all heads of a model, read, checked and written by the library. Immutable.

    Made by `load`, `parse`, `builtin` or `from_array`.
    """

    def __init__(self, handle):
        self._handle = handle

    def __del__(self):
        if getattr(self, "_handle", None):
            _library.load().patterns_destroy(self._handle)

    # Nothing changes it, and one object alone may give the handle back.
    def __copy__(self):
        return self

    def __deepcopy__(self, _memo):
        return self

    def __reduce__(self):
        return HeadPatterns.parse, (self.json(),)

    @classmethod
    def load(cls, path):
        """Read a file: this project's JSON, or MInference 1.0's.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it breaks a rule of the format; the message says what and where.
        """
        handle = ctypes.c_void_p()
        path = os.fsencode(require_path(path, "path"))
        _library.load().patterns_load(path, ctypes.byref(handle))
        return cls(handle)

    @classmethod
    def parse(cls, text, name="<memory>"):
        """The same from a string; `name` begins the messages."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        handle = ctypes.c_void_p()
        data = text.encode()
        _library.load().patterns_parse(data, len(data), name.encode(), ctypes.byref(handle))
        return cls(handle)

    @classmethod
    def builtin(cls, model):
        """The set that comes with the library for a hub id; `get_support_models` lists them."""
        handle = ctypes.c_void_p()
        _library.load().patterns_builtin(require_name(model, "model").encode(), ctypes.byref(handle))
        return cls(handle)

    @classmethod
    def from_array(cls, layers, source=""):
        """From an integer array ``[num_layers, num_query_heads, 5]``; `source` says where it comes from."""
        import numpy

        array = any_array(layers)
        if array.ndim != 3 or array.shape[2] != 5 or array.dtype.kind not in "iu":
            raise ValueError(
                "layers must be integers of shape [num_layers, num_query_heads, 5], "
                f"got {list(array.shape)} of {array.dtype}"
            )
        _require_int32(array, "layers")
        array = numpy.ascontiguousarray(array, dtype=numpy.int32)
        handle = ctypes.c_void_p()
        _library.load().patterns_create(
            array.shape[0], array.shape[1], array.ctypes.data, source.encode(), ctypes.byref(handle)
        )
        return cls(handle)

    @property
    def num_layers(self):
        return _library.load().patterns_num_layers(self._handle)

    @property
    def num_query_heads(self):
        return _library.load().patterns_num_query_heads(self._handle)

    @property
    def source(self):
        """Where the patterns come from, in words."""
        return _library.load().patterns_source(self._handle).decode()

    def layer(self, layer):
        """The patterns of one layer: an int32 array ``[num_query_heads, 5]``."""
        import numpy

        heads = numpy.empty((self.num_query_heads, 5), dtype=numpy.int32)
        layer = require_integer(layer, "layer", end=self.num_layers)
        _library.load().patterns_layer(self._handle, layer, heads.ctypes.data)
        return heads

    def check(self, num_layers, num_query_heads):
        """Raise ValueError, naming both counts, unless the set is for exactly these."""
        _library.load().patterns_check(self._handle, num_layers, num_query_heads)

    def json(self):
        """The set in this project's JSON format."""
        text = ctypes.c_char_p()
        _library.load().patterns_json(self._handle, ctypes.byref(text))
        return text.value.decode()

    def save(self, path):
        """Write `json` to a file, in one step: readers see the old file or the new one."""
        _library.load().patterns_save(self._handle, os.fsencode(path))


def get_support_models():
    """Hub ids of the models whose head patterns come with the library, sorted."""
    library = _library.load()
    return [library.builtin_model(i).decode() for i in range(library.builtin_count())]
