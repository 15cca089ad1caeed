"""`minference perplexity`: how much worse sparse prefill predicts a text, by position."""

from __future__ import annotations

from . import options

_EXAMPLES = """  minference perplexity book.txt --model Qwen/Qwen2.5-0.5B-Instruct --lengths 8k,32k
  minference perplexity book.txt --attn dense,minference,adaptive@0.5 --lengths 128k --device cuda
"""


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "perplexity",
        run,
        "measure how well a text is predicted under sparse prefill, by position",
        "Read a text with several settings of attention, in windows of a length, and compare how well each predicts the "
        "next token with what dense attention does on the same windows. Results go to a folder; the same command "
        "again goes on where it was.",
        _EXAMPLES,
    )
    parser.add_argument("text", metavar="TEXT", help="a text file, UTF-8")
    options.add_optional_model(parser)
    options.add_settings(parser)
    options.add_lengths(parser, "8k")
    options.add_count(parser, "--windows", 8, "of the text, at most, at each length")
    options.add_device(parser)
    options.add_output(parser, "minference-perplexity", "FOLDER", "losses, summary and picture")
    options.add_threads(parser)
    options.add_json(parser)


def _print(rows: list[dict]) -> None:
    from rich import box
    from rich.table import Table

    from ..eval.perplexity import ranges
    from .console import EVALUATION_WIDTH, make_console

    console = make_console(width=EVALUATION_WIDTH)
    for length in dict.fromkeys(row["length"] for row in rows):
        table = Table(
            header_style="bold",
            title=f"Perplexity, contexts of {length:,} tokens",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        columns = ["attention", "density", "perplexity", "above dense", "95 %"]
        for name in [*columns, *(f"to {end:,}" for _, end in ranges(length))]:
            table.add_column(name, justify="left" if name == "attention" else "right", no_wrap=True)
        for row in (row for row in rows if row["length"] == length):
            between = ""
            if row.get("above_low") is not None:
                between = f"{100 * row['above_low']:+.2f} .. {100 * row['above_high']:+.2f}"
            table.add_row(
                row["attention"],
                f"{100 * row['density']:.1f} %",
                f"{row['perplexity']:.3f}",
                f"{100 * row['above']:+.2f} %" if "above" in row else "",
                between,
                *(f"{value:.3f}" for value in row["by_position"]),
            )
        console.print(table)


def run(args) -> int:
    import json

    from .._files import write_whole
    from ..eval import perplexity, pictures
    from ..eval.journal import Journal, contents_of
    from ..eval.settings import Methods
    from .console import quiet_transformers, samples_progress

    settings = options.settings_of(args)
    quiet_transformers()
    options.set_threads(args)
    model, tokenizer = options.load_model(args, args.lengths)
    texts = {
        length: perplexity.windows(tokenizer, args.text, length, args.windows) for length in args.lengths
    }
    runner = perplexity.Runner(model, Methods(model, args.patterns), texts, settings)
    identity = options.identity(args, text=contents_of(args.text), patterns=contents_of(args.patterns))
    with Journal(args.output, identity, perplexity.WINDOW_KEY) as journal:
        with samples_progress("windows", len(runner)) as advance:
            runner.run(journal, advance)
        found = [
            journal.rows[length, window, str(setting)]
            for length, windows in texts.items()
            for setting in settings
            for window in range(len(windows))
        ]
        folder = journal.folder
    rows = perplexity.summarize(found, "dense")
    write_whole(folder / "summary.json", json.dumps(rows, indent=2) + "\n")
    title = f"Perplexity above dense attention's, {options.model_name(args)}"
    pictures.save_perplexity(folder / "perplexity.png", rows, title)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return 0
