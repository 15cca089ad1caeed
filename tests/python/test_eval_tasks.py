"""Tasks of `minference eval`: worked examples of the papers, lengths, and haystacks without answers."""

import json
import random
import re

import pytest

pytest.importorskip("transformers")

from minference.eval import scoring, tasks
from minference.eval.fitting import fit
from minference.eval.haystack import Haystack
from minference.eval.prompt import Draft, Part, Prompt, Tokens, in_chat, locate, plain, tokenize
from minference.eval.wording import Embedded, Ruler, listed

OFFLINE = [name for name in tasks.TASKS if not name.startswith("qa_")]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from minference.needle.model import folder

    return AutoTokenizer.from_pretrained(folder())


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    path = tmp_path_factory.mktemp("squad") / "dev.json"
    paragraphs = [
        {
            "context": f"The capital of country {i} is city {i}.",
            "qas": [
                {
                    "question": f"What is the capital of country {i}?",
                    "answers": [{"text": f"city {i}"}, {"text": f"city {i}"}, {"text": f"the city {i}"}],
                },
                {"question": "What is not said?", "is_impossible": True, "answers": []},
            ],
        }
        for i in range(60)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


@pytest.mark.parametrize("wording", [Ruler, Embedded])
@pytest.mark.parametrize("task", OFFLINE)
def test_prompts_fill_their_length_and_repeat(tokenizer, task, wording):
    maker = tasks.PromptMaker(tokenizer, wording)
    prompt, tokens = maker.make(task, 6000, 3)
    assert 0.94 * 6000 < len(tokens.ids) <= 6000
    assert tokens.ids == tokenizer(prompt.text).input_ids
    again, _ = tasks.PromptMaker(tokenizer, wording).make(task, 6000, 3)
    assert again == prompt
    assert maker.make(task, 6000, 4)[0].text != prompt.text


@pytest.mark.parametrize("wording", [Ruler, Embedded])
@pytest.mark.parametrize("task", OFFLINE)
def test_answer_tokens_are_the_answers(tokenizer, task, wording):
    prompt, tokens = tasks.PromptMaker(tokenizer, wording).make(task, 5000, 1)
    scored = [part.text for part in prompt.parts if part.scored]
    assert scored and len(scored) == len(tokens.answers)
    for text, places in zip(scored, tokens.answers):
        assert places == list(range(places[0], places[-1] + 1))
        assert tokenizer.decode([tokens.ids[place] for place in places]).strip() == text.strip()


@pytest.mark.parametrize("wording", [Ruler, Embedded])
@pytest.mark.parametrize(
    "task", [*tasks.GROUPS["retrieval"], "niah", "kv_copies", "two_hops", "early_question"]
)
def test_references_stand_in_the_prompt_once(tokenizer, task, wording):
    """Twice where the fact says its value twice; never by chance."""
    for seed in range(3):
        prompt, _ = tasks.PromptMaker(tokenizer, wording).make(task, 4000, seed)
        before = "".join(part.text for part in prompt.parts[:-1])
        times = 2 if task in ("passkey", "number") else 1
        for reference in prompt.references:
            assert before.count(reference) == times, (task, reference)


def test_a_key_may_be_a_word_of_every_line(tokenizer):
    class Special(Embedded):
        @staticmethod
        def key(rng):
            return rng.choice(["special", "magic", "number", "amber"])

    for seed in range(4):
        prompt, _ = tasks.PromptMaker(tokenizer, Special).make("niah_multikey_2", 2000, seed)
        text, question = prompt.text.split("Question:")
        asked = re.search(r"number for (\w+)\?", question)[1]
        facts = re.findall(r"The special magic number for (\w+) is: (\d+)", text)
        assert len(facts) > 50
        assert [number for key, number in facts if key == asked] == list(prompt.references)


def test_haystack_lines_with_answers_are_dropped(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one line\nthe number 1234567 by chance\nAMBER in capitals\nlast line without end")
    lines = Haystack(path).lines("seed", ["1234567", "amber"])
    found = {next(lines) for _ in range(20)}
    assert found == {"one line\n", "last line without end\n"}


@pytest.mark.parametrize("wording", [Ruler, Embedded])
@pytest.mark.parametrize(
    "task",
    ["niah_single_2", "niah_multikey_1", "niah_multivalue", "two_hops", "early_question", "recall"],
)
def test_a_haystack_full_of_the_answers_adds_none(tokenizer, tmp_path, task, wording):
    """The same seed hides the same facts in a text that is this very prompt."""
    prompt, _ = tasks.PromptMaker(tokenizer, wording).make(task, 3000, 1)
    path = tmp_path / "text.txt"
    path.write_text(prompt.text + "\nA line without an answer.\n")
    again, _ = tasks.PromptMaker(tokenizer, wording, haystack=path).make(task, 3000, 1)
    answers = prompt.references or tuple(part.text.strip() for part in prompt.parts if part.scored)
    assert answers and "A line without an answer." in again.text
    assert [again.text.count(answer) for answer in answers] == [
        prompt.text.count(answer) for answer in answers
    ]


def test_haystack_of_nothing_but_answers_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("amber\n")
    with pytest.raises(ValueError, match="haystack must have lines without the answers"):
        next(Haystack(path).lines("seed", ["amber"]))
    # An error is the same the second time, not an end of the lines.
    haystack = Haystack(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="lines without the answers"):
            haystack.first(5, "seed", ["amber"])
    path.write_text(" \n\n")
    with pytest.raises(ValueError, match="haystack must hold text"):
        Haystack(path)


def test_rulers_single_needle_form(tokenizer):
    """Figure 1 and appendix B of the paper: sentence, question and answer prefix."""
    prompt, _ = tasks.PromptMaker(tokenizer).make("niah_single_1", 1500, 0)
    key = re.search(r"One of the special magic numbers for ([\w-]+) is: (\d{7})\.\n", prompt.text)
    assert prompt.text.startswith(
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards.\n"
    )
    assert prompt.text.endswith(
        f"What is the special magic number for {key[1]} mentioned in the provided text? "
        f"The special magic number for {key[1]} mentioned in the provided text is {key[2]}"
    )
    assert prompt.references == (key[2],)
    noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    assert prompt.text.count(noise) > 20


def test_rulers_several_needles(tokenizer):
    maker = tasks.PromptMaker(tokenizer)
    for task, asked, values in (("niah_multiquery", 4, 4), ("niah_multivalue", 1, 4)):
        prompt, _ = maker.make(task, 3000, 0)
        question = re.search(
            r"What are all the special magic numbers for (.*) mentioned in the provided text\?", prompt.text
        )
        assert len(re.findall(r"[a-z]+-[a-z]+", question[1])) == asked
        assert len(prompt.references) == values
    assert prompt.text.startswith("Some special magic numbers are hidden within the following text.")
    assert listed(["a", "b", "c"]) == "a, b, and c" and listed(["a"]) == "a"


def test_rulers_variable_tracking(tokenizer):
    """The paper's example: X1 = 12345, X2 = X1, ...: every name of the chain is an answer."""
    prompt, _ = tasks.PromptMaker(tokenizer).make("vt", 1500, 0)
    assignments = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)\n", prompt.text)
    value = assignments[0][1]
    assert value.isdigit() and len(value) == 5
    names = [name for name, _ in assignments]
    assert [source for _, source in assignments] == [value, *names[:-1]]
    assert prompt.references == tuple(names) and len(names) == 5
    assert f"Find all variables that are assigned the value {value} in the text above." in prompt.text


def test_rulers_counting_tasks(tokenizer):
    maker = tasks.PromptMaker(tokenizer)
    prompt, _ = maker.make("cwe", 6000, 0)
    words = re.findall(r"\d+\. ([a-z]+)", prompt.text.split("Memorize the ones that appear most often.\n")[2])
    times = {word: words[:-10].count(word) for word in set(words[:-10])}
    assert {word for word, number in times.items() if number == 30} == set(prompt.references)
    assert set(times.values()) == {30, 3}
    prompt, _ = maker.make("fwe", 6000, 0)
    coded = re.search(r"coded words\. (.*)\nQuestion", prompt.text)[1].split()
    ordered = sorted(set(coded), key=coded.count, reverse=True)
    assert ordered[0] == "...." and tuple(ordered[1:4]) == prompt.references


def test_rulers_question_answering(tokenizer, squad):
    maker = tasks.PromptMaker(tokenizer, squad=squad)
    prompt, tokens = maker.make("qa_1", 800, 7)
    assert prompt.references == ("city 7", "the city 7") and prompt.any_reference
    assert "The capital of country 7 is city 7." in prompt.text and len(tokens.ids) <= 800
    assert re.findall(r"Document (\d+):\n", prompt.text)[:2] == ["1", "2"]
    with pytest.raises(ValueError, match="task qa_2 needs a file of questions and paragraphs: --hotpot FILE"):
        maker.make("qa_2", 800, 0)


def test_hotpots_file(tokenizer, tmp_path):
    path = tmp_path / "hotpot.json"
    entries = [
        {
            "question": f"Who made thing {i}?",
            "answer": f"person {i}",
            "context": [[f"Thing {i}", [f"Thing {i} is old.", f" Person {i} made it."]], ["Other", ["No."]]],
        }
        for i in range(40)
    ]
    path.write_text(json.dumps(entries))
    prompt, _ = tasks.PromptMaker(tokenizer, hotpot=path).make("qa_2", 600, 2)
    assert "Thing 2\nThing 2 is old. Person 2 made it." in prompt.text
    path.write_text('{"no": "data"}')
    with pytest.raises(ValueError, match="must be SQuAD's or HotpotQA's JSON, got KeyError"):
        tasks.PromptMaker(tokenizer, hotpot=path)


def test_infinitebench_forms(tokenizer):
    """The paper's Retrieve.PassKey, Retrieve.Number and Retrieve.KV: fact, question and answer."""
    maker = tasks.PromptMaker(tokenizer)
    for task, name, digits in (("passkey", "pass key", 5), ("number", "sequence of digits", 10)):
        prompt, _ = maker.make(task, 1500, 0)
        (answer,) = prompt.references
        assert re.fullmatch(rf"\d{{{digits}}}", answer)
        assert prompt.text.startswith("There is an important info hidden inside a lot of irrelevant text.")
        assert f"The {name} is {answer}. Remember it. {answer} is the {name}.\n" in prompt.text
        assert prompt.text.endswith(f"What is the {name}? The {name} is {answer}")
    prompt, _ = maker.make("kv", 3000, 0)
    form = re.fullmatch(
        r"Extract the value corresponding to the specified key in the JSON object below\.\n\n"
        r'JSON data:\n(\{.*\})\n\nKey: "(.*)"\nCorresponding value: "(.*)"',
        prompt.text,
    )
    assert prompt.references == (json.loads(form[1])[form[2]],) == (form[3],)


def test_rulers_scores():
    """string_match_all is recall of the references, string_match_part wants one of them (the paper's section 4)."""
    assert scoring.matched("The numbers are 12, 34.", ["12", "34", "56", "78"], False) == 0.5
    assert scoring.matched("in PARIS, of course", ["Paris", "the city of Paris"], True) == 1
    assert scoring.matched("London", ["Paris"], True) == 0


def test_forced_scores_count_whole_answers():
    tokens = Tokens([5, 6, 7, 8, 9], [[1, 2], [4]])
    assert scoring.forced({1: 6, 2: 7, 4: 9}, tokens) == 1
    assert scoring.forced({1: 6, 2: 0, 4: 9}, tokens) == 0.5


def test_middle_answers_are_far_from_the_end(tokenizer):
    maker = tasks.PromptMaker(tokenizer, Embedded)
    for task, share in (("restated", 0.45), ("lagged", 0.8), ("repeated", 0.4), ("recall", 0.35)):
        _, tokens = maker.make(task, 8000, 0)
        places = [answer[0] for answer in tokens.answers]
        far = [place for place in places if place < len(tokens.ids) - 164]
        assert len(far) >= 0.9 * len(places), task
        assert places[-1] - places[0] > share * len(tokens.ids), task


def test_lag_and_list_are_exact(tokenizer):
    lags = set()
    for seed in range(3):
        prompt, _ = tasks.PromptMaker(tokenizer, Embedded).make("lagged", 5000, seed)
        lines = [line for line in prompt.text.splitlines() if line.startswith(("- ", "Answer: "))]
        lag = next(i for i, line in enumerate(lines) if line.startswith("Answer")) - 1
        lags.add(lag)
        records, asked = [], []
        for line in lines:
            (records if line.startswith("- ") else asked).append(line.split(" ", 1)[1])
            if line.startswith("Answer"):
                assert asked[-1] == records[len(records) - 1 - lag]
    assert len(lags) > 1 and min(lags) >= 30 and max(lags) <= 50
    prompt, _ = tasks.PromptMaker(tokenizer, Embedded).make("restated", 5000, 0)
    lines = prompt.text.splitlines()
    assert [a[2:] for a in lines if a.startswith("- ")] == [a[8:] for a in lines if a.startswith("Answer: ")]


def test_copies_of_a_document_are_the_same(tokenizer):
    ways_back = set()
    for seed in range(3):
        prompt, tokens = tasks.PromptMaker(tokenizer, Embedded).make("repeated", 6000, seed)
        facts = re.findall(r"special magic number for (\S+) is: (\d{7})", prompt.text)
        assert len(facts) == 2 * len(tokens.answers) and facts[: len(facts) // 2] == facts[len(facts) // 2 :]
        places = [prompt.text.find(facts[0][1]), prompt.text.rfind(facts[0][1])]
        ways_back.add(places[1] - places[0])
    assert len(ways_back) == 3


def test_near_copies_differ_by_a_digit(tokenizer):
    prompt, _ = tasks.PromptMaker(tokenizer, Embedded).make("kv_copies", 3000, 0)
    records = dict(re.findall(r"- ([a-z]+-[a-z]+): (\d{7})\n", prompt.text))
    pairs = 0
    for key, value in records.items():
        other = records.get("-".join(reversed(key.split("-"))))
        if other:
            pairs += 1
            assert sum(a != b for a, b in zip(value, other)) == 1
    assert pairs > 0.9 * len(records)


def test_chat_template_surrounds_the_prompt(tokenizer):
    draft = Draft((Part("question"),), " lead", " answer", ("answer",))
    with pytest.raises(ValueError, match="must have a chat template for --chat"):
        tasks.PromptMaker(tokenizer, chat=True)

    class Chatting:
        def apply_chat_template(self, messages, tokenize, add_generation_prompt):
            return f"<user>{messages[0]['content']}<assistant>"

    prompt = in_chat(draft, Chatting())
    assert prompt.text == "<user>question<assistant> lead answer"
    assert prompt.ends_with_answer and plain(draft).text == "question lead answer"


def test_encode_finds_answers_across_merges(tokenizer):
    prompt = Prompt((Part("a"), Part(" 12345", True), Part("67 b"), Part(" c", True)), (), False, False, None)
    tokens = locate(prompt, tokenize(tokenizer, prompt))
    assert tokens.ids == tokenizer("a 1234567 b c").input_ids
    assert tokenizer.decode([tokens.ids[i] for i in tokens.answers[1]]) == " c"


def test_fit_takes_the_most_that_fits():
    rng = random.Random(1)
    sizes = [rng.randint(1, 9) for _ in range(5000)]
    for length in (1, 57, 4000):
        built = fit(lambda n: sum(sizes[:n]), lambda total: total, length + sizes[0])
        assert built <= length + sizes[0] < built + 2 * max(sizes)
    with pytest.raises(ValueError, match="length must be at least 8 tokens for this task, got 5"):
        fit(lambda n: n + 7, lambda total: total, 5)


def test_names_and_groups():
    assert tasks.named(["middle", "lagged", "vt"]) == ["restated", "lagged", "repeated", "recall", "vt"]
    assert len(tasks.RULER) == 13
    with pytest.raises(ValueError, match="task must be one of .*, got 'nothing'"):
        tasks.named(["nothing"])
