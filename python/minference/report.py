"""What each layer of a patched model computed: densities, kept attention mass, times."""

from __future__ import annotations

import time

import numpy as np
import torch

from . import _calls, _library, patterns

# Rows that kept_mass_last is about: as many as estimation looks at.
_LAST_ROWS = 64


def _causal_pairs(q_len, kv_len):
    return q_len * (kv_len - q_len) + q_len * (q_len + 1) // 2


class LayerReport:
    """One layer, over all of its calls that the library took.

    A tensor-parallel rank of a transformers model reports its own query heads.

    Attributes
    ----------
    layer : int
    calls : int
    seconds : float
        Time in the library, without what recording added.
    density : numpy.ndarray
        ``[num_query_heads]``: pairs computed over causal pairs.
    fallback : numpy.ndarray
        ``[num_query_heads]``: share of the causal pairs in calls where the head ran densely because its
        pattern would not have paid.
    kept_mass : numpy.ndarray or None
        ``[num_query_heads]``: mean over rows of the attention mass inside the pairs computed, exact.
    kept_mass_last : numpy.ndarray or None
        ``[num_query_heads]``: the same over the last 64 rows of every sequence of the latest call.
    """

    def __init__(self, layer):
        self.layer = layer
        self.calls = 0
        self.seconds = 0.0
        self.density = self.fallback = self.kept_mass = self.kept_mass_last = None
        self._pairs = self._rows = 0

    def _add(self, seconds, statistics, sequences):
        self.calls += 1
        self.seconds += seconds
        for (_, _, q_len, _, kv_len), density, fallback in zip(
            sequences, statistics.density, statistics.fallback
        ):
            pairs = _causal_pairs(q_len, kv_len)
            self.density = _running_mean(self.density, self._pairs, density, pairs)
            self.fallback = _running_mean(self.fallback, self._pairs, fallback.astype(float), pairs)
            self._pairs += pairs

    def _add_mass(self, mass, sequences):
        """`mass` is float64 ``[B, Hq, q_len]``."""
        real = [mass[batch, :, begin : begin + length] for batch, begin, length, _, _ in sequences]
        rows = torch.cat(real, dim=1)
        self.kept_mass = _running_mean(self.kept_mass, self._rows, rows.mean(1).numpy(), rows.shape[1])
        self._rows += rows.shape[1]
        self.kept_mass_last = torch.cat([rows[:, -_LAST_ROWS:] for rows in real], dim=1).mean(1).numpy()

    def as_numbers(self):
        """The attributes, arrays as lists: what can be sent to another process."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if not name.startswith("_")
        }

    @classmethod
    def of_ranks(cls, ranks):
        """One layer from the numbers of the tensor-parallel ranks that divide its heads, in order."""
        whole = cls(ranks[0]["layer"])
        whole.calls = ranks[0]["calls"]
        whole.seconds = max(rank["seconds"] for rank in ranks)
        for name in ("density", "fallback", "kept_mass", "kept_mass_last"):
            if ranks[0][name] is not None:
                setattr(whole, name, np.concatenate([rank[name] for rank in ranks]))
        return whole


def _running_mean(mean, weight, value, value_weight):
    if not weight:
        return value
    return (mean * weight + value * value_weight) / (weight + value_weight)


class Report:
    """What `record` yields.

    Attributes
    ----------
    layers : list of LayerReport
        In order of layers. A layer whose calls were all declined has ``calls == 0``.
    """

    def __init__(self, layers):
        self.layers = layers

    def layer_of(self, index):
        """The `LayerReport` of a layer."""
        return next(layer for layer in self.layers if layer.layer == index)

    def _mean(self, name):
        values = [getattr(layer, name).mean() for layer in self.layers if getattr(layer, name) is not None]
        return sum(values) / len(values) if values else None

    @property
    def density(self):
        """Mean over heads and layers; None before the first call."""
        return self._mean("density")

    @property
    def kept_mass(self):
        """Mean over heads and layers; None unless asked for."""
        return self._mean("kept_mass")

    @property
    def kept_mass_last(self):
        """Mean over heads and layers; None unless asked for."""
        return self._mean("kept_mass_last")

    @property
    def seconds(self):
        """Time in the library, all layers."""
        return sum(layer.seconds for layer in self.layers)


class Recorder:
    """Computes a plan's layer calls in the library's place of `_calls.prefill`, and adds them to a `LayerReport`."""

    def __init__(self, report, kept_mass):
        self.report = report
        self._kept_mass = kept_mass

    def __call__(self, plan, query, key, value, call, scale, out):
        heads = plan.heads_for(call.window, query.shape[1])
        begin = time.perf_counter()
        _, lse, statistics = _calls.prefill(
            query,
            key,
            value,
            heads,
            call.where,
            scale,
            fallback=plan.fallback,
            share_index=plan.share_index,
            out=out,
            want_lse=self._kept_mass,
            want_statistics=True,
        )
        seconds = time.perf_counter() - begin
        self.report._add(seconds, statistics, call.sequences)
        if self._kept_mass:
            self.report._add_mass(self._mass(plan, query, key, value, call, scale, lse), call.sequences)

    @staticmethod
    def _mass(plan, query, key, value, call, scale, lse):
        """Mass inside the computed pairs: the sum of their exponentials over that of all pairs."""
        pattern = patterns.a_shape(0, call.window) if call.window else patterns.dense()
        heads = patterns.layer_array(pattern, query.shape[1])
        _, all_lse, _ = _calls.prefill(
            query, key, value, heads, call.where, scale, fallback=_library.FALLBACK_OFF, want_lse=True
        )
        return (lse.double() - all_lse.double()).exp().cpu()
