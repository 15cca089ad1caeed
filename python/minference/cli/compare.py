"""`minference compare`: selections side by side on captured or synthetic heads."""

from __future__ import annotations

import argparse

from . import options

_EXAMPLES = """  minference compare minference-capture/layer-005.safetensors --costs 0.05,0.1,0.2
  minference compare --synthetic 28,4,128 --length 32k --device cuda
"""


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "compare",
        run,
        "compare selections on captured or synthetic heads",
        "For every family of patterns, fitted head by head to the same cost, and for adaptive heads: the error of the "
        "attention output, kept mass and density, on layers that minference capture wrote or on synthetic heads. "
        "Needs no model.",
        _EXAMPLES,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="of minference capture")
    parser.add_argument(
        "--synthetic",
        type=_shape,
        metavar="HEADS,KV_HEADS,DIM",
        help="synthetic heads of all types in turn instead, 28,4,128 for a layer like Qwen2-7B's",
    )
    options.add_length(parser, 8192, "of synthetic heads")
    options.add_seed(parser, "of synthetic heads")
    options.add_list(
        parser, "--costs", float, "0.05,0.1,0.2", "X,Y,...", "shares of dense attention's cost to fit to"
    )
    options.add_device(parser)
    parser.add_argument(
        "--result", metavar="FILE", help="write a result file (JSON with machine and commit), head by head"
    )
    options.add_threads(parser)
    options.add_json(parser)


def _shape(text: str) -> tuple[int, int, int]:
    try:
        heads, kv_heads, dim = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be like 28,4,128, got {text!r}") from None
    if min(heads, kv_heads, dim) < 1 or heads % kv_heads:
        raise argparse.ArgumentTypeError(f"heads must be a multiple of KV heads, got {text!r}")
    return heads, kv_heads, dim


def _synthetic(args):
    import torch

    from ..search.capture import Layer
    from ..synthetic import make_qkv

    heads, kv_heads, dim = args.synthetic
    arrays = make_qkv(args.length, heads, kv_heads, dim, seed=args.seed)
    tensors = (torch.from_numpy(array)[None].to(args.device, torch.bfloat16) for array in arrays)
    return Layer(f"synthetic {heads} heads", *tensors)


def _print(rows: list[dict]) -> None:
    from rich import box
    from rich.table import Table

    from ..search.compare import over_heads
    from .console import EVALUATION_WIDTH, make_console

    console = make_console(width=EVALUATION_WIDTH)
    for layer in dict.fromkeys(row["layer"] for row in rows):
        table = Table(
            header_style="bold", title=f"Selections, {layer}", title_justify="left", box=box.SIMPLE_HEAD
        )
        figures = {
            "cost": "cost",
            "density": "density",
            "error": "error",
            "worst_error": "worst head",
            "kept_mass": "kept mass",
            "worst_kept_mass": "worst head",
            "kept_mass_last": "last 64 rows",
        }
        table.add_column("selection", no_wrap=True)
        table.add_column("fitted to", justify="right")
        for name in figures.values():
            table.add_column(name, justify="right", no_wrap=True)
        for row in (row for row in rows if row["layer"] == layer):
            found = over_heads(row)
            wanted = "" if row["wanted_cost"] is None else f"{100 * row['wanted_cost']:g} %"
            table.add_row(row["selection"], wanted, *(f"{100 * found[figure]:.1f} %" for figure in figures))
        console.print(table)


def run(args) -> int:
    import json

    from .._files import write_whole
    from ..search.capture import load
    from ..search.compare import compare
    from .console import samples_progress
    from .machine import describe

    if bool(args.files) == bool(args.synthetic):
        raise ValueError("FILE or --synthetic must be given, one of them")
    if not all(0 < cost <= 1 for cost in args.costs):
        raise ValueError(f"--costs must be above 0 and at most 1, got {args.costs}")
    threads = options.set_threads(args)
    options.require_device(args.device)
    rows = []
    with samples_progress("layers", len(args.files) or 1) as advance:
        for layer in (load(path, args.device) for path in args.files) if args.files else [_synthetic(args)]:
            rows += compare(layer, args.costs)
            advance()
    if args.result:
        result = describe("Selections, head by head", threads, rows)
        if args.device != "cpu":
            import torch

            result["peak_mib"] = round(torch.cuda.max_memory_allocated(args.device) / 2**20)
        write_whole(args.result, json.dumps(result, indent=2) + "\n")
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return 0
