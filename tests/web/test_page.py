"""`minference demo --web` in a browser: what a person does with it, and what can go wrong."""

import time

import pytest
import torch
import transformers
from conftest import serve

from minference.needle import model as needle
from minference.needle.prompts import make_prompt

HEADS, LAYERS = 8, 6
# Slow machines take longer than ours; what a bar limits is asserted by itself.
RACE_TIMEOUT = 240_000


@pytest.fixture(scope="module")
def prompt():
    _, tokenizer = needle.load()
    return make_prompt(tokenizer, "multikey", 2048, 3)


@pytest.fixture
def story(tmp_path, prompt):
    path = tmp_path / "story.txt"
    path.write_text(prompt.text.removesuffix(prompt.question))
    return path


def upload(page, path):
    page.set_input_files("#upload input[type=file], input#upload, input[type=file]", path)


def value(page, name):
    return page.locator(f"#{name} textarea").input_value()


def upload_text(page, path):
    upload(page, path)
    page.wait_for_function("document.querySelector('#document textarea').value.length > 100")


def write_example(page, length):
    page.get_by_label("Tokens", exact=True).click()
    page.get_by_role("option", name=length, exact=True).click()
    page.click("#write")
    page.wait_for_function("document.querySelector('#question textarea').value.length > 10")


def error(page):
    return page.wait_for_selector("[role=alert].error").inner_text()


def answer(page, lane):
    return page.locator(f".lane.{lane} .answer").inner_text()


def wait_for_end(page):
    page.wait_for_selector("#start:not([disabled])", timeout=RACE_TIMEOUT)


def test_a_document_is_uploaded_asked_about_and_looked_into(server, open_page, shoot, story, prompt):
    page = open_page(server.address)
    upload_text(page, story)
    assert value(page, "document") == story.read_text()
    page.fill("#question textarea", prompt.question)
    assert page.is_disabled("#cancel")
    page.click("#start")
    page.wait_for_selector(".verdict", timeout=RACE_TIMEOUT)
    page.wait_for_selector("#map [data-head]", timeout=RACE_TIMEOUT)
    wait_for_end(page)
    assert page.is_disabled("#cancel")
    for lane in ("sparse", "dense"):
        assert answer(page, lane).startswith(prompt.answer.strip())
        assert page.locator(f".lane.{lane} .clock").inner_text().endswith(" s")
    facts = page.locator(".facts").inner_text()
    assert all(
        words in facts for words in ("density", "attention mass kept", "last 64 rows", "tokens of prompt")
    )
    cells = page.locator("#map [data-head]")
    assert cells.count() == HEADS * LAYERS
    assert page.locator("#map [data-head] img").count() == HEADS * LAYERS
    assert "density" in cells.nth(20).get_attribute("aria-label")
    cells.nth(20).click()
    page.wait_for_selector("img.head[alt^='Attention of layer 2, head 4']")
    cells.nth(47).focus()
    page.keyboard.press("Enter")
    picture = page.wait_for_selector("img.head[alt^='Attention of layer 5, head 7']")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 1000
    shoot(page, "uploaded")


def test_a_race_at_32k_ends_within_two_minutes(server, open_page, shoot):
    page = open_page(server.address)
    write_example(page, "32K")
    begin = time.monotonic()
    page.click("#start")
    page.wait_for_selector(".lane.sparse[data-state=finished]", timeout=RACE_TIMEOUT)
    dense = page.wait_for_selector(".lane.dense[data-state=reading]")
    words = dense.query_selector(".words").inner_text()
    assert words.startswith("layer ") and words.endswith(f" of {LAYERS}")
    # The clock runs in the page, between two messages of the server.
    clock = page.locator(".lane.dense .clock")
    before = float(clock.inner_text().removesuffix(" s"))
    page.wait_for_timeout(1000)
    assert 0.5 < float(clock.inner_text().removesuffix(" s")) - before < 2.5
    shoot(page, "racing")
    page.wait_for_selector(".verdict", timeout=RACE_TIMEOUT)
    race_seconds = time.monotonic() - begin
    page.wait_for_selector("#map [data-head]", timeout=RACE_TIMEOUT)
    print(f"race {race_seconds:.1f} s, with pictures {time.monotonic() - begin:.1f} s")
    assert page.locator(".lane .right").count() == 2
    assert "times sooner" in page.locator(".verdict").inner_text()
    page.locator("#map [data-head='3.5']").click()
    page.wait_for_selector("img.head")
    shoot(page, "finished")
    assert time.monotonic() - begin < 120


