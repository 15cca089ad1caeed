"""`minference eval`: what accuracy a setting of sparse prefill costs."""

from __future__ import annotations

import argparse

from . import options

_EXAMPLES = """  minference eval retrieval --attn dense,minference,a_shape --lengths 8k --samples 20
  minference eval lagged recall --lengths 16k --attn dense,minference --scales 1,0.5,0.25,0.1 --forced
  minference eval niah --model Qwen/Qwen2.5-0.5B-Instruct --lengths 4k,8k,16k --attn dense,adaptive
  minference eval qa_1 --squad dev-v2.0.json --model meta-llama/Llama-3.1-8B-Instruct --lengths 32k
"""


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "eval",
        run,
        "measure what accuracy sparse prefill costs",
        "Ask a transformers model questions about long prompts, generated here from a seed, with several settings of "
        "attention, and compare each with dense attention on the same prompts. Samples go to a folder; the same "
        "command again, after whatever end, goes on where it was.",
        _EXAMPLES,
    )
    parser.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help="tasks or groups (ruler, retrieval, middle); --list shows them",
    )
    parser.add_argument("--list", action="store_true", help="list tasks and attention settings, and end")
    options.add_optional_model(parser)
    options.add_settings(parser)
    options.add_lengths(parser, "8k")
    options.add_count(parser, "--samples", 20, "prompts of each task and length")
    options.add_seed(parser, "the first prompt's seed")
    options.add_count(
        parser, "--stride", 1, "between seeds, for several processes that share a run's prompts"
    )
    scoring = parser.add_mutually_exclusive_group()
    scoring.add_argument(
        "--decoded",
        dest="scoring",
        action="store_const",
        const="decoded",
        default="generated",
        help="an answer is right where greedy decoding would give exactly it: one step instead of many, "
        "but for answers whose parts may come in any order, which are generated",
    )
    scoring.add_argument(
        "--forced",
        dest="scoring",
        action="store_const",
        const="forced",
        help="the same with the answer as part of the prompt, so that sparse attention computes its rows too",
    )
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="use the tokenizer's chat template (default: if it has one)",
    )
    parser.add_argument("--haystack", metavar="FILE", help="text to hide facts in (default: generated prose)")
    parser.add_argument("--squad", metavar="FILE", help="SQuAD's JSON, for qa_1")
    parser.add_argument("--hotpot", metavar="FILE", help="HotpotQA's JSON, for qa_2")
    parser.add_argument(
        "--mass-samples",
        type=int,
        default=1,
        metavar="N",
        help="prompts of each task and length whose kept mass is measured too (default: %(default)s)",
    )
    options.add_device(parser)
    parser.add_argument(
        "--prompt-workers",
        type=int,
        metavar="N",
        help="processes that make prompts ahead of their use (default: none on a CPU, else all cores but one)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        metavar="M",
        help="end after about so long, with a summary of what is there; the same command goes on (default: never)",
    )
    options.add_output(parser, "minference-eval", "FOLDER", "samples, summaries and pictures")
    parser.add_argument(
        "--result", metavar="FILE", help="write a result file (JSON with machine and commit) too"
    )
    options.add_threads(parser)
    options.add_json(parser)


def _list() -> int:
    from rich.table import Table

    from ..eval.settings import METHODS
    from ..eval.tasks import TASKS
    from .console import make_console

    console = make_console()
    for title, entries in (
        ("Tasks", {name: task.summary for name, task in TASKS.items()}),
        ("Attention", METHODS),
    ):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, summary in entries.items():
            table.add_row(f"[bold]{name}[/]", summary)
        console.print(table)
    return 0


def _write(folder, rows: list[dict], samples: list[dict], critical: list[dict], title: str) -> list[str]:
    from .._files import write_whole
    from ..eval import pictures, summary

    write_whole(folder / "summary.md", summary.as_markdown(rows))
    write_whole(folder / "summary.csv", summary.as_csv(rows))
    write_whole(folder / "summary.json", summary.as_json({"rows": rows, "critical_densities": critical}))
    paths = [str(folder / "curves.png")]
    pictures.save_curves(paths[0], rows, title)
    for attention in dict.fromkeys(row["attention"] for row in rows):
        found = [
            sample for sample in samples if sample["task"] == "niah" and sample["attention"] == attention
        ]
        if found:
            paths.append(str(folder / f"niah-{attention}.png"))
            pictures.save_heat_map(paths[-1], found, attention)
    return paths


