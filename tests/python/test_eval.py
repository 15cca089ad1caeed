"""`minference eval`: resuming, comparing, and what it refuses."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("transformers")

from minference import HeadPatterns, patterns
from minference.cli import main
from minference.eval import ahead, statistics, summary
from minference.eval.journal import Journal
from minference.eval.settings import Methods, Setting, _scaled
from minference.eval.tasks import PromptMaker
from minference.eval.wording import Embedded
from minference.needle import model as needle

KEY = ("task", "seed")
GRID = [
    "niah_single_2",
    "recall",
    "--lengths",
    "1k",
    "--samples",
    "3",
    "--attn",
    "dense,minference,static,a_shape",
]


def run(*arguments):
    return main(["eval", *map(str, arguments)])


def test_journal_drops_what_a_kill_cut_short(tmp_path):
    with Journal(tmp_path, {"model": "m"}, KEY) as journal:
        journal.add({"task": "a", "seed": 0, "score": 1})
        journal.add({"task": "a", "seed": 1, "score": 0})
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    for cut in (1, 10, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        with Journal(tmp_path, {"model": "m"}, KEY) as journal:
            assert set(journal.rows) == {("a", 0)}
            journal.add({"task": "a", "seed": 1, "score": 0})
        assert path.read_bytes() == whole
    with pytest.raises(ValueError, match="holds a run with model 'm', got 'n': choose another --output"):
        Journal(tmp_path, {"model": "n"}, KEY)


def test_a_damaged_line_before_the_last_is_named_and_nothing_is_lost(tmp_path):
    with Journal(tmp_path, {}, KEY) as journal:
        for seed in range(3):
            journal.add({"task": "a", "seed": seed})
    path = tmp_path / "samples.jsonl"
    first, _, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"{}\n" + last)
    with pytest.raises(ValueError, match=r"samples.jsonl, line 2, must be a sample"):
        Journal(tmp_path, {}, KEY)
    assert path.read_bytes() == first + b"{}\n" + last


def test_killed_and_resumed_is_the_same_table(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*GRID, "--output", whole) == 0
    command = [sys.executable, "-m", "minference", "eval", *GRID, "--output", str(cut)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = cut / "samples.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_bytes().splitlines()) >= 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    assert 0 < len(before.splitlines()) < 24
    assert run(*GRID, "--output", cut) == 0
    after = path.read_bytes()
    lines = after.splitlines()
    names = [
        tuple(json.loads(line)[name] for name in ("task", "length", "seed", "attention")) for line in lines
    ]
    assert len(names) == len(set(names)) == 2 * 3 * 4
    assert (cut / "summary.md").read_bytes() == (whole / "summary.md").read_bytes()
    assert run(*GRID, "--output", cut) == 0
    assert path.read_bytes() == after
    capsys.readouterr()


def test_results_make_sense(tmp_path, capsys):
    assert run("kv_words", "restated", "--lengths", "2k", "--samples", "4", "--forced", "--scales", "1,0.05",
               "--attn", "dense,minference,a_shape", "--output", tmp_path, "--json") == 0  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    rows = {(row["task"], row["attention"]): row for row in result["rows"]}
    assert rows["kv_words", "dense"]["accuracy"] == 1 and rows["kv_words", "dense"]["density"] == 1
    assert rows["kv_words", "dense"]["kept_mass"] == pytest.approx(1, abs=1e-3)
    small = rows["restated", "a_shape@0.05"]
    assert small["accuracy"] < 0.3 and small["difference_high"] < 0 and small["density"] < 0.4
    critical = {(row["task"], row["method"]): row for row in result["critical_densities"]}
    found = critical["restated", "a_shape"]
    assert found["critical_density"] >= small["density"] and found["budgets"] == 2
    # The whole window is the whole prompt, which loses nothing.
    assert not found["at_least"] and found["in_words"] == f"{100 * found['critical_density']:.1f} %"
    for name in ("curves.png", "summary.md", "summary.csv", "summary.json", "samples.jsonl"):
        assert (tmp_path / name).stat().st_size > 100


def test_heat_map_is_drawn(tmp_path, capsys):
    assert (
        run("niah", "--lengths", "1k", "--samples", "10", "--attn", "minference", "--output", tmp_path) == 0
    )
    assert (tmp_path / "niah-minference.png").stat().st_size > 1000
    depths = {json.loads(line)["depth"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()}
    assert len(depths) == 10 and {0.0, 1.0} < depths
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "TASK must be given"),
        (["nothing"], "task must be one of"),
        (["vt", "--attn", "sparse"], "attention must be one of"),
        (["vt", "--attn", "dense@0.5"], "dense has no budget to scale"),
        (["vt", "--attn", "minference@x"], "the scale after @ must be a number above 0, got 'x'"),
        (["qa_1"], "task qa_1 needs a file of questions and paragraphs: --squad FILE"),
        (["qa_1", "--squad", "/nowhere.json"], "No such file or directory: '/nowhere.json'"),
        (["vt", "--haystack", "/nowhere.txt"], "No such file or directory: '/nowhere.txt'"),
        (["vt", "--patterns", "/nowhere.json"], "/nowhere.json"),
        (["vt", "--device", "gpu"], "--device must be cpu or cuda, got 'gpu'"),
        (["vt", "--device", "cuda"], "--device must be one that PyTorch sees, got 'cuda'"),
        (["vt", "--chat"], "must have a chat template for --chat"),
        (["vt", "--lengths", "200k"], "length must be at most the model's 131072 positions, got 204800"),
        (["vt", "--lengths", "16"], "length must be at least"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, arguments, message):
    assert run(*arguments, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("minference: ") and message in error
    assert not (tmp_path / "out" / "summary.md").exists()


def test_patterns_written_again_are_another_run(tmp_path, capsys):
    path = tmp_path / "patterns.json"
    arguments = [
        "vt",
        "--lengths",
        "1k",
        "--samples",
        "1",
        "--forced",
        "--patterns",
        path,
        "--attn",
        "minference",
    ]
    for local, code in ((512, 0), (512, 0), (64, 1)):
        HeadPatterns.from_array([[patterns.a_shape(64, local)] * 8] * 6, "a test").save(path)
        assert run(*arguments, "--output", tmp_path / "out") == code
    assert "holds a run with patterns" in capsys.readouterr().err


def test_static_keeps_windows_and_refuses_blocks(tmp_path, capsys):
    """An A-shape is static already: with nothing else it computes what minference does, up to whole tiles."""
    path = tmp_path / "patterns.json"

    def rows(last, methods):
        layers = [[patterns.vertical_slash(100, 100)] * 7 + [last]] * 6
        if last[0] == patterns.a_shape()[0]:
            layers = [[last] * 8] * 6
        HeadPatterns.from_array(layers, "a test").save(path)
        arguments = ["vt", "--lengths", "2k", "--samples", "2", "--forced", "--patterns", path]
        return run(*arguments, "--attn", methods, "--output", tmp_path / str(last), "--json")

    assert rows(patterns.block_sparse(4), "static") == 1
    assert "static needs head patterns that are all vertical-slash or A-shape" in capsys.readouterr().err
    assert rows(patterns.block_sparse(4), "minference,vertical_only,slash_only") == 0
    capsys.readouterr()
    assert rows(patterns.a_shape(64, 256), "minference,static") == 0
    window, kept = json.loads(capsys.readouterr().out)["rows"]
    assert kept["accuracy"] == window["accuracy"]
    assert window["density"] <= kept["density"] < 1.3 * window["density"]


def test_prompts_made_ahead_are_the_same():
    maker = PromptMaker(needle.load()[1], Embedded)
    wanted = [("kv_words", 512, seed) for seed in range(6)] + [("recall", 2048, 0)]
    assert list(ahead.prompts(maker, wanted, 2)) == list(ahead.prompts(maker, wanted, 0))
    with pytest.raises(ValueError, match="length must be at least"):
        list(ahead.prompts(maker, [("kv_words", 16, 0)], 1))


def test_processes_share_the_prompts_of_a_run(tmp_path, capsys):
    shared = tmp_path / "shared"
    for first, samples in ((0, "2"), (1, "1")):
        assert (
            run(*GRID, "--seed", str(first), "--stride", "2", "--samples", samples, "--output", shared) == 0
        )
    rows = [json.loads(line) for line in (shared / "samples.jsonl").read_text().splitlines()]
    assert sorted({row["seed"] for row in rows}) == [0, 1, 2] and len(rows) == 24
    capsys.readouterr()
    # All are the whole run's.
    assert run(*GRID, "--minutes", "0", "--output", shared) == 0
    assert "goes on" not in capsys.readouterr().out
    assert len((shared / "samples.jsonl").read_text().splitlines()) == 24


def test_time_limit_ends_with_what_is_there(tmp_path, capsys):
    assert run(*GRID, "--minutes", "0", "--output", tmp_path) == 1
    assert not (tmp_path / "summary.md").exists()
    assert run(*GRID, "--samples", "1", "--output", tmp_path) == 0
    capsys.readouterr()
    assert run(*GRID, "--minutes", "0", "--output", tmp_path) == 0
    assert "8 of 24 samples; the same command goes on" in capsys.readouterr().out


def test_a_setting_that_fails_leaves_the_others(tmp_path, capsys, monkeypatch):
    apply = Methods.apply

    def broken(self, setting):
        if setting.method == "static":
            raise RuntimeError("no kernel")
        apply(self, setting)

    monkeypatch.setattr(Methods, "apply", broken)
    assert run(*GRID, "--output", tmp_path, "--json") == 1
    found = capsys.readouterr()
    assert "minference: recall at 1,024 tokens with static: no kernel" in found.err
    rows = json.loads(found.out)["rows"]
    assert {row["attention"] for row in rows} == {"dense", "minference", "a_shape"}
    assert all(row["samples"] == 3 for row in rows)


def test_decoded_answers_are_the_generated_ones(tmp_path):
    """In forced ones a narrow window has to find what decoding, which is dense, finds at once."""
    found = {}
    for scoring in ("generated", "decoded", "forced"):
        options = [] if scoring == "generated" else [f"--{scoring}"]
        assert run("two_hops", "kv_words", "--lengths", "2k", "--samples", "5", "--attn", "dense,a_shape@0.01",
                   "--output", tmp_path / scoring, *options) == 0  # fmt: skip
        rows = map(json.loads, (tmp_path / scoring / "samples.jsonl").read_text().splitlines())
        found[scoring] = {(row["task"], row["seed"], row["attention"]): row["score"] == 1 for row in rows}
    assert found["decoded"] == found["generated"]
    assert 0 < sum(found["decoded"].values()) < len(found["decoded"])
    assert sum(found["forced"].values()) < sum(found["decoded"].values())


def test_answers_in_any_order_are_generated(tmp_path):
    """Token by token the order in which the draft happens to name them would count."""
    assert run("niah_multivalue", "cwe", "--lengths", "2k", "--samples", "2", "--attn", "dense", "--decoded",
               "--output", tmp_path) == 0  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {(row["task"], row["scored"]) for row in rows} == {
        ("niah_multivalue", "generated"),
        ("cwe", "generated"),
    }
    assert all(row["score"] >= 0.75 for row in rows)
    # An answer that has it all ends there.
    whole = [row for row in rows if row["score"] == 1]
    assert whole and all(row["answer"].endswith(tuple(row["wanted"])) for row in whole)


def test_means_and_differences():
    """The interval of 8 right of 10 by bootstrap is close to binomial(10, 0.8)'s 2.5 and 97.5 % points, 0.5 and 1."""
    found = statistics.mean([1] * 8 + [0] * 2)
    assert found.mean == 0.8 and (found.low, found.high) == (0.5, 1.0)
    assert statistics.mean([1] * 8 + [0] * 2) == found
    # Wilson, 1927: 8 of 10, all of 200, and parts of answers by bootstrap.
    assert statistics.accuracy([1] * 8 + [0] * 2).low == pytest.approx(0.490, abs=1e-3)
    assert statistics.accuracy([1] * 8 + [0] * 2).high == pytest.approx(0.943, abs=1e-3)
    assert statistics.accuracy([1] * 200).low == pytest.approx(0.981, abs=1e-3)
    assert statistics.accuracy([1] * 200).high == 1
    assert statistics.accuracy([0.5, 1, 0.75]) == statistics.mean([0.5, 1, 0.75])
    same = statistics.difference([1] * 50, [1] * 50)
    # 50 pairs without a loss leave a loss in 7.1 % of pairs possible.
    assert same.mean == 0 and same.low == pytest.approx(-0.0711, abs=1e-4)
    worse = statistics.difference([0, 0, 1, 0, 0.5], [1, 1, 1, 1, 1])
    assert worse.mean == pytest.approx(-0.7) and worse.high < 0
    with pytest.raises(ValueError, match="must be pairs, got 1 and 2"):
        statistics.difference([1], [1, 0])


