"""Patched transformers models on a GPU."""

import pytest
import torch
from models import make, tokens
from patched import DENSE, EVERYTHING, calls_taken, difference

from minference import MInference, record
from minference.greedy import answer
from minference.needle import model as needle
from minference.needle.prompts import answer_tokens, make_prompt


@pytest.fixture
def taken(monkeypatch):
    return calls_taken(monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "yi", "phi3", "phi3_window", "qwen2", "mistral", "qwen3", "gemma"])
@pytest.mark.parametrize("attention", [EVERYTHING, DENSE])
def test_full_budget_differs_from_eager_as_sdpa_does(name, dtype, attention, taken):
    ids = tokens(2, 300).cuda()
    eager = make(name, dtype, "eager").cuda()(ids).logits
    model = make(name, dtype).cuda()
    sdpa = model(ids).logits
    ours = attention(model)(ids).logits
    assert len(taken) == 2
    assert difference(ours, eager) <= 2 * difference(sdpa, eager)


@pytest.mark.parametrize("attention", ["minference", "adaptive", "static", "a_shape", "tri_shape"])
def test_padded_prompts_and_decoding(attention, taken):
    """Left-padded prompts of 1,500 tokens give the tokens of each prompt alone."""
    options = {"attn_kwargs": {"share": 0.9}} if attention == "adaptive" else {}
    name = "minference" if attention == "adaptive" else attention
    model = MInference(name, **options)(make("llama", torch.bfloat16).cuda())
    ids = tokens(2, 1500).cuda()
    mask = torch.ones_like(ids)
    mask[0, :300] = 0
    ids[0, :300] = 0
    together = model(ids, attention_mask=mask, use_cache=True)
    assert len(taken) == 2
    out = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert out.shape == (2, 1503)
    if attention != "static":
        alone = model(ids[:1, 300:]).logits
        assert difference(together.logits[:1, 300:], alone) <= 0.05 * alone.double().std().item()


def test_chunks_over_a_cache(taken):
    model = DENSE(make("llama", torch.bfloat16).cuda())
    ids = tokens(1, 3000).cuda()
    whole = model(ids, use_cache=True).logits
    first = model(ids[:, :1600], use_cache=True)
    second = model(ids[:, 1600:], past_key_values=first.past_key_values, use_cache=True)
    assert [length for _, length in taken] == [3000, 3000, 1600, 1600, 1400, 1400]
    assert difference(second.logits, whole[:, 1600:]) <= 0.05 * whole.double().std().item()


def test_short_calls_keep_the_previous_implementation(taken):
    model = MInference("minference")(make("llama", torch.bfloat16).cuda())
    model(tokens(1, 1023).cuda())
    assert not taken
    model(tokens(1, 1024).cuda())
    assert len(taken) == 2


def test_models_that_no_kernel_computes_are_refused_with_the_reason():
    with pytest.raises(NotImplementedError, match="layer 0: dtype must be float16 or bfloat16"):
        MInference("minference")(make("llama", torch.float32).cuda())


@pytest.mark.parametrize("options", [{}, {"attn_kwargs": {"share": 0.95}}])
def test_the_embedded_model_answers_and_its_report(options, taken):
    model, tokenizer = needle.load(device="cuda")
    MInference("minference", **options)(model)
    for seed, task in enumerate(["single", "multikey", "passkey", "kv_word", "kv_hex"]):
        prompt = make_prompt(tokenizer, task, 32768, seed)
        expected = answer_tokens(tokenizer, prompt)
        with record(model, kept_mass=True) as report:
            found = answer(model, tokenizer(prompt.text).input_ids, len(expected)).tokens
        assert found == expected
        assert 0.0 < report.density < 0.3
        assert report.kept_mass_last > 0.9
    assert taken