def _print(rows: list[dict], critical: list[dict], paths: list[str]) -> None:
    from rich import box
    from rich.table import Table

    from ..eval import summary
    from .console import EVALUATION_WIDTH, make_console

    console = make_console(width=EVALUATION_WIDTH)
    header, *lines = summary.table(rows)
    table = Table(header_style="bold", title="Right answers, %", title_justify="left", box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, justify="left" if name in ("task", "attention") else "right", no_wrap=True)
    for line, following in zip(lines, [*lines[1:], lines[-1]]):
        table.add_row(*line, end_section=line[:2] != following[:2])
    console.print(table)
    if any(row["budgets"] > 1 for row in critical):
        table = Table(
            header_style="bold",
            title="Critical density: accuracy is below dense's at it",
            title_justify="left",
        )
        for name in ("task", "tokens", "method", "critical density", "of budgets"):
            table.add_column(name, justify="right" if name in ("tokens", "of budgets") else "left")
        for row in critical:
            table.add_row(
                row["task"], f"{row['length']:,}", row["method"], row["in_words"], str(row["budgets"])
            )
        console.print(table)
    console.print("Pictures: " + ", ".join(paths))


def run(args) -> int:
    import json
    import os
    import sys

    from .._files import write_whole
    from ..eval import runner, summary, tasks
    from ..eval.journal import Journal, contents_of
    from ..eval.settings import Methods
    from .console import quiet_transformers, samples_progress
    from .machine import describe

    if args.list:
        return _list()
    if not args.tasks:
        raise ValueError("TASK must be given; minference eval --list shows them")
    names, settings = tasks.named(args.tasks), options.settings_of(args)
    grid = runner.Grid(
        names, args.lengths, settings, args.samples, args.seed, args.scoring, args.mass_samples, args.stride
    )
    quiet_transformers()
    threads = options.set_threads(args)
    model, tokenizer = options.load_model(args, args.lengths)
    maker = options.prompt_maker(args, tokenizer, args.chat, args.haystack, args.squad, args.hotpot)
    workers = args.prompt_workers
    if workers is None:
        workers = 0 if args.device == "cpu" else max(os.cpu_count() - 1, 1)
    evaluation = runner.Runner(model, tokenizer, maker, Methods(model, args.patterns), grid, workers)
    files = {name: contents_of(getattr(args, name)) for name in ("patterns", "haystack", "squad", "hotpot")}
    identity = options.identity(args, scoring=args.scoring, chat=maker.chat, **files)
    with Journal(args.output, identity, runner.SAMPLE_KEY) as journal:
        with samples_progress("samples", len(grid)) as advance:
            failed = evaluation.run(journal, advance, 60 * args.minutes)
        cells = (
            (task, length, seed, str(setting))
            for task in names
            for length in args.lengths
            for setting in settings
            for seed in grid.seeds
        )
        samples = [journal.rows[cell] for cell in cells if cell in journal]
        folder = journal.folder
    for (task, length, attention), reason in failed.items():
        print(f"minference: {task} at {length:,} tokens with {attention}: {reason}", file=sys.stderr)
    if not samples:
        if not failed:
            print("minference: no sample was finished; the same command goes on", file=sys.stderr)
        return 1
    rows = summary.summarize(samples, "dense")
    critical = summary.critical_densities(rows)
    name = options.model_name(args)
    paths = _write(folder, rows, samples, critical, f"Accuracy and density, {name}")
    if args.result:
        result = describe(f"Accuracy of {name}", threads, rows) | {"critical_densities": critical}
        write_whole(args.result, json.dumps(result, indent=2) + "\n")
    if args.json:
        print(json.dumps({"rows": rows, "critical_densities": critical}, indent=2))
    else:
        _print(rows, critical, paths)
        if len(samples) < len(grid):
            print(f"{len(samples):,} of {len(grid):,} samples; the same command goes on")
    return 1 if failed else 0