def test_cancel_stops_between_layers_and_gives_memory_back(server, open_page, shoot):
    page = open_page(server.address)
    write_example(page, "32K")
    before = server.memory()
    page.click("#start")
    page.wait_for_selector(".lane.dense[data-state=reading]", timeout=RACE_TIMEOUT)
    page.click("#cancel")
    page.wait_for_selector("text=Stopping after this layer")
    wait_for_end(page)
    assert "Cancelled." in page.locator("#race").inner_text()
    assert page.locator(".lane.sparse").get_attribute("data-state") == "finished"
    assert page.locator(".lane.dense").get_attribute("data-state") == "stopped"
    assert page.locator("#map [data-head]").count() == 0
    shoot(page, "cancelled")
    # A race at 32K holds some 600 MiB, and gives them back once the page has been told of its end.
    deadline = time.monotonic() + 10
    while server.memory() > before + 100:
        assert time.monotonic() < deadline, (before, server.memory())
        time.sleep(0.1)
    write_example(page, "4K")
    page.click("#start")
    page.wait_for_selector("#map [data-head]", timeout=RACE_TIMEOUT)
    assert page.locator(".lane .right").count() == 2


def test_a_race_waits_for_another_and_closing_a_tab_ends_one(server, open_page):
    first, second = open_page(server.address), open_page(server.address)
    write_example(first, "64K")
    write_example(second, "4K")
    first.click("#start")
    first.wait_for_selector(".lane.sparse[data-state=reading]")
    second.click("#start")
    second.wait_for_selector("text=Another race is running")
    first.close()
    # Far sooner than 64K tokens of dense attention end.
    second.wait_for_selector(".lane.sparse[data-state=finished]", timeout=40_000)
    wait_for_end(second)
    assert second.locator(".lane .right").count() == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n", "empty.txt is empty."),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\x00\x01\x02", "picture.txt is not a text file"),
        ("paper.pdf", b"%PDF-1.7 text", "paper.pdf is not a text file"),
    ],
)
def test_files_that_are_no_documents(server, open_page, tmp_path, name, content, message):
    page = open_page(server.address)
    page.fill("#document textarea", "what was there")
    path = tmp_path / name
    path.write_bytes(content)
    upload(page, path)
    assert message in error(page)
    assert value(page, "document") == "what was there"


def test_prompts_that_cannot_be_raced(server, open_page, shoot, tmp_path, story, prompt):
    page = open_page(server.address)
    page.click("#start")
    assert "There is no document" in error(page)
    upload_text(page, story)
    page.click("#start")
    page.wait_for_selector("text=There is no question")
    page.fill("#question textarea", "Why?")
    page.fill("#document textarea", "Too little to leave anything out.")
    page.click("#start")
    page.wait_for_selector("text=The document is too short")
    long = tmp_path / "long.txt"
    long.write_text("The grass is green. The sky is blue.\n" * 16000)
    upload_text(page, long)
    page.click("#start")
    page.wait_for_selector("text=The document is too long")
    assert "Shorten it by about" in error(page)
    shoot(page, "too-long")
    assert page.is_enabled("#start")
    page.fill("#document textarea", story.read_text())
    page.fill("#question textarea", prompt.question)
    page.click("#start")
    page.wait_for_selector(".verdict", timeout=RACE_TIMEOUT)
    assert page.locator(".error").count() == 0
    assert answer(page, "sparse").startswith(prompt.answer.strip())


def test_a_phone(server, open_page, shoot, story, prompt):
    page = open_page(server.address, width=360, height=740)
    upload_text(page, story)
    page.fill("#question textarea", prompt.question)
    page.click("#start")
    page.wait_for_selector("#map [data-head]", timeout=RACE_TIMEOUT)
    page.locator("#map [data-head='1.2']").click()
    page.wait_for_selector("img.head")
    shoot(page, "phone")
    # Nothing is wider than the screen: what is, scrolls by itself.
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for selector in (
        "#start",
        "#cancel",
        "#upload",
        "#write",
        ".lane.sparse",
        ".lane.dense",
        ".facts",
        "#map .map",
    ):
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360, selector
    lanes = [page.locator(f".lane.{lane}").bounding_box() for lane in ("sparse", "dense")]
    assert lanes[1]["y"] >= lanes[0]["y"] + lanes[0]["height"]
    size = page.locator(".words").first.evaluate("element => parseFloat(getComputedStyle(element).fontSize)")
    assert size >= 13
    cell = page.locator("#map [data-head]").first.bounding_box()
    assert cell["width"] >= 28 and abs(cell["width"] - cell["height"]) < 2


def test_another_model_with_a_chat_template(tmp_path, open_page):
    _, tokenizer = needle.load()
    tokenizer.chat_template = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Assistant:"
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.2,
    )
    folder = tmp_path / "tiny-qwen2"
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with serve(tmp_path / "log", "--model", str(folder), "--attn", "adaptive", "--threads", "1") as server:
        page = open_page(server.address)
        text = page.locator("body").inner_text()
        assert "tiny-qwen2" in text and "It answers as a chat assistant" in text
        page.fill("#document textarea", "The grass is green. The sky is blue.\n" * 100)
        page.fill("#question textarea", "What is green?")
        page.click("#start")
        page.wait_for_selector("#map [data-head]", timeout=RACE_TIMEOUT)
        assert page.locator("#map [data-head]").count() == 4
        assert "adaptive (95 %)" in page.locator("#map [data-head]").first.get_attribute("title")
        assert page.locator(".right, .wrong").count() == 0
