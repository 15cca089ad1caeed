"""Whatever batches the engine makes, each request's rows are those of its own attention: an engine in this process, exact
attention in the library, both computed in every layer and compared."""

import dataclasses
import os

import pytest
import torch

# Before the engine is imported: its workers are then objects of this process.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"

from vllm import LLM, SamplingParams  # noqa: E402

from minference import MInference, record, restore  # noqa: E402
from minference.needle.model import folder  # noqa: E402
from minference.needle.prompts import answer_tokens, make_prompt  # noqa: E402
from minference.vllm import attention  # noqa: E402

CHUNK = 1000  # no multiple of the cache's blocks of 128 tokens


@dataclasses.dataclass
class Call:
    """One layer call: (q_len, kv_len) of each request, and which of them the library computed."""

    requests: list
    taken: list


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def engine(request):
    return LLM(
        str(folder()),
        dtype=request.param,
        max_model_len=8192,
        max_num_batched_tokens=CHUNK,
        enforce_eager=True,
        disable_log_stats=True,
    )


@pytest.fixture
def calls(engine, monkeypatch):
    """Every layer call from now on, each compared with the engine's own attention of the whole batch."""
    seen = []
    compute = attention.LayerAttention.__call__

    def compared(self, layer, query, key, value, kv_cache, attn_metadata, output, **scales):
        output.fill_(torch.nan)
        returned = compute(self, layer, query, key, value, kv_cache, attn_metadata, output, **scales)
        if attn_metadata is None:
            return returned
        expected = torch.empty_like(output)
        type(self._impl).forward(self._impl, layer, query, key, value, kv_cache, attn_metadata, expected)
        rows = slice(0, attn_metadata.num_actual_tokens)
        difference = (output[rows] - expected[rows]).float().norm(dim=-1)
        scale = expected[rows].float().norm(dim=-1)
        assert (difference <= (1.2e-2 if output.dtype == torch.bfloat16 else 1e-4) * scale).all()
        begins, kv_lens = attn_metadata.query_start_loc.tolist(), attn_metadata.seq_lens.tolist()
        q_lens = [end - begin for begin, end in zip(begins, begins[1:])]
        batch = getattr(attn_metadata, "minference_batch", None)
        taken = [chunk.request for chunk in batch.taken] if batch else []
        seen.append(Call(list(zip(q_lens, kv_lens)), taken))
        return returned

    monkeypatch.setattr(attention.LayerAttention, "__call__", compared)
    MInference("dense")(engine)
    yield seen
    restore(engine)


def prompt(length, seed):
    return {
        "prompt_token_ids": torch.randint(
            8, 4000, (length,), generator=torch.Generator().manual_seed(seed)
        ).tolist()
    }


