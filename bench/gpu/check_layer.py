"""Checks libminference_cuda's estimation, selection, index and whole layer on random calls.

python check_layer.py CUDA_LIBRARY CPU_LIBRARY [--cases N] [--first SEED] [--skip-attention]

Sums against float64; members against the CPU library's selection of the same sums, and against float64's;
lists and counts against the CPU library's index of the same members; a layer against its steps. One line a
failing seed.
"""

from __future__ import annotations

import argparse
import sys

import torch
from attention_library import ALL, BLOCKS, RELATIVE, WINDOW, HeadIndex
from cpu_library import CpuLibrary
from layer_case import Case
from layer_library import (
    ADAPTIVE,
    BLOCK_SPARSE,
    FALLBACK_AUTO,
    FALLBACK_OFF,
    VERTICAL_SLASH,
    HeadPattern,
    LayerIndex,
    LayerLibrary,
    pattern_of,
)
from layer_reference import (
    adaptive_reference,
    cost_of,
    count_pairs,
    dense_cost_of,
    published_differs,
    reference_sums,
)


def fail(what: str) -> None:
    raise AssertionError(what)


def run_dirty(call) -> None:
    """Runs a call on a workspace full of NaN."""
    call.workspace.fill_(0xFF)
    call()
    torch.cuda.synchronize()


def check_steps(library: LayerLibrary, cpu: CpuLibrary, case: Case) -> dict[str, float]:
    call, index = library.prepare_index(
        case.query,
        case.key,
        case.given,
        case.scale,
        FALLBACK_OFF,
        case.causal,
        details=True,
        share_index=case.share_index,
    )
    run_dirty(call)
    column_sums, diagonal_sums = index.sums
    first = [tensor.clone() for tensor in (*index.sums, index.device.heads, index.offset_counts)]
    run_dirty(call)
    if not all(
        torch.equal(a, b)
        for a, b in zip(
            first[2:] + [first[0].nan_to_num(7), first[1].nan_to_num(7)],
            (index.device.heads, index.offset_counts, column_sums.nan_to_num(7), diagonal_sums.nan_to_num(7)),
        )
    ):
        fail("two runs differ")

    worst = {"column": 0.0, "diagonal": 0.0}
    heads = index.heads()
    published = [h for h in case.estimated() if case.patterns[h].pattern == VERTICAL_SLASH]
    selected = {}
    if published:
        columns, offsets = cpu.select(
            column_sums[published].contiguous(),
            diagonal_sums[published].contiguous(),
            [case.patterns[h] for h in published],
        )
        selected = {h: (c.tolist(), o.tolist()) for h, c, o in zip(published, columns, offsets)}
    for h in case.estimated():
        pattern = case.patterns[h]
        exact = [reference_sums(case.query, case.key, member, case.scale) for member in case.sharing[h]]
        of_columns, of_diagonals, tolerances = zip(*exact)
        reference, tolerance = (sum(of_columns), sum(of_diagonals)), max(tolerances)
        for name, sums, expected in zip(worst, index.sums, reference):
            error = (sums[h].double() - expected).abs() / (expected + 1e-6)
            # NaN fails.
            if not error.max() <= tolerance:
                at = int(error.nan_to_num(1e9).argmax())
                fail(
                    f"{name} sums of head {h} at {at}: {float(sums[h, at]):.6e}, not {float(expected[at]):.6e}"
                )
            worst[name] = max(worst[name], float(error.max()) / tolerance)
        ties = set()
        if pattern.pattern == ADAPTIVE:
            *selected[h], ties = adaptive_reference(
                column_sums[h], diagonal_sums[h], pattern.share_ppm * 1e-6
            )
        columns, offsets = selected[h]
        if index.members(h) != offsets:
            difference = sorted(set(index.members(h)) ^ set(offsets))
            fail(f"offsets of head {h} ({pattern.pattern}) differ: {len(offsets)} expected, {difference[:8]}")
        if len(columns) > index.device.columns.shape[1]:
            if heads[h].form != ALL:
                fail(f"head {h} has more columns than fit, and form {heads[h].form}")
            continue
        tiles, index_columns, pairs = cpu.index(columns, offsets, case.q_len, case.kv_len)
        difference = set(heads[h].columns) ^ set(index_columns)
        if heads[h].form != RELATIVE or difference - ties:
            shown = sorted(difference - ties)[:8]
            fail(f"columns of head {h} differ: form {heads[h].form}, {len(columns)}, {shown}")
        # One for another, but where one of them is worth the threshold anyway.
        if abs(len(heads[h].columns) - len(index_columns)) > 2:
            fail(f"head {h} has {len(heads[h].columns)} columns instead of {len(index_columns)}")
        if heads[h].tiles != tiles:
            fail(f"tiles of head {h} differ: {len(heads[h].tiles)} instead of {len(tiles)}")
        if heads[h].last_dense_rows != case.dense_rows_of(h):
            fail(f"head {h} has {heads[h].last_dense_rows} dense rows")
        if heads[h].last_dense_rows > 0:
            if case.kv_len > 6000:
                continue
            pairs = count_pairs(heads[h], case.q_len, case.kv_len)
        if not difference and int(index.pairs[h]) != pairs:
            fail(f"pairs of head {h}: {int(index.pairs[h])} instead of {pairs}")
        if pattern.pattern == VERTICAL_SLASH:
            for name, expected, members, budget, forced in (
                ("columns", reference[0], columns, max(30, pattern.size[0]), 30),
                ("offsets", reference[1], offsets, max(50, pattern.size[1]), 100),
            ):
                if difference := published_differs(expected, members, budget, forced, tolerance):
                    fail(f"{name} of head {h} against float64: {difference}")
    for h, sharing in enumerate(case.sharing):
        first = sharing[0]
        if heads[h] != heads[first] or int(index.pairs[h]) != int(index.pairs[first]):
            fail(f"head {h} differs from head {first}, whose index it shares")
    check_blocks(cpu, case, index, heads)
    check_fallback(library, case, heads)
    return worst


