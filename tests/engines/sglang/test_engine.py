"""Answers of the embedded model, prefilled through the backend: long prompts in chunks, in mixed batches, after a cached prefix."""

import pytest
import sglang
from transformers import AutoTokenizer

from minference.needle.model import folder
from minference.needle.prompts import answer_tokens, make_prompt

TASKS = ("single", "multikey", "passkey", "kv_word")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(folder())


def started():
    return sglang.Engine(
        model_path=str(folder()),
        device="cpu",
        dtype="bfloat16",
        context_length=20_000,
        prefill_attention_backend="minference",
        decode_attention_backend="torch_native",
        disable_cuda_graph=True,
        disable_overlap_schedule=True,
        mem_fraction_static=0.1,
        max_total_tokens=100_000,
    )


@pytest.fixture(scope="module")
def engine():
    engine = started()
    yield engine
    engine.shutdown()


def ask(engine, tokenizer, prompts):
    """Tasks of the prompts whose answers are not the expected ones, and the engine's outputs.

    The first token of an answer, a space, is given with the prompt: what decodes after it attends densely and would find the
    fact by itself.
    """
    expected = [answer_tokens(tokenizer, prompt) for prompt in prompts]
    outputs = engine.generate(
        input_ids=[
            tokenizer(prompt.text).input_ids + wanted[:1] for prompt, wanted in zip(prompts, expected)
        ],
        sampling_params={"temperature": 0, "max_new_tokens": 16},
    )
    answers = [output["output_ids"] for output in outputs]
    wrong = [
        p.task for p, got, wanted in zip(prompts, answers, expected) if got[: len(wanted) - 1] != wanted[1:]
    ]
    return wrong, outputs


def test_long_prompts_in_one_batch(engine, tokenizer):
    prompts = [make_prompt(tokenizer, TASKS[i % len(TASKS)], 16384, i) for i in range(20)]
    assert ask(engine, tokenizer, prompts)[0] == []


def test_a_prefix_from_the_cache(engine, tokenizer):
    prompt = make_prompt(tokenizer, "multikey", 16384, 100)
    for _ in range(2):
        wrong, outputs = ask(engine, tokenizer, [prompt])
        assert wrong == []
    assert outputs[0]["meta_info"]["cached_tokens"] > 16000


def test_the_patterns_are_those_of_the_environment(tokenizer, monkeypatch):
    """A window that cannot see the asked fact."""
    asked = '{"attn_type": "a_shape", "attn_kwargs": {"n_init": 1, "n_local": 64, "fallback": "off"}}'
    monkeypatch.setenv("MINFERENCE_SGLANG", asked)
    engine = started()
    wrong, _ = ask(engine, tokenizer, [make_prompt(tokenizer, "multikey", 8192, 1)])
    engine.shutdown()
    assert wrong == ["multikey"]
