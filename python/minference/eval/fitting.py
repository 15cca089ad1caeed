"""Making a prompt fill a number of tokens: the most units (lines, records, words) that fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Built = TypeVar("Built")


def fit(build: Callable[[int], Built], tokens: Callable[[Built], int], length: int, least: int = 1) -> Built:
    """`build(count)` for the largest count found whose `tokens` are at most `length`.

    Tokens must grow with the count. Raises ValueError when not even `least` units fit.
    """
    low, built = least, build(least)
    low_tokens = tokens(built)
    if low_tokens > length:
        raise ValueError(f"length must be at least {low_tokens} tokens for this task, got {length}")
    high, high_tokens = None, None
    while high is None or high - low > 1:
        # Growth is close to linear: aim where the line through the bracket meets `length`.
        if high is None:
            per_unit = max(low_tokens / low, 1e-3) if low else 1
            guess = max(low + 1, min(int(length / per_unit), 4 * low + 64))
        else:
            share = (length - low_tokens) / max(high_tokens - low_tokens, 1)
            guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        candidate = build(guess)
        count = tokens(candidate)
        if count <= length:
            if high is not None and guess > low and (count - low_tokens) > 0:
                # Less room than half a unit: the next one does not fit.
                if length - count < 0.5 * (count - low_tokens) / (guess - low):
                    return candidate
            low, low_tokens, built = guess, count, candidate
        else:
            high, high_tokens = guess, count
    return built