def check_blocks(cpu: CpuLibrary, case: Case, index: LayerIndex, heads: list[HeadIndex]) -> None:
    """Block-sparse heads keep what the CPU keeps of the same query and key."""
    listed = [h for h, pattern in enumerate(case.patterns) if pattern.pattern == BLOCK_SPARSE]
    if not listed:
        return
    dense = HeadPattern()
    patterns = [p if p.pattern == BLOCK_SPARSE else dense for p in case.given]
    expected = cpu.blocks(case.query, case.key, patterns, case.share_index)
    for h in listed:
        blocks, pairs = expected[h]
        if heads[h].form != (BLOCKS if blocks else ALL) or heads[h].blocks != blocks:
            fail(f"blocks of head {h}: form {heads[h].form}, {len(blocks)} row blocks expected")
        if int(index.pairs[h]) != pairs:
            fail(f"pairs of blocks {h}: {int(index.pairs[h])} instead of {pairs}")


def check_fallback(library: LayerLibrary, case: Case, sparse: list[HeadIndex]) -> None:
    """Heads that fall back are those whose index costs as much as dense attention."""
    call, index = library.prepare_index(
        case.query, case.key, case.given, case.scale, FALLBACK_AUTO, case.causal, share_index=case.share_index
    )
    run_dirty(call)
    q_len, kv_len = case.q_len, case.kv_len
    all_pairs = q_len * (2 * kv_len - q_len + 1) // 2 if case.causal else q_len * kv_len
    for h, (head, wanted, pattern) in enumerate(zip(index.heads(), sparse, case.patterns)):
        if pattern.pattern in (VERTICAL_SLASH, ADAPTIVE, BLOCK_SPARSE) and case.is_gated():
            expected = HeadIndex(ALL)
        elif wanted.form == ALL or kv_len > 6000:
            continue
        else:
            cost, limit = (
                cost_of(wanted, q_len, kv_len, case.causal),
                dense_cost_of(q_len, kv_len, case.causal),
            )
            if abs(cost - limit) < 1e-9 * limit:
                continue
            expected = wanted if cost < limit else HeadIndex(ALL)
        if head != expected:
            fail(f"head {h} after fallback: form {head.form}, expected {expected.form}")
        if head.form == ALL and int(index.pairs[h]) != all_pairs:
            fail(f"pairs of dense head {h}: {int(index.pairs[h])} instead of {all_pairs}")
        if head.form == WINDOW:
            if (head.sink, head.local) != tuple(pattern.size):
                fail(f"head {h} has window {head.sink}, {head.local}")
            pairs = count_pairs(head, q_len, kv_len, case.causal)
            if int(index.pairs[h]) != pairs:
                fail(f"pairs of window {h}: {int(index.pairs[h])} instead of {pairs}")


