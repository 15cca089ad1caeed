import hashlib
import os

import numpy
import pytest

import minference
from minference import patterns, synthetic

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
# Densities of MInference 1.0's published selection on this layer, as first measured on heads of this kind.
LAYER_15_DENSITY = {8192: 0.688, 32768: 0.377, 131072: 0.151}


def tile_starts(offsets):
    """The 64-key tiles, relative to a row block's first position, that cover `offsets`, by the index contract."""
    starts, lowest = [], None
    for offset in sorted(offsets.tolist()):
        last = 63 - offset if lowest is None else min(63 - offset, lowest - 1)
        while last >= -offset:
            lowest = last - 63
            starts.append(lowest)
            last = lowest - 1
    return numpy.array(starts)


def density(columns, offsets, num_tokens):
    """Computed over causal pairs, with as many queries as keys, in 32 row blocks spread evenly."""
    starts, computed, causal = tile_starts(offsets), 0, 0
    for block in numpy.linspace(0, num_tokens // 64 - 1, 32).astype(int):
        position = 64 * int(block)
        keys = (starts + position)[:, None] + numpy.arange(64)
        in_tile = keys[(keys >= 0) & (keys < position + 64)]
        alone = numpy.setdiff1d(columns[columns < position + 64], in_tile, assume_unique=True)
        computed += sum(
            int((position + 64 - numpy.maximum(part, position)).sum()) for part in (in_tile, alone)
        )
        causal += 64 * position + 64 * 65 // 2
    return computed / causal


def last_rows(query, key):
    """Attention of the last 64 rows over all keys, float64 ``[heads, 64, keys]``, and the rows' positions."""
    num_tokens = key.shape[1]
    positions = numpy.arange(num_tokens - 64, num_tokens)
    group = len(query) // len(key)
    scores = query[:, -64:].astype(numpy.float64) @ numpy.repeat(key, group, axis=0).transpose(0, 2, 1)
    scores = numpy.where(
        numpy.arange(num_tokens) <= positions[:, None], scores / key.shape[2] ** 0.5, -numpy.inf
    )
    weights = numpy.exp(scores - scores.max(axis=2, keepdims=True))
    return weights / weights.sum(axis=2, keepdims=True), positions


def select(query, key, heads):
    column_sums, diagonal_sums = minference.estimate(query[None], key[None])
    return minference.select(column_sums[0], diagonal_sums[0], heads)


def test_the_same_arrays_on_every_machine():
    arrays = synthetic.make_qkv(1000, 10, 2, seed=7)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    assert digest == "459ff21a431bc384b7c1bec071091ff8a2ffdec15938f9aa05bad1a4af16f86b"


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_shapes_and_bfloat16_values(head_dim):
    query, key, value = synthetic.make_qkv(300, 6, 2, head_dim=head_dim)
    assert query.shape == (6, 300, head_dim) and key.shape == value.shape == (2, 300, head_dim)
    for array in (query, key, value):
        assert array.dtype == numpy.float32 and not (array.view(numpy.uint32) & 0xFFFF).any()


def test_last_rows_alone_are_those_of_the_whole():
    query, key, value = synthetic.make_qkv(5000, 5, 1, seed=2)
    tail, *rest = synthetic.make_qkv(5000, 5, 1, seed=2, num_query_rows=1001)
    assert (tail == query[:, -1001:]).all() and (rest[0] == key).all() and (rest[1] == value).all()


def test_more_tokens_begin_with_the_same_keys():
    _, key, _ = synthetic.make_qkv(700, 2, 1)
    _, longer, _ = synthetic.make_qkv(900, 2, 1)
    assert (longer[:, :700] == key).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_query_heads=5), "num_query_heads must be a multiple"),
        (dict(head_dim=31), "head_dim must be even"),
        (dict(head_types=["local"]), "head_types must have"),
        (dict(head_types=["local"] * 3 + ["wide"]), "head_types must be names"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic.make_qkv(**{**dict(num_tokens=10, num_query_heads=4, num_kv_heads=2), **arguments})


@pytest.mark.parametrize("num_tokens", LAYER_15_DENSITY)
def test_published_densities_are_a_language_models(num_tokens):
    if num_tokens > 32768 and "MINFERENCE_EXHAUSTIVE" not in os.environ:
        pytest.skip("MINFERENCE_EXHAUSTIVE is not set")
    heads = minference.HeadPatterns.builtin(LLAMA).layer(15)
    types = [synthetic.head_type_of_budget(head[1], head[2]) for head in heads]
    query, key, _ = synthetic.make_qkv(num_tokens, 32, 8, head_types=types, num_query_rows=64)
    columns, offsets = select(query, key, heads)
    mean = numpy.mean([density(columns[h], offsets[h], num_tokens) for h in range(32)])
    assert mean == pytest.approx(LAYER_15_DENSITY[num_tokens], rel=0.1)


@pytest.mark.parametrize("num_tokens", [4001, 4096])
@pytest.mark.parametrize("share", [0.9, 0.95, 0.99])
def test_adaptive_selection_keeps_the_share(num_tokens, share):
    query, key, _ = synthetic.make_qkv(num_tokens, 10, 2, seed=1)
    columns, offsets = select(query, key, patterns.adaptive(share))
    attention, positions = last_rows(query, key)
    for h in range(10):
        kept = 0.0
        for row, position in enumerate(positions):
            keys = (tile_starts(offsets[h]) + position // 64 * 64)[:, None] + numpy.arange(64)
            members = numpy.union1d(keys[(keys >= 0) & (keys < num_tokens)], columns[h])
            kept += attention[h, row, members].sum() / 64
        assert kept >= share - 1e-4
