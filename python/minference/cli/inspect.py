"""`minference inspect`: every head of a model on one prompt."""

from __future__ import annotations

import json
import os

from . import options

_EXAMPLES = """  minference inspect
  minference inspect models/needle --length 8192 --head 3.3 --head 5.6 --output pictures
  minference inspect Qwen/Qwen2.5-0.5B-Instruct --attn adaptive --length 4096 --json
"""
# The heads drawn in full unless --head names others: of both ends of kept mass.
_DRAWN_HEADS = 2


def _head_name(text: str) -> tuple[int, int]:
    layer, head = text.split(".")
    return int(layer), int(head)


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "inspect",
        run,
        "show every head of a model: pattern, density, kept mass",
        "Run one prompt through a transformers model and show, for every head, its pattern, its density and "
        "how much of the exact attention mass it kept; draw every head's pattern, a heat map of all heads, "
        "and some heads in full.",
        _EXAMPLES,
    )
    options.add_model(parser)
    options.add_length(parser, 16384)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="FILE", help="text file to run, cut to --length tokens")
    options.add_seed(source, "another generated document")
    parser.add_argument(
        "--head",
        type=_head_name,
        action="append",
        metavar="LAYER.HEAD",
        help="draw this head in full; may be repeated (default: the heads that keep most and least)",
    )
    options.add_output(parser, "minference-inspect", "FOLDER", "folder for pictures")
    options.add_attention(parser)
    options.add_threads(parser)
    options.add_json(parser)


def _token_ids(args, tokenizer) -> list[int]:
    if args.prompt:
        with open(args.prompt, encoding="utf-8") as file:
            return tokenizer(file.read()).input_ids[: args.length]
    from ..needle.prompts import make_prompt

    return tokenizer(make_prompt(tokenizer, "multikey", args.length, args.seed).text).input_ids


def _require_heads(wanted, config) -> None:
    for layer, head in wanted:
        if not (0 <= layer < config.num_hidden_layers and 0 <= head < config.num_attention_heads):
            raise ValueError(
                f"--head must be below {config.num_hidden_layers}.{config.num_attention_heads}, got {layer}.{head}"
            )


def _rows(heads, report) -> list[dict]:
    from ..words import pattern_words

    layers = {layer.layer: layer for layer in report.layers}
    rows = []
    for head in heads:
        layer = layers[head.layer]
        rows.append(
            {
                "layer": head.layer,
                "head": head.head,
                "pattern": pattern_words(head.pattern),
                "columns": None if head.columns is None else len(head.columns),
                "diagonals": None if head.offsets is None else len(head.offsets),
                "density": float(layer.density[head.head]),
                "fallback": bool(layer.fallback[head.head]),
                "kept_mass": float(layer.kept_mass[head.head]),
                "kept_mass_last": float(layer.kept_mass_last[head.head]),
            }
        )
    return rows


def _print(console, rows, report) -> None:
    from rich.table import Table

    from ..words import percent

    table = Table(title="Every head", title_justify="left", header_style="bold")
    for name, justify in (
        ("layer", "right"),
        ("head", "right"),
        ("pattern", "left"),
        ("columns", "right"),
        ("diagonals", "right"),
        ("density", "right"),
        ("kept mass", "right"),
        ("last 64 rows", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)
    for row, following in zip(rows, [*rows[1:], rows[-1]]):
        members = ["" if row[name] is None else str(row[name]) for name in ("columns", "diagonals")]
        shares = [percent(row[name]) for name in ("density", "kept_mass", "kept_mass_last")]
        pattern = row["pattern"] + (", ran densely" if row["fallback"] else "")
        names = str(row["layer"]), str(row["head"]), pattern
        table.add_row(*names, *members, *shares, end_section=following["layer"] != row["layer"])
    console.print(table)
    console.print(
        f"Means: density [bold]{percent(report.density)}[/], kept mass [bold]{percent(report.kept_mass)}[/], "
        f"over the last 64 rows [bold]{percent(report.kept_mass_last)}[/]; {report.seconds:.2f} s in the library"
    )


def _draw(args, heads, report, rows, title: str) -> list[str]:
    from . import pictures

    def place(name):
        return os.path.join(args.output, name)

    paths = [place("patterns.png"), place("heads.png")]
    pictures.save_patterns(paths[0], heads, report, f"What every head computes: {title}")
    pictures.save_heat_map(paths[1], report, title)
    wanted = args.head
    if not wanted:
        order = sorted(rows, key=lambda row: row["kept_mass"])
        wanted = [(row["layer"], row["head"]) for row in order[:_DRAWN_HEADS] + order[-_DRAWN_HEADS:]]
    by_name = {(head.layer, head.head): head for head in heads}
    for name in dict.fromkeys(wanted):
        head = by_name[name]
        paths.append(place(f"head-{name[0]}.{name[1]}.png"))
        pictures.save_attention(paths[-1], head, report.layer_of(head.layer))
    return paths


def run(args) -> int:
    import torch

    from ..greedy import after_each_layer
    from ..needle import model as needle
    from ..observe import observe
    from .console import make_console, progress, quiet_transformers, step

    console = make_console()
    quiet_transformers()
    options.set_threads(args)
    with progress() as bars:
        with step(bars, "loading the model"):
            model, tokenizer = needle.load(args.model)
            options.require_context(model, args.length)
            _require_heads(args.head or (), model.config.get_text_config())
            token_ids = _token_ids(args, tokenizer)
            options.patch_of(args.attn)(model)
        with step(bars, f"running {len(token_ids):,} tokens", model.config.num_hidden_layers) as advance:
            with torch.inference_mode(), after_each_layer(model, advance):
                with observe(model, with_attention=True) as (report, heads):
                    model(torch.tensor([token_ids]), use_cache=False, logits_to_keep=1)
        if not heads:
            raise RuntimeError(
                f"no layer ran in the library: {len(token_ids)} tokens are too few, or not causal prefill"
            )
        rows = _rows(heads, report)
        name = os.path.basename(os.path.normpath(args.model)) if args.model else "the embedded model"
        with step(bars, "drawing"):
            paths = _draw(args, heads, report, rows, f"{name}, {len(token_ids):,} tokens")
    if args.json:
        means = {
            name: getattr(report, name) for name in ("density", "kept_mass", "kept_mass_last", "seconds")
        }
        print(json.dumps({"tokens": len(token_ids), **means, "heads": rows, "pictures": paths}, indent=2))
        return 0
    _print(console, rows, report)
    console.print("Pictures: " + ", ".join(paths))
    return 0
