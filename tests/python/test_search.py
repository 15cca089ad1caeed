"""`minference search`: scores, the choice, and the same file again."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minference import HeadPatterns, patterns, prefill_attention
from minference.cli import main
from minference.eval.tasks import PromptMaker
from minference.eval.wording import Embedded
from minference.patch import plans_of
from minference.search import choose, on_device
from minference.search.candidates import FAMILIES, KINDS, families_of, templates
from minference.search.scoring import SCORE, fit_patterns, score_patterns

SEARCH = ["--lengths", "1k", "--cost", "0.5", "--tasks", "kv_words", "--levels", "0.5,1"]


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(5)
    return [
        rng.standard_normal((1, rows, heads, 64)).astype(np.float32).swapaxes(1, 2)
        for rows, heads in ((300, 4), (350, 2), (350, 2))
    ]


def test_scores_are_those_of_prefill(layer):
    candidates = np.stack(
        [
            patterns.layer_array(p, 4)
            for p in (patterns.dense(), patterns.a_shape(10, 50), patterns.vertical_slash(40, 60))
        ]
    )
    scores = score_patterns(*layer, candidates)
    assert scores.shape == (3, 4) and scores.dtype == SCORE
    dense, dense_lse = prefill_attention(*layer, patterns.dense(), return_lse=True)
    for candidate, found in zip(candidates, scores):
        out, lse, statistics = prefill_attention(
            *layer, candidate, fallback="off", return_lse=True, return_statistics=True
        )
        moved = ((out - dense).astype(np.float64) ** 2).sum((2, 3)) / (dense.astype(np.float64) ** 2).sum(
            (2, 3)
        )
        assert found["error"] == pytest.approx(np.sqrt(moved[0]), abs=1e-6)
        assert found["kept_mass"] == pytest.approx(np.exp(lse - dense_lse)[0].mean(1), abs=1e-5)
        assert found["kept_mass_last"] == pytest.approx(np.exp(lse - dense_lse)[0, :, -64:].mean(1), abs=1e-5)
        assert found["pairs"] / found["all_pairs"] == pytest.approx(statistics.density[0])
    assert (scores["cost"][0] == 1).all() and (scores["cost"][1] < 1).all()


def test_fitted_candidates_cost_the_same(layer):
    heads, free = templates(FAMILIES, 4)
    for shared in (False, True):
        fitted = fit_patterns(*layer[:2], heads, free, 0.9, shared=shared)
        fixed = 2 - free
        assert (fitted[np.arange(len(free)), :, fixed] == heads[np.arange(len(free)), :, fixed]).all()
        scores = score_patterns(*layer, fitted)
        for candidate, cost in zip(fitted[:, :, 1:3], scores["cost"]):
            paid = cost.mean() if shared else cost.max()
            assert paid <= 0.9 or candidate.min() == 1
            assert not shared or (candidate == candidate[0]).all()


def test_scores_of_a_device_are_those_of_the_library(layer):
    """By calls of prefill, which a GPU has too: here on the CPU, where the library scores the same."""
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x) for x in layer]
    candidates = np.stack(
        [
            patterns.layer_array(p, 4)
            for p in (patterns.dense(), patterns.a_shape(10, 50), patterns.vertical_slash(40, 60))
        ]
    )
    expected = score_patterns(*tensors, candidates)
    found = np.empty_like(expected)
    on_device.score(*tensors, candidates, 0.0, found)
    for name in ("error", "kept_mass", "kept_mass_last"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert (found["pairs"] == expected["pairs"]).all() and (found["all_pairs"] == expected["all_pairs"]).all()
    assert found["cost"] == pytest.approx(expected["pairs"] / expected["all_pairs"])


def test_kinds():
    assert families_of(KINDS) == FAMILIES
    assert {family.pattern[0] for family in families_of(["A-shape"])} == {patterns.a_shape()[0]}
    with pytest.raises(ValueError, match="kinds must be of A-shape, vertical-slash, block-sparse, got star"):
        families_of(["star"])


def test_sizes_fitted_on_a_device_are_the_largest(layer):
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x) for x in layer]
    heads, free = templates(FAMILIES, 4)
    for shared in (False, True):
        fitted = np.array(heads)
        on_device.fit(*tensors[:2], fitted, free, 0.6, 0.0, shared)
        larger = fitted.copy()
        every = np.arange(len(free))
        larger[every, :, 1 + free] += 1
        for sizes, fits in ((fitted, True), (larger, False)):
            pairs = score_patterns(*tensors, sizes)
            paid = pairs["pairs"] / pairs["all_pairs"]
            paid = paid.mean(1, keepdims=True) if shared else paid
            assert ((paid <= 0.6) == fits).all() or (fits and fitted[every, :, 1 + free].min() == 1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda q, k, v: score_patterns(q, k, v, np.zeros((2, 3, 5), int)), "candidates must be integers"),
        (lambda q, k, v: score_patterns(q, k, v, np.zeros((0, 4, 5), int)), "candidates must be integers"),
        (
            lambda q, k, v: score_patterns(q, k, v, np.full((1, 4, 5), 9)),
            r"candidates\[0\]\[0\].pattern",
        ),
        (
            lambda q, k, v: fit_patterns(q, k, np.zeros((1, 4, 5), int), [0], 0.5),
            r"candidates\[0\]\[0\].pattern must have size\[0\], which is free, got 0",
        ),
        (
            lambda q, k, v: fit_patterns(q, k, [[patterns.block_sparse(3)] * 4], [1], 0.5),
            r"candidates\[0\]\[0\].pattern must have size\[1\], which is free, got 3",
        ),
        (
            lambda q, k, v: fit_patterns(q, k, [[patterns.block_sparse(3)] * 4], [2], 0.5),
            r"free_size\[0\] must be 0 or 1, got 2",
        ),
        (
            lambda q, k, v: fit_patterns(q, k, [[patterns.block_sparse(3)] * 4], [0], 0),
            "cost must be above 0, got 0",
        ),
        (
            lambda q, k, v: fit_patterns(k, q, [[patterns.block_sparse(3)] * 2], [0], 0.5),
            "Hq % Hkv|heads|query.shape",
        ),
    ],
)
def test_wrong_arguments_are_named(layer, call, message):
    with pytest.raises(ValueError, match=message):
        call(*layer)


def test_equal_cost_takes_the_least_error_among_the_affordable():
    errors = np.array([[0.1, 0.5, 0.3], [0.1, 0.2, 0.3]])
    costs = np.array([[0.9, 0.4, 0.5], [0.9, 0.8, 0.7]])
    assert choose.equal_cost(errors, costs, 0.5).tolist() == [2, 2]


def test_shared_cost_is_the_best_of_all_choices():
    """Against trying every choice: never above the cost, and no step of the hull away from the best."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        costs, errors = np.sort(rng.random((3, 4)), 1), -np.sort(-rng.random((3, 4)), 1)
        limit = rng.uniform(0.4, 0.9)
        found = choose.shared_cost(errors**2, costs, limit)
        heads = np.arange(3)
        if costs[:, 0].mean() > limit:
            assert found.tolist() == [0, 0, 0]
            continue
        assert costs[heads, found].mean() <= limit + 1e-12
        choices = np.array(np.meshgrid(*[range(4)] * 3)).reshape(3, -1).T
        affordable = [c for c in choices if costs[heads, c].mean() <= limit]
        best = min((errors[heads, c] ** 2).sum() for c in affordable)
        largest_step = max(np.diff(-(errors**2), axis=1).max(1))
        assert (errors[heads, found] ** 2).sum() <= best + largest_step
    # A head that needs nothing leaves its share to one that needs all.
    errors, costs = np.array([[0.1, 0.1], [0.9, 0.0]]), np.array([[0.1, 1.0], [0.1, 0.9]])
    assert choose.shared_cost(errors**2, costs, 0.5).tolist() == [0, 1]


