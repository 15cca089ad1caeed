"""vLLM's side of the package as far as it needs no vLLM: cache packings, declined layers, head slices, the calls that an
engine gets. tests/engines/vllm runs the engine itself."""

import sys
import types

import pytest
import torch

from minference import MInference, record, restore
from minference.vllm.paged import PACKINGS, gather
from minference.vllm.rules import refusal

BLOCK_SIZE, HEAD_DIM = 32, 48


def place_of_key(packing, token, dim):
    """Where a block's packing puts one number of a key, counted from the block's first."""
    if packing == "amx":
        return ((token // 16 * (HEAD_DIM // 2) + dim // 2) * 16 + token % 16) * 2 + dim % 2
    return dim * BLOCK_SIZE + token


def place_of_value(packing, token, dim):
    if packing == "amx":
        return ((dim // 16 * (BLOCK_SIZE // 2) + token // 2) * 16 + dim % 16) * 2 + token % 2
    return token * HEAD_DIM + dim


@pytest.mark.parametrize("packing", sorted(PACKINGS))
@pytest.mark.parametrize("length", [1, 31, 32, 77, 96])
def test_gather(packing, length):
    heads, block_ids = 3, [5, 1, 6]
    key, value = torch.randn(2, heads, length, HEAD_DIM).bfloat16()
    # A layer's cache is a slice of all layers': its blocks do not follow one another.
    caches = torch.full((7, 2, heads, BLOCK_SIZE, 2 * HEAD_DIM), torch.nan, dtype=torch.bfloat16)
    cache = caches[:, 1]
    flat = cache.view(7, heads, 2 * BLOCK_SIZE * HEAD_DIM)
    for position in range(length):
        block, token = block_ids[position // BLOCK_SIZE], position % BLOCK_SIZE
        for dim in range(HEAD_DIM):
            flat[block, :, place_of_key(packing, token, dim)] = key[:, position, dim]
            at = BLOCK_SIZE * HEAD_DIM + place_of_value(packing, token, dim)
            flat[block, :, at] = value[:, position, dim]
    # The engine's table is as wide as its longest request: what follows is not this one's.
    gathered = gather(cache, torch.tensor(block_ids + [99], dtype=torch.int32), length, packing)
    for got, expected in zip(gathered, (key, value)):
        assert got.stride(2) == 1
        assert torch.equal(got, expected)


def implementation(**changes):
    """What vLLM's CPU backend makes of an ordinary layer."""
    return types.SimpleNamespace(
        **{
            "head_size": 64,
            "attn_type": "decoder",
            "sliding_window": -1,
            "logits_soft_cap": 0,
            "sinks": None,
            "alibi_slopes": None,
            "is_fp8_kv_cache": False,
            "kv_cache_dtype": "auto",
            "kv_sharing_target_layer_name": None,
            **changes,
        }
    )


@pytest.mark.parametrize("isa", sorted(PACKINGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ordinary_layers_are_taken(isa, dtype):
    assert refusal(implementation(), isa, dtype) is None


@pytest.mark.parametrize(
    "changes, isa, dtype, reason",
    [
        ({"sliding_window": 4096}, "vec", torch.bfloat16, "a sliding window of 4096"),
        ({"logits_soft_cap": 30.0}, "vec", torch.bfloat16, "a soft cap of 30.0"),
        ({"sinks": torch.zeros(2)}, "vec", torch.bfloat16, "attention sinks"),
        ({"alibi_slopes": torch.zeros(2)}, "vec", torch.bfloat16, "ALiBi"),
        (
            {"is_fp8_kv_cache": True, "kv_cache_dtype": "fp8"},
            "vec",
            torch.bfloat16,
            "a KV cache of fp8",
        ),
        ({"attn_type": "encoder_only"}, "vec", torch.bfloat16, "encoder_only attention"),
        (
            {"kv_sharing_target_layer_name": "model.layers.0"},
            "vec",
            torch.bfloat16,
            "another layer's keys",
        ),
        ({"head_size": 512}, "vec", torch.bfloat16, "head_dim 512"),
        ({}, "vec", torch.float64, "dtype torch.float64"),
        ({}, "neon", torch.bfloat16, "cache packing neon"),
        ({}, None, torch.bfloat16, "cache packing None"),
    ],
)
def test_layers_that_are_left_alone(changes, isa, dtype, reason):
    assert reason in refusal(implementation(**changes), isa, dtype)


class FakeEngine:
    """The parts of vllm.LLM that the package uses, for a model of 2 layers with 4 query heads."""

    def __init__(self):
        self.calls = []
        self.idle = True
        self.report = {"taken": 2, "refused": {}}
        self.model_config = types.SimpleNamespace(
            model="some/model",
            get_total_num_hidden_layers=lambda: 2,
            model_arch_config=types.SimpleNamespace(total_num_attention_heads=4),
        )

    def collective_rpc(self, method, kwargs):
        assert method == "minference"
        arguments = dict(kwargs)
        self.calls.append((arguments.pop("name"), arguments))
        if isinstance(self.report, Exception):
            raise self.report
        return [self.report]

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return self.idle


@pytest.fixture
def llm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=FakeEngine))
    return FakeEngine()


@pytest.mark.parametrize("attn_type", ["vllm", "vllm_minference", "minference"])
def test_an_engine_gets_the_patterns_and_forgets_its_prefixes(llm, attn_type):
    assert MInference(attn_type)(llm) is llm
    adaptive = [4, 0, 0, 0, 950000]
    assert llm.calls == [
        "reset_prefix_cache",
        ("enable", {"layers": [[adaptive] * 4] * 2, "fallback": 0, "share_index": False}),
    ]


def test_options_reach_an_engine(llm):
    MInference("vllm_a_shape", attn_kwargs={"n_init": 1, "n_local": 2, "fallback": "off"})(llm)
    assert llm.calls[-1] == (
        "enable",
        {"layers": [[[1, 1, 2, 0, 0]] * 4] * 2, "fallback": 1, "share_index": False},
    )
    MInference("vllm", attn_kwargs={"share_index": True})(llm)
    assert llm.calls[-1][1]["share_index"] is True


@pytest.mark.parametrize("undo", [restore, MInference("hf")])
def test_undoing_forgets_the_sparse_prefixes(llm, undo):
    assert undo(llm) is llm
    assert llm.calls == ["reset_prefix_cache", ("disable", {})]


def test_patterns_of_another_model(llm):
    with pytest.raises(ValueError, match="32"):
        MInference("vllm", "meta-llama/Llama-3.1-8B-Instruct")(llm)
    assert llm.calls == []


def test_an_engine_without_the_plugin(llm):
    llm.report = Exception("call failed: 'Worker' object has no attribute 'minference'")
    with pytest.raises(RuntimeError, match="install minference-cpp in their environment"):
        MInference("vllm")(llm)


def test_a_model_without_a_layer_that_is_computed(llm):
    llm.report = {"taken": 0, "refused": {"ALiBi": 2}}
    with pytest.raises(NotImplementedError, match="got ALiBi"):
        MInference("vllm")(llm)


@pytest.mark.parametrize("change", [MInference("vllm"), restore])
def test_a_busy_engine_stays_as_it_was(llm, change):
    llm.idle = False
    with pytest.raises(RuntimeError, match="llm must be idle"):
        change(llm)
    assert llm.calls == ["reset_prefix_cache"]


def numbers(layer, density, seconds):
    """What a rank reports of a layer with its 2 of the 4 heads."""
    return {
        "layer": layer,
        "calls": 3,
        "seconds": seconds,
        "density": density,
        "fallback": [0.0, 1.0],
        "kept_mass": None,
        "kept_mass_last": None,
    }


def test_records_of_all_ranks_and_layers_are_put_together(llm, monkeypatch):
    reports = {
        "start_recording": [2, 2],
        "stop_recording": [
            [numbers(1, [0.1, 0.2], 1.0), numbers(0, [0.5, 0.5], 1.0)],
            [numbers(1, [0.3, 0.4], 2.0), numbers(0, [0.5, 0.5], 2.0)],
        ],
    }
    monkeypatch.setattr(llm, "collective_rpc", lambda method, kwargs: reports[kwargs["name"]])
    with record(llm) as report:
        assert report.layers == [] and report.density is None
    assert [layer.layer for layer in report.layers] == [0, 1]
    assert report.layers[1].density.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert report.layers[1].fallback.tolist() == [0, 1, 0, 1]
    assert report.density == pytest.approx((0.5 + 0.25) / 2)
    assert report.layers[0].calls == 3 and report.seconds == 4 and report.kept_mass is None


def test_an_engine_that_is_not_patched_has_no_record(llm, monkeypatch):
    monkeypatch.setattr(llm, "collective_rpc", lambda method, kwargs: [0])
    with pytest.raises(ValueError, match="must be patched by MInference"):
        with record(llm):
            pass


def test_members_that_would_stay_from_call_to_call(llm):
    with pytest.raises(NotImplementedError, match="static"):
        MInference("static")(llm)


def test_models_that_are_no_engine():
    with pytest.raises(TypeError, match="model must be a vllm.LLM.*got Linear"):
        MInference("vllm")(torch.nn.Linear(1, 1))
