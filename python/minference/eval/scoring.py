"""How right a model's answer is: RULER's string matching of generated text, or answers given token by token."""

from __future__ import annotations

from collections.abc import Sequence

from .prompt import Tokens


def matched(text: str, references: Sequence[str], any_reference: bool) -> float:
    """RULER's score of a generated text, 0..1: the share of the references that it contains, or whether it contains one;
    whatever the case."""
    found = [reference.lower() in text.lower() for reference in references]
    return float(any(found)) if any_reference else sum(found) / len(found)


def forced(likeliest: dict[int, int], tokens: Tokens) -> float:
    """Share of a prompt's answers of which every token is the model's likeliest, given all that precedes it.

    likeliest: for each place of an answer's token, the token that the model finds likeliest there.
    """
    right = [all(likeliest[place] == tokens.ids[place] for place in answer) for answer in tokens.answers]
    return sum(right) / len(right)
