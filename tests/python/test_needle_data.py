"""The training data of the embedded model: every answer follows from the text before it."""

import re
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest
from needle_training import EVEN
from training import sequences
from training.documents import DOCUMENTS
from training.pieces import CLASSES, COMMON, LINK, MAGIC, TEXT, VALUES
from training.sequences import KINDS

from minference.needle.prompts import WORDS


def document(draws, kind, length, seed):
    draws.reseed(f"{kind} {length} {seed}")
    return DOCUMENTS[kind](draws, length)


def answers(bpe, piece):
    """(text before an answer, the answer, its class), of the tokens whose class is one of answers."""
    at, found = 0, []
    while at < len(piece.ids):
        kind, begin = piece.classes[at], at
        while at < len(piece.ids) and piece.classes[at] == kind:
            at += 1
        if kind > LINK:
            before, answer = (
                bpe.decode(part, skip_special_tokens=False)
                for part in (piece.ids[:begin], piece.ids[begin:at])
            )
            found.append((before, answer.strip(), CLASSES[kind]))
    return found


def solve_one(before, kind):
    """The answers that the text before the first of them allows, found by reading it, not as it was made."""
    text, _, line = before.rpartition("Answer:")
    if kind == "early":
        key = re.findall(r"at its end: What is the special magic number for (\S+)\?", text)[-1]
        return re.findall(rf"magic number for {key} is: (\w+)\.", text)
    if kind in ("kv_word", "kv_hex"):
        return re.findall(rf"- {line[1:-1]}: (\w+)\n", text)
    if kind == "hops" and line.startswith(" The key"):
        return re.findall(rf"{line[1:]} (\w+)\.", text)
    if kind == "hops":
        key = re.findall(rf"The {re.search('key that .* stands for', line)[0]} is (\w+)\.", text)[-1]
        return re.findall(rf"magic number for {key} is: (\w+)\.", text)
    if kind == "chain":
        held = [re.search(r"value (\d+)", line)[1]]
        for target, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", text):
            held += [target] * (source in held)
        return held[1:]
    if kind == "common":
        asked = int(re.search(r"top (\d+)", line)[1])
        listed = text.rpartition("Memorize the ones that appear most often.\n")[2].partition("\nQuestion")[0]
        counts = Counter(listed.split()[1::2]).most_common()
        assert len(counts) <= asked or counts[asked - 1][1] > counts[asked][1]
        return [word for word, _ in counts[:asked]]
    keys = re.search(r"magic number for (.*) is:", line)[1].replace(", and ", ", ").split(", ")
    return [
        value
        for key in keys
        for value in re.findall(
            rf"magic number for {key} is: (\w+)\.", text.replace("\nAnswer: The", "\nAnswered")
        )
    ]


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        *product(["records", "facts", "chains", "early", "common", "needles"], [300, 900, 4000]),
        ("early", 128),
    ],
)
def test_every_answer_follows_from_the_text(bpe, draws, kind, length):
    asked = Counter()
    # Short documents, which may be too full, by many.
    for seed in range(max(12, 12_000 // length)):
        piece = document(draws, kind, length, seed)
        assert len(piece.ids) == len(piece.classes) == length
        for before, answer, name in answers(bpe, piece):
            if name == "passkey":
                wanted = re.findall(r"(?:key|digits) is (\d+)\. Remember", before)[-1:]
            else:
                wanted = solve_one(before, name)
            line = before.rpartition("Answer:")[2] if name != "passkey" else ""
            given = re.findall(r"\w+", line.rpartition(":")[2])
            assert answer in wanted and (answer not in given or len(given) < len(wanted)), (
                before[-300:],
                answer,
            )
            if name in ("chain", "queries"):
                assert answer == wanted[len(given)]
            asked[name] += 1
    assert asked, kind


def test_a_key_that_is_asked_for_has_one_number_in_a_sequence(bpe, draws):
    mix = [float(kind in ("records", "facts", "early", "needles")) for kind in KINDS]
    asked = 0
    for seed in range(200):
        draws.reseed(f"keys {seed}")
        piece = sequences.sequence(draws, 8192, mix)
        numbers = defaultdict(set)
        text = bpe.decode(piece.ids, skip_special_tokens=False)
        for key, number in re.findall(r"The special magic number for (\w+) is: (\w+)\.", text):
            numbers[key].add(number)
        for at in np.flatnonzero(np.diff(np.array(piece.classes) == MAGIC, prepend=False)):
            if piece.classes[at] == MAGIC:
                key = re.findall(r"(\w+) is:", bpe.decode(piece.ids[at - 24 : at]))[-1]
                assert len(numbers[key]) == 1, key
                asked += 1
    assert asked > 300


def test_needles_lie_among_more_lines_than_there_are_words(bpe, draws):
    piece = document(draws, "needles", 32768, 0)
    numbers = defaultdict(set)
    for key, number in re.findall(r"The special magic number for (\w+) is: (\d+)\.\n", bpe.decode(piece.ids)):
        numbers[key].add(number)
    assert sum(map(len, numbers.values())) > 1.5 * len(WORDS) and len(numbers) > 0.8 * len(WORDS)


def test_numbers_of_a_key_are_asked_for_in_any_order(bpe, draws):
    orders = Counter()
    for seed in range(20):
        piece = document(draws, "facts", 3000, seed)
        given = defaultdict(list)
        for before, answer, name in answers(bpe, piece):
            if name == "values":
                text, _, line = before.rpartition("Answer:")
                given[text].append(text.index(f"is: {answer}."))
        for places in given.values():
            orders[places == sorted(places)] += 1
    # As many of them in the order of the text as chance puts there.
    assert orders[False] > 1.5 * orders[True] > 0


def test_new_words_remain_when_a_sequence_has_had_all(draws):
    draws.reseed("words")
    draws.used = set(WORDS)
    words = [draws.word() for _ in range(100)]
    assert len(set(words)) == 100 and not set(words) & set(WORDS)


def test_choices_are_the_answers_not_given_yet(bpe, draws):
    checked = Counter()
    for kind in ("facts", "common"):
        for seed in range(30):
            piece = document(draws, kind, 1500, seed)
            for offset, right in piece.choices:
                assert piece.ids[offset] in right and piece.classes[offset] in (COMMON, VALUES)
                before = bpe.decode(piece.ids[:offset], skip_special_tokens=False)
                wanted = solve_one(before, CLASSES[piece.classes[offset]])
                given = set(re.findall(r"\w+", before.rpartition(":")[2]))
                left = {
                    bpe.encode(f" {word}", add_special_tokens=False).ids[0]
                    for word in wanted
                    if word not in given
                }
                if piece.classes[offset] == COMMON and piece.classes[offset - 1] == LINK:
                    assert set(right) == left
                    checked[kind] += 1
                if piece.classes[offset] == VALUES:
                    checked[kind] += 1
    assert checked["facts"] > 5 and checked["common"] > 50


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_are_tokenised_as_whole_strings_are(bpe, draws, kind):
    same = total = 0
    for seed in range(10):
        ids = document(draws, kind, 700, seed).ids
        again = bpe.encode(bpe.decode(ids, skip_special_tokens=False), add_special_tokens=False).ids
        same += sum((Counter(ids) & Counter(again)).values())
        total += len(ids)
    # Text is cut anywhere.
    assert same > 0.985 * total


def test_batches_depend_on_seed_only(draws):
    def batch(seed):
        draws.reseed(seed)
        return sequences.batch(draws, 4096, 1024, EVEN, 0.5, 131072)

    for one, same, other in zip(batch(1), batch(1), batch(2)):
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
    ids, classes, positions, places, choices = batch(5)
    assert len(ids) == len(classes) == len(positions) == 4096 and len(places) == len(choices)
    assert all(ids[place] in right for place, right in zip(places, choices))
    assert positions.max() > 4096 and {TEXT, LINK} < set(classes.tolist())
