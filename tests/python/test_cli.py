"""The command line, in process; the embedded model answers short prompts."""

import csv
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minference.cli import machine, main
from minference.needle import model as needle

COMMANDS = ("demo", "models", "inspect", "bench")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def exit_code(*arguments):
    try:
        return main(arguments)
    except SystemExit as error:
        return error.code


def assert_picture(path):
    content = path.read_bytes()
    assert content.startswith(PNG_SIGNATURE)
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width > 400 and height > 300


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command, capsys):
    assert exit_code(command, "--help") == 0
    assert f"  minference {command}" in capsys.readouterr().out


def test_help_lists_commands(capsys):
    assert exit_code("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("demo", "--length", "many"),
        ("demo", "--tasks", "single,chess"),
        ("demo", "--tasks", ","),
        ("bench", "--lengths", ""),
        ("bench", "--heads", "0"),
        ("bench", "--threads", "2,0"),
        ("inspect", "--head", "first"),
        ("demo", "--attn", "guess"),
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    assert exit_code(*arguments) == 2
    assert "minference" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "/nowhere/model"), "/nowhere/model"),
        (("demo", "--model", "/nowhere/model"), "--model must come with --web"),
        (("demo", "--length", "100"), "length must be at least 256 tokens, got 100"),
        (("demo", "--length", "200k"), "length must be at most the model's 131072 positions, got 204800"),
        (("inspect", "--length", "200k"), "length must be at most the model's 131072 positions, got 204800"),
        (("bench", "--heads", "6"), "--heads must be"),
        (("inspect", "--prompt", "/nowhere/prompt.txt"), "/nowhere/prompt.txt"),
    ],
)
def test_failure_is_1_and_says_why(arguments, message, capsys):
    assert exit_code(*arguments) == 1
    assert message in capsys.readouterr().err


def test_missing_model_says_where_it_comes_from(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(needle.ENVIRONMENT_VARIABLE, str(tmp_path))
    assert exit_code("demo") == 1
    assert needle.ENVIRONMENT_VARIABLE in capsys.readouterr().err


def test_the_web_page_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "minference.cli.web.page", raising=False)
    assert exit_code("demo", "--web") == 1
    assert "demo needs gradio: pip install 'minference-cpp[web]'" in capsys.readouterr().err


def test_the_harness_says_what_it_needs():
    run = "import runpy, sys; sys.modules['lm_eval'] = None; runpy.run_module('minference.harness', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"minference\.harness needs lm_eval\S*: pip install 'lm_eval\[hf\]'\n", done.stderr)


def test_models_lists_every_pattern(capsys):
    assert exit_code("models", "--json") == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    llama = rows["meta-llama/Llama-3.1-8B-Instruct"]
    assert (llama["layers"], llama["heads"]) == (32, 32)
    assert all(sum(row["patterns"].values()) == row["layers"] * row["heads"] for row in rows.values())
    assert exit_code("models") == 0
    assert "meta-llama/Llama-3.1-8B-Instruct" in capsys.readouterr().out


def test_demo_answers_right(tmp_path, capsys):
    picture = tmp_path / "new folder" / "patterns.png"
    arguments = ("--length", "2k", "--tasks", "single", "--output", str(picture), "--json")
    assert exit_code("demo", *arguments) == 0
    printed = capsys.readouterr()
    results = json.loads(printed.out)["results"]
    assert [result["task"] for result in results] == ["single"]
    for result in results:
        assert result["dense_answer"] == result["sparse_answer"] == result["expected"]
        assert 1800 < result["prompt_tokens"] < 2048
        assert 0 < result["density"] <= 1 and 0.9 < result["kept_mass_last"] < 1 + 1e-6
        for kind in ("sparse", "dense"):
            assert 0 < result[f"{kind}_attention_seconds"] < result[f"{kind}_seconds"]
    assert "the same, and right" in printed.err
    assert_picture(picture)


def test_inspect_shows_and_draws_every_head(tmp_path, capsys):
    arguments = (
        "--length",
        "2048",
        "--head",
        "0.1",
        "--output",
        str(tmp_path),
        "--json",
        "--attn",
        "adaptive",
    )
    assert exit_code("inspect", *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["layer"], row["head"]) for row in result["heads"]] == [divmod(i, 8) for i in range(48)]
    for row in result["heads"]:
        assert row["pattern"].startswith("adaptive")
        assert row["columns"] >= 1 and row["diagonals"] >= 1
        assert 0 < row["density"] <= 1 and 0 < row["kept_mass"] < 1 + 1e-6
    for name in ("patterns.png", "heads.png", "head-0.1.png"):
        assert_picture(tmp_path / name)
    assert len(result["pictures"]) == 3


def test_inspect_prints_a_table(tmp_path, capsys):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("The grass is green. The sky is blue.\n" * 100)
    arguments = ("--prompt", str(prompt), "--length", "300", "--head", "5.7", "--output", str(tmp_path))
    assert exit_code("inspect", *arguments, "--attn", "a_shape") == 0
    out = capsys.readouterr().out
    assert "A-shape (128, 3968)" in out and "Means: density" in out
    assert_picture(tmp_path / "head-5.7.png")


def test_inspect_refuses_heads_that_are_not_there(tmp_path, capsys):
    assert exit_code("inspect", "--length", "512", "--head", "6.0", "--output", str(tmp_path)) == 1
    assert "got 6.0" in capsys.readouterr().err


def test_bench_forms(tmp_path, capsys):
    result_file = tmp_path / "new folder" / "kernels.json"
    common = ("bench", "--lengths", "256,1k", "--heads", "4", "--repeats", "1", "--threads", "1,2")
    assert exit_code(*common, "--format", "csv", "--output", str(result_file)) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    cases = [(row["length"], row["threads"], row["attention"]) for row in rows]
    assert cases == list(itertools.product(("256", "1024"), ("1", "2"), ("dense", "layer 15")))
    assert float(rows[0]["density"]) == 1 and 0 < float(rows[1]["density"]) <= 1
    result = json.loads(result_file.read_text())
    assert {"title", "machine", "command", "commit", "date", "rows"} == set(result)
    assert [str(row["ours_ms"]) for row in result["rows"]] == [row["ours_ms"] for row in rows]
    assert exit_code(*common, "--format", "md") == 0
    assert capsys.readouterr().out.startswith("| length | threads | attention |")
    assert exit_code(*common) == 0
    assert "speed-up" in capsys.readouterr().out


def test_results_name_the_commit_of_the_package(monkeypatch, tmp_path):
    here = Path(machine.__file__).parent
    head = subprocess.run(
        ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    monkeypatch.chdir(tmp_path)
    commit = machine.describe("a test", 1, [])["commit"].rstrip("+")
    assert commit == "unknown" if not head else head.startswith(commit)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (
            "--threads 2 --output bench/results/kernels.json",
            "--threads 2 --output bench/results/kernels.json",
        ),
        ("--output /tmp/x --threads 2 --result=/tmp/y.json", "--threads 2"),
        ("--model /models/one --threads 2", "--model /models/one --threads 2"),
    ],
)
def test_a_result_names_no_folder_that_it_was_written_to(monkeypatch, typed, kept):
    monkeypatch.setattr("sys.argv", ["/usr/bin/minference", *typed.split()])
    assert machine.describe("a test", 1, [])["command"] == f"minference {kept}"
