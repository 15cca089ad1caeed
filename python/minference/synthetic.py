"""Query, key and value tensors that look like a language model's attention heads, without a model.

Timings and densities on white noise say nothing about sparse attention: its budgets find nothing to select. These heads
have what real ones have, built before RoPE and then rotated with Llama 3.1's frequencies:

* **slash**: query and key share mean vectors, so that a score depends on the distance alone; it peaks at one offset (0 for
  local heads) and echoes quasi-periodically, over a band of frequencies that differs from head to head;
* **sinks**: keys 0 to 3 win a constant score from every query;
* **columns**: 0.5 % of the keys, shared by the query heads of a KV head, do so to a lesser degree;
* **topics**: segments of about 430 tokens carry one of 32 topics, and equal topics attract each other;
* **noise** on queries and keys; values are normal around a mean, and nearly zero at the sinks.

Everything is a pure function of the seed and the position, drawn from a counter-based generator, and computed with
operations that IEEE 754 defines exactly: the same arrays on every machine. Values are exact in bfloat16. `bench/` has the
same generator in C++.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

__all__ = ["HEAD_TYPES", "HeadType", "head_type_of_budget", "make_qkv"]


class HeadType(NamedTuple):
    """Ranges that a head's parameters are drawn from. Scores in nats; `band` in pairs of a 64-pair head."""

    slash: tuple  # height of the slash's peak
    band: tuple  # first and last frequency pair that the slash is made of
    sink: tuple  # score of key 0
    column: tuple  # score of the strongest columns
    noise: tuple  # standard deviation of the noise on scores
    topic: tuple  # score between equal topics
    far: bool = False  # whether the slash may peak away from the diagonal


HEAD_TYPES = {
    "local": HeadType((11.5, 13.0), (6, 36), (12.0, 13.5), (3.0, 5.0), (0.35, 0.6), (0.0, 0.0)),
    "slash": HeadType((11.5, 13.0), (2, 34), (10.5, 12.0), (3.0, 5.0), (0.5, 0.8), (0.0, 0.0), far=True),
    "vertical": HeadType((6.0, 8.0), (8, 40), (10.0, 11.5), (8.0, 9.5), (0.6, 0.9), (0.0, 0.0)),
    "mixed": HeadType((10.0, 11.5), (4, 40), (11.0, 12.5), (6.5, 8.0), (0.6, 0.9), (0.0, 0.8)),
    "broad": HeadType((7.0, 9.0), (4, 38), (10.0, 11.5), (6.0, 7.5), (0.7, 1.0), (1.0, 2.0)),
}

_TYPE_OF_BUDGET = {
    (100, 800): "local",
    (30, 800): "slash",
    (500, 700): "mixed",
    (3500, 100): "vertical",
    (1000, 6096): "broad",
}


def head_type_of_budget(vertical: int, slash: int) -> str:
    """The head type that MInference 1.0's search gives this budget to; "mixed" for budgets it does not use."""
    return _TYPE_OF_BUDGET.get((vertical, slash), "mixed")


# ---- Random numbers: SplitMix64 (Steele, Lea, Flood 2014) as a hash of a counter ------------------------------------------

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

# What a stream of numbers is for; part of its key.
_SEGMENTS, _KV_HEAD, _QUERY_HEAD, _KEY_NOISE, _QUERY_NOISE, _VALUE, _COLUMN_PLACE, _COLUMN_HEIGHT = range(8)


def _mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


def _stream(seed: int, purpose: int, head: int = 0) -> int:
    return _mix(_mix(_mix(seed + _GOLDEN & _MASK) + purpose + _GOLDEN & _MASK) + head + _GOLDEN & _MASK)


