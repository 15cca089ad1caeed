"""`minference bench`: our kernels against PyTorch's SDPA on synthetic heads."""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from . import options
from .machine import describe

_EXAMPLES = """  minference bench
  minference bench --lengths 4k,8k --heads 4 --repeats 5
  minference bench --lengths 32k --heads 32 --threads 2,4,8,16
  minference bench --format csv > bench.csv
  minference bench --json --output bench/results/kernels.json
"""
# Head patterns and head sizes of the model whose layer 15 the synthetic heads imitate.
_MODEL, _LAYER, _HEAD_DIM, _GROUP = "meta-llama/Llama-3.1-8B-Instruct", 15, 128, 4
_COLUMNS = (
    "length",
    "threads",
    "attention",
    "dtype",
    "torch_ms",
    "ours_ms",
    "speedup",
    "density",
    "kept_mass",
    "gflops",
)


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "bench",
        run,
        "time our kernels against PyTorch's SDPA",
        "Time whole attention layers, ours and PyTorch's SDPA, on synthetic heads that imitate "
        f"layer {_LAYER} of Llama-3.1-8B: interleaved runs with the same threads, medians. gflops counts "
        "the pairs computed, each once.",
        _EXAMPLES,
    )
    options.add_lengths(parser, "8k,32k")
    parser.add_argument(
        "--heads",
        type=options.positive,
        default=8,
        help=f"query heads; {_GROUP} share a KV head (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument(
        "--repeats", type=options.positive, default=3, help="interleaved runs (default: %(default)s)"
    )
    parser.add_argument("--format", choices=("table", "md", "csv"), default="table")
    parser.add_argument(
        "--output", metavar="FILE", help="write a result file (JSON with machine, commit and date) too"
    )
    parser.add_argument(
        "--threads",
        type=options.comma_separated(options.positive),
        metavar="N,...",
        help="threads, of PyTorch too; of several, one after the other (default: PyTorch's own)",
    )
    options.add_json(parser)


def _milliseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def _tensors(length: int, num_heads: int, dtype: str, budgets: list[tuple[int, int]]):
    import torch

    from ..synthetic import head_type_of_budget, make_qkv

    types = [head_type_of_budget(*budget) for budget in budgets]
    arrays = make_qkv(length, num_heads, max(num_heads // _GROUP, 1), _HEAD_DIM, head_types=types)
    return [torch.from_numpy(array)[None].to(getattr(torch, dtype)) for array in arrays]


def _measure(length: int, threads: list[int], args, heads, advance: Callable[[], None]) -> list[dict]:
    """Two rows, dense and sparse, for each number of threads, timed with SDPA in turn."""
    import torch

    from .. import patterns, prefill_attention

    query, key, value = _tensors(length, args.heads, args.dtype, [tuple(head[1:3]) for head in heads])
    advance()
    everything = patterns.layer_array(patterns.dense(), args.heads)

    def sdpa():
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )

    def ours(layer):
        return prefill_attention(query, key, value, layer)

    medians = []
    for count in threads:
        # The library follows.
        torch.set_num_threads(count)
        times: dict[str, list[float]] = {"torch": [], "dense": [], "sparse": []}
        for _ in range(args.repeats):
            for name, call in (
                ("torch", sdpa),
                ("dense", lambda: ours(everything)),
                ("sparse", lambda: ours(heads)),
            ):
                times[name].append(_milliseconds(call))
                advance()
        medians.append({name: statistics.median(values) for name, values in times.items()})
    _, all_lse = prefill_attention(query, key, value, everything, return_lse=True)
    _, lse, report = prefill_attention(query, key, value, heads, return_lse=True, return_statistics=True)
    density = report.pairs / report.all_pairs
    kept_mass = float((lse.double() - all_lse.double()).exp().mean())
    rows = []
    for count, median in zip(threads, medians):
        for name, label, share, kept in (
            ("dense", "dense", 1.0, 1.0),
            ("sparse", f"layer {_LAYER}", density, kept_mass),
        ):
            pairs = share * args.heads * length * (length + 1) / 2
            values = (
                length,
                count,
                label,
                args.dtype,
                round(median["torch"], 2),
                round(median[name], 2),
                round(median["torch"] / median[name], 2),
                round(share, 4),
                round(kept, 4),
                round(4 * _HEAD_DIM * pairs / median[name] / 1e6, 1),
            )
            rows.append(dict(zip(_COLUMNS, values)))
    return rows


def _text(rows: list[dict], form: str) -> str:
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip()
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    lines += ["| " + " | ".join(str(row[name]) for name in _COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def _print_table(rows: list[dict], machine: dict) -> None:
    from rich.table import Table

    from ..words import percent
    from .console import make_console

    table = Table(
        title=f"Attention of a layer, head_dim {_HEAD_DIM}: {machine['cpu']}, {machine['isa']}",
        title_justify="left",
        header_style="bold",
    )
    for name in (
        "length",
        "threads",
        "attention",
        "SDPA, ms",
        "ours, ms",
        "speed-up",
        "density",
        "kept mass",
        "GFLOP/s",
    ):
        table.add_column(name, justify="left" if name == "attention" else "right")
    for row in rows:
        table.add_row(
            f"{row['length']:,}",
            str(row["threads"]),
            row["attention"],
            f"{row['torch_ms']:,.1f}",
            f"{row['ours_ms']:,.1f}",
            f"[bold green]{row['speedup']:.1f} x[/]",
            percent(row["density"]),
            percent(row["kept_mass"]),
            f"{row['gflops']:,.0f}",
        )
    make_console().print(table)


def run(args) -> int:
    import torch

    from ..patterns import HeadPatterns
    from .console import progress, step

    if args.heads % _GROUP and args.heads > _GROUP:
        raise ValueError(f"--heads must be at most {_GROUP} or a multiple of it, got {args.heads}")
    if args.output:
        # Before the minutes of measuring, so that a folder that cannot be made costs none.
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    threads = args.threads or [torch.get_num_threads()]
    layer = HeadPatterns.builtin(_MODEL).layer(_LAYER)
    # Evenly spaced heads of the layer, so that few stand for all.
    heads = layer[[h * len(layer) // args.heads for h in range(args.heads)]]
    rows = []
    with progress() as bars:
        for length in args.lengths:
            with step(bars, f"{length:,} tokens", 3 * args.repeats * len(threads) + 1) as advance:
                rows += _measure(length, threads, args, heads, advance)
    result = describe("Attention kernels against PyTorch's SDPA", max(threads), rows)
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(result, indent=2))
    elif args.format == "table":
        _print_table(rows, result["machine"])
    else:
        print(_text(rows, args.format))
    return 0
