"""`minference demo`: a long document answered twice, densely and sparsely."""

from __future__ import annotations

import argparse
import json

from ..needle.prompts import TASKS
from . import options

_EXAMPLES = """  minference demo
  minference demo --length 128k --tasks kv_word           dense attention alone takes minutes
  minference demo --length 8k --tasks single,passkey,kv_hex
  minference demo --attn a_shape                          a window loses the answer
  minference demo --web                                   the same with documents of yours, on a local web page
"""


def _task(text: str) -> str:
    if text not in TASKS:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(TASKS)}, got {text!r}")
    return text


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "demo",
        run,
        "answer a long document densely and sparsely, and compare",
        "Write a long document that hides facts, ask the embedded model about one of them at the end, and "
        "compare dense attention with MInference: time to first token, answers, density, kept attention mass, "
        "and every head's pattern.",
        _EXAMPLES,
    )
    options.add_length(parser, 32768)
    options.add_list(
        parser,
        "--tasks",
        _task,
        "variables",
        "A,B,...",
        f"questions to ask, each about a document of its own: {', '.join(TASKS)}",
    )
    options.add_seed(parser, "another document")
    options.add_output(parser, "minference-patterns.png", "FILE", "picture of every head's pattern")
    options.add_attention(parser)
    options.add_threads(parser)
    options.add_json(parser)
    page = parser.add_argument_group("on a web page")
    page.add_argument(
        "--web",
        action="store_true",
        help="serve a page for documents and questions of yours; of the options above, --attn and --threads count",
    )
    options.add_optional_model(page)
    page.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    page.add_argument(
        "--port", type=options.positive, help="port to listen at (default: the first free one from 7860 on)"
    )


def _measure(bars, model, tokenizer, prompt, attention: str) -> tuple[dict, list, object]:
    """Everything about one prompt: figures for the table, heads and report for the picture."""
    from ..greedy import after_each_layer, answer, attention_left_out, attention_timed
    from ..needle.prompts import answer_tokens
    from ..observe import observe
    from ..patch import restore
    from .console import step

    token_ids = tokenizer(prompt.text).input_ids
    expected = answer_tokens(tokenizer, prompt)
    layers = model.config.num_hidden_layers

    def timed(description, num_tokens):
        """The answer, and the seconds of attention in the pass over the prompt."""
        # The bar counts the layers of the pass over the prompt; the few tokens after it overrun it unseen.
        with step(bars, description, layers) as advance, after_each_layer(model, advance):
            with attention_timed(model) as calls:
                answered = answer(model, token_ids, num_tokens)
        return answered, sum(calls[:layers])

    # The first pass over so many tokens also pays for memory that later ones find in place.
    with attention_left_out(model):
        timed("a first pass, without attention", 1)
    options.patch_of(attention)(model)
    sparse, sparse_attention = timed(f"MInference ({attention})", len(expected))
    with step(bars, "measuring kept attention mass", layers) as advance:
        with after_each_layer(model, advance), observe(model) as (report, heads):
            answer(model, token_ids, 1)
    restore(model)
    dense, dense_attention = timed("dense attention (PyTorch SDPA)", len(expected))
    figures = {
        "task": prompt.task,
        "prompt_tokens": len(token_ids),
        "question": prompt.question,
        "expected": prompt.answer.strip(),
        "dense_answer": tokenizer.decode(dense.tokens).strip(),
        "sparse_answer": tokenizer.decode(sparse.tokens).strip(),
        "dense_seconds": dense.seconds_to_first_token,
        "sparse_seconds": sparse.seconds_to_first_token,
        "dense_attention_seconds": dense_attention,
        "sparse_attention_seconds": sparse_attention,
        "density": report.density,
        "kept_mass": report.kept_mass,
        "kept_mass_last": report.kept_mass_last,
    }
    return figures, heads, report


def _table(figures: dict):
    from rich.table import Table

    from ..words import percent, seconds

    dense, sparse = figures["dense_seconds"], figures["sparse_seconds"]
    dense_attention, sparse_attention = (figures[f"{name}_attention_seconds"] for name in ("dense", "sparse"))
    table = Table(header_style="bold", show_edge=False, pad_edge=False)
    for name, justify in (("", "left"), ("dense (SDPA)", "right"), ("MInference", "right"), ("", "left")):
        table.add_column(name, justify=justify)
    table.add_row(
        "time to first token",
        seconds(dense),
        f"[bold green]{seconds(sparse)}[/]",
        f"[bold green]{dense / sparse:.1f} times sooner[/]",
    )
    table.add_row(
        "  of which attention",
        seconds(dense_attention),
        seconds(sparse_attention),
        f"{dense_attention / sparse_attention:.0f} times sooner",
    )
    table.add_row(
        "  of which the rest",
        seconds(dense - dense_attention),
        seconds(sparse - sparse_attention),
        "no attention kernel shortens it",
    )
    table.add_row("density", percent(1), percent(figures["density"]), "query-key pairs computed")
    table.add_row("attention mass kept", percent(1), percent(figures["kept_mass"]), "mean over all rows")
    table.add_row("", "", percent(figures["kept_mass_last"]), "mean over the last 64 rows, which answer")
    right = figures["expected"]
    answers = (figures["dense_answer"], figures["sparse_answer"])
    marked = [f"[green]{a}[/]" if a == right else f"[red]{a}[/]" for a in answers]
    if answers[0] == answers[1]:
        verdict = "the same, and right" if answers[0] == right else f"the same, and wrong: {right} is right"
    else:
        verdict = f"different: {right} is right"
    table.add_row("answer", *marked, verdict)
    return table


def run(args) -> int:
    if args.web:
        from .web.page import serve

        return serve(args)
    if args.model:
        raise ValueError(
            "--model must come with --web: without it the demo's prompts are made for the embedded model, "
            f"got {args.model!r}"
        )
    from .. import instruction_set
    from ..greedy import answer
    from ..needle import model as needle
    from ..needle.prompts import make_prompt
    from . import pictures
    from .console import make_console, progress, quiet_transformers, step

    console = make_console(stderr=args.json)
    quiet_transformers()
    threads = options.set_threads(args)
    with progress() as bars:
        with step(bars, "loading the embedded model"):
            model, tokenizer = needle.load()
            options.require_context(model, args.length)
        text = model.config
        console.print(
            f"[bold]Embedded model[/]  {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, "
            f"{text.num_hidden_layers} layers of {text.num_attention_heads} heads, "
            f"{str(model.dtype).split('.')[-1]}; {threads} threads, {instruction_set()}"
        )
        results = []
        for task in args.tasks:
            with step(bars, f"writing a document: {task}"):
                prompt = make_prompt(tokenizer, task, args.length, args.seed)
            with step(bars, "warming up"):
                answer(model, tokenizer(prompt.text[:2000]).input_ids, 2)
            figures, heads, report = _measure(bars, model, tokenizer, prompt, args.attn)
            results.append(figures)
        with step(bars, "drawing every head's pattern"):
            title = f"What every head computes: {args.tasks[-1]}, {figures['prompt_tokens']:,} tokens"
            pictures.save_patterns(args.output, heads, report, title)
    for figures in results:
        console.print(f"\n[bold]{figures['task']}[/], {figures['prompt_tokens']:,} tokens")
        console.print(figures["question"].strip(), style="dim")
        console.print(_table(figures))
    console.print(f"\nEvery head's pattern: [bold]{args.output}[/]")
    if args.json:
        print(json.dumps({"results": results, "picture": args.output}, indent=2))
    return 0
