"""microsoft/MInference's own vertical-slash prefill of a layer, from a checkout of it.

Its index builder (CUDA, built here on first use) and its Triton kernel are the checkout's files, loaded as they
are; estimation and selection, which there are closures inside a model's forward, follow them operation by operation
in torch: one head at a time, keys and values repeated for the group.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import types

import torch
from torch.utils import cpp_extension

_ESTIMATING_ROWS = 64
_FORCED_COLUMNS, _FORCED_OFFSETS = 30, 100
_LEAST_COLUMNS, _LEAST_OFFSETS = 30, 50


class Upstream:
    def __init__(self, checkout: pathlib.Path):
        sources = [str(checkout / "csrc" / name) for name in ("kernels.cpp", "vertical_slash_index.cu")]
        extension = cpp_extension.load("minference_upstream_index", sources)
        package = types.ModuleType("minference_upstream")
        package.__path__ = [str(checkout / "minference")]
        sys.modules["minference_upstream"] = package
        sys.modules["minference_upstream.cuda"] = extension
        path = checkout / "minference" / "ops" / "pit_sparse_flash_attention_v2.py"
        spec = importlib.util.spec_from_file_location("minference_upstream.ops.vertical_slash", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._attention = module.vertical_slash_sparse_attention

    def prepare(self, query, key, value, out, budgets: list[tuple[int, int]]):
        """A call that fills `out` [1, Hq, N, D]; `budgets`: (vertical, slash) of each query head."""
        group = query.shape[1] // key.shape[1]

        def layer() -> None:
            keys, values = (t.repeat_interleave(group, dim=1) for t in (key, value))
            for h, budget in enumerate(budgets):
                head = slice(h, h + 1)
                out[:, head] = self._head(query[:, head], keys[:, head], values[:, head], *budget)

        return layer

    def _head(self, query, key, value, vertical: int, slash: int):
        num_tokens = query.shape[2]
        rows = min(_ESTIMATING_ROWS, num_tokens)
        scores = torch.einsum("bhmd,bhnd->bhmn", query[:, :, -rows:], key) / query.shape[-1] ** 0.5
        corner = torch.ones(rows, rows, dtype=torch.bool, device=query.device).tril()
        scores[..., -rows:] = torch.where(corner, scores[..., -rows:], -torch.inf)
        weights = scores.softmax(dim=-1, dtype=torch.float32)

        columns = weights.sum(dim=-2)
        columns[..., :_FORCED_COLUMNS] = torch.inf
        columns = columns.topk(min(num_tokens, max(vertical, _LEAST_COLUMNS))).indices

        # Row i of the padded weights, read with a stride one longer than its own, is shifted by i.
        width = num_tokens + 2 * rows
        padded = torch.nn.functional.pad(weights, (rows, rows)).contiguous()
        diagonals = padded.as_strided((1, 1, rows, num_tokens + rows), (1, rows * width, width + 1, 1))
        offsets = diagonals.sum(dim=-2)[..., 1 : num_tokens + 1]
        offsets[..., -_FORCED_OFFSETS:] = torch.inf
        offsets = num_tokens - 1 - offsets.topk(min(num_tokens, max(slash, _LEAST_OFFSETS))).indices
        return self._attention(query, key, value, columns, offsets)