def generate(engine, prompts, max_tokens=3):
    parameters = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    outputs = engine.generate(prompts, parameters, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def steps(calls):
    """One call a step; all layers must have seen the same."""
    first_layer = calls[::6]
    assert all(calls[i] == first_layer[i // 6] for i in range(len(calls)))
    return first_layer


def test_chunks_begin_anywhere(engine, calls):
    generate(engine, [prompt(2500, 0)])
    assert [(call.requests, call.taken) for call in steps(calls)] == [
        ([(1000, 1000)], [0]),
        ([(1000, 2000)], [0]),
        ([(500, 2500)], [0]),
        ([(1, 2501)], []),
        ([(1, 2502)], []),
    ]


def test_short_prompts_and_decoding_stay_with_the_engine(engine, calls):
    generate(engine, [prompt(511, 1)])
    assert not any(call.taken for call in calls)
    generate(engine, [prompt(512, 2)])
    assert any(call.taken for call in calls)


@pytest.mark.parametrize("rows, taken", [(127, []), (128, [0])])
def test_short_chunks_after_many_tokens(engine, calls, rows, taken):
    generate(engine, [prompt(2 * CHUNK + rows, 3)], 1)
    assert steps(calls)[-1] == Call([(rows, 2 * CHUNK + rows)], taken)


def test_mixed_batches(engine, calls):
    """Chunks of several requests, decoding requests and short prompts, all in one batch."""
    parameters = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (12, 12, 3, 3, 3)]
    prompts = [prompt(n, 10 + n) for n in (300, 20, 2100, 40, 1111)]
    engine.generate(prompts, parameters, use_tqdm=False)
    mixed = [call for call in steps(calls) if call.taken and len(call.taken) < len(call.requests)]
    assert any(1 in dict(call.requests) for call in mixed)
    assert any(len(call.taken) >= 2 for call in steps(calls))
    starts = {kv_len - q_len for call in calls for q_len, kv_len in call.requests if q_len > 1}
    assert any(start % 128 for start in starts)


def test_a_prefix_from_the_cache(engine, calls):
    # An answer that the model is sure of: roundings that depend on the chunk must not decide.
    tokenizer = engine.get_tokenizer()
    needle = make_prompt(tokenizer, "kv_word", 2500, 20)
    expected, whole = answer_tokens(tokenizer, needle), tokenizer(needle.text).input_ids
    # Its first 2000 tokens are cached, as another prompt's: 15 full blocks of 128.
    generate(engine, [{"prompt_token_ids": whole[:2000]}])
    calls.clear()
    assert generate(engine, [{"prompt_token_ids": whole}], len(expected)) == [expected]
    assert steps(calls)[0] == Call([(len(whole) - 1920, len(whole))], [0])


@pytest.mark.parametrize("attn_type", ["hf", "dense", "vllm"])
def test_answers(engine, attn_type):
    tokenizer = engine.get_tokenizer()
    needles = [make_prompt(tokenizer, *asked) for asked in (("multikey", 6000, 1), ("kv_word", 2000, 2))]
    MInference(attn_type)(engine)
    answers = generate(engine, [needle.text for needle in needles], 8)
    restore(engine)
    for needle, answer in zip(needles, answers):
        expected = answer_tokens(tokenizer, needle)
        assert answer[: len(expected)] == expected


def test_records_what_each_layer_computed(engine):
    """Windows of 300 tokens and the first 100: the pairs of every chunk, counted."""
    with pytest.raises(ValueError, match="must be patched"):
        with record(engine):
            pass
    MInference("vllm_a_shape", attn_kwargs={"n_init": 100, "n_local": 300, "fallback": "off"})(engine)
    with record(engine, kept_mass=True) as report:
        generate(engine, [prompt(2500, 50)])
    unrecorded = generate(engine, [prompt(2500, 51)])
    assert engine.reset_prefix_cache()
    with record(engine):
        assert generate(engine, [prompt(2500, 51)]) == unrecorded
    restore(engine)
    position, seen = torch.arange(2500), torch.arange(2500)[:, None]
    kept = ((seen - position < 300) | (position < 100)) & (position <= seen)
    assert [(layer.layer, layer.calls) for layer in report.layers] == [(i, 3) for i in range(6)]
    assert report.density == pytest.approx(kept.sum().item() / (2500 * 2501 / 2))
    assert 0 < report.kept_mass < 1 and len(report.layers[0].density) == 8 and report.seconds > 0


def test_switching_forgets_the_cached_prefixes(engine, calls):
    whole = prompt(600, 40)
    generate(engine, [whole])
    # A window as long as the prompt keeps every pair: `calls` compares with dense attention.
    MInference("vllm_a_shape", attn_kwargs={"n_init": 1, "n_local": 600})(engine)
    calls.clear()
    generate(engine, [whole])
    assert steps(calls)[0].requests == [(600, 600)]


def test_restored_engines_have_their_own_forward(engine):
    layers = engine.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.vllm_config
    implementations = [layer.impl for layer in layers.compilation_config.static_forward_context.values()]
    MInference("vllm")(engine)
    assert all("forward" in vars(impl) for impl in implementations) and len(implementations) == 6
    restore(engine)
    assert not any("forward" in vars(impl) for impl in implementations)
