"""The attention masks that transformers asks for, as sequences of query rows and their keys.

`describe` says of a mask whether it is causal attention, perhaps with a sliding window, over contiguous runs
of keys: unpadded, padded on either side, packed, in a cache of any kind. Then the attention needs no mask
tensor. Everything else stays with the implementation that knows it.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers.masking_utils import causal_mask_function

_MODULE = causal_mask_function.__module__


class _StandIn(torch.Tensor):
    """Numbers that nobody computes with: they stay where they are when arguments follow a model's devices."""

    def to(self, *_, **__):
        return self


class CallMask:
    """One forward pass's mask, without its elements.

    Attributes
    ----------
    sequences : list of tuple
        (batch, q_begin, q_len, kv_begin, kv_len) each: minference_sequence.
    where : numpy.ndarray
        int64 ``[num_sequences, 5]``: the same, as `_calls.prefill` takes it.
    window : int
        Keys that each query sees in a sliding window, its own included; 0 for no window.
    q_len, kv_len : int
        Lengths of the query and key tensors that this describes.
    """

    __slots__ = (
        "sequences",
        "where",
        "window",
        "q_len",
        "kv_len",
        "_make_previous",
        "_previous",
        "_on_devices",
    )

    def __init__(self, sequences, window, q_len, kv_len, make_previous):
        self.sequences = sequences
        self.where = np.array(sequences, np.int64).reshape(-1, 5)
        # A window that reaches the first key hides nothing.
        self.window = window if window < kv_len else 0
        self.q_len, self.kv_len = q_len, kv_len
        self._make_previous = make_previous
        self._on_devices = {}

    def previous(self, device):
        """The mask that the implementation before ours would have got, made once, and once on each device.

        Hooks that spread a model over devices would have sent it after the layers; what they send is our stand-in.
        """
        if self._make_previous is not None:
            self._previous = self._make_previous()
            self._make_previous = None
        if not isinstance(self._previous, torch.Tensor) or self._previous.device == device:
            return self._previous
        if device not in self._on_devices:
            self._on_devices[device] = self._previous.to(device)
        return self._on_devices[device]

    def as_tensor(self):
        """What transformers hands from the mask function to the attention function.

        int64 ``[num_sequences, 1, 1, 5]``, the sequences: masks of four dimensions are passed on as they are.
        """
        # The tensor keeps this object alive, not the other way round: a cycle would keep large masks for long.
        tensor = torch.tensor(self.sequences, dtype=torch.int64, device="cpu").view(-1, 1, 1, 5)
        tensor = tensor.as_subclass(_StandIn)
        tensor.minference_call = self
        return tensor


def of_tensor(mask):
    """The `CallMask` that `mask` stands for, or None for an ordinary mask.

    Raises
    ------
    RuntimeError
        If something between mask and attention function copied the tensor, so that its meaning is lost.
    """
    if mask is None:
        return None
    call = getattr(mask, "minference_call", None)
    if call is None and getattr(mask, "dtype", None) == torch.int64 and tuple(mask.shape[1:]) == (1, 1, 5):
        raise RuntimeError(
            "attention_mask must reach the attention layers as the mask function returned it, got a copy"
        )
    return call


def _closure(function):
    return {
        name: cell.cell_contents
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ())
    }


def _parts(mask_function):
    """What a mask function is made of, {"causal": True, "window": w, "packed": tensor}; None if unknown.

    transformers composes closures, and offers no other way to ask.
    """
    if mask_function is causal_mask_function:
        return {"causal": True}
    if getattr(mask_function, "__module__", None) != _MODULE or not hasattr(mask_function, "__code__"):
        return None
    maker = mask_function.__qualname__.partition(".")[0]
    inside = _closure(mask_function)
    if maker == "and_masks":
        parts = {}
        for part in map(_parts, inside["mask_functions"]):
            if part is None:
                return None
            parts.update(part)
        return parts
    if maker == "sliding_window_overlay":
        return {"window": inside["sliding_window"]}
    if maker == "packed_sequence_mask_function":
        return {"packed": inside["packed_sequence_mask"]}
    if maker == "remap_positions_for_packed_sequence":
        # Positions that restart with each packed sequence: causal order within a sequence is the same.
        return _parts(inside["mask_function"])
    return None


def _key_ranges(padding, kv_length, kv_offset):
    """Each batch entry's first real key and one past the last, in the key tensor; None if one has holes."""
    real = padding[:, kv_offset : kv_offset + kv_length]
    if bool(real.all()):
        return [(0, real.shape[1])] * real.shape[0]
    counts = real.sum(-1).tolist()
    firsts = real.to(torch.uint8).argmax(-1).tolist()
    ranges = [(first, first + count) for first, count in zip(firsts, counts)]
    if any(
        count and not bool(real[b, first:end].all())
        for b, (count, (first, end)) in enumerate(zip(counts, ranges))
    ):
        return None
    return ranges


def _padded_sequences(ranges, q_length, first_row):
    """One sequence an entry: the rows that are real, and the keys up to the last of them."""
    sequences = []
    for batch, (first_key, end_key) in enumerate(ranges):
        q_begin = max(first_key - first_row, 0)
        q_end = min(end_key - first_row, q_length)
        if q_begin < q_end:
            sequences.append((batch, q_begin, q_end - q_begin, first_key, first_row + q_end - first_key))
    return sequences


def _packed_sequences(packed, batch_size):
    sequences = []
    for batch in range(batch_size):
        _, lengths = torch.unique_consecutive(packed[batch if len(packed) > 1 else 0], return_counts=True)
        begin = 0
        for length in lengths.tolist():
            sequences.append((batch, begin, length, begin, length))
            begin += length
    return sequences


def describe(
    make_previous,
    batch_size,
    q_length=None,
    kv_length=None,
    q_offset=0,
    kv_offset=0,
    mask_function=causal_mask_function,
    attention_mask=None,
    cache_position=None,
    allow_is_causal_skip=True,
    **_,
):
    """Describe what a mask function of transformers was asked for; None when it is not ours to take.

    Parameters are those of transformers' mask interface, before 5.3 with `cache_position`, since then with
    `q_length` and `q_offset`. `make_previous` makes the ordinary mask for the same arguments.
    """
    if cache_position is not None:
        q_length, q_offset = cache_position.shape[0], cache_position[0]
    parts = _parts(mask_function) if q_length > 1 else None
    if parts is None or not parts.get("causal"):
        return None
    first_row = int(q_offset) - int(kv_offset)
    if first_row < 0 or first_row + q_length > kv_length:
        return None
    packed = parts.get("packed")
    # Whoever asks for the elements of a mask that could have gone without will do something with them. Before
    # 5.3 there was no asking: static caches turn the skip off too.
    if cache_position is None and not allow_is_causal_skip and packed is None:
        return None
    if packed is not None and bool((packed[:, -1] == 0).all()):
        packed = None
    if packed is not None:
        if (
            attention_mask is not None
            or first_row != 0
            or packed.shape[-1] != q_length
            or kv_length != q_length
        ):
            return None
        sequences = _packed_sequences(packed, batch_size)
    else:
        ranges = [(0, kv_length)] * batch_size
        if attention_mask is not None:
            ranges = _key_ranges(attention_mask, kv_length, int(kv_offset))
        sequences = ranges and _padded_sequences(ranges, q_length, first_row)
    if not sequences:
        return None
    return CallMask(sequences, parts.get("window", 0), q_length, kv_length, make_previous)
