"""Builds, checks and times the GPU kernels in one go.

python bench/gpu/run.py --output FILE [--library SO] [--prototype EXE]

Times ours and cuDNN's SDPA (torch) on the same structured heads, interleaved, as CUDA graphs, medians. Rates
count the pairs of the index only; density, kept attention mass and error stand beside every time. Non-causal calls
compare with cuDNN's non-causal ones, all others with its causal ones.

A GPU at its power limit sets its clock by what it has computed in the last tens of milliseconds, so a short call right
behind a long one is timed at the long one's clock. With --settle 100 every case runs for that long before it is timed,
for as long again. With --pause 0.3 the GPU rests instead for that many seconds before each timing, as FlashAttention-3's
benchmark lets it (hopper/benchmark_attn.py sleeps between cases).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADS, KV_HEADS = 32, 8
TITLE = "Attention kernels on the GPU: 32 query and 8 KV heads, bf16"


def build(build_dir: pathlib.Path) -> pathlib.Path:
    subprocess.run(["cmake", "-S", ROOT / "cmake" / "cuda-only", "-B", build_dir, "-G", "Ninja"], check=True)
    subprocess.run(["cmake", "--build", build_dir], check=True)
    return build_dir / "libminference_cuda.so"


def budgets(layer: int) -> list[tuple[int, int]]:
    """(vertical, slash) of each head of a layer of Llama-3.1-8B."""
    patterns = json.loads((ROOT / "patterns" / "llama-3.1-8b.json").read_text())
    legend = {letter: (p["vertical"], p["slash"]) for letter, p in patterns["legend"].items()}
    return [legend[letter] for letter in patterns["heads"][layer]]


def total_pairs(heads: list, num_tokens: int) -> int:
    from selection import count_pairs

    counted = {id(head): count_pairs(head, num_tokens) for head in {id(h): h for h in heads}.values()}
    return sum(counted[id(head)] for head in heads)


def relative_error(a, b) -> float:
    return float((a - b).float().norm() / b.float().norm())


@dataclasses.dataclass(frozen=True)
class Timing:
    """How often each case of a length is timed, and in what state the GPU is then."""

    rounds: int
    window_ms: float  # of a timing, and of what runs before it where nothing rests
    pause_s: float

    def rounds_of(self, num_tokens: int) -> int:
        return min(self.rounds, 5) if num_tokens > 100000 else self.rounds


class Bench:
    def __init__(self, library: str, kernel: str):
        import torch
        from attention_library import Library

        self.torch, self.library, self.kernel = torch, Library(library), kernel
        self.results: list[dict] = []

    def graph_of(self, call, num_calls: int):
        """A CUDA graph of the call, several times over: its replay takes no time on the host."""
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(num_calls):
                call()
        return graph

    def time_ms(self, graph, replays: int) -> float:
        """Of one replay of so many."""
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / replays

    def length(self, num_tokens: int, head_dim: int, layers: list[int], timing: Timing) -> None:
        """Times every case of one length, interleaved with cuDNN's dense attention."""
        torch = self.torch
        from attention_library import ALL, DeviceIndex, HeadIndex
        from heads import make_qkv
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from minference.synthetic import head_type_of_budget

        types = [head_type_of_budget(*b) for b in budgets(layers[0])]
        query, key, value = make_qkv(num_tokens, types, KV_HEADS, head_dim=head_dim)
        out, lse = torch.empty_like(query), torch.empty(1, HEADS, num_tokens, 1, device="cuda")

        def cudnn(causal: bool = True):
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, is_causal=causal, enable_gqa=True
                )

        def ours(index: DeviceIndex, causal: bool = True) -> None:
            scale = head_dim**-0.5
            self.library.attention(query, key, value, index, out, lse, scale, causal, self.kernel)

        calls, facts = {"cudnn dense": cudnn}, {}
        dense_out = dense_lse = None
        for name, heads in self.cases(query, key, layers).items():
            device = DeviceIndex.dense() if name == "dense" else DeviceIndex.upload(heads)
            calls[name] = functools.partial(ours, device)
            out.fill_(float("nan")), lse.fill_(float("nan"))
            calls[name]()
            if dense_out is None:
                dense_out, dense_lse = out.clone(), lse.clone()
            mass = (lse - dense_lse).exp().mean(dim=(0, 2, 3))
            facts[name] = {
                "pairs": total_pairs(heads, num_tokens),
                "kept_mass": float(mass.mean()),
                "worst_head_mass": float(mass.min()),
                "output_error": relative_error(out, dense_out),
                "row_error_f64": self.sampled_error(query, key, value, heads, out),
            }
        all_pairs = facts["dense"]["pairs"]
        facts["cudnn dense"] = {"pairs": all_pairs, "difference_to_ours": relative_error(cudnn(), dense_out)}

        non_causal = {"cudnn non-causal": lambda: cudnn(False)}
        non_causal["dense non-causal"] = lambda: ours(DeviceIndex.dense(), False)
        out.fill_(float("nan"))
        non_causal["dense non-causal"]()
        error = self.sampled_error(query, key, value, [HeadIndex(ALL)] * HEADS, out, causal=False)
        facts["cudnn non-causal"] = {"pairs": HEADS * num_tokens**2}
        facts["dense non-causal"] = facts["cudnn non-causal"] | {"row_error_f64": error}
        calls |= non_causal

        num_calls = max(1, 32768 // num_tokens)  # so that one replay takes milliseconds
        graphs = {name: self.graph_of(call, num_calls) for name, call in calls.items()}
        for graph in graphs.values():
            graph.replay()  # the first one also uploads it
        replays = {
            name: max(1, math.ceil(timing.window_ms / self.time_ms(graph, 1)))
            for name, graph in graphs.items()
        }
        times = {name: [] for name in calls}
        for _ in range(timing.rounds_of(num_tokens)):
            for name, graph in graphs.items():
                if timing.pause_s > 0:
                    time.sleep(timing.pause_s)
                elif timing.window_ms > 0:
                    self.time_ms(graph, replays[name])
                times[name].append(self.time_ms(graph, replays[name]) / num_calls)
        for name in calls:
            reference = "cudnn non-causal" if name in non_causal else "cudnn dense"
            ms = statistics.median(times[name])
            row = {
                "length": num_tokens,
                "head_dim": head_dim,
                "case": name,
                "ms": ms,
                "min_ms": min(times[name]),
            }
            row["tflops"] = 4 * head_dim * facts[name]["pairs"] / ms * 1e-9
            row["density"] = facts[name]["pairs"] / facts[reference]["pairs"]
            row["rate_over_cudnn"] = row["density"] * statistics.median(times[reference]) / ms
            row |= facts[name]
            self.results.append(row)
            print(
                f"{num_tokens:7d} {head_dim:3d} {name:18s} {ms:9.3f} ms {row['tflops']:6.1f} TFLOP/s "
                f"{row['rate_over_cudnn']:.3f} of cuDNN's rate  density {row['density']:.4f}  "
                f"mass {row.get('kept_mass', 1.0):.4f}  error {row.get('row_error_f64', 0.0):.1e}",
                flush=True,
            )

    def cases(self, query, key, layers: list[int]) -> dict:
        """An index of every head, by name; the dense one first."""
        from attention_library import ALL, RELATIVE, HeadIndex
        from selection import published, random_squares, top_blocks

        num_tokens = query.shape[2]
        indices = {"dense": [HeadIndex(ALL)] * HEADS, "dense as lists": [HeadIndex(ALL)] * HEADS}
        for layer in layers:
            indices[f"layer {layer}"] = [
                published(query[0, h], key[0, h * KV_HEADS // HEADS], *budget)
                for h, budget in enumerate(budgets(layer))
            ]
        for share in (0.05, 0.15):
            blocks = num_tokens // 128
            kept = max(1, round(share * blocks))
            starts = [-128 * (i * blocks // kept) for i in range(kept)]
            tiles = tuple(tile for start in starts for tile in (start, start - 64))
            indices[f"{share:.0%} in runs of 2"] = [HeadIndex(RELATIVE, tiles)] * HEADS
        columns = tuple(range(0, num_tokens, max(1, num_tokens // 3500)))[:3500]
        indices["3500 columns"] = [HeadIndex(RELATIVE, (0, -64, -128), columns)] * HEADS
        indices["5% in squares"] = [random_squares(num_tokens, 0.05, h) for h in range(HEADS)]
        indices["top 100 blocks"] = [
            top_blocks(query[0, h], key[0, h * KV_HEADS // HEADS], 100) for h in range(HEADS)
        ]
        return indices

    def sampled_error(self, query, key, value, heads, out, causal: bool = True) -> float:
        """The worst of 16 rows of four heads against float64."""
        torch = self.torch
        from reference import attend, visible

        num_tokens, worst, scale = query.shape[2], 0.0, query.shape[3] ** -0.5
        rows = torch.cat((torch.arange(4), torch.randint(num_tokens, (12,)))).cuda()
        for h in range(0, HEADS, HEADS // 4):
            kv_head = h * KV_HEADS // HEADS
            mask = visible(heads[h], rows, num_tokens, num_tokens, causal)
            expected, _ = attend(query[0, h, rows], key[0, kv_head], value[0, kv_head], mask, scale)
            error = (out[0, h, rows].double() - expected).norm(dim=-1) / expected.norm(dim=-1)
            worst = max(worst, float(error.nan_to_num(float("inf")).max()))
        return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="result file to write")
    parser.add_argument("--library", help="libminference_cuda.so; built from the checkout when not given")
    parser.add_argument("--prototype", help="a program to time beside, called with lengths")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--head-dims", type=int, nargs="+", default=[128])
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[15, 0], help="of Llama-3.1-8B; heads look like the first's"
    )
    parser.add_argument("--cases", type=int, default=200, help="random cases of the check")
    parser.add_argument(
        "--settle",
        type=float,
        default=0,
        metavar="MS",
        help="run each case so long before it is timed, for as long again (default: 0)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=0,
        metavar="S",
        help="rest so long before each timing, instead of running the case before (default: 0)",
    )
    parser.add_argument(
        "--rounds", type=int, default=11, help="timings of each case, 5 at most above 100000 tokens"
    )
    parser.add_argument("--kernel", choices=["sm90", "sm80"], default="sm90")
    options = parser.parse_args()
    if options.settle < 0:
        parser.error(f"--settle must be at least 0, got {options.settle:g}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.pause < 0:
        parser.error(f"--pause must be at least 0, got {options.pause:g}")
    sys.path[:0] = [str(ROOT / "python")]
    library = options.library or str(build(ROOT / "build" / "cuda-only"))

    # In a process of its own with a time limit, so that a kernel that hangs costs little.
    check = [sys.executable, pathlib.Path(__file__).with_name("check.py"), library, str(options.cases)]
    if subprocess.run([*check, "--kernel", options.kernel], timeout=150).returncode != 0:
        return 1

    bench = Bench(library, options.kernel)
    timing = Timing(options.rounds, options.settle, options.pause)
    from minference.cli.machine import describe

    extra: dict = {"kernel": options.kernel}

    def save() -> None:
        result = describe(TITLE, os.cpu_count(), bench.results) | extra
        options.output.write_text(json.dumps(result, indent=1) + "\n")

    for num_tokens in options.lengths:
        for head_dim in options.head_dims:
            bench.length(num_tokens, head_dim, options.layers, timing)
            save()  # so that a run that is cut off keeps what it has measured
    if options.prototype:
        run = subprocess.run(
            [options.prototype, *map(str, options.lengths)], capture_output=True, text=True, timeout=120
        )
        extra["prototype"] = run.stdout
        print(run.stdout)
        save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
