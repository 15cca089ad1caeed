"""`minference demo --web` without a browser: the race, what is accepted as a document, and the model behind the page.
tests/web drives the page itself."""

import codecs
import re
import threading
from dataclasses import replace

import pytest
import torch

from minference.cli.web import documents, race, view
from minference.cli.web.runner import PromptRunner
from minference.needle import model as needle
from minference.needle.prompts import make_prompt

LAYERS = 3


class Clock:
    """Seconds that pass only when the runner says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class FakeRunner:
    """Two seconds a sparse layer, ten a dense one; `in_layer(lane, layer)` is called inside each."""

    num_layers = LAYERS

    def __init__(self, clock, in_layer=lambda lane, layer: None):
        self.clock, self.in_layer, self.passed = clock, in_layer, []

    def _layers(self, lane, seconds, after_each_layer):
        for layer in range(LAYERS):
            self.in_layer(lane, layer)
            self.clock.now += seconds
            self.passed.append((lane, layer))
            after_each_layer()

    def answer(self, sparse, after_each_layer, after_each_token):
        lane, seconds = (race.SPARSE, 2) if sparse else (race.DENSE, 10)
        self._layers(lane, seconds, after_each_layer)
        after_each_token("4")
        self._layers(lane, 0, after_each_layer)
        after_each_token("42")
        return LAYERS * seconds - 0.5

    def look(self, after_each_layer):
        self._layers(race.LOOK, 1, after_each_layer)
        return "what was found"


def test_lanes_run_one_after_the_other_and_end():
    clock = Clock()
    runner = FakeRunner(clock)
    run = race.Race(runner, clock=clock)
    assert run.snapshot.state == race.QUEUED
    run.run()
    shot = run.snapshot
    assert shot.state == race.FINISHED and shot.running is None and shot.found == "what was found"
    assert list(dict.fromkeys(lane for lane, _ in runner.passed)) == [race.SPARSE, race.DENSE, race.LOOK]
    sparse, dense = shot.lanes[race.SPARSE], shot.lanes[race.DENSE]
    # The time to the first token is the model's own, and the tokens after it count for no layers.
    assert (sparse.ended - sparse.began, dense.ended - dense.began) == (5.5, 29.5)
    assert (sparse.layers, sparse.answer, dense.answer) == (LAYERS, "42", "42")
    assert dense.began >= sparse.began + 3 * 2


def test_the_dense_lane_can_be_left_out():
    clock = Clock()
    run = race.Race(FakeRunner(clock), dense=False, clock=clock)
    run.run()
    assert list(run.snapshot.lanes) == [race.SPARSE, race.LOOK] and run.snapshot.found


@pytest.mark.parametrize("lane", [race.SPARSE, race.DENSE, race.LOOK])
def test_cancel_stops_after_the_layer_that_runs(lane):
    clock = Clock()

    def in_layer(name, layer):
        if (name, layer) == (lane, 1):
            run.cancel()
            assert run.snapshot.cancelling

    runner = FakeRunner(clock, in_layer)
    run = race.Race(runner, clock=clock)
    run.run()
    assert run.snapshot.state == race.CANCELLED and not run.snapshot.cancelling
    assert run.snapshot.found is None
    assert runner.passed[-1] == (lane, 1)
    html = view.race(run.snapshot, None)
    assert "Cancelled." in html and ("stopped after layer 2 of 3" in html) == (lane != race.LOOK)


def test_a_race_cancelled_in_the_queue_never_starts():
    runner = FakeRunner(Clock())
    run = race.Race(runner)
    run.cancel()
    run.run()
    assert run.snapshot.state == race.CANCELLED and runner.passed == []
    run.cancel()
    assert not run.snapshot.cancelling


def test_failures_are_told():
    def in_layer(name, layer):
        if name == race.DENSE:
            raise MemoryError("no room for <keys>")

    run = race.Race(FakeRunner(Clock(), in_layer))
    run.run()
    assert run.snapshot.state == race.FAILED and run.snapshot.lanes[race.SPARSE].answer == "42"
    assert "no room for &lt;keys&gt;" in view.race(run.snapshot, None)


def test_a_watcher_sees_every_lane_and_the_end():
    clock = Clock()
    seen = {}

    def in_layer(name, layer):
        # The first layer of a lane ends only when the watcher has seen that lane run.
        seen.setdefault(name, threading.Event())
        assert seen[name].wait(20)

    run = race.Race(FakeRunner(clock, in_layer), clock=clock)
    thread = threading.Thread(target=run.run)
    thread.start()
    shots = []
    for shot in run.snapshots():
        shots.append(shot)
        if shot.running:
            seen.setdefault(shot.running, threading.Event()).set()
    thread.join(20)
    assert shots[-1].state == race.FINISHED and not any(shot.has_ended for shot in shots[:-1])
    running = [shot.running for shot in shots if shot.running]
    assert list(dict.fromkeys(running)) == [race.SPARSE, race.DENSE, race.LOOK]
    assert list(run.snapshots()) == [shots[-1]]


def test_html_of_a_race():
    clock = Clock()
    stages = {}

    def in_layer(name, layer):
        stages.setdefault((name, layer), view.race(run.snapshot, "42"))

    run = race.Race(FakeRunner(clock, in_layer), clock=clock)
    waiting = view.race(run.snapshot, "42")
    run.run()
    assert waiting.count('data-state="waiting"') == 2 and "Another race is running" in waiting
    reading = stages[race.DENSE, 1]
    assert "layer 2 of 3" in reading and 'data-seconds="10.000" data-ticks' in reading
    assert "width:33.3%" in reading and "times sooner" not in reading
    looking = stages[race.LOOK, 0]
    assert "5.4 times sooner" in looking and looking.count("right</b>") == 2
    assert "Looking at what every head did: layer 1 of 3" in looking
    # Bars of finished lanes are to the scale of time.
    assert re.findall(r"width:([\d.]+)%", looking) == ["18.6", "100.0"]
    assert "wrong: 43" in view.race(replace(run.snapshot, found=None), "43")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain\n", "plain\n"),
        ("Grüße, 世界".encode(), "Grüße, 世界"),
        (codecs.BOM_UTF8 + b"marked", "marked"),
        ("wide".encode("utf-16"), "wide"),
    ],
)
def test_texts_are_read(tmp_path, content, text):
    path = tmp_path / "story.txt"
    path.write_bytes(content)
    assert documents.read_text(path) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "story.txt is empty"),
        (b" \n\t\n", "story.txt is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "story.txt is not a text file"),
        (b"a\x00b", "not a text file"),
        (b"%PDF-1.7\nall in ASCII", "not a text file"),
        ("Grüße".encode("latin-1"), "not a text file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "story.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        documents.read_text(path)


class WordTokenizer:
    chat_template = None

    def __call__(self, text, add_special_tokens=True):
        self.seen = text
        words = text.split()
        return type("Encoding", (), {"input_ids": list(range(len(words) + add_special_tokens))})


class ChatTokenizer(WordTokenizer):
    chat_template = "a template"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return f"<user> {messages[0]['content']} <assistant>"


def test_prompts_are_encoded():
    plain, chat = WordTokenizer(), ChatTokenizer()
    ids = documents.encode(plain, "word\r\nword " * 150 + "\n\n", " why? ", 10, 1000)
    assert len(ids) == 302 and plain.seen.endswith("word \nwhy?") and "\r" not in plain.seen
    assert len(documents.encode(chat, "word " * 300, "why?", 10, 1000)) == 303
    assert chat.seen.startswith("<user> word") and chat.seen.endswith("why? <assistant>")


@pytest.mark.parametrize(
    ("document", "question", "message"),
    [
        (" \n", "why?", "There is no document"),
        ("word " * 300, " ", "There is no question"),
        ("word " * 100, "why?", "too short: 102 tokens"),
        ("word " * 1000, "why?", r"too long: 1,002 tokens .* takes 990 .* about 1 %"),
        ("x" * 20000, "why?", "too long: 20,000 characters"),
    ],
)
def test_unusable_prompts_are_refused(document, question, message):
    with pytest.raises(ValueError, match=message):
        documents.encode(WordTokenizer(), document, question, 10, 1000)


@pytest.fixture(scope="module")
def embedded():
    return needle.load()


def test_the_embedded_model_races(embedded):
    model, tokenizer = embedded
    prompt = make_prompt(tokenizer, "single", 1024, 0)
    ids = documents.encode(tokenizer, prompt.text.removesuffix(prompt.question), prompt.question, 12, 4096)
    assert ids == tokenizer(prompt.text).input_ids
    run = race.Race(PromptRunner(model, tokenizer, ids, 12, "adaptive"))
    run.run()
    shot = run.snapshot
    assert shot.error == "" and shot.state == race.FINISHED
    assert shot.num_layers == model.config.num_hidden_layers
    right = prompt.answer.strip()
    assert view.race(shot, right).count("right</b>") == 2
    assert all(lane.layers == shot.num_layers for lane in shot.lanes.values())
    assert model.config._attn_implementation == "sdpa"
    assert 0 < shot.found.report.density <= 1 and 0.9 < shot.found.report.kept_mass_last < 1 + 1e-6
    heads = model.config.num_attention_heads
    cells = re.findall(
        r'data-head="(\d+)\.(\d+)"[^>]*><img alt="" src="data:image/png', view.head_map(shot.found)
    )
    assert [(int(a), int(b)) for a, b in cells] == [divmod(i, heads) for i in range(heads * shot.num_layers)]
    assert 'src="data:image/png;base64,iVBOR' in view.head_picture(shot.found, "2.1")


def test_cancelling_the_embedded_model_leaves_it_as_it_was(embedded):
    model, tokenizer = embedded
    ids = tokenizer(make_prompt(tokenizer, "single", 1024, 0).text).input_ids
    run = race.Race(PromptRunner(model, tokenizer, ids, 4, "adaptive"))
    hook = model.get_decoder().layers[1].self_attn.register_forward_hook(lambda *_: run.cancel())
    try:
        run.run()
    finally:
        hook.remove()
    assert run.snapshot.state == race.CANCELLED and run.snapshot.lanes[race.SPARSE].layers == 2
    assert model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_hooks for layer in model.get_decoder().layers)
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([ids[:300]]), logits_to_keep=1).logits).all()
