"""Haystacks and prompts, and what observing a model says about its heads."""

import re

import numpy as np
import pytest
import transformers

from minference import HeadPatterns, MInference, patterns, restore
from minference.greedy import after_each_layer, answer, attention_left_out, attention_timed
from minference.needle import haystack
from minference.needle import model as needle
from minference.needle.prompts import TASKS, answer_tokens, make_prompt
from minference.observe import Head, computed_share, observe


@pytest.fixture(scope="module")
def embedded():
    return needle.load()


def test_haystack_is_deterministic_and_varied():
    text = haystack.text(200_000, seed=1)
    assert text == haystack.text(200_000, seed=1)
    assert text[:1000] != haystack.text(1000, seed=2)[:1000]
    assert text.isascii() and max(map(len, text.split("\n"))) <= 78
    sentences = re.split(r"(?<=[.?!\"])\s+", text)
    assert len(set(sentences)) > 0.97 * len(sentences)
    assert not re.search(r"\b[Aa] [aeiou]|[{}]", text)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [256, 1001])
def test_prompt_fills_its_length(embedded, task, length):
    tokenizer = embedded[1]
    prompt = make_prompt(tokenizer, task, length, seed=7)
    assert prompt == make_prompt(tokenizer, task, length, seed=7)
    assert prompt.text != make_prompt(tokenizer, task, length, seed=8).text
    total = len(tokenizer(prompt.text).input_ids) + len(answer_tokens(tokenizer, prompt))
    assert length - 160 < total <= length
    assert prompt.text.endswith(prompt.question)
    assert all(part in prompt.text for part in prompt.answer.strip().split(", "))
    both = tokenizer(prompt.text + prompt.answer).input_ids
    assert both[len(tokenizer(prompt.text).input_ids) :] == answer_tokens(tokenizer, prompt)


def test_prompt_refuses(embedded):
    with pytest.raises(ValueError, match="task must be one of .*, got 'chess'"):
        make_prompt(embedded[1], "chess", 1000, 0)
    with pytest.raises(ValueError, match="at least 256 tokens, got 255"):
        make_prompt(embedded[1], "single", 255, 0)


@pytest.mark.parametrize("task", TASKS[:5])
def test_model_answers_densely_and_sparsely(embedded, task):
    model, tokenizer = embedded
    prompt = make_prompt(tokenizer, task, 1200, seed=11)
    token_ids = tokenizer(prompt.text).input_ids
    expected = answer_tokens(tokenizer, prompt)
    assert answer(model, token_ids, len(expected)).tokens == expected
    MInference(attn_kwargs={"fallback": "off"})(model)
    try:
        assert answer(model, token_ids, len(expected)).tokens == expected
    finally:
        restore(model)


def test_an_answer_ends_where_it_is_enough(embedded):
    model, tokenizer = embedded
    token_ids = tokenizer("The grass is green. " * 30).input_ids
    seen = []
    found = answer(model, token_ids, 8, enough=lambda tokens: seen.append(list(tokens)) or len(tokens) == 3)
    assert found.tokens == seen[-1] and [len(tokens) for tokens in seen] == [1, 2, 3]
    assert answer(model, token_ids, 8, enough=lambda tokens: False).tokens[:3] == found.tokens


def test_floor_leaves_the_model_as_it_was(embedded):
    model, tokenizer = embedded
    token_ids = tokenizer("The grass is green. " * 30).input_ids
    before = answer(model, token_ids, 3).tokens
    layers = []
    with attention_left_out(model), after_each_layer(model, lambda: layers.append(1)):
        assert answer(model, token_ids, 1).seconds_per_token is None
    assert len(layers) == model.config.num_hidden_layers
    assert answer(model, token_ids, 3).tokens == before
    assert len(layers) == model.config.num_hidden_layers


def test_attention_is_timed_call_by_call(embedded):
    model, _ = embedded
    attend = transformers.AttentionInterface()["sdpa"]
    with attention_timed(model) as seconds:
        run = answer(model, [5] * 500, 2)
    # The pass over the prompt, and that over the first token of the answer.
    assert len(seconds) == 2 * model.config.num_hidden_layers and min(seconds) > 0
    assert sum(seconds) < run.seconds_to_first_token + run.seconds_per_token
    assert transformers.AttentionInterface()["sdpa"] is attend
    model.set_attn_implementation("eager")
    with pytest.raises(NotImplementedError, match="registered by name, got 'eager'"), attention_timed(model):
        pass
    model.set_attn_implementation("sdpa")


def test_observe_sees_every_head(embedded, tmp_path):
    model, tokenizer = embedded
    token_ids = tokenizer(make_prompt(tokenizer, "single", 1000, 0).text).input_ids
    file = tmp_path / "patterns.json"
    HeadPatterns.from_array(np.tile(patterns.vertical_slash(500, 100), (6, 8, 1))).save(file)
    MInference(config_path=file, attn_kwargs={"fallback": "off"})(model)
    try:
        with observe(model, with_attention=True) as (report, heads):
            answer(model, token_ids, 2)
    finally:
        restore(model)
    assert [(head.layer, head.head) for head in heads] == [divmod(i, 8) for i in range(48)]
    for head in heads:
        assert set(range(30)) <= set(head.columns.tolist()) and set(range(100)) <= set(head.offsets.tolist())
        np.testing.assert_allclose(head.attention.sum(1), 1, atol=1e-4)
        # Every cell has as many pairs, nearly: the mean of the shares over the causal cells is the density.
        share = computed_share(head, resolution=len(token_ids) // 4)
        rough = np.nanmean(share) if np.isnan(share).any() else 0
        assert rough == pytest.approx(report.layers[head.layer].density[head.head], rel=0.1)


def test_computed_share_paints_exactly_the_pairs():
    rng = np.random.default_rng(0)
    kv_len, q_len = 200, 137
    columns = np.unique(rng.integers(0, kv_len, 5)).astype(np.int32)
    offsets = np.unique(np.append(rng.integers(0, kv_len, 3), 0)).astype(np.int32)
    patterns = [(0, 0, 0, 0, 0), (1, 7, 40, 0, 0), (1, 7, 40, 20, 0), (2, 5, 4, 0, 0)]
    for pattern in patterns:
        share = computed_share(Head(0, 0, pattern, columns, offsets, q_len, kv_len, None), resolution=50)
        begins = np.arange(50) * kv_len // 50
        for i in range(50):
            row = int((i + 0.5) * q_len / 50)
            position = kv_len - q_len + row
            block_begin = kv_len - q_len + row // 64 * 64
            computed = []
            for key in range(kv_len):
                in_band = any(block_begin - s <= key < block_begin - s + 64 for s in offsets)
                kept = {0: True, 1: key < 7 or position - key < 40, 2: key in columns or in_band}[pattern[0]]
                kept = kept or row >= q_len - pattern[3]
                computed.append(kept and key <= position)
            for j, begin in enumerate(begins):
                end = begins[j + 1] if j < 49 else kv_len
                if begin > position:
                    assert np.isnan(share[i, j])
                else:
                    assert share[i, j] == pytest.approx(np.mean(computed[begin:end]))


def test_block_sparse_has_no_picture():
    assert computed_share(Head(0, 0, (3, 10, 0, 0, 0), None, None, 64, 64, None)) is None


def test_missing_model(monkeypatch, tmp_path):
    monkeypatch.setenv(needle.ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="MINFERENCE_NEEDLE must name a folder with config.json"):
        needle.folder()
