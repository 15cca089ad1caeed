"""Engines whose workers are processes of their own, as users start them: answers, tensor parallelism, a missing plugin."""

import gc

import pytest
from vllm import LLM, SamplingParams

from minference import MInference, restore
from minference.needle.model import folder
from minference.needle.prompts import answer_tokens, make_prompt

TASKS = ("single", "multikey", "passkey", "kv_word")


@pytest.fixture
def start(monkeypatch):
    """Starts an engine on these cores, which ends with the test: "0-1" for one worker, "0|1" for two."""
    engines = []

    def started(cores, **options):
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", cores)
        options = {"dtype": "bfloat16", "max_model_len": 40_000, "enforce_eager": True, **options}
        engines.append(LLM(str(folder()), disable_log_stats=True, **options))
        return engines[-1]

    yield started
    for engine in engines:
        engine.llm_engine.engine_core.shutdown()
    engines.clear()
    gc.collect()


def wrong_answers(engine, length, count):
    """Tasks of `count` prompts whose answers are not the expected ones."""
    tokenizer = engine.get_tokenizer()
    prompts = [make_prompt(tokenizer, TASKS[i % len(TASKS)], length, i) for i in range(count)]
    outputs = engine.generate(
        [prompt.text for prompt in prompts], SamplingParams(temperature=0, max_tokens=16), use_tqdm=False
    )
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    expected = [answer_tokens(tokenizer, prompt) for prompt in prompts]
    return [p.task for p, got, wanted in zip(prompts, answers, expected) if got[: len(wanted)] != wanted]


def test_long_prompts_in_chunks_and_from_the_prefix_cache(start):
    engine = MInference("vllm")(start("0-1"))
    assert wrong_answers(engine, 32768, 4) == []
    # Once more: but for the last block, their keys and values are in the cache.
    assert wrong_answers(engine, 32768, 4) == []


def test_long_prompts_in_one_piece(start):
    engine = MInference("vllm", folder())(start("0-1", max_num_batched_tokens=40_000))
    assert wrong_answers(engine, 32768, 1) == []
    restore(engine)
    assert wrong_answers(engine, 2048, 1) == []


def test_tensor_parallel(start):
    engine = MInference("vllm")(start("0|1", tensor_parallel_size=2))
    assert wrong_answers(engine, 16384, 4) == []


def test_an_engine_that_loads_no_plugins(start, monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "")
    with pytest.raises(RuntimeError, match="let VLLM_PLUGINS name minference"):
        MInference("vllm")(start("0-1"))
