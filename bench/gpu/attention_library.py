"""libminference_cuda's attention call through ctypes, and its index on host and GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import pathlib
import sys

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "python"))
from minference._cuda_calls import tensor_of  # noqa: E402
from minference._cuda_library import (  # noqa: E402
    ALL,
    BEST,
    BLOCKS,
    RELATIVE,
    SM80,
    SM90,
    WINDOW,
    AttentionCall,
    Capacity,
    open_library,
)

__all__ = ["ALL", "BLOCKS", "RELATIVE", "WINDOW", "DeviceIndex", "HeadIndex", "Library"]

KERNELS = {"best": BEST, "sm90": SM90, "sm80": SM80}


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
        self.functions = open_library(path)
        self._workspace = torch.empty(0, dtype=torch.uint8, device="cuda")

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
        call = AttentionCall(
            query=tensor_of(query),
            key=tensor_of(key),
            value=tensor_of(value),
            out=tensor_of(out),
            lse=tensor_of(lse),
            softmax_scale=softmax_scale,
            capacity=Capacity(index.tiles.shape[1], index.columns.shape[1]),
            heads=_address(index.heads),
            tiles=index.tiles.data_ptr(),
            columns=index.columns.data_ptr(),
            stream=torch.cuda.current_stream().cuda_stream,
            non_causal=not causal,
            kernel=KERNELS[kernel],
            row_offsets=_address(index.row_offsets),
            key_blocks=_address(index.key_blocks),
            block_capacity=0 if index.key_blocks is None else index.key_blocks.shape[1],
            last_dense_rows=_address(index.last_dense_rows),
        )
        size = ctypes.c_size_t()
        self.functions.attention_workspace(ctypes.byref(call), ctypes.byref(size))
        if self._workspace.numel() < size.value:
            self._workspace = torch.empty(size.value, dtype=torch.uint8, device="cuda")
        call.workspace, call.workspace_bytes = self._workspace.data_ptr(), self._workspace.numel()
        self.functions.attention(ctypes.byref(call))
