"""libminference_cuda through ctypes, for torch tensors on the GPU."""

from __future__ import annotations

import ctypes
import dataclasses

import torch

ALL, RELATIVE, WINDOW = 0, 1, 2
_DTYPES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
        ("device", ctypes.c_int32),
    ]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Tensor:
        sizes = ctypes.c_int64 * 4
        return cls(tensor.data_ptr(), sizes(*tensor.shape), sizes(*tensor.stride()), _DTYPES[tensor.dtype], 1)


class _Call(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("query", _Tensor),
        ("key", _Tensor),
        ("value", _Tensor),
        ("out", _Tensor),
        ("lse", _Tensor),
        ("softmax_scale", ctypes.c_float),
        ("tile_capacity", ctypes.c_int32),
        ("column_capacity", ctypes.c_int32),
        ("heads", ctypes.c_void_p),
        ("tiles", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
    ]


@dataclasses.dataclass
class HeadIndex:
    """Which pairs one query head computes, on the host."""

    form: int = ALL
    tiles: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    sink: int = 0
    local: int = 0


@dataclasses.dataclass
class DeviceIndex:
    """heads [H, 5], tiles [H, tile_capacity] and columns [H, column_capacity], int32 on the GPU.

    heads None: every head computes all pairs.
    """

    heads: torch.Tensor | None
    tiles: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def dense(cls) -> DeviceIndex:
        return cls(None, torch.empty(0, 0), torch.empty(0, 0))

    @classmethod
    def upload(cls, heads: list[HeadIndex]) -> DeviceIndex:
        def rows(lists: list[tuple[int, ...]]) -> torch.Tensor:
            table = torch.zeros(len(lists), max(map(len, lists)), dtype=torch.int32)
            for row, values in zip(table, lists):
                row[: len(values)] = torch.tensor(values, dtype=torch.int32)
            return table.cuda()

        records = [[h.form, len(h.tiles), len(h.columns), h.sink, h.local] for h in heads]
        return cls(
            torch.tensor(records, dtype=torch.int32).cuda(),
            rows([h.tiles for h in heads]),
            rows([h.columns for h in heads]),
        )


class Library:
    def __init__(self, path: str):
        self._library = ctypes.CDLL(path)
        self._library.minference_cuda_last_error.restype = ctypes.c_char_p
        self._workspace = torch.empty(0, dtype=torch.uint8, device="cuda")

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(self._library.minference_cuda_last_error().decode())

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        index: DeviceIndex,
        out: torch.Tensor,
        lse: torch.Tensor,
        softmax_scale: float,
    ) -> None:
        """query, out [1, Hq, q_len, D]; key, value [1, Hkv, kv_len, D]; lse [1, Hq, q_len, 1] f32."""
        call = _Call(
            ctypes.sizeof(_Call),
            _Tensor.of(query),
            _Tensor.of(key),
            _Tensor.of(value),
            _Tensor.of(out),
            _Tensor.of(lse),
            softmax_scale,
            index.tiles.shape[1],
            index.columns.shape[1],
            None if index.heads is None else index.heads.data_ptr(),
            index.tiles.data_ptr(),
            index.columns.data_ptr(),
            None,
            0,
            torch.cuda.current_stream().cuda_stream,
        )
        size = ctypes.c_size_t()
        self._check(self._library.minference_cuda_attention_workspace(ctypes.byref(call), ctypes.byref(size)))
        if self._workspace.numel() < size.value:
            self._workspace = torch.empty(size.value, dtype=torch.uint8, device="cuda")
        call.workspace, call.workspace_bytes = self._workspace.data_ptr(), self._workspace.numel()
        self._check(self._library.minference_cuda_attention(ctypes.byref(call)))
