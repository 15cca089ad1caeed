"""What a fresh installation of the package must do with NumPy alone. Prints one line; fails with a traceback."""

import json
import platform
import shutil
import subprocess
import sys

IMPORT = "import time; begin = time.perf_counter(); import minference; print(time.perf_counter() - begin)"


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# Before this process imports anything. The first writes bytecode; where the machine is busy, more are tried.
imports = []
while len(imports) < 2 or (min(imports) >= 0.1 and len(imports) < 20):
    imports.append(float(output_of(sys.executable, "-c", IMPORT)))
import_seconds = min(imports)
assert import_seconds < 0.1, f"import minference must take less than 0.1 s, took {import_seconds:.3f}"

import numpy as np  # noqa: E402

import minference  # noqa: E402

assert not any(shutil.which(compiler) for compiler in ("cc", "gcc", "g++", "clang", "cmake"))
assert "torch" not in sys.modules

random = np.random.default_rng(1)
query, key, value = (random.standard_normal((1, heads, 200, 64), np.float32) for heads in (4, 2, 2))
scores = query @ np.repeat(key, 2, axis=1).swapaxes(2, 3) / 8
scores[:, :, ~np.tri(200, dtype=bool)] = -np.inf
weights = np.exp(scores - scores.max(axis=3, keepdims=True))
expected = weights / weights.sum(axis=3, keepdims=True) @ np.repeat(value, 2, axis=1)
everything = np.broadcast_to(np.arange(200), (1, 4, 200))
for out in (
    minference.vertical_slash_sparse_attention(query, key, value, everything, everything[:, :, :1]),
    minference.block_sparse_attention(query, key, value, top_k=100),
    minference.streaming_forward(query, key, value, n_init=10, n_local=200),
    minference.prefill_attention(query, key, value, minference.patterns.adaptive(1.0)),
):
    assert np.abs(out - expected).max() < 1e-5

models = [row["model"] for row in json.loads(output_of("minference", "models", "--json"))]
assert models == minference.get_support_models() and len(models) >= 10

print(
    f"minference {minference.__version__} works on Python {platform.python_version()} with NumPy {np.__version__}: "
    f"imported in {1e3 * import_seconds:.0f} ms, {minference.instruction_set()}"
)
