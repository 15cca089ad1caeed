"""Facts in text, and the questions for them.

An `add_` function draws one of a kind, appends its lines to `facts`, and returns what asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minference.eval.wording import Embedded
from minference.needle.prompts import WORDS

from .draws import Draws
from .pieces import (
    CHAIN,
    HOPS,
    KV_HEX,
    KV_WORD,
    LINK,
    MAGIC,
    MOST_CHOICES,
    NONE,
    PASSKEY,
    QUERIES,
    VALUES,
    Piece,
    Question,
)

# Where it lies in the text, 0..1, and the line.
Fact = tuple[float, str]
# Key, number and place.
Magic = tuple[str, str, float]
# What facts are hidden in: so many tokens, the last a line end, and their class.
Hay = Callable[[int], tuple[np.ndarray, int]]


def ask(draws: Draws, question: Question, terse: bool, ended: bool) -> Piece:
    """A question and its answers. terse: without the question's text, more answers a token. ended: by the end of
    text, as at the end of a prompt, instead of going on with the next line."""
    piece = Piece()
    asked = question.text.rpartition("\n")[2] if terse else question.text
    piece.add(draws.encode(asked + question.lead), NONE)
    encoded = [draws.encode(" " + answer) for answer in question.answers]
    for i, answer in enumerate(encoded):
        link = f" {i + 1}." if question.numbered else "," * (i > 0)
        if link:
            piece.add(draws.encode(link), LINK)
        if question.any_order:
            left = encoded[i:]
            for at in range(len(answer)):
                right = {other[at] for other in left if len(other) > at and other[:at] == answer[:at]}
                if len(right) > 1:
                    piece.choices.append((len(piece.ids) + at, sorted(right)[:MOST_CHOICES]))
        piece.add(answer, question.kind)
    if ended:
        piece.add(draws.encode(question.stop) if question.stop else [], LINK)
        piece.add([draws.end], LINK)
        piece.add(draws.newline, NONE)
    else:
        piece.add(draws.encode(question.stop + "\n"), LINK)
    return piece


def _magic_question(keys: list[str], values: list[str], kind: int, place: float, any_order=False) -> Question:
    text, lead = Embedded.question(keys, "numbers", True), Embedded.lead(keys, "numbers", True)
    return Question(text, lead, values, kind, place, any_order)


def add_magic(draws: Draws, facts: list[Fact]) -> Magic:
    """One number of one key; `asked_together` makes the questions, as others may be in them."""
    hexadecimal = draws.rng.random()
    key = draws.hex() if hexadecimal < 0.06 else draws.word()
    value = draws.hex() if hexadecimal < 0.12 else draws.number()
    place = draws.rng.random()
    facts.append((place, Embedded.fact(key, value, "numbers")))
    return key, value, place


def add_values(draws: Draws, facts: list[Fact]) -> list[Question]:
    key, count = draws.word(), draws.rng.choice([2, 3, 4, 4, 4, 5, 6])
    placed = sorted((draws.rng.random(), draws.number()) for _ in range(count))
    facts.extend((place, Embedded.fact(key, value, "numbers")) for place, value in placed)
    values = [value for _, value in placed]
    # Not as they lie: a model that answers in an order of its own must know which are left.
    draws.rng.shuffle(values)
    return [_magic_question([key], values, VALUES, placed[-1][0], any_order=True)]


def add_hops(draws: Draws, facts: list[Fact]) -> list[Question]:
    """Sometimes only the first hop is asked for, or the second: both hops together are more than that."""
    first, second, value = draws.word(), draws.word(), draws.number()
    places = draws.rng.random(), draws.rng.random()
    facts.append((places[0], f"The key that {first} stands for is {second}.\n"))
    facts.append((places[1], Embedded.fact(second, value, "numbers")))
    named = f"the key that {first} stands for"
    return [
        Question(
            f"Question: What is {named}?\nAnswer:", f" {named.capitalize()} is", [second], HOPS, places[0]
        )
        if draws.rng.random() < 0.15
        else _magic_question([named], [value], HOPS, max(places))
    ]


def add_passkey(draws: Draws, facts: list[Fact]) -> list[Question]:
    place = draws.rng.random()
    if draws.rng.random() < 0.3:
        number, name = draws.number(10), "The sequence of digits"
    else:
        number, name = draws.number(5), "The pass key"
    facts.append((place, f"{name} is {number}. Remember it. {number} is {name.lower()}.\n"))
    return [Question(f"What is {name.lower()}?", f" {name} is", [number], PASSKEY, place)]


def make_record(
    draws: Draws, kind: int, hexadecimal=False, words: list[str] | None = None
) -> tuple[str, Question] | None:
    """A line and what asks for it; None when the sequence has had the key drawn: a key has one value in it."""
    if kind == KV_HEX or (kind == MAGIC and hexadecimal):
        key, value = draws.hex(), draws.hex()
    elif kind == MAGIC:
        key, value = draws.rng.choice(WORDS), draws.number()
    else:
        words = words or (WORDS if draws.rng.random() < 0.6 else draws.other_words)
        key, value = "-".join(draws.rng.choices(words, k=2)), draws.number()
    if key in draws.used:
        return None
    draws.used.add(key)
    if kind == MAGIC:
        return Embedded.fact(key, value, "numbers"), _magic_question([key], [value], MAGIC, 0.0)
    text = f"Question: What is the value of {key}?\nAnswer:"
    return f"- {key}: {value}\n", Question(text, f" {key}:", [value], kind, stop="")


def add_block(draws: Draws, facts: list[Fact]) -> list[Question]:
    """A few records in one place."""
    kind = draws.rng.choice([KV_WORD, KV_HEX])
    drawn = [make_record(draws, kind) for _ in range(draws.rng.randint(2, 12))]
    records = [record for record in drawn if record]
    place = draws.rng.random()
    facts.append((place, "".join(line for line, _ in records)))
    return [draws.rng.choice(records)[1]] if records else []


def add_chain(draws: Draws, facts: list[Fact]) -> list[Question]:
    number, names = draws.number(5), [draws.word() for _ in range(draws.rng.choice([2, 3, 4, 5, 5, 5, 6]))]
    places = sorted(draws.rng.random() for _ in names)
    sources = [number] + [f"VAR {name}" for name in names[:-1]]
    facts.extend(
        (place, Embedded.assignment(name, source)) for place, name, source in zip(places, names, sources)
    )
    lead = Embedded.variables_lead(len(names), number)
    return [Question(Embedded.variables_question(number), lead, names, CHAIN, places[-1])]


def asked_together(draws: Draws, magics: list[Magic]) -> list[Question]:
    """Questions for magic numbers, some of them several at once."""
    questions, magics = [], list(magics)
    while magics:
        count = draws.rng.choice([1, 1, 2, 3, 4, 4, 4, 5]) if len(magics) > 1 else 1
        group, magics = magics[:count], magics[count:]
        keys, values, places = zip(*group)
        kind = QUERIES if len(group) > 1 else MAGIC
        questions.append(_magic_question(list(keys), list(values), kind, max(places)))
    return questions


def _cost(draws: Draws, facts: list[Fact], questions: list[Question]) -> int:
    texts = [text for _, text in facts]
    for question in questions:
        texts += [question.text, question.lead, ", ".join(question.answers), "1234"]
    return len(draws.encode("".join(texts)))


def facts_and_questions(draws: Draws, length: int, makers, magics: int) -> tuple[list[Fact], list[Question]]:
    """Of `makers`, which are `add_` functions, and of so many magic numbers, as many as leave some tokens to the text."""
    facts: list[Fact] = []
    questions: list[Question] = []
    room = draws.rng.uniform(0.5, 0.9) * length - 60
    for make in makers:
        own: list[Fact] = []
        made = make(draws, own)
        room -= _cost(draws, own, made)
        if room < 0:
            break
        facts += own
        questions += made
    own, found = [], []
    for _ in range(magics):
        room -= 50
        if room < 0 and facts:
            break
        found.append(add_magic(draws, own))
    facts += own
    draws.rng.shuffle(found)
    questions += asked_together(draws, found)
    return facts, questions


def hide(
    draws: Draws,
    length: int,
    head: Piece,
    facts: list[Fact],
    questions: list[Question],
    tail: Piece,
    hay: Hay,
) -> Piece:
    """Exactly `length` tokens: the head, hay with the facts, the questions, the tail. The first fact always stays."""
    rng = draws.rng
    inserts = []
    for place, text in facts:
        piece = Piece()
        piece.add(draws.encode(text), NONE)
        inserts.append((place, piece))
    in_text, terse = rng.random() < 0.35, rng.random() < 0.3
    rng.shuffle(questions)
    last = []
    for question in questions:
        early = in_text and rng.random() < 0.5
        piece = ask(draws, question, terse, ended=not early and rng.random() < 0.75)
        if early:
            inserts.append((rng.uniform(question.place, 1), piece))
        else:
            last.append(piece)
    room = length - len(head.ids) - len(tail.ids)
    room -= sum(len(piece.ids) for piece in [piece for _, piece in inserts] + last)
    while room < 16 and (last or len(inserts) > 1):
        # Short documents may be too full.
        room += len((last.pop() if last else inserts.pop()[1]).ids)
    text, kind = hay(room)
    ends = np.flatnonzero(draws.ends_line[text])
    document, at = head, 0
    for place, piece in sorted(inserts, key=lambda insert: insert[0]):
        cut = int(ends[int(place * len(ends))]) + 1
        document.add(text[at:cut].tolist(), kind)
        document.append(piece)
        at = cut
    document.add(text[at:].tolist(), kind)
    for piece in last:
        document.append(piece)
    document.append(tail)
    return document
