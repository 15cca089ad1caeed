"""`minference capture` and `minference compare`."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from minference import patterns
from minference.cli import main
from minference.needle import model as needle
from minference.search import capture, compare
from minference.search.candidates import FAMILIES
from minference.search.scoring import score_patterns


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captured")
    arguments = [
        "capture",
        "--layers",
        "1,4",
        "--length",
        "1k",
        "--task",
        "kv_words",
        "--output",
        str(folder),
    ]
    assert main(arguments) == 0
    return folder


def test_files_hold_what_attention_gets(captured):
    """The layer's own output projection of attention over them is what the layer adds to the stream."""
    assert sorted(path.name for path in captured.iterdir()) == [
        "layer-001.safetensors",
        "layer-004.safetensors",
    ]
    layer = capture.load(captured / "layer-004.safetensors")
    assert layer.query.shape[1:] == (8, layer.query.shape[2], 64) and layer.key.shape[1] == 2
    assert layer.query.dtype == torch.bfloat16 and layer.softmax_scale == pytest.approx(64**-0.5)
    model, tokenizer = needle.load()
    from minference.eval.tasks import PromptMaker
    from minference.eval.wording import Embedded

    ids = PromptMaker(tokenizer, Embedded).make("kv_words", 1024, 0)[1].ids
    seen = []
    hook = model.model.layers[4].self_attn.register_forward_hook(lambda *call: seen.append(call[2][0]))
    with torch.no_grad():
        model(torch.tensor([ids]))
        hook.remove()
        attended = torch.nn.functional.scaled_dot_product_attention(
            layer.query, layer.key, layer.value, is_causal=True, enable_gqa=True
        )
        own = model.model.layers[4].self_attn.o_proj(attended.transpose(1, 2).flatten(2))
    assert float((own - seen[0]).float().norm() / seen[0].float().norm()) < 0.03


def test_selections_are_scored_at_their_cost(captured):
    layer = capture.load(captured / "layer-001.safetensors")
    rows = compare.compare(layer, [0.4, 0.6])
    assert len(rows) == 2 * len(FAMILIES) + 4
    row = next(row for row in rows if row["selection"] == "A-shape (128, *)" and row["wanted_cost"] == 0.6)
    assert max(row["cost"]) <= 0.6
    scores = score_patterns(
        layer.query, layer.key, layer.value, np.array(row["patterns"])[None], layer.softmax_scale
    )[0]
    assert row["error"] == scores["error"].tolist() and row["kept_mass"] == scores["kept_mass"].tolist()
    whole = compare.over_heads(row)
    assert whole["worst_error"] == max(row["error"]) >= whole["error"] > 0
    adaptive = rows[-1]
    assert adaptive["wanted_cost"] is None and adaptive["patterns"][0] == list(patterns.adaptive(0.99))


def test_layers_of_two_captures_have_different_names(captured, tmp_path):
    path = captured / "layer-001.safetensors"
    other = shutil.copy(path, tmp_path)
    assert capture.load(path).name != capture.load(other).name


def test_tables_and_results(captured, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(captured)
    files = sorted(path.name for path in captured.iterdir())
    assert main(["compare", *files, "--costs", "0.5", "--result", str(tmp_path / "result.json")]) == 0
    out = capsys.readouterr().out
    assert all(f"Selections, {name}" in out for name in files) and "block-sparse (*)" in out
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert len(rows) == 2 * (len(FAMILIES) + 4) and len(rows[0]["error"]) == 8


def test_synthetic_heads(capsys):
    assert main(["compare", "--synthetic", "7,1,64", "--length", "512", "--costs", "0.7", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(len(row["error"]) == 7 for row in rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compare"], "FILE or --synthetic must be given, one of them"),
        (["compare", "/nowhere.safetensors"], "/nowhere.safetensors"),
        (["compare", __file__], "must be a file of minference capture"),
        (["compare", "--synthetic", "8,2,64", "--costs", "2"], "--costs must be above 0"),
        (["capture", "--layers", "77", "--length", "1k"], "layers must be the model's"),
        (["capture", "--task", "nothing"], "task must be one of"),
        (["capture", "--length", "200k"], "length must be at most the model's 131072 positions, got 204800"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("minference: ") and message in error