def _words(stream: int, first: int, count: int) -> np.ndarray:
    """The stream's 64-bit words [first, first + count)."""
    z = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(stream)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def _uniform(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _normal(words: np.ndarray) -> np.ndarray:
    """Nearly standard normal: the sum of four 16-bit uniforms, standardised."""
    halves = np.uint64(0x0000FFFF0000FFFF)
    pairs = (words & halves) + (words >> np.uint64(16) & halves)
    total = (pairs + (pairs >> np.uint64(32)) & np.uint64(0x3FFFF)).astype(np.float32)
    return (total - np.float32(131070.0)) * np.float32(1.0 / 37837.227)


class _Draws:
    """Parameters drawn one by one. Rounded, so that libraries that differ in a last bit of log or sin agree."""

    def __init__(self, stream: int):
        self._stream, self._next = stream, 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        self._next += 1
        word = _mix(self._next * _GOLDEN + self._stream & _MASK)
        return low + (high - low) * ((word >> 40) * 2.0**-24)

    def exponential(self) -> float:
        return _rounded(-math.log(self.uniform() + 2.0**-25))

    def direction(self, size: int) -> list:
        """A unit vector."""
        values = [sum(self.uniform() for _ in range(4)) - 2.0 for _ in range(size)]
        norm = math.sqrt(sum(x * x for x in values))
        return [_rounded(x / norm) for x in values]


def _rounded(x: float) -> float:
    return math.floor(x * 2.0**20 + 0.5) * 2.0**-20


# ---- RoPE ------------------------------------------------------------------------------------------------------------------


def _turns_per_token(num_pairs: int) -> np.ndarray:
    """Llama 3.1's RoPE frequencies: theta 500000, scaled by 8 beyond a wavelength of 8192."""
    turns = []
    for j in range(num_pairs):
        frequency = 500000.0 ** (-j / num_pairs)
        wavelength = 2.0 * math.pi / frequency
        smooth = min(1.0, max(0.0, (8192.0 / wavelength - 1.0) / 3.0))
        frequency *= smooth + (1.0 - smooth) / 8.0
        turns.append(math.floor(frequency / (2.0 * math.pi) * 2.0**44 + 0.5) * 2.0**-44)
    return np.array(turns)


def _cos_sin(turns: np.ndarray) -> tuple:
    """cos and sin of 2 pi turns in float64 sums and products only: Taylor series of a quarter of the angle, doubled twice."""
    x = (turns - np.rint(turns)) * (math.pi / 2.0)
    square = x * x
    cos, sin = np.ones_like(x), np.ones_like(x)
    for n in range(8, 0, -1):
        cos = 1.0 - square * cos * (1.0 / ((2 * n - 1) * (2 * n)))
        sin = 1.0 - square * sin * (1.0 / ((2 * n) * (2 * n + 1)))
    sin = x * sin
    for _ in range(2):
        cos, sin = 1.0 - 2.0 * (sin * sin), 2.0 * (sin * cos)
    return cos.astype(np.float32), sin.astype(np.float32)


def _rotate(real: np.ndarray, imaginary: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Pairs -> rows in the rotate-half layout, rounded to bfloat16."""
    return _to_bfloat16(np.concatenate((real * cos - imaginary * sin, real * sin + imaginary * cos), axis=1))


def _to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


# ---- Heads -----------------------------------------------------------------------------------------------------------------

_NUM_TOPICS = 32
_NUM_SINKS = 4
_COLUMN_SHARE = 0.005
_NOISE = 0.65  # standard deviation of each component of a key
_SINK_HEIGHT, _COLUMN_HEIGHT_MAX = 24.0, 18.0  # length of the sinks' and the strongest columns' vectors


class _Pairs:
    """Which frequency pairs carry what, as indices scaled from a 64-pair head."""

    def __init__(self, head_dim: int):
        self.count = head_dim // 2
        self.first_topic = self.count * 40 // 64
        self.first_still = (
            self.count * 56 // 64
        )  # from here on RoPE hardly turns: sinks and columns live there
        self.key_mean = (self.count * 2 // 64, self.count * 41 // 64)

    def band(self, first: int, last: int) -> tuple:
        begin = self.count * first // 64
        return begin, max(begin + 1, self.count * (last + 1) // 64)


class _KvHead:
    """What the query heads of a group share."""

    def __init__(self, seed: int, head: int, pairs: _Pairs, root_dim: float):
        draws = _Draws(_stream(seed, _KV_HEAD, head))
        weights = [0.0] * pairs.count
        for j in range(*pairs.key_mean):
            weights[j] = 0.3 + 0.7 * draws.exponential()
        total = sum(weights)
        self.mean = [_rounded(math.sqrt(9.0 * root_dim * w / total)) for w in weights]
        self.phase = [draws.uniform() for _ in range(pairs.count)]  # turns
        still = 2 * (pairs.count - pairs.first_still)
        self.sink = draws.direction(still)
        column = draws.direction(still)
        overlap = sum(a * b for a, b in zip(column, self.sink))
        column = [a - overlap * b for a, b in zip(column, self.sink)]
        norm = math.sqrt(sum(x * x for x in column))
        self.column = [_rounded(x / norm) for x in column]
        self.sink_heights = [1.0] + [draws.uniform(0.75, 0.95) for _ in range(_NUM_SINKS - 1)]
        topical = 2 * (pairs.first_still - pairs.first_topic)
        self.topics = np.array([draws.direction(topical) for _ in range(_NUM_TOPICS)], np.float32)
        self.value_mean = _normal(_words(_stream(seed, _VALUE, head), 0, 2 * pairs.count))


def _topic_of_token(seed: int, num_tokens: int) -> np.ndarray:
    draws = _Draws(_stream(seed, _SEGMENTS))
    lengths, topics, total = [], [], 0
    while total < num_tokens:
        lengths.append(32 + int(400.0 * draws.exponential()))
        topics.append(int(draws.uniform() * _NUM_TOPICS))
        total += lengths[-1]
    return np.repeat(np.array(topics), lengths)[:num_tokens]


def _add_pairs(real: np.ndarray, imaginary: np.ndarray, first_pair: int, values: np.ndarray) -> None:
    """Adds [rows, 2 n] interleaved values to n pairs."""
    count = values.shape[1] // 2
    real[:, first_pair : first_pair + count] += values[:, 0::2]
    imaginary[:, first_pair : first_pair + count] += values[:, 1::2]


def _topic_strength(root_dim: float) -> float:
    return math.sqrt(1.2 * root_dim)


class _QueryHead:
    def __init__(
        self, seed: int, head: int, kind: HeadType, kv_head: _KvHead, pairs: _Pairs, root_dim: float
    ):
        draws = _Draws(_stream(seed, _QUERY_HEAD, head))
        slash, sink, column = (draws.uniform(*r) for r in (kind.slash, kind.sink, kind.column))
        noise, topic = (draws.uniform(*r) for r in (kind.noise, kind.topic))
        offset = float(int(draws.uniform(0, 2)) * int(draws.uniform(16, 700))) if kind.far else 0.0
        weights = [0.0] * pairs.count
        for j in range(*pairs.band(*kind.band)):
            weights[j] = draws.exponential()
        total = sum(w for w, m in zip(weights, kv_head.mean) if m > 0)
        amplitude = np.array(
            [
                _rounded(slash * root_dim * w / total / m) if m > 0 else 0.0
                for w, m in zip(weights, kv_head.mean)
            ],
            np.float32,
        )
        cos, sin = _cos_sin(np.array(kv_head.phase) - _turns_per_token(pairs.count) * offset)
        self.real, self.imaginary = amplitude * cos, amplitude * sin
        still = np.array(
            [
                _rounded(sink * root_dim / _SINK_HEIGHT * s + column * root_dim / _COLUMN_HEIGHT_MAX * c)
                for s, c in zip(kv_head.sink, kv_head.column)
            ],
            np.float32,
        )
        self.real[pairs.first_still :] = still[0::2]
        self.imaginary[pairs.first_still :] = still[1::2]
        self.noise = 0.64 * noise / _NOISE
        self.topic = topic * root_dim / _topic_strength(root_dim)


def _noise(stream: int, rows: np.ndarray, pairs: _Pairs, deviation: float) -> tuple:
    words = _words(stream, int(rows[0]) * 2 * pairs.count, len(rows) * 2 * pairs.count)
    values = (_normal(words) * np.float32(deviation)).reshape(len(rows), 2 * pairs.count)
    return values[:, : pairs.count].copy(), values[:, pairs.count :].copy()


def _key_pairs(seed, head, kv_head, pairs, root_dim, rows, topics) -> tuple:
    real, imaginary = _noise(_stream(seed, _KEY_NOISE, head), rows, pairs, _NOISE)
    cos, sin = _cos_sin(np.array(kv_head.phase))
    mean = np.array(kv_head.mean, np.float32)
    real += mean * cos
    imaginary += mean * sin
    is_sink = (rows < _NUM_SINKS)[:, None]
    fade = np.where(is_sink, np.float32(0.2), np.float32(1.0))
    real[:, : pairs.first_still] *= fade
    imaginary[:, : pairs.first_still] *= fade

    place = _uniform(_words(_stream(seed, _COLUMN_PLACE, head), int(rows[0]), len(rows)))
    height = _uniform(_words(_stream(seed, _COLUMN_HEIGHT, head), int(rows[0]), len(rows)))
    height = np.float32(_COLUMN_HEIGHT_MAX) * (np.float32(0.55) + np.float32(0.45) * height)
    height = np.where((place < np.float32(_COLUMN_SHARE)) & (rows >= _NUM_SINKS), height, np.float32(0))
    _add_pairs(real, imaginary, pairs.first_still, height[:, None] * np.array(kv_head.column, np.float32))
    sink = np.zeros(len(rows), np.float32)
    for r in rows[rows < _NUM_SINKS]:
        sink[r - rows[0]] = np.float32(_SINK_HEIGHT * kv_head.sink_heights[r])
    _add_pairs(real, imaginary, pairs.first_still, sink[:, None] * np.array(kv_head.sink, np.float32))

    strength = np.where(is_sink, np.float32(0), np.float32(_topic_strength(root_dim)))
    _add_pairs(real, imaginary, pairs.first_topic, strength * kv_head.topics[topics])
    return real, imaginary


def _query_pairs(seed, index, head: _QueryHead, kv_head: _KvHead, pairs: _Pairs, rows, topics) -> tuple:
    real, imaginary = _noise(_stream(seed, _QUERY_NOISE, index), rows, pairs, head.noise)
    real += head.real
    imaginary += head.imaginary
    if head.topic:
        _add_pairs(real, imaginary, pairs.first_topic, np.float32(head.topic) * kv_head.topics[topics])
    return real, imaginary


def _value_rows(seed: int, head: int, kv_head: _KvHead, rows: np.ndarray, head_dim: int) -> np.ndarray:
    words = _words(_stream(seed, _VALUE, head), (int(rows[0]) + 1) * head_dim, len(rows) * head_dim)
    values = _normal(words).reshape(len(rows), head_dim) + kv_head.value_mean
    values[rows < _NUM_SINKS] *= np.float32(0.05)
    return _to_bfloat16(values)


def make_qkv(
    num_tokens: int,
    num_query_heads: int,
    num_kv_heads: int,
    head_dim: int = 128,
    seed: int = 0,
    head_types: Optional[Sequence[str]] = None,
    num_query_rows: Optional[int] = None,
) -> tuple:
    """Returns (query, key, value), float32 arrays [heads, tokens, head_dim] whose values are exact in bfloat16.

    head_types: a name of HEAD_TYPES for each query head; by default they repeat in the order of HEAD_TYPES.
    num_query_rows: the last rows of query to make (all by default), equal to those rows of the whole.
    """
    if num_query_heads % num_kv_heads:
        raise ValueError(
            f"num_query_heads must be a multiple of num_kv_heads ({num_kv_heads}), got {num_query_heads}"
        )
    if head_dim < 32 or head_dim % 2:
        raise ValueError(f"head_dim must be even and at least 32, got {head_dim}")
    if head_types is None:
        head_types = [list(HEAD_TYPES)[h % len(HEAD_TYPES)] for h in range(num_query_heads)]
    if len(head_types) != num_query_heads:
        raise ValueError(
            f"head_types must have num_query_heads ({num_query_heads}) names, got {len(head_types)}"
        )
    unknown = set(head_types) - set(HEAD_TYPES)
    if unknown:
        raise ValueError(
            f"head_types must be names of HEAD_TYPES ({', '.join(HEAD_TYPES)}), got {sorted(unknown)}"
        )
    num_query_rows = num_tokens if num_query_rows is None else min(num_query_rows, num_tokens)

    pairs = _Pairs(head_dim)
    root_dim = math.sqrt(head_dim)
    kv_heads = [_KvHead(seed, h, pairs, root_dim) for h in range(num_kv_heads)]
    group = num_query_heads // num_kv_heads
    query_heads = [
        _QueryHead(seed, h, HEAD_TYPES[name], kv_heads[h // group], pairs, root_dim)
        for h, name in enumerate(head_types)
    ]
    topics = _topic_of_token(seed, num_tokens)
    turns = _turns_per_token(pairs.count)

    query = np.empty((num_query_heads, num_query_rows, head_dim), np.float32)
    key = np.empty((num_kv_heads, num_tokens, head_dim), np.float32)
    value = np.empty((num_kv_heads, num_tokens, head_dim), np.float32)
    first_query = num_tokens - num_query_rows
    rows_at_once = 4096
    for first in range(0, num_tokens, rows_at_once):
        rows = np.arange(first, min(first + rows_at_once, num_tokens))
        cos, sin = _cos_sin(rows[:, None] * turns)
        for h, kv_head in enumerate(kv_heads):
            key[h, rows] = _rotate(
                *_key_pairs(seed, h, kv_head, pairs, root_dim, rows, topics[rows]), cos, sin
            )
            value[h, rows] = _value_rows(seed, h, kv_head, rows, head_dim)
        skip = max(0, first_query - first)
        if skip < len(rows):
            for h, head in enumerate(query_heads):
                made = _query_pairs(
                    seed, h, head, kv_heads[h // group], pairs, rows[skip:], topics[rows[skip:]]
                )
                query[h, rows[skip:] - first_query] = _rotate(*made, cos[skip:], sin[skip:])
    return query, key, value
