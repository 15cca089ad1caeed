"""libminference_cuda's layer calls through ctypes, for torch tensors on the GPU."""

from __future__ import annotations

import collections.abc
import ctypes
import dataclasses

import torch
from attention_library import BLOCKS, RELATIVE, DeviceIndex, HeadIndex, Library

from minference._cuda_calls import tensor_of
from minference._cuda_library import Capacity, IndexCall, PrefillCall, VerticalSlashCall
from minference._library import (
    A_SHAPE,
    ADAPTIVE,
    BLOCK_SPARSE,
    DENSE,
    FALLBACK_AUTO,
    FALLBACK_OFF,
    VERTICAL_SLASH,
    HeadPattern,
    Sequence,
    Sized,
    Tensor,
)

__all__ = [
    "ADAPTIVE",
    "A_SHAPE",
    "BLOCK_SPARSE",
    "DENSE",
    "FALLBACK_AUTO",
    "FALLBACK_OFF",
    "VERTICAL_SLASH",
    "HeadPattern",
    "LayerIndex",
    "LayerLibrary",
    "PreparedCall",
    "pattern_of",
]

_ABSENT = Tensor()


def pattern_of(
    pattern: int, first: int = 0, second: int = 0, share_ppm: int = 950000, last_dense_rows: int = 0
) -> HeadPattern:
    return HeadPattern(pattern, (first, second), last_dense_rows, share_ppm)


@dataclasses.dataclass
class LayerIndex:
    """What minference_cuda_index wrote. `sums`: column and diagonal sums [Hq, kv_len] when asked for."""

    device: DeviceIndex
    pairs: torch.Tensor
    offsets: torch.Tensor | None = None
    offset_counts: torch.Tensor | None = None
    sums: tuple[torch.Tensor, torch.Tensor] | None = None

    def heads(self) -> list[HeadIndex]:
        """The index on the host."""
        records = self.device.heads.cpu().tolist()
        tiles, columns = self.device.tiles.cpu(), self.device.columns.cpu()
        dense_rows = [0] * len(records)
        if self.device.last_dense_rows is not None:
            dense_rows = self.device.last_dense_rows.tolist()
        return [
            HeadIndex(
                form,
                tuple(tiles[h, :num_tiles].tolist()) if form == RELATIVE else (),
                tuple(columns[h, :num_columns].tolist()) if form == RELATIVE else (),
                sink,
                local,
                self._blocks(h) if form == BLOCKS else (),
                dense_rows[h],
            )
            for h, (form, num_tiles, num_columns, sink, local) in enumerate(records)
        ]

    def _blocks(self, head: int) -> tuple[tuple[int, ...], ...]:
        offsets = self.device.row_offsets[head].tolist()
        blocks = self.device.key_blocks[head].tolist()
        return tuple(tuple(blocks[begin:end]) for begin, end in zip(offsets, offsets[1:]))

    def members(self, head: int) -> list[int]:
        return self.offsets[head, : int(self.offset_counts[head])].tolist()


class PreparedCall:
    """A call with its workspace: launches on the current stream, and keeps alive what it borrows."""

    def __init__(self, library: LayerLibrary, name: str, call: Sized, kept: list):
        self._library, self._name, self._call, self._kept = library, name, call, kept
        size = ctypes.c_size_t()
        library.run(f"{name}_workspace", ctypes.byref(call), ctypes.byref(size))
        self.workspace = torch.empty(max(size.value, 1), dtype=torch.uint8, device="cuda")
        self.workspace_bytes = size.value
        call.workspace, call.workspace_bytes = self.workspace.data_ptr(), size.value

    def __call__(self) -> None:
        self._call.stream = torch.cuda.current_stream().cuda_stream
        self._library.run(self._name, ctypes.byref(self._call))


