"""Checks libminference_cuda's attention against float64 on random shapes and indices.

python check.py LIBRARY [CASES]
"""

from __future__ import annotations

import random
import sys

import torch
from kernel import ALL, RELATIVE, WINDOW, DeviceIndex, HeadIndex, Library
from reference import attend, visible

TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 4e-3}
LSE_TOLERANCE = 1e-3


def random_head(rng: random.Random, q_len: int, kv_len: int) -> HeadIndex:
    form = rng.choice([ALL, RELATIVE, RELATIVE, RELATIVE, WINDOW])
    if form == WINDOW:
        return HeadIndex(
            WINDOW, sink=rng.choice([0, 1, 64, 130, kv_len]), local=rng.choice([1, 63, 200, kv_len])
        )
    if form == ALL:
        return HeadIndex()
    tiles, start = [], rng.choice([0, 0, 0, -5, -64, -kv_len // 2])
    while start > -kv_len and rng.random() < 0.93:
        tiles.append(start)
        start -= 64 if rng.random() < 0.6 else 64 + rng.randrange(200)
    columns = rng.sample(range(kv_len), min(kv_len, rng.choice([0, 0, 1, 30, 64, 65, 300])))
    return HeadIndex(RELATIVE, tuple(tiles), tuple(sorted(columns)))


def strided(heads: int, rows: int, dim: int, dtype: torch.dtype, rng: random.Random) -> torch.Tensor:
    """[1, heads, rows, dim] as a view of a larger buffer of NaN, head-major or row-major."""
    pad = 8 * rng.randrange(1, 4)
    if rng.random() < 0.5:
        buffer = torch.full((heads, rows + 3, dim + pad), float("nan"), dtype=dtype, device="cuda")
        return buffer[None, :, 1 : rows + 1, pad:]
    buffer = torch.full((rows, heads + 1, dim + pad), float("nan"), dtype=dtype, device="cuda")
    return buffer[:, :heads, :dim].transpose(0, 1)[None]


def check_case(library: Library, seed: int) -> tuple[str, float, float]:
    """Returns dtype and head_dim, the worst row error over its tolerance, and the worst error of the LSE."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype = rng.choice([torch.bfloat16, torch.float16])
    dim = rng.choice([64, 96, 128])
    kv_heads, group = rng.choice([(1, 1), (2, 4), (1, 7), (3, 2)])
    kv_len = rng.choice([1, 2, 63, 64, 65, 127, 128, 129, 191, 200, 320, 511, 777, 1000, 1543])
    q_len = rng.choice([kv_len, kv_len, 1, min(kv_len, 100), kv_len - kv_len // 3])
    heads = kv_heads * group
    query, key, value = (
        strided(h, n, dim, dtype, rng) for h, n in ((heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
    )
    spread = rng.choice([1.0, 1.0, 6.0, 40.0])
    for tensor, scale in ((query, 1.0), (key, spread), (value, 1.0)):
        tensor.copy_(torch.randn(tensor.shape, device="cuda") * scale)
    out, lse = (
        strided(heads, q_len, dim, dtype, rng),
        torch.full((1, heads, q_len, 1), float("nan"), device="cuda"),
    )
    index = [random_head(rng, q_len, kv_len) for _ in range(heads)]
    device_index = DeviceIndex.upload(index)
    if rng.random() < 0.2:
        index, device_index = [HeadIndex(ALL)] * heads, DeviceIndex.dense()
    scale = dim**-0.5
    library.attention(query, key, value, device_index, out, lse, scale)
    first = out.clone()
    library.attention(query, key, value, device_index, out, lse, scale)
    if not torch.equal(first, out):
        raise AssertionError("two runs differ")

    rows = torch.arange(q_len, device="cuda")
    kind, worst, worst_lse = f"{dtype} head_dim {dim}", 0.0, 0.0
    for h in range(heads):
        mask = visible(index[h], rows, q_len, kv_len)
        expected, expected_lse = attend(query[0, h], key[0, h // group], value[0, h // group], mask, scale)
        error = (out[0, h].double() - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-3)
        lse_error = (lse[0, h, :, 0].double() - expected_lse).abs() / expected_lse.abs().clamp_min(1.0)
        lse_error[torch.isinf(expected_lse) & (lse[0, h, :, 0] == expected_lse)] = 0.0
        # Written so that NaN fails. The row error of a rounded f16 or bf16 weight is below its unit roundoff.
        if not (error.max() <= 2 * TOLERANCE[dtype] and lse_error.max() <= LSE_TOLERANCE):
            at = int((error / TOLERANCE[dtype] + lse_error).nan_to_num(1e9).argmax())
            raise AssertionError(
                f"head {h} {index[h].form} row {at}: error {error[at]:.2e}, lse {lse_error[at]:.2e}; "
                f"{dtype} dim {dim} heads {heads}/{kv_heads} q_len {q_len} kv_len {kv_len} "
                f"spread {spread} {len(index[h].tiles)} tiles {len(index[h].columns)} columns"
            )
        worst = max(worst, float(error.max()) / TOLERANCE[dtype])
        worst_lse = max(worst_lse, float(lse_error.max()))
    return kind, worst, worst_lse


def main() -> int:
    library = Library(sys.argv[1])
    cases = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    passed: dict[str, list[tuple[float, float]]] = {}
    for seed in range(cases):
        try:
            kind, error, lse_error = check_case(library, seed)
            passed.setdefault(kind, []).append((error, lse_error))
        except AssertionError as failure:
            print(f"seed {seed}: {failure}", flush=True)
    for kind, errors in sorted(passed.items()):
        error, lse_error = map(max, zip(*errors))
        print(f"{kind}: {len(errors)} passed, worst error {error:.2f} of the tolerance, lse {lse_error:.1e}")
    failures = cases - sum(map(len, passed.values()))
    print(f"{cases} cases, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