def test_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        found = statistics.mean((rng.random(60) < 0.7).astype(float))
        covered += found.low <= 0.7 <= found.high
    assert covered >= 180


def test_critical_density():
    lost, kept = statistics.Estimate(-0.5, -0.6, -0.4), statistics.Estimate(-0.02, -0.05, 0.01)
    assert statistics.critical_density([(0.3, kept), (0.1, lost), (0.2, lost)]) == 0.2
    assert statistics.critical_density([(0.3, kept)]) is None

    def in_words(*differences):
        row = {"task": "t", "length": 1, "attention": "a"}
        rows = [
            row | {"difference": found.mean, "difference_low": found.low, "difference_high": found.high, "density": density}
            for density, found in differences
        ]  # fmt: skip
        return summary.critical_densities(rows)[0]["in_words"]

    assert in_words((0.3, kept), (0.1, lost), (0.2, lost)) == "20.0 %"
    assert in_words((0.3, kept), (0.1, kept)) == "below 10.0 %"
    assert in_words((0.3, lost), (0.1, lost)) == "at least 30.0 %"


def test_pairs_are_of_the_same_prompts():
    samples = [
        {"task": "t", "length": 1, "attention": name, "seed": seed, "score": score, "density": 0.5,
         "seconds_to_first_token": 1.0, "scored": "forced"}
        for name, scores in (("dense", {0: 1, 1: 1, 2: 0}), ("a", {1: 0, 2: 0}))
        for seed, score in scores.items()
    ]  # fmt: skip
    rows = summary.summarize(samples, "dense")
    assert rows[1]["difference"] == -0.5 and rows[1]["samples"] == 2
    assert rows[0]["difference"] is None


def test_scales():
    heads = np.array(
        [
            patterns.vertical_slash(1000, 200),
            patterns.a_shape(128, 4000),
            patterns.block_sparse(100),
            patterns.adaptive(0.95),
        ]
    )
    scaled = _scaled(heads, 0.25).tolist()
    assert scaled[0][1:3] == [250, 50] and scaled[1][1:3] == [128, 1000] and scaled[2][1] == 25
    assert scaled[3][4] == 800_000
    assert str(Setting.parse("a_shape@0.5")) == "a_shape@0.5" and str(Setting.parse("dense")) == "dense"