class LayerLibrary(Library):
    def run(self, name: str, *arguments) -> None:
        getattr(self.functions, name)(*arguments)

    def prepare_index(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        patterns: collections.abc.Sequence[HeadPattern],
        softmax_scale: float,
        fallback: int = FALLBACK_AUTO,
        causal: bool = True,
        details: bool = False,
        share_index: bool = False,
    ) -> tuple[PreparedCall, LayerIndex]:
        """query [1, Hq, q_len, D], key [1, Hkv, kv_len, D]. `details`: offsets and sums too."""
        num_heads, kv_len = query.shape[1], key.shape[2]
        array = (HeadPattern * num_heads)(*patterns)
        call = IndexCall(
            query=tensor_of(query),
            key=tensor_of(key),
            softmax_scale=softmax_scale,
            fallback=fallback,
            heads=ctypes.addressof(array),
            num_heads=num_heads,
            non_causal=not causal,
            share_index=share_index,
        )
        self.run("index_capacity", ctypes.byref(call), ctypes.byref(call.capacity))

        def lists(capacity: int, fill: int = -(2**31)) -> torch.Tensor:
            return torch.full((num_heads, capacity), fill, dtype=torch.int32, device="cuda")

        index = LayerIndex(
            DeviceIndex(lists(5), lists(call.capacity.tiles), lists(call.capacity.columns)),
            torch.full((num_heads,), -1, dtype=torch.int64, device="cuda"),
        )
        if any(pattern.last_dense_rows > 0 for pattern in patterns):
            index.device.last_dense_rows = lists(1)[:, 0].contiguous()
            call.last_dense_rows = index.device.last_dense_rows.data_ptr()
        top_k = [pattern.size[0] for pattern in patterns if pattern.pattern == BLOCK_SPARSE]
        if top_k:
            row_blocks = -(-query.shape[2] // 64)
            index.device.row_offsets = lists(row_blocks + 1)
            index.device.key_blocks = lists(row_blocks * min(-(-kv_len // 64), max(3, *top_k)))
            call.row_offsets = index.device.row_offsets.data_ptr()
            call.key_blocks = index.device.key_blocks.data_ptr()
            call.block_capacity = index.device.key_blocks.shape[1]
        if details:
            index.offsets, index.offset_counts = lists(kv_len), lists(1, 0)[:, 0].contiguous()
            index.sums = tuple(torch.full((num_heads, kv_len), float("nan"), device="cuda") for _ in range(2))
            call.offsets, call.offset_capacity = index.offsets.data_ptr(), kv_len
            call.offset_counts = index.offset_counts.data_ptr()
            call.column_sums, call.diagonal_sums = (sums.data_ptr() for sums in index.sums)
        call.index_heads = index.device.heads.data_ptr()
        call.tiles, call.columns = index.device.tiles.data_ptr(), index.device.columns.data_ptr()
        call.pairs = index.pairs.data_ptr()
        return PreparedCall(self, "index", call, [query, key, array, index]), index

    def vertical_slash(
        self, columns: list[list[int]], offsets: list[list[int]], q_len: int, kv_len: int
    ) -> LayerIndex:
        def upload(lists: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
            table = torch.full((len(lists), max(map(len, lists))), 2**30, dtype=torch.int32)
            for row, values in zip(table, lists):
                row[: len(values)] = torch.tensor(values, dtype=torch.int32)
            return table.cuda(), torch.tensor([len(values) for values in lists], dtype=torch.int32).cuda()

        num_heads = len(columns)
        (given_columns, column_counts), (given_offsets, offset_counts) = upload(columns), upload(offsets)
        index = LayerIndex(
            DeviceIndex(
                torch.zeros(num_heads, 5, dtype=torch.int32, device="cuda"),
                torch.zeros(num_heads, (kv_len + 63) // 64 + 1, dtype=torch.int32, device="cuda"),
                torch.zeros(num_heads, max(1, given_columns.shape[1]), dtype=torch.int32, device="cuda"),
            ),
            torch.zeros(num_heads, dtype=torch.int64, device="cuda"),
        )
        call = VerticalSlashCall(
            q_len=q_len,
            kv_len=kv_len,
            num_heads=num_heads,
            columns=given_columns.data_ptr(),
            num_columns=column_counts.data_ptr(),
            column_stride=given_columns.shape[1],
            offsets=given_offsets.data_ptr(),
            num_offsets=offset_counts.data_ptr(),
            offset_stride=given_offsets.shape[1],
            capacity=Capacity(index.device.tiles.shape[1], index.device.columns.shape[1]),
            index_heads=index.device.heads.data_ptr(),
            tiles=index.device.tiles.data_ptr(),
            index_columns=index.device.columns.data_ptr(),
            pairs=index.pairs.data_ptr(),
        )
        kept = [given_columns, column_counts, given_offsets, offset_counts, index]
        PreparedCall(self, "vertical_slash", call, kept)()
        torch.cuda.synchronize()
        return index

    def prepare_prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        patterns: collections.abc.Sequence[HeadPattern],
        softmax_scale: float,
        fallback: int = FALLBACK_AUTO,
        causal: bool = True,
        sequences: collections.abc.Sequence[tuple[int, int, int, int, int]] | None = None,
        pairs: torch.Tensor | None = None,
        block_table: torch.Tensor | None = None,
        share_index: bool = False,
    ) -> PreparedCall:
        """query, out [B, Hq, q_len, D], key, value [B, Hkv, kv_len, D], lse [B, Hq, q_len, 1] f32.

        With block_table, int32 [num_sequences, pages], key and value are [num_pages, Hkv, page_size, D].
        """
        array = (HeadPattern * query.shape[1])(*patterns)
        records = None if sequences is None else (Sequence * len(sequences))(*sequences)
        call = PrefillCall(
            query=tensor_of(query),
            key=tensor_of(key),
            value=tensor_of(value),
            out=tensor_of(out),
            lse=_ABSENT if lse is None else tensor_of(lse),
            softmax_scale=softmax_scale,
            fallback=fallback,
            sequences=None if records is None else ctypes.addressof(records),
            num_sequences=0 if records is None else len(records),
            heads=ctypes.addressof(array),
            num_heads=query.shape[1],
            pairs=None if pairs is None else pairs.data_ptr(),
            block_table=None if block_table is None else block_table.data_ptr(),
            block_table_stride=0 if block_table is None else block_table.shape[1],
            non_causal=not causal,
            share_index=share_index,
        )
        kept = [query, key, value, out, lse, array, records, pairs, block_table]
        return PreparedCall(self, "prefill", call, kept)
