"""Times libminference_cuda's estimation, selection and index, and whole layers against cuDNN's SDPA.

python bench/gpu/time_layer.py --library SO [--output FILE] [--shared] [--profile] [--skip-attention] [--upstream CHECKOUT]

32 query and 8 KV heads, head_dim 128, bf16; budgets of a layer of Llama-3.1-8B on heads that look like its.
Medians of CUDA events; with --profile also every kernel's mean time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import statistics
import sys

import torch
from layer_library import (
    ADAPTIVE,
    DENSE,
    FALLBACK_AUTO,
    FALLBACK_OFF,
    VERTICAL_SLASH,
    LayerLibrary,
    pattern_of,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python")]
from heads import make_qkv  # noqa: E402
from run import HEADS, KV_HEADS, budgets  # noqa: E402

from minference.cli.machine import describe  # noqa: E402

HEAD_DIM = 128
SCALE = HEAD_DIM**-0.5


def times_ms(calls: dict, repeats: int) -> dict[str, float]:
    """Medians, the calls interleaved after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            if round_ > 0:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def graph_of(call) -> torch.cuda.CUDAGraph:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def print_kernels(call, repeats: int) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    for event in profile.key_averages():
        if event.device_time_total > 0:
            name = event.key.replace("minference::kernels::cuda::", "").replace("(anonymous namespace)::", "")
            print(f"          {event.device_time_total / repeats:9.1f} us  {name[:90]}", flush=True)


