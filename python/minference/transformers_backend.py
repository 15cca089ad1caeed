"""Sparse prefill as an attention implementation of transformers (4.56 to 5.x).

A backend stands in front of the implementation that a model had before: calls that it takes run in the
library, all others reach the previous implementation exactly as they would have, with the mask that
implementation makes. Nothing of transformers is replaced; both functions are registered under a name of their
own.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from . import _calls, _library, patterns
from . import _cuda_calls as cuda
from . import call_mask as call_masks
from ._arrays import is_traced
from .serving import slice_of_rank

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Calls of fewer rows stay with the previous implementation: the library's answer would not come sooner.
MIN_ROWS = {"cpu": 64, "cuda": 1024}


class LayerPlan:
    """What one attention module computes during prefill; attached to the module as ``_minference``.

    Attributes
    ----------
    heads : torch.Tensor
        int32 ``[num_query_heads, 5]`` on the CPU, all tensor-parallel ranks'.
    fallback : int
        FALLBACK_AUTO or FALLBACK_OFF.
    previous : str
        The implementation that the model had before.
    static : bool
        Whether columns and diagonals are chosen in the first call and kept.
    share_index : bool
        As in `minference.prefill_attention`.
    rank, num_ranks : int
        This process among those that tensor parallelism may divide the heads among; 0 and 1 without it.
    recorder : object or None
        Called with each layer call while `minference.record` is active.
    """

    def __init__(
        self, layer, heads, fallback, previous, static=False, share_index=False, rank=0, num_ranks=1
    ):
        self.layer = layer
        self.heads = heads
        self.fallback = fallback
        self.previous = previous
        self.static = static
        self.share_index = share_index
        self.rank, self.num_ranks = rank, num_ranks
        self.members = None
        self.recorder = None
        self._windowed = {}

    def __setstate__(self, state):
        """A model that another process pickled: here nobody has registered its backend yet."""
        self.__dict__.update(state)
        backend_over(self.previous)

    def heads_for(self, window, num_heads):
        """The patterns of a call of `num_heads` query heads; a sliding window is A-shape without a sink, exactly."""
        heads = self.heads
        if window:
            if window not in self._windowed:
                self._windowed[window] = patterns.layer_array(patterns.a_shape(0, window), len(heads))
            heads = self._windowed[window]
        return heads if num_heads == len(heads) else slice_of_rank(heads, self.rank, num_heads)

    def first_head(self, num_heads):
        """Which of the layer's query heads is the first one of a call of `num_heads`."""
        return 0 if num_heads == len(self.heads) else self.rank * num_heads

    def _has_patterns_for(self, module, query, key):
        """Whether a call is about all heads of the layer, or about all of this rank's."""
        num_heads = query.shape[1]
        if self.num_ranks == 1:
            return num_heads == len(self.heads)
        # A plan may divide query heads alone, and then a query head's key head is not where its number says.
        divides_both = num_heads == key.shape[1] * getattr(module, "num_key_value_groups", 1)
        return divides_both and len(self.heads) in (num_heads, num_heads * self.num_ranks)

    def takes(self, module, query, key, value, call, dropout, options):
        """Whether this layer call is causal attention without anything that the library does not compute."""
        return (
            query.device.type in MIN_ROWS
            and (query.shape[2] >= MIN_ROWS[query.device.type] or self.fallback == _library.FALLBACK_OFF)
            and query.shape[2] == call.q_len
            and key.shape[2] == call.kv_len
            and key.shape == value.shape
            and self._has_patterns_for(module, query, key)
            and query.shape[3] % 8 == 0
            and query.shape[3] <= 256
            and query.dtype in _DTYPES
            and query.dtype == key.dtype == value.dtype
            and (query.is_cpu or not cuda.refusal(query.dtype, query.shape[3], self.heads))
            and getattr(module, "is_causal", True)
            and not module.training
            and not dropout
            and not (torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)))
            and not any(_changes_attention(name, option) for name, option in options.items())
            and not getattr(module.config, "output_attentions", False)
        )

    def run(self, query, key, value, call, scaling):
        """Attention of one layer call: ``[B, q_len, Hq, D]``, contiguous."""
        batch, num_heads, q_len, head_dim = query.shape
        out = torch.empty((batch, q_len, num_heads, head_dim), dtype=query.dtype, device=query.device)
        scale = 0.0 if scaling is None else scaling
        if self.static and not call.window:
            self._run_static(query, key, value, call, scale, out.transpose(1, 2))
        elif self.recorder is not None:
            self.recorder(self, query, key, value, call, scale, out.transpose(1, 2))
        else:
            _calls.prefill(
                query,
                key,
                value,
                self.heads_for(call.window, num_heads),
                call.where,
                scale,
                fallback=self.fallback,
                share_index=self.share_index,
                out=out.transpose(1, 2),
            )
        return out

    def _run_static(self, query, key, value, call, scale, out):
        out.zero_()
        for batch, q_begin, q_len, kv_begin, kv_len in call.sequences:
            rows = query[batch : batch + 1, :, q_begin : q_begin + q_len]
            keys, values = (x[batch : batch + 1, :, kv_begin : kv_begin + kv_len] for x in (key, value))
            if self.members is None:
                self.members = self._choose_members(rows, keys, scale)
            # A shorter call has no key for some of them; 0, the first key and the diagonal, stands in.
            columns, offsets = (torch.where(members < kv_len, members, 0)[None] for members in self.members)
            attended, _ = _calls.vertical_slash(rows, keys, values, columns, offsets, scale, True, False)
            out[batch, :, q_begin : q_begin + q_len] = attended[0]

    def _choose_members(self, query, key, scale):
        sums = _calls.estimate(query, key, scale)
        heads = self.heads_for(0, query.shape[1]).clone()
        windows, sizes = heads[:, 0] == _library.A_SHAPE, heads[:, 1:3].clone()
        heads[windows] = torch.tensor(patterns.vertical_slash(1, 1), dtype=torch.int32)
        chosen = _calls.select(sums[0][0], sums[1][0], heads)
        # An A-shape has the same members in every prompt.
        for head in windows.nonzero()[:, 0].tolist():
            for members, size in zip(chosen, sizes[head].tolist()):
                members[head] = np.arange(size, dtype=np.int32)
        # Heads may have chosen different numbers; repeated members count once.
        return [
            torch.nn.utils.rnn.pad_sequence(
                [torch.nn.functional.pad(torch.from_numpy(head), (0, 1)) for head in heads], batch_first=True
            )
            for heads in chosen
        ]


