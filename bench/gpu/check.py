"""Checks libminference_cuda's attention against float64 on random shapes and indices.

python check.py LIBRARY [CASES] [--kernel sm80]
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys

import torch
from attention_library import ALL, BLOCKS, RELATIVE, WINDOW, DeviceIndex, HeadIndex, Library
from reference import attend, visible
from selection import random_squares

TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 4e-3}
LSE_TOLERANCE = 1e-3
FORMS = {ALL: "all pairs", RELATIVE: "relative", WINDOW: "window", BLOCKS: "blocks"}


def random_blocks(rng: random.Random, q_len: int, kv_len: int) -> HeadIndex:
    """Neighbouring row blocks may have everything in common, or nothing, or be of very different lengths."""
    shares = rng.choice([[0.0], [0.1], [0.5], [1.0], [0.0, 0.05, 0.3, 1.0]])
    repeated = rng.choice([0.0, 0.5])
    lists: list[tuple[int, ...]] = []
    for _ in range(-(-q_len // 64)):
        share = rng.choice(shares)
        if lists and rng.random() < repeated:
            lists.append(lists[-1])
        else:
            lists.append(tuple(j for j in range(-(-kv_len // 64)) if rng.random() < share))
    return HeadIndex(BLOCKS, blocks=tuple(lists))


def heads_of_squares(rng: random.Random, heads: int, q_len: int, kv_len: int) -> list[HeadIndex]:
    """Squares in all heads, some of which compute all pairs; or in all but one."""
    drawn = [
        HeadIndex()
        if rng.random() < 0.2
        else random_squares(kv_len, rng.choice([0.1, 0.5, 0.9]), rng.randrange(1000), kv_len - q_len)
        for _ in range(heads)
    ]
    if rng.random() < 0.3:
        drawn[rng.randrange(heads)] = random_blocks(rng, q_len, kv_len)
    return drawn


def random_relative(rng: random.Random, kv_len: int) -> HeadIndex:
    tiles, start = [], rng.choice([0, 0, 0, -5, -64, -kv_len // 2])
    while start > -kv_len and rng.random() < 0.93:
        tiles.append(start)
        start -= 64 if rng.random() < 0.6 else 64 + rng.randrange(200)
    columns = rng.sample(range(kv_len), min(kv_len, rng.choice([0, 0, 1, 30, 64, 65, 300])))
    return HeadIndex(RELATIVE, tuple(tiles), tuple(sorted(columns)))


def random_head(rng: random.Random, forms: list[int], q_len: int, kv_len: int) -> HeadIndex:
    form = rng.choice(forms)
    if form == WINDOW:
        return HeadIndex(
            WINDOW, sink=rng.choice([0, 1, 64, 130, kv_len]), local=rng.choice([0, 1, 63, 200, kv_len])
        )
    if form == RELATIVE:
        return random_relative(rng, kv_len)
    return random_blocks(rng, q_len, kv_len) if form == BLOCKS else HeadIndex()


@dataclasses.dataclass
class Case:
    """Shapes and an index, drawn from what the kernel serves."""

    dtype: torch.dtype
    dim: int
    kv_heads: int
    group: int
    q_len: int
    kv_len: int
    causal: bool
    pad: int  # strides are multiples of this many elements
    heads: list[HeadIndex] | None  # None: no head records, every pair

    @classmethod
    def draw(cls, rng: random.Random, kernel: str) -> Case:
        everything = kernel == "sm80"
        kv_len = rng.choice(
            [1, 2, 63, 64, 65, 127, 128, 129, 191, 200, 320, 511, 777, 1000, 1543, 2500, 6000]
        )
        kv_heads, group = rng.choice([(1, 1), (2, 4), (1, 7), (1, 8), (3, 2)])
        case = cls(
            dtype=rng.choice([torch.bfloat16, torch.float16]),
            dim=rng.choice([64, 96, 128, 256, 256]),
            kv_heads=kv_heads,
            group=group,
            q_len=rng.choice(
                [kv_len, kv_len, 1, min(kv_len, 100), kv_len - kv_len // 3, kv_len - kv_len // 384 * 128]
            ),
            kv_len=kv_len,
            causal=rng.random() >= 0.25,
            pad=rng.choice([8, 8, 1, 3]) if everything else 8,
            heads=None,
        )
        if everything and rng.random() < 0.5:
            case.dim = rng.choice([8, 24, 72, 80, 88, 120, 136, 192, 200, 256])
        if rng.random() >= 0.2:
            forms = [ALL, RELATIVE, RELATIVE, RELATIVE, WINDOW, BLOCKS, BLOCKS, BLOCKS]
            if not case.causal:
                forms = [ALL, WINDOW, BLOCKS]
            if case.causal and rng.random() < 0.2:
                forms = [BLOCKS]
            case.heads = [random_head(rng, forms, case.q_len, kv_len) for _ in range(kv_heads * group)]
            if case.causal and (kv_len - case.q_len) % 128 == 0 and rng.random() < 0.4:
                case.heads = heads_of_squares(rng, kv_heads * group, case.q_len, kv_len)
            if everything and rng.random() < 0.4:
                for head in case.heads:
                    head.last_dense_rows = rng.choice([0, 0, 1, 17, 64, 100, kv_len])
        return case


def strided(case: Case, heads: int, rows: int, rng: random.Random) -> torch.Tensor:
    """[1, heads, rows, dim] as a view of a larger buffer of NaN, head-major or row-major."""
    pad = case.pad * rng.randrange(1, 4)

    def nan(*shape: int) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=case.dtype, device="cuda")

    if rng.random() < 0.5:
        return nan(heads, rows + 3, case.dim + pad)[None, :, 1 : rows + 1, pad:]
    return nan(rows, heads + 1, case.dim + pad)[:, :heads, : case.dim].transpose(0, 1)[None]


def check_case(library: Library, kernel: str, seed: int) -> tuple[str, float, float]:
    """Returns dtype and head_dim, the worst row error over its tolerance, and the worst error of the LSE."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    case = Case.draw(rng, kernel)
    dtype, dim, q_len, kv_len, group = case.dtype, case.dim, case.q_len, case.kv_len, case.group
    heads = case.kv_heads * group
    query, key, value = (
        strided(case, h, n, rng)
        for h, n in ((heads, q_len), (case.kv_heads, kv_len), (case.kv_heads, kv_len))
    )
    spread = rng.choice([1.0, 1.0, 6.0, 40.0])
    for tensor, scale in ((query, 1.0), (key, spread), (value, 1.0)):
        tensor.copy_(torch.randn(tensor.shape, device="cuda") * scale)
    out = strided(case, heads, q_len, rng)
    lse = torch.full((1, heads, q_len, 1), float("nan"), device="cuda")
    device_index = DeviceIndex.dense() if case.heads is None else DeviceIndex.upload(case.heads)
    index = case.heads or [HeadIndex(ALL)] * heads
    scale = dim**-0.5

    def attend_on_gpu() -> None:
        library.attention(query, key, value, device_index, out, lse, scale, case.causal, kernel)

    attend_on_gpu()
    first = out.clone()
    attend_on_gpu()
    if not torch.equal(first.nan_to_num(), out.nan_to_num()):
        raise AssertionError("two runs differ")

    rows = torch.arange(q_len, device="cuda")
    kind, worst, worst_lse = f"{dtype} head_dim {dim}", 0.0, 0.0
    for h in range(heads):
        mask = visible(index[h], rows, q_len, kv_len, case.causal)
        expected, expected_lse = attend(query[0, h], key[0, h // group], value[0, h // group], mask, scale)
        error = (out[0, h].double() - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-3)
        lse_error = (lse[0, h, :, 0].double() - expected_lse).abs() / expected_lse.abs().clamp_min(1.0)
        lse_error[torch.isinf(expected_lse) & (lse[0, h, :, 0] == expected_lse)] = 0.0
        # Written so that NaN fails. The row error of a rounded f16 or bf16 weight is below its unit roundoff.
        if not (error.max() <= 2 * TOLERANCE[dtype] and lse_error.max() <= LSE_TOLERANCE):
            at = int((error / TOLERANCE[dtype] + lse_error).nan_to_num(1e9).argmax())
            raise AssertionError(
                f"head {h} {FORMS[index[h].form]} row {at}: error {error[at]:.2e}, lse {lse_error[at]:.2e}; "
                f"{dtype} dim {dim} heads {heads}/{case.kv_heads} q_len {q_len} kv_len {kv_len} "
                f"causal {case.causal} pad {case.pad} spread {spread} {len(index[h].tiles)} tiles "
                f"{len(index[h].columns)} columns sink {index[h].sink} local {index[h].local} "
                f"blocks {[len(blocks) for blocks in index[h].blocks]} heads' forms {[i.form for i in index]} "
                f"dense rows {index[h].last_dense_rows}"
            )
        worst = max(worst, float(error.max()) / TOLERANCE[dtype])
        worst_lse = max(worst_lse, float(lse_error.max()))
    return kind, worst, worst_lse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("cases", type=int, nargs="?", default=200)
    parser.add_argument("--kernel", choices=["sm90", "sm80"], default="sm90")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    options = parser.parse_args()
    library = Library(options.library)
    passed: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.first, options.first + options.cases):
        try:
            kind, error, lse_error = check_case(library, options.kernel, seed)
            passed.setdefault(kind, []).append((error, lse_error))
        except AssertionError as failure:
            print(f"seed {seed}: {failure}", flush=True)
    for kind, errors in sorted(passed.items()):
        error, lse_error = map(max, zip(*errors))
        print(f"{kind}: {len(errors)} passed, worst error {error:.2f} of the tolerance, lse {lse_error:.1e}")
    failures = options.cases - sum(map(len, passed.values()))
    print(f"{options.kernel}: {options.cases} cases, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
