"""What Python does for tensors on a GPU, on any machine: the CPU library computes in the CUDA library's place."""

import contextlib
import ctypes
import types

import numpy as np
import pytest

import minference
from minference import _arrays, _calls, _context, _cuda_library, _library, functions, patterns

torch = pytest.importorskip("torch")

# Of both libraries' arguments.
_TENSORS = ("query", "key", "value", "out", "lse")
_SETTINGS = "softmax_scale non_causal sequences num_sequences heads num_heads fallback share_index".split()


class FakeLibrary:
    """libminference_cuda's functions as far as these tests call them, on memory of the CPU."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        assert name.endswith("_workspace")
        return self.give_workspace

    @staticmethod
    def give_workspace(call, size):
        size._obj.value = 16

    def _begin(self, name, reference):
        call = reference._obj
        assert call.struct_size == ctypes.sizeof(call) and call.workspace and call.workspace_bytes == 16
        self.calls.append((name, call))
        return call

    @staticmethod
    def _tensors(call):
        tensors = {}
        for name in _TENSORS:
            tensor = getattr(call, name)
            assert tensor.device == (1 if tensor.data else 0)
            tensors[name] = _library.Tensor(tensor.data, tensor.shape, tensor.stride, tensor.dtype, 0)
        return tensors

    def prefill(self, reference):
        call = self._begin("prefill", reference)
        args = _library.PrefillArgs(
            **self._tensors(call), **{name: getattr(call, name) for name in _SETTINGS}
        )
        shape = (call.num_sequences if call.sequences else call.query.shape[0], call.num_heads)
        density = np.zeros(shape)
        raw = _library.Statistics(head_density=density.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
        _library.load().prefill(_context.current(), args, raw)
        if call.pairs:
            lengths = [(call.query.shape[2], call.key.shape[2])] * shape[0]
            if call.sequences:
                records = (_library.Sequence * shape[0]).from_address(call.sequences)
                lengths = [(record.q_len, record.kv_len) for record in records]
            every = np.array(
                [[q * kv if call.non_causal else q * (2 * kv - q + 1) // 2] for q, kv in lengths]
            )
            pairs = (ctypes.c_int64 * density.size).from_address(call.pairs)
            pairs[:] = np.rint(density * every).astype(int).flatten().tolist()

    def vertical_slash(self, reference):
        call = self._begin("vertical_slash", reference)

        def members(address, stride):
            data = np.ctypeslib.as_array((ctypes.c_int32 * (call.num_heads * stride)).from_address(address))
            return data.reshape(1, call.num_heads, 1, stride).copy()

        columns = members(call.columns, call.column_stride)
        offsets = members(call.offsets, call.offset_stride)
        arrays = _arrays.arrays_of(columns)
        self.index = _calls.Index(columns, offsets, call.q_len, call.kv_len, True, arrays)

    def attention(self, reference):
        call = self._begin("attention", reference)
        args = _library.AttentionArgs(
            **self._tensors(call), softmax_scale=call.softmax_scale, index=self.index.handle
        )
        assert call.softmax_scale > 0 and call.heads and call.tiles and call.columns
        _library.load().attention(_context.current(), args)


@pytest.fixture
def library(monkeypatch):
    """Takes every torch tensor for one on a GPU."""
    fake = FakeLibrary()
    monkeypatch.setattr(_calls, "on_cuda", lambda array: isinstance(array, torch.Tensor))
    monkeypatch.setattr(_cuda_library, "load", lambda: fake)
    event = types.SimpleNamespace(record=lambda stream: None, elapsed_time=lambda end: 3.0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=1234))
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    return fake


def layer(batch=2, rows=300, keys=350):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, n, heads, 64, generator=generator).half().transpose(1, 2)
        for n, heads in ((rows, 4), (keys, 2), (keys, 2))
    ]


def numpy_of(tensors):
    return [tensor.numpy() for tensor in tensors]


HEADS = [patterns.vertical_slash(40, 60), patterns.dense(), patterns.a_shape(10, 50), patterns.adaptive()]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fallback": "off"},
        {"fallback": "off", "share_index": True, "softmax_scale": 0.2},
        {"sequences": [(1, 3, 200, 0, 250), (0, 0, 150, 10, 300)], "fallback": "off"},
    ],
)
def test_prefill_passes_on_all_that_the_call_says(library, settings):
    tensors = layer()
    wanted = {"return_lse": True, "return_statistics": True}
    out, lse, statistics = minference.prefill_attention(*tensors, HEADS, **settings, **wanted)
    expected, expected_lse, expected_statistics = minference.prefill_attention(
        *numpy_of(tensors), HEADS, **settings, **wanted
    )
    assert [name for name, _ in library.calls] == ["prefill"] and library.calls[0][1].stream == 1234
    assert np.array_equal(out.numpy(), expected) and np.array_equal(lse.numpy(), expected_lse)
    assert statistics.density == pytest.approx(expected_statistics.density)
    assert (statistics.pairs, statistics.all_pairs) == (
        expected_statistics.pairs,
        expected_statistics.all_pairs,
    )
    assert statistics.seconds == 0.003


def test_prefill_without_statistics_is_not_timed(library, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", None)
    tensors = layer()
    out = minference.prefill_attention(*tensors, patterns.a_shape(0, 50), causal=False)
    assert np.array_equal(
        out.numpy(),
        minference.prefill_attention(*numpy_of(tensors), patterns.a_shape(0, 50), causal=False),
    )
    assert not library.calls[0][1].pairs and not library.calls[0][1].lse.data


def test_results_are_written_in_place(library):
    tensors = layer()
    heads = patterns.layer_array(HEADS, 4)
    out = torch.full((2, 300, 4, 64), float("nan"), dtype=torch.float16)
    returned, _, _ = _calls.prefill(*tensors, heads, out=out.transpose(1, 2))
    assert returned.data_ptr() == out.data_ptr()
    assert np.array_equal(
        out.transpose(1, 2).numpy(), minference.prefill_attention(*numpy_of(tensors), HEADS)
    )


def test_block_table_reaches_the_call(library):
    heads = patterns.layer_array(patterns.dense(), 4)
    rows = np.array([[0, 0, 350, 0, 350]], dtype=np.int64)
    table = torch.arange(12, dtype=torch.int32).reshape(1, 12)[:, ::2]
    tensors = layer(batch=1, rows=350)
    _calls.prefill(*tensors, heads, rows, block_table=table)
    call = library.calls[0][1]
    assert call.block_table and call.block_table_stride == 6
    for wrong in (table.long(), table[0], torch.zeros(2, 6, dtype=torch.int32)):
        with pytest.raises(ValueError, match="block_table must"):
            _calls.prefill(*tensors, heads, rows, block_table=wrong)


def test_vertical_slash_runs_each_entry(library):
    tensors = layer()
    rng = np.random.default_rng(2)
    columns, offsets = (rng.integers(0, 350, (2, 4, n)) for n in (30, 20))
    out, lse = functions.vertical_slash_sparse_attention(*tensors, columns, offsets, return_lse=True)
    expected, expected_lse = functions.vertical_slash_sparse_attention(
        *numpy_of(tensors), columns, offsets, return_lse=True
    )
    assert [name for name, _ in library.calls] == ["vertical_slash", "attention"] * 2
    assert np.array_equal(out.numpy(), expected) and np.array_equal(lse.numpy(), expected_lse)
    with pytest.raises(NotImplementedError, match="causal must be True on CUDA, got False"):
        functions.vertical_slash_sparse_attention(*tensors, columns, offsets, causal=False)


def test_what_the_library_cannot_address_is_copied_or_refused(library):
    query, key, value = layer()
    # Rows that begin 2 bytes off.
    shifted = torch.empty(2, 4, 300, 65, dtype=torch.float16)[..., 1:]
    shifted.copy_(query)
    out = minference.prefill_attention(shifted, key, value, HEADS)
    assert torch.equal(out, minference.prefill_attention(query, key, value, HEADS))
    with pytest.raises(NotImplementedError, match="query must have dtype float16 or bfloat16 on CUDA"):
        minference.prefill_attention(query.float(), key, value, HEADS)
    with pytest.raises(ValueError, match="value must be on query's device cpu, got meta"):
        minference.prefill_attention(query, key, value.to("meta"), HEADS)
