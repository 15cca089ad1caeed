"""The training of the embedded model: tokens, losses, and that a run cut into slices is the same run."""

import errno
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from needle_training import EVEN, FOLDER, train
from training import curve as training_curve
from training import evaluation, folders, network, sequences, tokenizer
from training.pieces import COMMON

from minference.needle import haystack
from minference.needle.prompts import WORDS


def test_new_words_are_tokens_and_begin_as_their_pieces(bpe):
    # The shipped folder has all its words already; hence one that no text of ours has.
    word = " zyzzyva"
    assert tokenizer.with_words(bpe, WORDS).to_str() == bpe.to_str()
    assert all(len(bpe.encode(f" {known}", add_special_tokens=False).ids) == 1 for known in WORDS)
    larger = tokenizer.with_words(bpe, [word.strip()])
    sentence = f"The special magic number for{word} is: 1234567.\n- acorn-barn: 1f0c93ab"
    assert larger.decode(larger.encode(sentence).ids) == sentence
    (new,) = larger.encode(word, add_special_tokens=False).ids
    assert new == bpe.get_vocab_size()
    model = network.Llama(network.Shape(-(-larger.get_vocab_size() // 64) * 64))
    network.restore(model, FOLDER, larger)
    pieces = bpe.encode(word, add_special_tokens=False).ids
    weight = model.model.embed_tokens.weight
    assert len(pieces) > 1 and torch.equal(weight[new], weight[pieces].mean(0))


def test_a_model_begins_from_nothing_with_a_folder_of_a_tokenizer(tmp_path, bpe):
    documents = [haystack.text(300_000, seed) for seed in range(4)] + [" ".join(WORDS)]
    other = tokenizer.train(documents, tmp_path)
    model = network.Llama(SMALL)
    before = [parameter.clone() for parameter in model.parameters()]
    network.restore(model, tmp_path, tokenizer.with_words(other, WORDS))
    assert all(torch.equal(one, own) for one, own in zip(before, model.parameters()))


def test_set_loss_accepts_any_order(bpe):
    torch.manual_seed(0)
    model = network.Llama(network.Shape(64, hidden=64, layers=1, heads=2, kv_heads=1, mlp=64))
    ids, positions = torch.arange(16), torch.arange(16)
    classes = torch.full((16,), COMMON)
    places, choices = torch.tensor([5]), torch.tensor([[5, 40, -1]])
    plain = model.losses(ids, classes, positions, torch.tensor([], dtype=torch.long), choices[:0], 16)[0]
    loose = model.losses(ids, classes, positions, places, choices, 16)[0]
    assert loose[4] < plain[4]
    assert torch.equal(loose[:4], plain[:4]) and torch.equal(loose[5:], plain[5:])
    shares = model._logits(model.hidden(ids, positions, 16)[0][4]).float().softmax(-1)
    assert loose[4].item() == pytest.approx(-(shares[5] + shares[40]).log().item(), abs=1e-2)


def test_chunks_change_nothing(draws, monkeypatch):
    """A sequence longer than what a compiled block sees."""
    draws.reseed("chunks")
    ids, classes, positions, places, choices = map(
        torch.from_numpy, sequences.batch(draws, 1024, 1024, EVEN, 0.5, 131072)
    )
    model = network.Llama(SMALL)

    def gradients():
        torch.manual_seed(0)
        losses, _, entropy = model.losses(
            ids.long(), classes.long(), positions, places, choices.long(), 1024, 16
        )
        (losses.mean() + entropy).backward()
        found = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        return losses.detach(), *found

    whole = gradients()
    monkeypatch.setattr(network, "CHUNK", 256)
    for one, other in zip(whole, gradients()):
        assert (one - other).norm() <= 0.02 * one.norm()


SMALL = network.Shape(5056, hidden=64, layers=2, heads=2, kv_heads=1, mlp=64)
STAGES = (train.Stage(0.5, (256,), 0.5, EVEN), train.Stage(0.5, (512, 256), 0.5, EVEN))


def trainer(work, *options):
    args = train.parse(
        ["--work", str(work), "--total-steps", "12", "--tokens", "512", "--workers", "0", "--report", "1"]
        + ["--characters", "100000", *options]
    )
    return train.Trainer(args, SMALL, STAGES)


def run(work, *options):
    trained = trainer(work, *options)
    trained.run()
    return trained


def curve(work):
    lines = map(json.loads, (work / "curve.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "tokens_per_second")}
        for line in lines
        if "scale" in line
    ]


def test_a_resumed_run_is_the_same_run(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.steps == 12
    first = run(tmp_path / "cut", "--slice-steps", "5")
    assert first.steps == 5
    with (tmp_path / "cut" / "curve.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "scale": 1}\n{"step": 7, "sca')  # as a killed slice leaves it
    second = run(tmp_path / "cut", "--resume")
    assert second.steps == 12
    assert len(curve(tmp_path / "whole")) == 12
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    for own, other in zip(second.model.parameters(), whole.model.parameters()):
        assert torch.equal(own, other)


def test_a_run_may_begin_at_a_later_stage(tmp_path):
    trainer(tmp_path, "--first-stage", "1").run()
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if "stage" in line] == [1] * 12
    assert [line["stage_ended"] for line in lines if "stage_ended" in line] == [1]


def test_a_stage_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--first-stage must be at most 1, got 2"):
        trainer(tmp_path, "--first-stage", "2")


def test_a_line_is_not_added_to_a_torn_one(tmp_path):
    path = tmp_path / "curve.jsonl"
    training_curve.add(path, {"step": 1})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": ')
    training_curve.add(path, {"step": 2})
    assert training_curve.read(path) == [{"step": 1}, {"step": 2}]


def test_a_kill_while_the_curve_is_cut_leaves_it_whole(tmp_path, monkeypatch):
    path = tmp_path / "curve.jsonl"
    for step in (1, 2):
        training_curve.add(path, {"step": step})
    before = path.read_text()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        training_curve.cut(path, 1)
    assert path.read_text() == before
    training_curve.cut(path, 1)
    assert training_curve.read(path) == [{"step": 1}]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed", "2"], "--seed must be that of the run to resume, 1, got 2"),
        (["--tokens", "1024"], "--tokens must be that of the run to resume, 512, got 1024"),
        (["--learning-rate", "0.1"], "--learning-rate must be that of the run to resume, 0.005, got 0.1"),
        (["--characters", "50000"], "--characters must be that of the run to resume, 100000, got 50000"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, changed, message):
    run(tmp_path, "--slice-steps", "1")
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(tmp_path, "--resume", *changed)


def test_another_corpus_does_not_resume(tmp_path):
    """By what it holds, not by where it lies."""
    text = haystack.text(2000, 1)
    paths = [tmp_path / name for name in ("first", "same", "other")]
    for path, documents in zip(paths, ([text], [text], [text, text])):
        with lzma.open(path, "wt") as file:
            json.dump({"train": documents, "words_train": []}, file)
    run(tmp_path, "--slice-steps", "1", "--corpus", str(paths[0]))
    for options in ([], ["--corpus", str(paths[2])]):
        with pytest.raises(
            SystemExit, match="--corpus must be that of the run to resume, [0-9a-f]{16}, got "
        ):
            run(tmp_path, "--resume", *options)
    assert run(tmp_path, "--resume", "--corpus", str(paths[1])).steps == 12


def test_another_number_of_processes_does_not_resume(tmp_path, monkeypatch):
    run(tmp_path, "--slice-steps", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(SystemExit, match="number of processes must be that of the run to resume, 1, got 2"):
        run(tmp_path, "--resume")


def test_a_new_run_leaves_nothing_of_the_old_one_to_resume(tmp_path):
    run(tmp_path, "--slice-steps", "1")
    trainer(tmp_path)  # killed before its first checkpoint
    with pytest.raises(SystemExit, match="--resume must find checkpoint.pt in --work"):
        run(tmp_path, "--resume")
    assert not (tmp_path / "curve.jsonl").exists()


def test_the_exported_folder_is_the_trained_model(tmp_path, bpe):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = run(tmp_path, "--slice-steps", "2")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    text = "VAR acorn = 12345. The grass is green.\n- acorn-barn: 1f0c93ab"
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")(text).input_ids
    assert ids == bpe.encode(text).ids
    with torch.no_grad():
        given = exported(torch.tensor([ids])).logits[0]
        own = trained.model._logits(
            trained.model.hidden(torch.tensor(ids), torch.arange(len(ids)), len(ids))[0]
        )
    assert (given - own.float()).norm() < 0.03 * given.norm()


@pytest.mark.parametrize(
    "killed_at", ["second shard", "tokenizer", "exchange", "removal", "first rename", "second rename"]
)
def test_a_kill_while_a_model_is_exported_leaves_one_whole(tmp_path, bpe, monkeypatch, killed_at):
    monkeypatch.setattr(network, "_SHARD_BYTES", 2**19)  # several shards
    folder = tmp_path / "model"
    torch.manual_seed(0)
    first, second, read = (network.Llama(SMALL) for _ in range(3))
    network.export(first, folder, bpe)
    (folder / "left.safetensors").write_bytes(b"what the index does not name")
    calls = Counter()

    def killed(name, times, function):
        def call(*arguments, **options):
            calls[name] += 1
            if calls[name] == times:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    where, name, times = {
        "second shard": (network, "save_file", 2),
        "tokenizer": (network, "save_tokenizer", 1),
        "exchange": (folders, "_exchange", 1),
        "removal": (shutil, "rmtree", 2),
        "first rename": (Path, "rename", 1),
        "second rename": (Path, "rename", 2),
    }[killed_at]

    def cannot_exchange(*_):
        raise OSError(errno.EINVAL, "a file system without it")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if "rename" in killed_at:
            patch.setattr(folders, "_exchange", cannot_exchange)
        patch.setattr(where, name, killed(name, times, getattr(where, name)))
        network.export(second, folder, bpe)

    def holds(path, model):
        network.restore(read, path, bpe)
        return all(
            torch.equal(one, other.bfloat16().float())
            for one, other in zip(read.parameters(), model.parameters())
        )

    left = tmp_path / ("model.old" if killed_at == "second rename" else "model")
    assert holds(left, second if killed_at == "removal" else first)
    network.export(second, folder, bpe)
    assert holds(folder, second)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (folder / "left.safetensors").exists()


def test_evaluation_scores_the_shipped_model():
    rows = {
        row["task"]: row
        for row in evaluation.measure(FOLDER, [700], 2, 300, 0, "cpu", ("niah_single_2", "niah_multivalue"))
    }
    assert rows["niah_single_2"] == {"task": "niah_single_2", "length": 700, "score": 1.0, "samples": 2}
    assert 0 <= rows["niah_multivalue"]["score"] <= 1 and rows["niah_multivalue"]["samples"] == 2


def test_two_processes_stay_one_model(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        __file__,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    begin = network.Llama(SMALL).state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
        assert not torch.equal(tensor, begin[name]), name
    assert len(curve(tmp_path)) == 4


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    trained = run(folder, "--total-steps", "4")
    torch.save(trained.model.state_dict(), folder / f"rank{trained.rank}.pt")