def test_weighed_errors_follow_their_effects():
    errors = np.array([[[0.4, 0.1], [0.4, 0.1], [0.4, 0.2]]])
    costs = np.array([[[0.1, 0.5]] * 3])
    effects = np.array([[[4.0, 0.0, 0.0]], [[0.0, 0.0, 0.04]]])
    found = choose.weighed(errors, costs, effects)[0]
    # Roots, mean over prompts: 1, 0 and 0.1, each over the cheapest's squared error.
    weights = np.array([1.0, 0.0, 0.1]) / (1.1 / 3) + 0.1
    np.testing.assert_allclose(found, weights[:, None] * errors[0] ** 2)
    assert choose.shared_cost(found, costs[0], 0.24).tolist() == [1, 0, 0]
    # A nearly exact head with an effect that is noise leaves the others' weights as they were.
    exact = np.concatenate([errors, [[[1e-5, 0.0]] * 3]])
    noise = np.concatenate([effects, np.full((2, 1, 3), 1e-7)], axis=1)
    weights = choose.weighed(exact, np.concatenate([costs, costs]), noise)[0] / errors[0] ** 2
    assert weights[0, 0] > 20 * weights[1, 0]
    # Nothing has an effect: errors alone.
    np.testing.assert_allclose(choose.weighed(errors, costs, 0 * effects), 0.1 * errors**2)


