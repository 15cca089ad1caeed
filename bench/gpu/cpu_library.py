"""What the CPU library selects and indexes, to hold against the GPU's."""

from __future__ import annotations

import ctypes
import os

import numpy
import torch
from layer_library import FALLBACK_OFF, HeadPattern


class CpuLibrary:
    """The CPU library's selection and index."""

    def __init__(self, path: str):
        os.environ["MINFERENCE_LIBRARY"] = path
        from minference import _calls, _context, _library

        self._calls, self._context, self._library = _calls, _context, _library

    def select(self, column_sums, diagonal_sums, patterns: list[HeadPattern]) -> tuple[list, list]:
        array = (HeadPattern * len(patterns))(*patterns)
        heads = numpy.frombuffer(array, numpy.int32).reshape(-1, 5)
        return self._calls.select(column_sums.cpu().numpy(), diagonal_sums.cpu().numpy(), heads)

    def index(self, columns: list[int], offsets: list[int], q_len: int, kv_len: int) -> tuple:
        """Tiles, columns and pairs of one head."""

        def members(values: list[int]) -> numpy.ndarray:
            return numpy.asarray(values, dtype=numpy.int32).reshape(1, 1, 1, -1)

        arrays = self._calls.arrays_of(members(columns))
        index = self._calls.Index(members(columns), members(offsets), q_len, kv_len, True, arrays)
        head = self._library.IndexHead()
        self._library.load().index_get(index.handle, 0, ctypes.byref(head))
        tiles = tuple(head.tiles[i] for i in range(head.num_tiles))
        return tiles, tuple(head.columns[i] for i in range(head.num_columns)), head.pairs

    def blocks(
        self, query: torch.Tensor, key: torch.Tensor, patterns: list[HeadPattern], share_index: bool
    ) -> list[tuple]:
        """Key blocks of each row block and pairs of block-sparse heads; query [1, H, ..], key [1, Hkv, ..]."""
        library, tensors = self._library, [x.cpu().contiguous() for x in (query, key)]
        dtype = {torch.float16: library.F16, torch.bfloat16: library.BF16}[query.dtype]
        array = (HeadPattern * len(patterns))(*patterns)
        arguments = library.IndexArgs(
            **{
                name: library.Tensor(x.data_ptr(), x.shape, x.stride(), dtype, 0)
                for name, x in zip(("query", "key"), tensors)
            },
            heads=ctypes.addressof(array),
            num_heads=len(patterns),
            fallback=FALLBACK_OFF,
            share_index=share_index,
        )
        handle, functions = ctypes.c_void_p(), library.load()
        functions.index_create(self._context.current(), arguments, ctypes.byref(handle))
        listed = []
        for h in range(len(patterns)):
            head = library.IndexHead()
            functions.index_get(handle, h, ctypes.byref(head))
            offsets = [head.row_offsets[i] for i in range(head.num_row_offsets)]
            blocks = tuple(tuple(head.key_blocks[begin:end]) for begin, end in zip(offsets, offsets[1:]))
            listed.append((blocks, head.pairs))
        functions.index_destroy(handle)
        return listed
