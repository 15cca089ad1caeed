"""Facts that lead to facts: RULER's variable tracking, and a needle whose key is itself hidden."""

from __future__ import annotations

import random

from .haystack import Haystack, noise
from .needles import distinct, hide, number
from .prompt import Draft, Part

# RULER's configuration: one chain of four hops.
_HOPS = 4


def write_variables(
    count: int, seed: int, rng: random.Random, wording, haystack: Haystack, hops: int = _HOPS
) -> Draft:
    """RULER's variable tracking: name every variable that holds a value, through a chain of assignments."""
    names = distinct(lambda: wording.variable(rng), hops + 1)
    value = str(rng.randrange(10**4, 10**5))
    sources = [value, *(f"VAR {name}" for name in names[:-1])]
    places = sorted(rng.random() for _ in names)
    facts = [
        (place, [Part(wording.assignment(name, source))])
        for place, name, source in zip(places, names, sources)
    ]
    text = hide(noise(count), facts)
    return Draft(
        (Part(wording.variables_header), *text, Part(wording.variables_question(value))),
        wording.variables_lead(len(names), value),
        " " + ", ".join(names),
        tuple(names),
        forbidden=(value, *names),
    )


def write_two_hop_variables(*arguments) -> Draft:
    return write_variables(*arguments, hops=2)


# Chains of the two-hop task; all but one distract.
_PAIRS = 8


def write_two_hops(count: int, seed: int, rng: random.Random, wording, haystack: Haystack) -> Draft:
    """The key that a fact names is the key of another fact: no row can find the value without the first hop."""
    keys = distinct(lambda: wording.key(rng), 2 * _PAIRS)
    values = distinct(lambda: number(rng), _PAIRS)
    facts = []
    for first, second, value in zip(keys[::2], keys[1::2], values):
        facts.append((rng.random(), [Part(f"The key that {first} stands for is {second}.\n")]))
        facts.append((rng.random(), [Part(wording.fact(second, value, "numbers"))]))
    lines = haystack.first(count, f"two hops {seed}", (*keys, *values))
    question = f"Question: What is the special magic number for the key that {keys[0]} stands for?\nAnswer:"
    return Draft(
        (Part(wording.header("numbers", False)), *hide(lines, facts), Part(question)),
        f" The special magic number for the key that {keys[0]} stands for is:",
        f" {values[0]}",
        (values[0],),
        forbidden=(*keys, *values),
    )