def check_lists(library: LayerLibrary, cpu: CpuLibrary, case: Case) -> None:
    """Any lists of members, unsorted and repeated, against the CPU's index."""
    rng, kv_len = case.rng, case.kv_len

    def members(most: int) -> list[int]:
        count = rng.choice([0, 1, 2, 30, 300, most])
        spread = rng.choice([kv_len, max(1, kv_len // 9)])
        listed = [rng.randrange(spread) for _ in range(min(count, 2 * kv_len))]
        gap = rng.choice([0, 0, 70, 100, 130])
        return listed + [x for x in range(0, kv_len, gap)] if gap else listed

    columns = [members(1000) for _ in range(case.num_heads)]
    offsets = [members(6096) for _ in range(case.num_heads)]
    index = library.vertical_slash(columns, offsets, case.q_len, kv_len)
    for h, head in enumerate(index.heads()):
        tiles, index_columns, pairs = cpu.index(columns[h], offsets[h], case.q_len, kv_len)
        if (head.form, head.tiles, head.columns) != (RELATIVE, tiles, index_columns):
            fail(f"index of lists, head {h}: {len(head.tiles)} tiles instead of {len(tiles)}")
        if int(index.pairs[h]) != pairs:
            fail(f"pairs of lists, head {h}: {int(index.pairs[h])} instead of {pairs}")


def check_layer(library: LayerLibrary, case: Case) -> None:
    """A layer gives the bits of its steps, also from a graph, and of each sequence alone."""
    fallback = case.rng.choice([FALLBACK_AUTO, FALLBACK_OFF])
    call, index = library.prepare_index(
        case.query, case.key, case.given, case.scale, fallback, case.causal, share_index=case.share_index
    )
    run_dirty(call)
    nan = float("nan")

    def outputs(batch: int, q_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        out = torch.full((batch, case.num_heads, q_len, case.dim), nan, dtype=case.dtype, device="cuda")
        return out, torch.full((batch, case.num_heads, q_len, 1), nan, device="cuda")

    expected, expected_lse = outputs(1, case.q_len)
    steps = index.device
    estimates = case.estimated() and not (fallback == FALLBACK_AUTO and case.is_gated())
    if not estimates and all(head.form == ALL for head in index.heads()):
        steps = steps.dense()  # the layer knows before, and so runs the kernel without head records
    cut = [
        h
        for h, head in enumerate(index.heads())
        if case.dense_rows_of(h) > 0
        and (head.form in (WINDOW, BLOCKS) or (estimates and case.is_estimated(h)))
    ]
    if not cut:
        steps.last_dense_rows = None  # the same of dense rows
    if all(head.form != BLOCKS for head in index.heads()):
        steps.row_offsets = steps.key_blocks = None
    library.attention(
        case.query, case.key, case.value, steps, expected, expected_lse, case.scale, case.causal
    )
    out, lse = outputs(1, case.q_len)
    pairs = torch.full((case.num_heads,), -1, dtype=torch.int64, device="cuda")
    layer = library.prepare_prefill(
        case.query,
        case.key,
        case.value,
        out,
        lse,
        case.given,
        case.scale,
        fallback,
        case.causal,
        pairs=pairs,
        share_index=case.share_index,
    )
    run_dirty(layer)
    if not (torch.equal(out, expected) and torch.equal(lse, expected_lse)):
        fail(f"layer differs from its steps by {float((out - expected).abs().max()):.3e}")
    if not torch.equal(pairs, index.pairs):
        fail("layer counts other pairs than its steps")

    out.fill_(nan), lse.fill_(nan)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer()
    layer.workspace.fill_(0xFF)
    graph.replay()
    torch.cuda.synchronize()
    if not (torch.equal(out, expected) and torch.equal(lse, expected_lse)):
        fail("the graph's replay differs")

    # The same sequence within a padded batch of two.
    front, behind = (case.rng.choice([0, 1, 3, 64]) for _ in range(2))
    q_len, kv_len = case.q_len, case.kv_len

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        whole = torch.full(
            (2, tensor.shape[1], front + tensor.shape[2] + behind, case.dim),
            nan,
            dtype=case.dtype,
            device="cuda",
        )
        whole[1, :, front : front + tensor.shape[2]] = tensor[0]
        return whole

    batch_out, batch_lse = outputs(2, front + q_len + behind)
    batch = library.prepare_prefill(
        *map(padded, (case.query, case.key, case.value)),
        batch_out,
        batch_lse,
        case.given,
        case.scale,
        fallback,
        case.causal,
        sequences=[(1, front, q_len, front, kv_len)],
        share_index=case.share_index,
    )
    run_dirty(batch)
    rows = slice(front, front + q_len)
    if not (
        torch.equal(batch_out[1:, :, rows], expected) and torch.equal(batch_lse[1:, :, rows], expected_lse)
    ):
        fail("a sequence in a batch differs from itself alone")
    batch_out[1, :, rows], batch_lse[1, :, rows] = 0.0, -float("inf")
    if not (bool((batch_out == 0).all()) and bool(torch.isneginf(batch_lse).all())):
        fail("padding is not 0 and -inf")


def check_two_streams(library: LayerLibrary) -> None:
    """Two layers at once on two streams, many times, give the bits they give alone."""
    calls = []
    for seed in (11, 12):
        case = Case(seed)
        case.kv_len = case.q_len = 3001
        torch.manual_seed(seed)
        query, key, value = (torch.randn(1, h, 3001, 128, device="cuda").bfloat16() for h in (8, 2, 2))
        out = torch.full_like(query, float("nan"))
        patterns = [pattern_of(VERTICAL_SLASH, 100, 800), pattern_of(ADAPTIVE)] * 4
        call = library.prepare_prefill(query, key, value, out, None, patterns, 128**-0.5, FALLBACK_OFF)
        run_dirty(call)
        calls.append((call, out, out.clone(), torch.cuda.Stream()))
    for _ in range(20):
        for call, out, _, stream in calls:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                out.fill_(float("nan"))
                call()
    torch.cuda.synchronize()
    for i, (_, out, expected, _) in enumerate(calls):
        if not torch.equal(out, expected):
            fail(f"stream {i} differs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("cpu_library")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--skip-attention", action="store_true")
    options = parser.parse_args()
    library, cpu = LayerLibrary(options.library), CpuLibrary(options.cpu_library)

    failures, worst = 0, {"column": 0.0, "diagonal": 0.0}
    checks = [("steps", lambda case: check_steps(library, cpu, case))]
    checks.append(("lists", lambda case: check_lists(library, cpu, case)))
    if not options.skip_attention:
        checks.append(("layer", lambda case: check_layer(library, case)))
    for name, check in checks:
        failed = 0
        for seed in range(options.first, options.first + options.cases):
            case = Case(seed)
            try:
                for kind, error in (check(case) or {}).items():
                    worst[kind] = max(worst[kind], error)
            except AssertionError as failure:
                failed += 1
                print(f"{name}, seed {seed}: {failure}; {case}", flush=True)
        print(f"{name}: {options.cases} cases, {failed} failed", flush=True)
        failures += failed
    print(
        f"worst error of a sum, of the tolerance: columns {worst['column']:.2f}, diagonals {worst['diagonal']:.2f}"
    )
    if not options.skip_attention:
        try:
            check_two_streams(library)
            print("two streams: the same bits")
        except AssertionError as failure:
            failures += 1
            print(f"two streams: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