def paged_layer(library: LayerLibrary, query, key, value, out, patterns, page_size: int):
    """The layer over the same keys and values in shuffled pages, laid out as vLLM lays them out."""
    num_tokens, num_pages = key.shape[2], -(-key.shape[2] // page_size)
    table = torch.randperm(num_pages, device="cuda").int()[None]

    def pool(rows):
        pages = torch.zeros(num_pages, page_size, KV_HEADS, HEAD_DIM, dtype=rows.dtype, device="cuda")
        in_order = torch.zeros_like(pages)
        in_order.view(-1, KV_HEADS, HEAD_DIM)[:num_tokens] = rows[0].transpose(0, 1)
        pages[table[0].long()] = in_order
        return pages.transpose(1, 2)

    sequences = [(0, 0, num_tokens, 0, num_tokens)]
    return library.prepare_prefill(
        query, pool(key), pool(value), out, None, patterns, SCALE, sequences=sequences, block_table=table
    )


def packed_layers(library: LayerLibrary, query, key, value, out, setting: dict) -> dict:
    """The tokens as four sequences packed in one call, the same sequences in a call each, and all as one sequence."""
    num_tokens = query.shape[2]
    lengths = [num_tokens // 2, num_tokens // 4, num_tokens // 8]
    lengths.append(num_tokens - sum(lengths))
    begins = [sum(lengths[:i]) for i in range(len(lengths))]

    def prepare(tensors, sequences=None):
        return library.prepare_prefill(*tensors, None, softmax_scale=SCALE, sequences=sequences, **setting)

    apart = [
        prepare([tensor[:, :, begin : begin + n].contiguous() for tensor in (query, key, value, out)])
        for begin, n in zip(begins, lengths)
    ]
    whole = (query, key, value, out)
    return {
        "packed": prepare(whole, [(0, begin, n, begin, n) for begin, n in zip(begins, lengths)]),
        "apart": lambda: [call() for call in apart],
        "packed_alone": prepare(whole, [(0, 0, num_tokens, 0, num_tokens)]),
    }


class Layer:
    """Structured heads of one length, and what every setting of theirs gives: a row a setting."""

    def __init__(self, library: LayerLibrary, num_tokens: int, options: argparse.Namespace, upstream=None):
        from minference.synthetic import head_type_of_budget

        self.library, self.num_tokens, self.options, self.upstream = library, num_tokens, options, upstream
        self.budgets = budgets(options.layer)
        self.query, self.key, self.value = make_qkv(
            num_tokens, [head_type_of_budget(*budget) for budget in self.budgets], KV_HEADS
        )
        patterns = {f"layer {options.layer}": [pattern_of(VERTICAL_SLASH, *b) for b in self.budgets]}
        if not options.skip_adaptive:
            patterns["adaptive 0.95"] = [pattern_of(ADAPTIVE)] * HEADS
        self.settings = {name: {"patterns": heads, "share_index": False} for name, heads in patterns.items()}
        if options.shared:
            for name, heads in patterns.items():
                self.settings[f"{name} shared"] = {"patterns": heads, "share_index": True}

    def rows(self) -> list[dict]:
        rows = [self.index(name, setting) for name, setting in self.settings.items()]
        if not self.options.skip_attention and self.num_tokens <= self.options.longest_layer:
            self.whole(rows)
        return rows

    def density(self, index) -> float:
        return float(index.pairs.sum()) / (HEADS * self.num_tokens * (self.num_tokens + 1) // 2)

    def index(self, name: str, setting: dict) -> dict:
        """Estimation, selection and index."""
        undecided, without_fallback = self.library.prepare_index(
            self.query, self.key, softmax_scale=SCALE, fallback=FALLBACK_OFF, **setting
        )
        undecided()
        call, index = self.library.prepare_index(
            self.query, self.key, softmax_scale=SCALE, fallback=FALLBACK_AUTO, **setting
        )
        call()
        torch.cuda.synchronize()
        forms = index.device.heads[:, 0].tolist()
        times = times_ms({"calls": call, "graph": graph_of(call).replay}, self.options.repeats)
        row = {
            "length": self.num_tokens,
            "setting": name,
            "density": self.density(index),
            "density_without_fallback": self.density(without_fallback),
            "dense_heads": forms.count(0),
            "mean_tiles": float(index.device.heads[:, 1].float().mean()),
            "mean_columns": float(index.device.heads[:, 2].float().mean()),
            "index_workspace_mb": call.workspace_bytes / 1e6,
            "index_ms": times["calls"],
            "index_graph_ms": times["graph"],
        }
        print(
            " ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
            )
        )
        if self.options.profile:
            print_kernels(call, 5)
        return row

    def whole(self, rows: list[dict]) -> None:
        """Adds whole layers beside cuDNN's dense attention of the same heads to the settings' rows."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        query, key, value = self.query, self.key, self.value

        def cudnn():
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True, enable_gqa=True
                )

        out, lse = torch.empty_like(query), torch.empty(*query.shape[:3], 1, device="cuda")
        self.library.prepare_prefill(query, key, value, out, lse, [pattern_of(DENSE)] * HEADS, SCALE)()
        dense_lse, expected = lse.clone(), out.clone()
        for row, setting in zip(rows, self.settings.values()):
            self.library.prepare_prefill(query, key, value, out, lse, softmax_scale=SCALE, **setting)()
            mass = (lse - dense_lse).exp().mean(dim=(0, 2, 3))
            row["kept_mass"], row["kept_mass_of_worst_head"] = float(mass.mean()), float(mass.min())
            squares = [
                [tensor[0, h].float().square().sum() for h in range(HEADS)]
                for tensor in (out - expected, expected)
            ]
            row["output_error"] = math.sqrt(sum(squares[0]) / sum(squares[1]))
        del lse, dense_lse, expected

        calls = {"cudnn": cudnn}
        for name, setting in self.settings.items():
            layer = self.library.prepare_prefill(query, key, value, out, None, softmax_scale=SCALE, **setting)
            calls[name, "layer"], calls[name, "graph"] = layer, graph_of(layer).replay
            # Pages cost the same whatever the index is, and much memory.
            for page_size in () if setting["share_index"] else (16, 64, 128):
                calls[name, f"pages_of_{page_size}"] = paged_layer(
                    self.library, query, key, value, out, setting["patterns"], page_size
                )
            if self.options.packed:
                packed = packed_layers(self.library, query, key, value, out, setting)
                calls |= {(name, kind): call for kind, call in packed.items()}
        if self.upstream:
            calls["upstream"] = self.upstream.prepare(query, key, value, out, self.budgets)
        repeats = 7 if self.num_tokens < 200_000 else 3 if self.num_tokens < 800_000 else 1
        times = times_ms(calls, repeats)
        for row in rows:
            for name, ms in times.items():
                if isinstance(name, str):
                    row[f"{name}_ms"] = ms
                elif name[0] == row["setting"]:
                    row[f"{name[1]}_ms"] = ms
            row["speedup"] = row["cudnn_ms"] / row["layer_ms"]
            row["bar_ms"] = row["density"] * row["cudnn_ms"] / 0.85 + 1.5
            row["repeats"] = repeats
            if self.options.packed:
                row["packed_over_apart"] = row["packed_ms"] / row["apart_ms"]
                row["packed_alone_over_layer"] = row["packed_alone_ms"] / row["layer_ms"]
            print(
                {
                    key: round(value, 3)
                    for key, value in row.items()
                    if key.endswith(("_ms", "mass", "up", "_apart", "_layer"))
                },
                flush=True,
            )
            if self.options.profile:
                print_kernels(calls[row["setting"], "layer"], 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072, 524288])
    parser.add_argument("--layer", type=int, default=15, help="of Llama-3.1-8B")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--longest-layer", type=int, default=131072, help="beyond, time the index only")
    parser.add_argument("--skip-adaptive", action="store_true")
    parser.add_argument(
        "--shared",
        action="store_true",
        help="every setting also with one index for the query heads of a KV head",
    )
    parser.add_argument("--packed", action="store_true", help="also as four sequences packed in one call")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--skip-attention", action="store_true")
    parser.add_argument(
        "--upstream", type=pathlib.Path, help="checkout of microsoft/MInference to time beside whole layers"
    )
    options = parser.parse_args()
    library = LayerLibrary(options.library)
    upstream = None
    if options.upstream:
        from upstream import Upstream

        upstream = Upstream(options.upstream)
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    title = f"A layer on the GPU: budgets of layer {options.layer} of Llama-3.1-8B, 32 query and 8 KV heads, head_dim 128"
    rows: list[dict] = []
    for num_tokens in options.lengths:
        rows += Layer(library, num_tokens, options, upstream).rows()
        torch.cuda.empty_cache()
        if options.output:
            options.output.write_text(json.dumps(describe(title, os.cpu_count(), rows), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