# Tensors that attention functions are passed, and that only matter to kernels of other kinds or are in the mask.
_HARMLESS = frozenset(
    {
        "cache_position",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "mm_token_type_ids",
        "position_ids",
        "token_type_ids",
    }
)


def _changes_attention(name, option):
    """Whether an argument may change what attention returns: soft cap, sinks, bias, no causality, weights."""
    if option is None or name in _HARMLESS:
        return False
    if name == "is_causal":
        return not option
    return isinstance(option, torch.Tensor) or (name in ("softcap", "output_attentions") and bool(option))


def _eager_attention(module):
    """The eager attention of the file that defines the module: transformers has no name for it."""
    for kind in type(module).__mro__:
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise NotImplementedError(f"{type(module).__name__} must come from a file with eager_attention_forward")


class Backend:
    """Sparse prefill in front of the implementation called `previous`."""

    def __init__(self, previous):
        self.previous = previous

    @property
    def name(self):
        # transformers looks for "sdpa", "flash" and "flex_attention" inside names.
        return "minference" if self.previous == "sdpa" else f"minference_over_{self.previous}"

    def mask(self, *args, **kwargs):
        """transformers' mask interface."""
        make_previous = functools.partial(self._previous_mask, *args, **kwargs)
        if not is_traced():
            call = call_masks.describe(make_previous, *args, **kwargs)
            if call is not None:
                return call.as_tensor()
        return make_previous()

    def _previous_mask(self, *args, **kwargs):
        # An implementation without a mask function gets no mask from transformers either.
        if self.previous not in ALL_MASK_ATTENTION_FUNCTIONS:
            return None
        return ALL_MASK_ATTENTION_FUNCTIONS[self.previous](*args, **kwargs)

    def attention(self, module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
        """transformers' attention interface."""
        call = call_masks.of_tensor(attention_mask)
        if call is not None:
            plan = getattr(module, "_minference", None)
            if plan is not None and plan.takes(module, query, key, value, call, dropout, kwargs):
                return plan.run(query, key, value, call, scaling), None
            attention_mask = call.previous(query.device)
        previous = (
            _eager_attention(module) if self.previous == "eager" else ALL_ATTENTION_FUNCTIONS[self.previous]
        )
        return previous(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)


def is_backend(name):
    """Whether an implementation's name is that of a backend."""
    return name == "minference" or name.startswith("minference_over_")


@functools.cache
def backend_over(previous):
    """The backend in front of `previous`, registered with transformers.

    Raises
    ------
    NotImplementedError
        For implementations that transformers treats specially by name.
    """
    if "/" in previous or "|" in previous or any(word in previous for word in ("flash", "flex_attention")):
        raise NotImplementedError(
            "the model's attn_implementation must be sdpa, eager or one registered by name, "
            f"got {previous!r}: "
            'call model.set_attn_implementation("sdpa") first'
        )
    backend = Backend(previous)
    AttentionInterface.register(backend.name, backend.attention)
    AttentionMaskInterface.register(backend.name, backend.mask)
    return backend
