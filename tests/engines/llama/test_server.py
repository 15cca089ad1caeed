"""llama-server: chunks, slots, prefixes that it keeps."""

from concurrent.futures import ThreadPoolExecutor

import pytest

TASKS = ("multikey", "passkey", "kv_word", "kv_hex")


def test_it_splits_text_as_the_model_was_trained(serve, tokenizer, prompt_of):
    text = prompt_of("multikey", 2048, 5).text
    with serve("-c", 4096, backend=False) as server:
        tokens = server.post("/tokenize", content=text, add_special=True)["tokens"]
    assert tokens == tokenizer(text).input_ids


@pytest.mark.parametrize("ubatch", [512, 2048])
def test_needles_are_found_with_and_without_the_backend(serve, prompt_of, ubatch):
    prompts = [prompt_of(task, 4096, seed) for seed, task in enumerate(TASKS)]
    arguments = ["-c", 5120, "-np", 1, "-b", 2048, "-ub", ubatch]
    found = {}
    for backend in (True, False):
        with serve(*arguments, backend=backend) as server:
            found[backend] = [server.complete(prompt.text) for prompt in prompts]
            assert ("minference: attention of" in server.log()) == backend
    for prompt, sparse, dense in zip(prompts, found[True], found[False]):
        assert sparse.startswith(prompt.answer)
        assert dense.startswith(prompt.answer)


def test_long_prompts(serve, prompt_of):
    with serve("-c", 34816, "-np", 1, "-b", 4096, "-ub", 4096) as server:
        for seed, task in enumerate(TASKS):
            prompt = prompt_of(task, 32768, seed)
            assert server.complete(prompt.text, cache_prompt=False).startswith(prompt.answer)


@pytest.mark.parametrize("tokens", [4096, 32768])
@pytest.mark.parametrize("cache", ["--kv-unified", "--no-kv-unified"])
def test_four_slots_at_once(serve, prompt_of, cache, tokens):
    prompts = [prompt_of(task, tokens, 10 + seed) for seed, task in enumerate(TASKS)]
    with serve("-c", 4 * (tokens + 1024), "-np", 4, "-ub", 2048, cache) as server:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda prompt: server.complete(prompt.text), prompts))
    for prompt, answer in zip(prompts, found):
        assert answer.startswith(prompt.answer)


def test_a_kept_prefix_is_continued(serve, prompt_of):
    prompt = prompt_of("kv_word", 8192, 4)
    cut = prompt.text.rindex("Question:")
    with serve("-c", 10240, "-np", 1, "-ub", 2048) as server:
        server.post("/completion", prompt=prompt.text[:cut], n_predict=1, temperature=0)
        result = server.post("/completion", prompt=prompt.text, n_predict=16, temperature=0)
    assert result["content"].startswith(prompt.answer)
    assert result["timings"]["cache_n"] > 7000


def test_a_shifted_context_goes_on(serve, prompt_of):
    # Cells of the oldest tokens are given away: the new ones come before old ones.
    text = prompt_of("multikey", 2048, 6).text
    with serve("-c", 2304, "-np", 1, "-ub", 512, "--context-shift") as server:
        result = server.post("/completion", prompt=text, n_predict=600, temperature=0, ignore_eos=True)
        assert result["tokens_predicted"] == 600
        again = server.post("/completion", prompt=text, n_predict=8, temperature=0)
    assert again["content"].strip()
