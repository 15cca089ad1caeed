"""`minference perplexity`: windows, losses, and the summary."""

import json
import math

import pytest

pytest.importorskip("transformers")

import torch
from models import make, tokens

from minference.cli import main
from minference.eval import perplexity
from minference.needle import haystack
from minference.needle import model as needle


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    lines = haystack.lines("perplexity")
    path.write_text("".join(next(lines) for _ in range(400)), encoding="utf-8")
    return path


def run(text, *arguments):
    return main(["perplexity", str(text), *map(str, arguments)])


def test_losses_are_those_of_the_logits():
    model = make("llama", torch.float32)
    ids = tokens(1, 700)
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].log_softmax(-1)
    expected = -logits.gather(1, ids[0, 1:, None])[:, 0]
    assert perplexity.losses(model, ids[0].tolist()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_windows_follow_each_other(text):
    tokenizer = needle.load()[1]
    found = perplexity.windows(tokenizer, text, 512, 3)
    first = tokenizer("").input_ids
    whole = tokenizer(text.read_text(), add_special_tokens=False).input_ids
    assert [len(window) for window in found] == [512] * 3
    assert sum((window[len(first) :] for window in found), []) == whole[: 3 * (512 - len(first))]
    assert perplexity.ranges(8192) == [
        (0, 256), (256, 512), (512, 1024), (1024, 2048), (2048, 4096), (4096, 8192)
    ]  # fmt: skip


def test_prose_is_predicted_worse_through_a_narrow_window(tmp_path, text, capsys):
    arguments = [
        "--lengths",
        "2k",
        "--windows",
        "3",
        "--attn",
        "dense,sdpa,a_shape@0.01",
        "--output",
        tmp_path,
    ]
    assert run(text, *arguments, "--json") == 0
    dense, sdpa, narrow = json.loads(capsys.readouterr().out)
    assert dense["windows"] == 3 and len(dense["by_position"]) == 6
    assert abs(sdpa["above"]) < 0.003 < narrow["above"]
    assert narrow["above_low"] <= narrow["above"] <= narrow["above_high"]
    # The window holds all that comes before the first positions.
    assert abs(narrow["above_by_position"][0]) < 0.01 and narrow["density"] < 0.3
    assert dense["perplexity"] == pytest.approx(
        math.exp(sum(row["loss"] for row in map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())
                     if row["attention"] == "dense") / 3)
    )  # fmt: skip
    before = (tmp_path / "samples.jsonl").read_bytes()
    assert run(text, *arguments) == 0
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    assert (tmp_path / "perplexity.png").stat().st_size > 1000
    assert "contexts of 2,048 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lengths", "100k"], "the text must have at least"),
        (["--lengths", "200k"], "length must be at most the model's 131072 positions, got 204800"),
        (["--lengths", "32"], "length must be at least 64 tokens, got 32"),
        (["--attn", "static", "--lengths", "1k"], "attention must not be static"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, text, capsys, arguments, message):
    assert run(text, *arguments, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("minference: ") and message in error
    assert not (tmp_path / "out").exists()


def test_missing_text_gets_one_line(tmp_path, capsys):
    assert run(tmp_path / "none.txt", "--output", tmp_path / "out") == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
