"""llama-completion and llama-bench."""

import json
import struct

import pytest
from llama_programs import MODEL, run

PREFILL = ["--temp", "0", "-no-cnv", "--no-display-prompt", "-n", "12", "-lv", "4"]


def complete(text, tmp_path, *arguments, **options):
    file = tmp_path / "prompt.txt"
    file.write_text(text)
    return run("llama-completion", "-f", file, "-c", 12288, *PREFILL, *arguments, **options)


def summary(log):
    """What the backend says at the end of its life: (calls, density in percent)."""
    lines = [line for line in log.splitlines() if "minference:" in line and " calls, density " in line]
    assert len(lines) <= 1, lines
    if not lines:
        return 0, None
    words = lines[0].split("minference: ")[1].split()
    return int(words[0]), float(words[3])


@pytest.mark.parametrize("cache", ["f16", "bf16", "f32"])
def test_a_prompt_is_answered_sparsely(prompt_of, tmp_path, cache):
    prompt = prompt_of("multikey", 8192, 3)
    result = complete(prompt.text, tmp_path, "-b", 4096, "-ub", 4096, "-ctk", cache, "-ctv", cache)
    assert result.stdout.startswith(prompt.answer)
    assert "head patterns: adaptive" in result.stderr
    calls, density = summary(result.stderr)
    # Two chunks of six layers.
    assert calls == 12
    assert density < 60


def test_flash_attention_stays_on_by_default(prompt_of, tmp_path):
    # llama.cpp turns it off when a backend claims it for one token, as when decoding.
    result = complete(prompt_of("passkey", 2048, 0).text, tmp_path)
    assert (
        "Flash Attention was auto, set to enabled" in result.stderr or "set to disabled" not in result.stderr
    )
    assert summary(result.stderr)[0] > 0


@pytest.mark.parametrize("patterns", ["models/needle/head_patterns.json", str(MODEL)], ids=["json", "gguf"])
def test_head_patterns_of_a_file(prompt_of, tmp_path, patterns):
    prompt = prompt_of("kv_word", 8192, 1)
    result = complete(
        prompt.text,
        tmp_path,
        "-b",
        8192,
        "-ub",
        8192,
        MINFERENCE_GGML_PATTERNS=patterns,
    )
    assert result.stdout.startswith(prompt.answer)
    assert f"head patterns: {patterns}" in result.stderr
    assert "adaptive ones are used" not in result.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, ""),
        (b"GGUF", "cannot read "),
        # Version 3 without tensors and metadata.
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "has no text minference.head_patterns"),
    ],
    ids=["no file", "cut off", "no patterns"],
)
def test_patterns_that_cannot_be_read_leave_llama_cpp_as_it_was(prompt_of, tmp_path, content, reason):
    prompt = prompt_of("passkey", 1024, 0)
    file = tmp_path / "patterns.gguf"
    if content is not None:
        file.write_bytes(content)
    result = complete(prompt.text, tmp_path, MINFERENCE_GGML_PATTERNS=str(file))
    assert "MINFERENCE_GGML_PATTERNS: " in result.stderr and reason in result.stderr
    assert result.stdout.startswith(prompt.answer)


def test_a_quantised_cache_runs_as_before(prompt_of, tmp_path):
    prompt = prompt_of("multikey", 2048, 2)
    arguments = ["-ctk", "q8_0", "-ctv", "q8_0"]
    with_backend = complete(prompt.text, tmp_path, *arguments)
    assert summary(with_backend.stderr)[0] == 0
    # What follows the answer is not the same in all runs of llama.cpp itself.
    for result in (with_backend, complete(prompt.text, tmp_path, *arguments, backend=False)):
        assert result.stdout.startswith(prompt.answer)


def test_llama_bench_uses_it():
    rows = json.loads(run("llama-bench", "-p", 2048, "-n", 4, "-r", 1, "-ub", 1024, "-o", "json").stdout)
    assert [row["n_prompt"] for row in rows] == [2048, 0]
    assert all("MInference" in row["backends"] for row in rows)