def test_answers_move_with_what_is_left_out():
    """The divergence of dense patterns is none; that of a head counts what it alone loses."""
    pytest.importorskip("transformers")
    from minference.needle import model as needle
    from minference.search.effects import answers_of

    model, tokenizer = needle.load()
    tokens = PromptMaker(tokenizer, Embedded).make("vt", 2048, 1)[1]
    dense = np.stack([patterns.layer_array(patterns.dense(), 8)] * 6)
    narrow = np.stack([patterns.layer_array(patterns.a_shape(1, 1), 8)] * 6)
    with answers_of(model, tokens) as answers:
        assert abs(answers.divergence(dense)) < 1e-6
        effects = np.array([answers.effects(layer, dense, narrow, 0.0) for layer in range(6)])
        assert answers.divergence(narrow) > effects.max() > 0.1 and effects.min() > -1e-5
    assert not plans_of(model)


def test_search_weighs_and_goes_on(tmp_path, capsys):
    pytest.importorskip("transformers")
    work, files = tmp_path / "work", [tmp_path / "once.json", tmp_path / "again.json"]
    command = ["search", *SEARCH, "--weigh", "--work", str(work)]
    assert main([*command, "--output", str(files[0])]) == 0
    assert "Answers of held-out prompts move by" in capsys.readouterr().out
    journal = work / "samples.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    effects = [row["effects"] for row in map(json.loads, lines) if row["phase"] == "effect"]
    assert np.shape(effects) == (6, 8) and np.max(effects) > 1e-3
    # Killed among the effects.
    effect = next(i for i, line in enumerate(lines) if json.loads(line)["phase"] == "effect")
    journal.write_text("".join(lines[: effect + 2]))
    assert main([*command, "--output", str(files[1])]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "heads weighed by their effect" in HeadPatterns.load(files[0]).source
    assert "| effect |" in (work / "report.md").read_text()
    capsys.readouterr()


def test_families_are_named_by_what_is_fixed():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    assert {
        "A-shape (128, *)",
        "vertical-slash (500, *)",
        "vertical-slash (*, 50)",
        "block-sparse (*)",
    } <= set(names)


def test_killed_and_resumed_is_the_same_file(tmp_path, capsys):
    pytest.importorskip("transformers")
    once, again = tmp_path / "once.json", tmp_path / "again.json"
    assert main(["search", *SEARCH, "--output", str(once), "--work", str(tmp_path / "a")]) == 0
    command = [sys.executable, "-m", "minference", "search", *SEARCH, "--output", str(again), "--work"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "b")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "b" / "samples.jsonl"
    while process.poll() is None and not (journal.exists() and len(journal.read_bytes().splitlines()) >= 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(journal.read_bytes().splitlines()) < 18 and not again.exists()
    assert main(["search", *SEARCH, "--output", str(again), "--work", str(tmp_path / "b")]) == 0
    assert again.read_bytes() == once.read_bytes()
    assert (tmp_path / "a" / "report.md").read_bytes() == (tmp_path / "b" / "report.md").read_bytes()
    assert (tmp_path / "a" / "map.png").stat().st_size > 1000
    found = HeadPatterns.load(once)
    found.check(6, 8)
    assert "minference search" in found.source and "held-out output error" in found.source
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(rows) == 18
    capsys.readouterr()


def test_cost_below_every_candidate_is_refused_at_once(tmp_path, capsys):
    pytest.importorskip("transformers")
    output = tmp_path / "patterns.json"
    command = ["search", *SEARCH, "--output", str(output), "--work", str(tmp_path / "work")]
    command[command.index("0.5")] = "0.01"
    assert main(command) != 0
    lines = capsys.readouterr().err.splitlines()
    assert any("cost must be at least 0." in line and "got 0.01" in line for line in lines)
    assert not output.exists()
    assert not (tmp_path / "work" / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cost", "0"], "--cost must be above 0 and at most 1, got 0"),
        (["--levels", "1,-1"], "--levels must be numbers above 0"),
        (
            ["--levels", "1", "--weigh"],
            "--weigh needs several --levels, for heads to share the cost, got one",
        ),
        (["--tasks", "nothing"], "task must be one of"),
        (["--lengths", "200k"], "length must be at most the model's 131072 positions, got 204800"),
        (["/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, arguments, message):
    assert main(["search", *arguments, "--work", str(tmp_path / "w"), "--output", str(tmp_path / "o")]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("minference: ") and message in error[-1]
    assert not (tmp_path / "o").exists()
