"""The attention that a model is evaluated with: a method, and how far its budget is scaled down."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from .. import _calls, _library, patterns
from .._arrays import arrays_of
from ..config import DEFAULT_SHARE, MInferenceConfig
from ..patch import minference_patch, plans_of, require_whole, restore, text_config

METHODS = {
    "dense": "this library's dense attention; what others are compared with",
    "sdpa": "PyTorch's dense attention",
    "minference": "the head patterns of the model's file or of --patterns (adaptive ones without a file)",
    "adaptive": "95 % of the estimated mass",
    "a_shape": "the first 128 keys and a window of 3968",
    "tri_shape": "the same with the last 100 rows dense",
    "static": "minference's patterns, their members chosen on another prompt and kept",
    "vertical_only": "minference's columns with the 50 nearest diagonals",
    "slash_only": "minference's diagonals with the first 30 columns",
    "block_sparse": "100 blocks of 64 keys for every 64 rows",
}
# MInference 1.0's sizes: its top-k of block-sparse, and the least that its selection keeps (kernels/select/select.h).
_TOP_K, _LEAST_VERTICAL, _LEAST_SLASH = 100, 30, 50


@dataclass(frozen=True)
class Setting:
    """method: of `METHODS`. scale: multiplies budgets; 1 is the method as published."""

    method: str
    scale: float = 1.0

    @staticmethod
    def parse(text: str) -> Setting:
        """ "minference" or "minference@0.25". Raises ValueError."""
        method, _, scale = text.partition("@")
        if method not in METHODS:
            raise ValueError(f"attention must be one of {', '.join(METHODS)}, got {method!r}")
        try:
            number = float(scale) if scale else 1.0
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            raise ValueError(f"the scale after @ must be a number above 0, got {scale!r}")
        if number != 1 and method in ("dense", "sdpa"):
            raise ValueError(f"{method} has no budget to scale, got {text!r}")
        return Setting(method, number)

    def __str__(self) -> str:
        return self.method if self.scale == 1 else f"{self.method}@{self.scale:g}"


def _scaled(heads: np.ndarray, scale: float) -> np.ndarray:
    """The patterns with budgets multiplied. An A-shape keeps its sink; an adaptive head may lose 1 / scale of what it
    may lose."""
    scaled = heads.copy()
    for head in scaled:
        kind = head[0]
        if kind == _library.VERTICAL_SLASH:
            head[1:3] = head[1:3] * scale
        elif kind == _library.A_SHAPE:
            head[2] = max(head[2] * scale, 1)
        elif kind == _library.BLOCK_SPARSE:
            head[1] = max(head[1] * scale, 1)
        elif kind == _library.ADAPTIVE:
            head[4] = max(1_000_000 - (1_000_000 - head[4]) / scale, 1)
    return scaled


class Methods:
    """Patches one model with one setting after the other.

    pattern_file: for minference, static, vertical_only and slash_only; the model's own when left out.
    """

    def __init__(self, model, pattern_file: str | os.PathLike | None = None):
        require_whole(model, "an evaluation")
        self._model = model
        text, _ = text_config(model)
        self._num_layers, self._num_heads = text.num_hidden_layers, text.num_attention_heads
        config = MInferenceConfig(config_path=pattern_file)
        own_name = getattr(model.config, "_name_or_path", "") or ""
        self._published = config.layers(self._num_layers, self._num_heads, own_name)
        self._static_members: dict[tuple, dict[int, list]] = {}

    def require(self, setting: Setting) -> None:
        """Refuse what the model's patterns have no meaning for."""
        vertical_slash = [heads[:, 0] == _library.VERTICAL_SLASH for heads in self._published]
        if setting.method in ("vertical_only", "slash_only") and not any(x.any() for x in vertical_slash):
            raise ValueError(
                f"{setting.method} needs head patterns with vertical-slash budgets: give --patterns FILE"
            )
        with_members = (_library.VERTICAL_SLASH, _library.A_SHAPE)
        if setting.method == "static" and not all(
            np.isin(heads[:, 0], with_members).all() for heads in self._published
        ):
            raise ValueError(
                "static needs head patterns that are all vertical-slash or A-shape, got others: leave it out, or give "
                "--patterns FILE"
            )

    def apply(self, setting: Setting) -> None:
        """Patch the model, replacing an earlier patch."""
        if setting.method == "sdpa":
            restore(self._model)
            return
        import torch

        if not plans_of(self._model):
            minference_patch(self._model, MInferenceConfig("dense"))
        for plan, heads in zip(plans_of(self._model).values(), self._layers(setting.method)):
            plan.heads = torch.from_numpy(_scaled(heads, setting.scale))
            plan.static = False

    def _layers(self, method: str) -> list[np.ndarray]:
        if method in ("minference", "static"):
            return self._published
        if method in ("vertical_only", "slash_only"):
            return [self._only(heads, method == "vertical_only") for heads in self._published]
        everywhere = {
            "dense": patterns.dense,
            "adaptive": lambda: patterns.adaptive(DEFAULT_SHARE),
            "a_shape": patterns.a_shape,
            "tri_shape": lambda: patterns.a_shape(last_dense_rows=100),
            "block_sparse": lambda: patterns.block_sparse(_TOP_K),
        }[method]()
        return [patterns.layer_array(everywhere, self._num_heads) for _ in range(self._num_layers)]

    @staticmethod
    def _only(heads: np.ndarray, vertical: bool) -> np.ndarray:
        kept = heads.copy()
        chosen = kept[:, 0] == _library.VERTICAL_SLASH
        if vertical:
            kept[chosen, 2] = _LEAST_SLASH
        else:
            kept[chosen, 1] = _LEAST_VERTICAL
        return kept

    def keep_members(self, setting: Setting, of: tuple, run) -> list | None:
        """Make a patched model static: what `run()` chooses, once for each `of`, stays chosen.

        Returns these members by layer, for `density_of_members`, since `minference.record` does not look at static heads;
        None for other methods.
        """
        if setting.method != "static":
            return None
        plans = plans_of(self._model).values()
        for plan in plans:
            plan.static, plan.members = True, None
        key = (str(setting), *of)
        if key not in self._static_members:
            run()
            self._static_members[key] = {plan.layer: plan.members for plan in plans}
        for plan in plans:
            plan.members = self._static_members[key][plan.layer]
        return [plan.members for plan in plans]


def density_of_members(members: list, q_len: int) -> float:
    """Mean density of heads that compute given columns and offsets, ([Hq, n], [Hq, m]) a layer, over a prompt of `q_len`
    tokens."""
    import ctypes

    import torch

    densities = []
    for columns, offsets in members:
        # As the backend does: members beyond the prompt become the first key and the diagonal.
        inside = [torch.where(kept < q_len, kept, 0)[None, :, None] for kept in (columns, offsets)]
        index = _calls.Index(*inside, q_len, q_len, True, arrays_of(columns))
        for head in range(columns.shape[0]):
            counted = _library.IndexHead()
            _library.load().index_get(index.handle, head, ctypes.byref(counted))
            densities.append(counted.pairs / counted.all_pairs)
    return sum(densities) / len(densities)
