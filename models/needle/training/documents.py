"""Whole documents of exactly `length` tokens, a function a kind."""

from __future__ import annotations

from functools import partial

import numpy as np

from minference.eval.wording import Embedded
from minference.needle.prompts import PASSKEY_HEADER, RECORDS_HEADER, WORDS

from .draws import Draws
from .facts import (
    Fact,
    add_block,
    add_chain,
    add_hops,
    add_magic,
    add_passkey,
    add_values,
    ask,
    asked_together,
    facts_and_questions,
    hide,
    make_record,
)
from .pieces import COMMON, COPY, EARLY, KV_HEX, KV_WORD, MAGIC, NONE, TEXT, Piece, Question

_COMMON_HEADER = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)


def facts_document(draws: Draws, length: int) -> Piece:
    rng = draws.rng
    header, makers, magics = Embedded.header("numbers", True), [], 0
    theme = rng.random()
    if theme < 0.08:
        header, makers = PASSKEY_HEADER, [add_passkey]
    elif theme < 0.18:
        magics = rng.choice([1, 1, 2, 4])
    elif theme < 0.42:
        makers = [add_values] * draws.count(min(24, length / 250))
    elif theme < 0.62:
        makers = [add_hops] * draws.count(min(12, length / 120))
    else:
        magics = rng.randint(1, max(2, min(64, length // 100)))
        makers = [add_passkey] * (rng.random() < 0.3) + [add_block] * (rng.random() < 0.25)
        makers += [add_hops] * (rng.random() < 0.2) + [add_values] * (rng.random() < 0.3)
        makers += [add_chain] * (rng.randint(1, 3) if rng.random() < 0.3 else 0)
    facts, questions = facts_and_questions(draws, length, makers, magics)
    head = draws.head(header if rng.random() < 0.7 else "")
    return hide(draws, length, head, facts, questions, Piece(), partial(draws.haystack, noise_share=0.15))


def chains_document(draws: Draws, length: int) -> Piece:
    rng = draws.rng
    count = draws.count(min(8, length / 150))
    facts, questions = facts_and_questions(draws, length, [add_chain] * count, 0)
    head = draws.head(Embedded.variables_header if rng.random() < 0.8 else "")
    return hide(draws, length, head, facts, questions, Piece(), partial(draws.haystack, noise_share=0.5))


def early_document(draws: Draws, length: int) -> Piece:
    """The question, the text, some other questions, and that the first is to be answered now."""
    rng = draws.rng
    facts: list[Fact] = []
    count = rng.choice([1, 2, 4, 4, 4, rng.randint(2, max(2, min(24, length // 60)))])
    magics = [add_magic(draws, facts) for _ in range(count)]
    asked = rng.randrange(len(magics))
    key, value, _ = magics.pop(asked)
    # The tail asks for this fact, so it must stay when others make room.
    facts.insert(0, facts.pop(asked))
    head = draws.head(
        f"Read the following text and answer this question at its end: What is the special magic number for {key}?\n"
    )
    tail = ask(
        draws,
        Question(
            "Now answer the question asked at the beginning.\nAnswer:", " The number is", [value], EARLY
        ),
        terse=False,
        ended=rng.random() < 0.6,
    )
    others = asked_together(draws, magics[: rng.choice([0, 0, 1, 4])])
    return hide(draws, length, head, facts, others, tail, partial(draws.haystack, noise_share=0.1))


def common_document(draws: Draws, length: int) -> Piece:
    """RULER's list, with its short example; shorter ones have fewer words and smaller counts."""
    rng = draws.rng
    own_words = rng.random() < 0.7
    pool = rng.sample(WORDS if own_words else draws.other_words, min(len(WORDS), len(draws.other_words)))
    count = 10 if rng.random() < 0.6 else rng.randint(2, 9)
    head, ended = draws.head(), rng.random() < 0.6
    if length > 1500 and rng.random() < 0.6:
        head.append(_list(draws, count, pool[:count], pool[count : 2 * count], 3, 1, ended=False))
    pool = pool[2 * count :]
    single, known = list(pool), set(pool)
    entries = (length - len(head.ids) - 6 * count - 90) // (4 if own_words else 6)
    other_times = rng.choice([times for times in (1, 2, 3, 3, 3) if 5 * times * count < entries] or [1])
    fewest, share = max(2, 2 * other_times), rng.choice([1.0, 1.0, rng.random()])
    for _ in range(8):
        most = min(30, int(0.7 * entries / count))
        if most < fewest:
            break
        times = round(fewest + share * (most - fewest))
        others = max((entries - count * times) // other_times, 1)
        while len(pool) < count + others:
            word = rng.choice(single) + rng.choice(single)
            pool += [] if word in known else [word]
            known.add(word)
        listed = _list(draws, count, pool[:count], pool[count : count + others], times, other_times, ended)
        room = length - len(head.ids) - len(listed.ids)
        if 0 <= room:
            head.append(listed)
            filled = text_document(draws, room) if room else Piece()
            filled.append(head)
            return filled
        entries = int(entries * min(0.98, (length - len(head.ids)) / len(listed.ids)))
    return text_document(draws, length)


def _list(
    draws: Draws, count, common: list[str], others: list[str], times, other_times, ended: bool
) -> Piece:
    words = common * times + others * other_times
    draws.rng.shuffle(words)
    listed = Piece()
    listed.add(draws.encode(_COMMON_HEADER), NONE)
    for i, word in enumerate(words, 1):
        listed.add(draws.remembered(f" {i}." if i > 1 else "1."), NONE)
        listed.add(draws.remembered(f" {word}"), NONE)
    text = f"\nQuestion: What are the {count} most common words in the above list?"
    lead = f" Answer: The top {count} words that appear most often in the list are:"
    question = Question(text, lead, common, COMMON, any_order=True, numbered=True, stop="")
    listed.append(ask(draws, question, terse=False, ended=ended))
    return listed


def copy_document(draws: Draws, length: int) -> Piece:
    """A document with facts, some other lines, the same document again."""
    rng = draws.rng
    head = draws.head(Embedded.header("numbers", True))
    between = rng.randint(2, max(2, min(300, length // 4)))
    size = (length - len(head.ids) - between) // 2
    text = draws.slice(size).tolist()
    ends = np.flatnonzero(draws.ends_line[np.array(text)]).tolist()
    copies, at = (Piece(), Piece()), 0
    for cut in sorted(rng.sample(ends, min(len(ends), rng.randint(1, 32)))):
        before, value = f"The special magic number for {draws.word()} is:", f" {draws.number()}"
        parts = [text[at : cut + 1] + draws.encode(before), draws.encode(value), draws.encode(".\n")]
        if len(copies[0].ids) + sum(map(len, parts)) + 8 > size:
            break
        for copy, kind in zip(copies, (NONE, COPY)):
            copy.add(parts[0], TEXT)
            copy.add(parts[1], kind)
            copy.add(parts[2], TEXT)
        at = cut + 1
    for copy in copies:
        copy.add(text[at : at + size - len(copy.ids)], TEXT)
    head.append(copies[0])
    head.add(draws.slice(length - len(head.ids) - len(copies[1].ids)).tolist(), TEXT)
    head.append(copies[1])
    return head


def records_document(draws: Draws, length: int) -> Piece:
    """Nothing but records; some asked for among them, others after them, in their order or not."""
    rng = draws.rng
    kind = rng.choices([KV_WORD, KV_HEX, MAGIC], [0.45, 0.35, 0.2])[0]
    hexadecimal = rng.choice([False, True]) or draws.used.issuperset(WORDS)
    # Few words make keys that differ in one of them only.
    words = rng.sample(WORDS, 48) if rng.random() < 0.3 else None
    head = draws.head(
        (Embedded.header("numbers", True) if kind == MAGIC else RECORDS_HEADER) if rng.random() < 0.6 else ""
    )
    body = Piece()
    room = length - len(head.ids)
    asked_room = min(max(length * rng.uniform(0.04, 0.5), 100), 14000)
    terse, asked_early = rng.random() < 0.4, rng.uniform(0.05, 0.3) if rng.random() < 0.3 else 0
    open_questions = []
    while True:
        record = make_record(draws, kind, hexadecimal, words)
        if record is None:
            if kind == MAGIC or words:
                # There are only so many.
                asked_room += 0.02 * length
                if asked_room > room:
                    break
            continue
        line, question = record
        encoded = draws.encode(line)
        if len(body.ids) + len(encoded) + asked_room > room:
            break
        body.add(encoded, NONE)
        open_questions.append(question)
        if rng.random() < asked_early:
            piece = ask(draws, open_questions.pop(rng.randrange(len(open_questions))), terse, ended=False)
            if len(body.ids) + len(piece.ids) + asked_room <= room:
                body.append(piece)
    if rng.random() < 0.85:
        rng.shuffle(open_questions)
    for question in open_questions:
        piece = ask(draws, question, terse, ended=rng.random() < 0.6)
        if len(body.ids) + len(piece.ids) > room:
            break
        body.append(piece)
    head.add(draws.slice(room - len(body.ids)).tolist(), TEXT)
    head.append(body)
    return head


def needles_document(draws: Draws, length: int) -> Piece:
    """Nothing but magic numbers. Those asked for have keys of their own; other keys come again with other numbers, as there
    are more lines than words."""
    rng = draws.rng
    asked = [draws.word() for _ in range(draws.count(min(64, length / 100)))]
    others = [word for word in WORDS if word not in draws.used]
    if len(others) < len(WORDS) // 4:
        others = [draws.word() for _ in WORDS]
    magics = [(key, draws.number(), rng.random()) for key in asked]
    facts = [(place, Embedded.fact(key, number, "numbers")) for key, number, place in magics]
    # Nothing later in the sequence can ask for them.
    draws.used.update(others)
    head = draws.head(Embedded.header("numbers", True) if rng.random() < 0.7 else "")
    hay = partial(draws.needles, keys=others)
    return hide(draws, length, head, facts, asked_together(draws, magics), Piece(), hay)


def text_document(draws: Draws, length: int) -> Piece:
    piece = draws.head()
    piece.add(draws.slice(length - 1).tolist(), TEXT)
    return piece


DOCUMENTS = {
    "records": records_document,
    "facts": facts_document,
    "chains": chains_document,
    "early": early_document,
    "common": common_document,
    "copy": copy_document,
    "text": text_document,
    "needles": needles_document,
}
