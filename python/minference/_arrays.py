"""NumPy arrays and torch CPU tensors as the C ABI's tensors."""

from __future__ import annotations

import sys

from . import _library
from ._checks import any_array


class NumpyArrays:
    """How to describe and make NumPy arrays."""

    def __init__(self, numpy):
        self._numpy = numpy
        self._dtypes = {
            numpy.dtype(numpy.float32): _library.F32,
            numpy.dtype(numpy.float16): _library.F16,
        }
        self._member_dtypes = {
            numpy.dtype(numpy.int32): _library.I32,
            numpy.dtype(numpy.int64): _library.I64,
        }

    def describe(self, array, name, of_members=False):
        """The array, copied if the ABI cannot express its memory, and its minference_tensor.

        It holds floats, or with `of_members` what `members` returns.
        """
        numpy = self._numpy
        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"{name} must be a NumPy array as query is, got {type(array).__name__}")
        dtype = (self._member_dtypes if of_members else self._dtypes).get(array.dtype)
        if dtype is None:
            raise ValueError(f"{name} must have dtype float32 or float16, got {array.dtype}")
        require_four_dimensions(array.ndim, name, array.shape)
        size = array.itemsize
        ordinary = array.flags.aligned and all(stride >= 0 and stride % size == 0 for stride in array.strides)
        if not ordinary or array.strides[3] != size:
            array = array.copy(order="C")
        strides = tuple(stride // size for stride in array.strides)
        return array, _library.Tensor(array.__array_interface__["data"][0], array.shape, strides, dtype, 0)

    def written(self, array, name):
        """The minference_tensor of an array that the library writes; its memory must be expressible."""
        return _in_place(self, array, name)

    def empty(self, shape, like):
        return self._numpy.empty(shape, dtype=like.dtype)

    def empty_f32(self, shape):
        return self._numpy.empty(shape, dtype=self._numpy.float32)

    def members(self, array, name):
        """An integer array as int32 or int64, contiguous."""
        numpy = self._numpy
        array = any_array(array)
        if array.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold integers, rows of one length, got {array.dtype}")
        if array.dtype.kind == "u" and array.size and array.max() > numpy.iinfo(numpy.int64).max:
            raise ValueError(f"{name} must fit int64, got {array.max()}")
        return numpy.ascontiguousarray(
            array, dtype=numpy.int32 if array.dtype == numpy.int32 else numpy.int64
        )

    @staticmethod
    def address(array):
        return array.__array_interface__["data"][0]


class TorchArrays:
    """The same for torch CPU tensors."""

    def __init__(self, torch):
        self._torch = torch
        self._dtypes = {
            torch.float32: _library.F32,
            torch.float16: _library.F16,
            torch.bfloat16: _library.BF16,
        }
        self._member_dtypes = {torch.int32: _library.I32, torch.int64: _library.I64}

    def describe(self, array, name, of_members=False):
        if not isinstance(array, self._torch.Tensor):
            raise TypeError(f"{name} must be a torch tensor as query is, got {type(array).__name__}")
        dtype = (self._member_dtypes if of_members else self._dtypes).get(array.dtype)
        if dtype is None:
            raise ValueError(f"{name} must have dtype float32, float16 or bfloat16, got {array.dtype}")
        if not array.is_cpu:
            raise NotImplementedError(f"{name} must be on the CPU, got {array.device}")
        shape = array.shape
        require_four_dimensions(len(shape), name, shape)
        if array.stride(3) != 1:
            array = array.contiguous()
        return array, _library.Tensor(array.data_ptr(), shape, array.stride(), dtype, 0)

    def written(self, array, name):
        return _in_place(self, array, name)

    def empty(self, shape, like):
        return self._torch.empty(shape, dtype=like.dtype, device="cpu")

    def empty_f32(self, shape):
        return self._torch.empty(shape, dtype=self._torch.float32, device="cpu")

    def members(self, array, name):
        torch = self._torch
        if not isinstance(array, torch.Tensor):
            import numpy

            array = torch.from_numpy(_adapter(numpy, NumpyArrays).members(array, name))
        if array.is_floating_point() or array.is_complex() or array.dtype == torch.bool:
            raise ValueError(f"{name} must hold integers, got {array.dtype}")
        if not (array.is_cpu or array.is_cuda):
            raise NotImplementedError(f"{name} must be on the CPU or a CUDA device, got {array.device}")
        return array.to(torch.int32 if array.dtype == torch.int32 else torch.int64).contiguous()

    @staticmethod
    def address(array):
        return array.data_ptr()


def _in_place(arrays, array, name):
    described, tensor = arrays.describe(array, name)
    if described is not array and 0 not in array.shape:
        raise ValueError(f"{name} must have a contiguous last dimension and aligned elements, to be written")
    return tensor


_adapters = {}


def _adapter(module, make):
    if module.__name__ not in _adapters:
        _adapters[module.__name__] = make(module)
    return _adapters[module.__name__]


def arrays_of(query, name="query"):
    """The adapter for the library that `query` comes from, without importing the other one."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(query, torch.Tensor):
        return _adapter(torch, TorchArrays)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(query, numpy.ndarray):
        return _adapter(numpy, NumpyArrays)
    raise TypeError(f"{name} must be a torch tensor or a NumPy array, got {type(query).__name__}")


def on_cuda(array):
    """Whether an array is a torch tensor in the memory of a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor) and array.is_cuda


def is_traced():
    """Whether torch records what happens now, or transforms it: no value may be looked at, no memory be kept."""
    torch = sys.modules["torch"]
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    )


def require_four_dimensions(ndim, name, shape):
    if ndim != 4:
        raise ValueError(f"{name} must have 4 dimensions [batch, heads, length, head_dim], got {list(shape)}")
