"""What the library does not compute runs as before, and the engine's log says once what that is: small random models of the
kinds concerned."""

import contextlib
import logging
import os

import pytest
import torch

# Before the engine is imported: its workers are then objects of this process.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"

import transformers  # noqa: E402
import vllm.logger  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

from minference import MInference, restore  # noqa: E402
from minference.needle.model import folder  # noqa: E402

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
WINDOWS = ["sliding_attention", "full_attention"] * 2
MODELS = {
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=512),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, layer_types=WINDOWS, sliding_window=512, attn_logit_softcapping=30.0
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SIZES, layer_types=WINDOWS, sliding_window=512),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SIZES, layer_types=WINDOWS, sliding_window=512, num_local_experts=2, num_experts_per_tok=1
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=4096, hidden_size=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    ),
}


@contextlib.contextmanager
def said():
    """Messages of the library in the engine's log, in a block after the engine's start, which configures logging."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("vllm.plugins.minference")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Once a process, and this one runs many engines.
    vllm.logger._print_warning_once.cache_clear()
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def start(tmp_path):
    """Starts an engine with a random model of one of MODELS' kinds."""

    def started(kind):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(MODELS[kind]())
        model.to(torch.bfloat16).save_pretrained(tmp_path)
        return engine(str(tmp_path))

    return started


def engine(path, **options):
    options = {"max_model_len": 2048, "max_num_batched_tokens": 1000, **options}
    return LLM(
        path,
        tokenizer=str(folder()),
        dtype="bfloat16",
        enforce_eager=True,
        disable_log_stats=True,
        **options,
    )


def generate(engine):
    parameters = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(8, 4000, (length,), generator=generator).tolist() for length in (1500, 300)]
    outputs = engine.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False
    )
    return [output.outputs[0].token_ids for output in outputs]


def leaves(*reasons):
    return [f"MInference leaves layers as they were: {reason}." for reason in reasons]


@pytest.mark.parametrize(
    "kind, reasons",
    [
        ("mistral", ["a sliding window of 512"]),
        ("gemma2", ["a sliding window of 512", "a soft cap of 30.0"]),
        ("gpt_oss", ["a sliding window of 512", "attention sinks"]),
        ("bloom", ["ALiBi"]),
    ],
)
def test_models_without_a_layer_that_is_computed(start, kind, reasons):
    llm = start(kind)
    expected = generate(llm)
    with said() as messages:
        for _ in range(2):
            with pytest.raises(NotImplementedError, match="; ".join(sorted(reasons))):
                MInference("vllm")(llm)
    assert sorted(messages) == sorted(leaves(*reasons))
    assert generate(llm) == expected


def test_only_the_layers_that_are_computed_are_taken(start):
    llm = start("gemma3")
    expected = generate(llm)
    with said() as messages:
        MInference("dense")(llm)
        assert generate(llm) == expected
        MInference("dense")(restore(llm))
    taken = "MInference prefills long chunks in 2 layers; short ones and decoding run as before."
    assert messages == [taken, *leaves("a sliding window of 512"), taken]


def test_a_cache_of_eight_bits():
    llm = engine(str(folder()), kv_cache_dtype="fp8")
    expected = generate(llm)
    with said() as messages, pytest.raises(NotImplementedError, match="a KV cache of fp8"):
        MInference("vllm")(llm)
    assert messages == leaves("a KV cache of fp8")
    assert generate(llm) == expected


def test_encoders(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=4096, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    transformers.BertModel(config).to(torch.bfloat16).save_pretrained(tmp_path)
    llm = engine(str(tmp_path), runner="pooling", max_model_len=512)
    prompt = [{"prompt_token_ids": list(range(8, 408))}]
    expected = llm.embed(prompt, use_tqdm=False)[0].outputs.embedding
    with said() as messages, pytest.raises(NotImplementedError, match="encoder_only attention"):
        MInference("vllm")(llm)
    assert messages == leaves("encoder_only attention")
    assert llm.embed(prompt, use_tqdm=False)[0].outputs.embedding == expected
