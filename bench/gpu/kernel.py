"""libminference_cuda through ctypes, for torch tensors on the GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools

import torch

ALL, RELATIVE, WINDOW, BLOCKS = 0, 1, 2, 3
KERNELS = {"best": 0, "sm90": 1, "sm80": 2}
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
        ("non_causal", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("row_offsets", ctypes.c_void_p),
        ("key_blocks", ctypes.c_void_p),
        ("block_capacity", ctypes.c_int32),
        ("last_dense_rows", ctypes.c_void_p),
    ]


@dataclasses.dataclass
class HeadIndex:
    """Which pairs one query head computes, on the host."""

    form: int = ALL
    tiles: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    sink: int = 0
    local: int = 0
    blocks: tuple[tuple[int, ...], ...] = ()  # key blocks of each row block, ascending
    last_dense_rows: int = 0


@dataclasses.dataclass
class DeviceIndex:
    """What minference_cuda_attention takes, int32 on the GPU.

    heads [H, 5], tiles [H, tile_capacity], columns [H, column_capacity]. heads None: every head computes all
    pairs. row_offsets [H, row blocks + 1], key_blocks [H, block_capacity] and last_dense_rows [H] may be None.
    """

    heads: torch.Tensor | None
    tiles: torch.Tensor
    columns: torch.Tensor
    row_offsets: torch.Tensor | None = None
    key_blocks: torch.Tensor | None = None
    last_dense_rows: torch.Tensor | None = None

    @classmethod
    def dense(cls) -> DeviceIndex:
        return cls(None, torch.empty(0, 0), torch.empty(0, 0))

    @classmethod
    def upload(cls, heads: list[HeadIndex]) -> DeviceIndex:
        records = [[h.form, len(h.tiles), len(h.columns), h.sink, h.local] for h in heads]
        index = cls(
            torch.tensor(records, dtype=torch.int32).cuda(),
            _table([h.tiles for h in heads]),
            _table([h.columns for h in heads]),
        )
        if any(h.form == BLOCKS for h in heads):
            counts = [[0, *itertools.accumulate(map(len, h.blocks))] for h in heads]
            index.row_offsets = _table(counts)
            index.key_blocks = _table([tuple(itertools.chain(*h.blocks)) for h in heads])
        if any(h.last_dense_rows for h in heads):
            index.last_dense_rows = torch.tensor([h.last_dense_rows for h in heads], dtype=torch.int32).cuda()
        return index


def _table(rows: list) -> torch.Tensor:
    """int32 rows of different lengths on the GPU, padded with zeros."""
    table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int32)
    for row, values in zip(table, rows):
        row[: len(values)] = torch.tensor(values, dtype=torch.int32)
    return table.cuda()


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


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
        causal: bool = True,
        kernel: str = "best",
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
            _address(index.heads),
            index.tiles.data_ptr(),
            index.columns.data_ptr(),
            None,
            0,
            torch.cuda.current_stream().cuda_stream,
            not causal,
            KERNELS[kernel],
            _address(index.row_offsets),
            _address(index.key_blocks),
            0 if index.key_blocks is None else index.key_blocks.shape[1],
            _address(index.last_dense_rows),
        )
        size = ctypes.c_size_t()
        self._check(self._library.minference_cuda_attention_workspace(ctypes.byref(call), ctypes.byref(size)))
        if self._workspace.numel() < size.value:
            self._workspace = torch.empty(size.value, dtype=torch.uint8, device="cuda")
        call.workspace, call.workspace_bytes = self._workspace.data_ptr(), self._workspace.numel()
        self._check(self._library.minference_cuda_attention(ctypes.byref(call)))
