"""`minference models`: the models whose head patterns come with the library."""

from __future__ import annotations

import json
from collections import Counter

from . import options

_EXAMPLES = """  minference models
  minference models --json | jq '.[].model'
"""


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "models",
        run,
        "list the models with built-in head patterns",
        "List the models whose head patterns come with the library. Every other model works too, with adaptive "
        "patterns.",
        _EXAMPLES,
    )
    options.add_json(parser)


def rows() -> list[dict]:
    """One entry a hub id: model, layers, heads, source, and how many heads have each pattern."""
    from ..patterns import HeadPatterns, get_support_models
    from ..words import pattern_words

    found = []
    for model in get_support_models():
        heads = HeadPatterns.builtin(model)
        counts: Counter[str] = Counter()
        for layer in range(heads.num_layers):
            counts.update(pattern_words(tuple(head)) for head in heads.layer(layer).tolist())
        found.append(
            {
                "model": model,
                "layers": heads.num_layers,
                "heads": heads.num_query_heads,
                "source": heads.source,
                "patterns": dict(counts.most_common()),
            }
        )
    return found


def run(args) -> int:
    found = rows()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    from rich.table import Table

    from .console import make_console

    table = Table(title="Models with built-in head patterns", title_justify="left", header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("layers", justify="right")
    table.add_column("heads", justify="right")
    table.add_column("heads of each pattern (columns, diagonals)")
    for row in found:
        counts = ", ".join(f"{count} {words}" for words, count in row["patterns"].items())
        table.add_row(
            row["model"], str(row["layers"]), str(row["heads"]), counts.replace("vertical-slash ", "")
        )
    console = make_console()
    console.print(table)
    console.print("All are vertical-slash unless named otherwise. Other models run with adaptive patterns.")
    return 0
