"""The page: a document, a question, two lanes, and a map of heads. It asks nothing of any other machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402  (after its calls home are off)

from ...needle.prompts import TASKS, make_prompt  # noqa: E402
from .. import options  # noqa: E402
from . import documents, view  # noqa: E402
from .race import Race  # noqa: E402
from .runner import PromptRunner, give_memory_back  # noqa: E402

_FOLDER = Path(__file__).parent
_EXAMPLE_LENGTHS = {"4K": 4096, "8K": 8192, "16K": 16384, "32K": 32768, "64K": 65536, "128K": 131072}
_MAX_ANSWER_TOKENS = 256
_MAX_UPLOAD = "32mb"
# Both are plain names: themes ask Google for fonts unless told otherwise.
_THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class Page:
    """One model, and the latest race of every open tab. Races run one at a time, in a thread of their own.

    introduction: Markdown about the model.
    """

    def __init__(self, model, tokenizer, attention: str, introduction: str):
        self._model, self._tokenizer = model, tokenizer
        self._context = model.config.get_text_config().max_position_embeddings
        self._worker = ThreadPoolExecutor(1, "race")
        self._races: dict[str, Race] = {}
        self.blocks = self._build(attention, introduction)

    def launch(self, host: str, port: int | None) -> str:
        """Serve the page from a thread; returns its address. port: None takes a free one from 7860 on. Raises OSError."""
        try:
            _, address, _ = self.blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=_MAX_UPLOAD,
                footer_links=[],
                ssr_mode=False,
                theme=_THEME,
                css=(_FOLDER / "page.css").read_text(),
                head=f"<script>{(_FOLDER / 'page.js').read_text()}</script>",
            )
        except OSError as error:
            raise OSError(f"--host and --port must be free to listen at, got {host}:{port}") from error
        return address

    def close(self) -> None:
        """Cancel all races and serve no more."""
        for running in self._races.values():
            running.cancel()
        self.blocks.close(verbose=False)
        self._worker.shutdown()

    def _build(self, attention: str, introduction: str) -> gr.Blocks:
        lengths = [name for name, length in _EXAMPLE_LENGTHS.items() if length <= self._context] or ["4K"]
        with gr.Blocks(title="MInference", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.Markdown(introduction)
            example = gr.State()
            with gr.Row():
                task = gr.Dropdown(TASKS, value="multikey", label="Example", min_width=110)
                length = gr.Dropdown(
                    lengths, value="32K" if "32K" in lengths else lengths[-1], label="Tokens", min_width=90
                )
                write = gr.Button("Write an example", elem_id="write", min_width=150)
                upload = gr.UploadButton("Upload a text file", elem_id="upload", min_width=150)
            document = gr.Textbox(
                label="Document",
                placeholder="Paste a long text here",
                lines=6,
                max_lines=6,
                elem_id="document",
            )
            question = gr.Textbox(label="Question", lines=3, max_lines=6, elem_id="question")
            with gr.Accordion("Settings", open=False):
                with gr.Row():
                    kind = gr.Dropdown(
                        options.ATTENTION_CHOICES, value=attention, label="Sparse attention", min_width=150
                    )
                    num_answer_tokens = gr.Slider(
                        1, _MAX_ANSWER_TOKENS, 32, step=1, label="Tokens of answer", min_width=150
                    )
                    dense = gr.Checkbox(True, label="Run dense attention too", min_width=150)
            with gr.Row():
                start = gr.Button("Race", variant="primary", elem_id="start", min_width=120)
                cancel = gr.Button(
                    "Cancel", variant="stop", interactive=False, elem_id="cancel", min_width=120
                )
            self._race = gr.HTML(elem_id="race")
            self._map = gr.HTML(
                elem_id="map",
                js_on_load="""element.addEventListener("click", event => {
                    const cell = event.target.closest("[data-head]");
                    if (cell) trigger("click", {head: cell.dataset.head});
                })""",
            )
            self._picture = gr.HTML(elem_id="picture")
            self._start, self._cancel = start, cancel

            quiet = {"show_progress": "hidden", "api_visibility": "private"}
            write.click(
                self._write_example, [task, length], [document, question, example, self._race], **quiet
            )
            upload.upload(self._read_upload, upload, [document, self._race], **quiet)
            start.click(
                self._run,
                [document, question, example, kind, num_answer_tokens, dense],
                [self._race, self._map, self._picture, start, cancel],
                concurrency_limit=None,
                **quiet,
            )
            cancel.click(self._cancel_race, queue=False, **quiet)
            self._map.click(self._show_head, None, self._picture, **quiet)
            blocks.unload(self._forget)
        return blocks

    def _write_example(self, task: str, length: str):
        room = self._context - _MAX_ANSWER_TOKENS
        prompt = make_prompt(self._tokenizer, task, min(_EXAMPLE_LENGTHS[length], room), seed=0)
        return prompt.text.removesuffix(prompt.question), prompt.question, prompt, ""

    @staticmethod
    def _read_upload(path: str):
        try:
            return documents.read_text(path), ""
        except ValueError as error:
            return gr.skip(), view.error(str(error))
        finally:
            os.remove(path)

    def _run(
        self, document, question, example, attention, num_answer_tokens, dense, request: gr.Request
    ) -> Iterator[dict]:
        try:
            token_ids = documents.encode(
                self._tokenizer, document, question, num_answer_tokens, self._context
            )
        except ValueError as error:
            yield {self._race: view.error(str(error)), self._map: "", self._picture: ""}
            return
        is_example = example is not None and document + question == example.text
        expected = example.answer.strip() if is_example else None
        runner = PromptRunner(self._model, self._tokenizer, token_ids, num_answer_tokens, attention)
        current = self._races[request.session_hash] = Race(runner, dense)
        self._worker.submit(current.run).add_done_callback(lambda _: give_memory_back())
        yield {
            self._map: "",
            self._picture: "",
            self._start: gr.update(interactive=False),
            self._cancel: gr.update(interactive=True),
        }
        for shot in current.snapshots():
            yield {self._race: view.race(shot, expected)}
        yield {
            self._map: view.head_map(shot.found) if shot.found else "",
            self._start: gr.update(interactive=True),
            self._cancel: gr.update(interactive=False),
        }

    def _cancel_race(self, request: gr.Request) -> None:
        self._races[request.session_hash].cancel()

    def _show_head(self, event: gr.EventData, request: gr.Request) -> str:
        return view.head_picture(self._races[request.session_hash].snapshot.found, event.head)

    def _forget(self, request: gr.Request) -> None:
        """The tab was closed."""
        closed = self._races.pop(request.session_hash, None)
        if closed is not None:
            closed.cancel()


def introduction(model, threads: int, embedded: bool, has_template: bool) -> str:
    """Markdown: what this page is, with which model, and how to ask it."""
    size = sum(parameter.numel() for parameter in model.parameters())
    name = "the embedded model" if embedded else f"`{model.config._name_or_path}`"
    asking = (
        "It answers as a chat assistant."
        if has_template
        else "It continues text: end the question as its answer begins."
    )
    if embedded:
        asking += " It was trained to look things up and knows little else: the examples show how to ask."
    return (
        "# MInference: a race to the first token\n"
        f"Ask {name} ({size / 1e6:,.0f} M parameters, {threads} threads) about a long document, with sparse and with dense "
        "attention. The lanes run one after the other, sparse first: side by side they would take each other's cores. "
        f"{asking}"
    )


def serve(args) -> int:
    """`minference demo --web`."""
    from ...greedy import answer
    from ...needle import model as needle
    from ..console import make_console, progress, quiet_transformers, step

    quiet_transformers()
    threads = options.set_threads(args)
    embedded = options.is_embedded(args.model)
    with progress() as bars:
        with step(bars, "loading the model"):
            model, tokenizer = needle.load(args.model)
        with step(bars, "warming up"):
            for _ in range(2):
                answer(model, tokenizer("The grass is green. " * 100).input_ids, 2)
    text = introduction(model, threads, embedded, bool(getattr(tokenizer, "chat_template", None)))
    page = Page(model, tokenizer, args.attn, text)
    try:
        address = page.launch(args.host, args.port)
        make_console().print(f"[bold]{address}[/]  (documents stay on this machine; Ctrl-C ends)")
        threading.Event().wait()
    finally:
        page.close()
