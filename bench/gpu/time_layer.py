"""Times libminference_cuda's estimation, selection and index, and whole layers against cuDNN's SDPA.

python bench/gpu/time_layer.py --library SO [--out FILE] [--profile] [--skip-attention]

32 query and 8 KV heads, head_dim 128, bf16; budgets of a layer of Llama-3.1-8B on heads that look like its.
Medians of CUDA events; with --profile also every kernel's mean time.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys

import torch
from layer import ADAPTIVE, FALLBACK_AUTO, FALLBACK_OFF, VERTICAL_SLASH, LayerLibrary, pattern_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python")]
from heads import HEAD_DIM, make_qkv  # noqa: E402
from run import HEADS, KV_HEADS, budgets  # noqa: E402

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


def measure(library: LayerLibrary, num_tokens: int, options: argparse.Namespace) -> list[dict]:
    from minference.synthetic import head_type_of_budget

    layer_budgets = budgets(options.layer)
    query, key, value = make_qkv(num_tokens, [head_type_of_budget(*b) for b in layer_budgets], KV_HEADS)
    published = [pattern_of(VERTICAL_SLASH, *budget) for budget in layer_budgets]
    settings = {f"layer {options.layer}": published}
    if not options.skip_adaptive:
        settings["adaptive 0.95"] = [pattern_of(ADAPTIVE)] * HEADS
    all_pairs = HEADS * num_tokens * (num_tokens + 1) // 2
    rows, calls = [], {}
    for name, patterns in settings.items():
        for fallback in (FALLBACK_AUTO, FALLBACK_OFF):
            call, index = library.prepare_index(query, key, patterns, SCALE, fallback)
            call()
            torch.cuda.synchronize()
            forms = index.device.heads[:, 0].tolist()
            row = {
                "num_tokens": num_tokens,
                "case": name,
                "fallback": fallback == FALLBACK_AUTO,
                "workspace_mb": call.workspace_bytes / 1e6,
                "density": float(index.pairs.sum()) / all_pairs,
                "dense_heads": forms.count(0),
                "mean_tiles": float(index.device.heads[:, 1].float().mean()),
                "mean_columns": float(index.device.heads[:, 2].float().mean()),
            }
            if fallback == FALLBACK_AUTO:
                graph = graph_of(call)
                times = times_ms({"calls": call, "graph": graph.replay}, options.repeats)
                row["ms"], row["graph_ms"] = times["calls"], times["graph"]
                print(
                    f"{num_tokens:8d} {name:14s} index {times['calls']:.3f} ms, graph {times['graph']:.3f} ms, "
                    f"workspace {row['workspace_mb']:.1f} MB, density {row['density']:.4f}, "
                    f"{row['dense_heads']} heads dense, tiles {row['mean_tiles']:.0f}, "
                    f"columns {row['mean_columns']:.0f}",
                    flush=True,
                )
                if options.profile:
                    print_kernels(call, 5)
            else:
                print(
                    f"{'':8s} {name:14s} without fallback: density {row['density']:.4f}, "
                    f"{row['dense_heads']} heads dense",
                    flush=True,
                )
            rows.append(row)
            calls[name, fallback] = index
    if options.skip_attention or num_tokens > options.longest_layer:
        return rows

    from torch.nn.attention import SDPBackend, sdpa_kernel

    def cudnn():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=True
            )

    out = torch.empty_like(query)
    layers = {"cudnn dense": cudnn}
    for name, patterns in settings.items():
        layers[name] = library.prepare_prefill(query, key, value, out, None, patterns, SCALE)
    first = next(iter(settings))
    layers[f"{first}, a graph"] = graph_of(layers[first]).replay
    for page_size in (16, 64, 128):
        layers[f"{first}, paged by {page_size}"] = paged_layer(
            library, query, key, value, out, settings[first], page_size
        )
    times = times_ms(layers, 7 if num_tokens < 200_000 else 3 if num_tokens < 800_000 else 1)
    for name, ms in times.items():
        setting = name.partition(", ")[0]
        density = float(calls[setting, FALLBACK_AUTO].pairs.sum()) / all_pairs if setting in settings else 1.0
        rows.append({"num_tokens": num_tokens, "case": f"whole {name}", "ms": ms, "density": density})
        bar = density * times["cudnn dense"] / 0.85 + 1.5
        print(
            f"{num_tokens:8d} whole layer, {name:22s} {ms:9.3f} ms, {times['cudnn dense'] / ms:6.2f} x cuDNN, "
            f"density {density:.4f}, bar {bar:.2f} ms",
            flush=True,
        )
        if options.profile and name in settings:
            print_kernels(layers[name], 2)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072, 524288])
    parser.add_argument("--layer", type=int, default=15, help="of Llama-3.1-8B")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--longest-layer", type=int, default=131072, help="beyond, time the index only")
    parser.add_argument("--skip-adaptive", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--skip-attention", action="store_true")
    options = parser.parse_args()
    library = LayerLibrary(options.library)
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
        "results": [],
    }
    print(report["device"], report["torch"], flush=True)
    for num_tokens in options.lengths:
        report["results"] += measure(library, num_tokens, options)
        torch.cuda.empty_cache()
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
