"""What commands write is whole or not there, on a full disk too; the same command then goes on."""

import json
import os
import resource
from contextlib import contextmanager

import pytest

from minference._files import write_whole
from minference.cli import main
from minference.eval.journal import Journal


@contextmanager
def disk_of(size):
    """A limit on the size of every file stands for a full disk: writes come back short, the next ones fail."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def failure(arguments, size, capsys):
    """The last line of what a command says on a disk of `size` bytes."""
    pytest.importorskip("transformers")
    with disk_of(size):
        assert main(list(map(str, arguments))) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("minference: ")
    return line


def test_files_are_written_or_left(tmp_path):
    path = tmp_path / "summary.md"
    write_whole(path, "old")
    with disk_of(100), pytest.raises(OSError, match="summary.md"):
        write_whole(path, "new" * 100)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["summary.md"]


def test_full_disk_leaves_no_part_of_a_sample(tmp_path):
    with Journal(tmp_path, {}, ("seed",)) as journal:
        journal.add({"seed": 0, "text": "x" * 50})
        with disk_of(100), pytest.raises(OSError, match="No space left on device.*samples.jsonl"):
            journal.add({"seed": 1, "text": "x" * 50})
        journal.add({"seed": 2})
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 2]


def test_eval_on_a_full_disk(tmp_path, capsys):
    arguments = ["eval", "niah_single_2", "--lengths", "1k", "--samples", 3, "--attn", "dense,a_shape"]
    arguments += ["--output", tmp_path]
    samples = tmp_path / "samples.jsonl"
    assert "samples.jsonl" in failure(arguments, 1500, capsys)
    names = [(row["seed"], row["attention"]) for row in map(json.loads, samples.read_text().splitlines())]
    assert 0 < len(names) < 6 and sorted(os.listdir(tmp_path)) == ["run.json", "samples.jsonl"]
    # Room for the samples, none for the picture.
    assert "curves.png" in failure(arguments, 8000, capsys)
    names = [(row["seed"], row["attention"]) for row in map(json.loads, samples.read_text().splitlines())]
    assert len(names) == len(set(names)) == 6
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".png", ".new"))]


def test_search_on_a_full_disk(tmp_path, capsys):
    output, work = tmp_path / "patterns.json", tmp_path / "work"
    arguments = ["search", "--lengths", "1k", "--cost", 0.7, "--tasks", "kv_words", "--kinds", "A-shape"]
    arguments += ["--levels", 1, "--output", output, "--work", work]
    assert "samples.jsonl" in failure(arguments, 2000, capsys)
    rows = [json.loads(line) for line in (work / "samples.jsonl").read_text().splitlines()]
    assert 0 < len(rows) < 12 and os.listdir(tmp_path) == ["work"]


def test_capture_on_a_full_disk(tmp_path, capsys):
    arguments = ["capture", "--layers", 0, "--length", "512", "--output", tmp_path / "layers"]
    assert "layer-000.safetensors" in failure(arguments, 1000, capsys)
    assert not os.listdir(tmp_path / "layers")
