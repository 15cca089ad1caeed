"""check_layers.py finds each kind of wrong dependency when one is planted, and nothing where all is right."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import check_layers

ROOT = Path(__file__).resolve().parent.parent

RIGHT = {
    "include/minference/minference.h": "#include <stddef.h>\n",
    "src/base/error.h": "#include <string>\n",
    "src/sparse/rules.h": '#include "base/error.h"\n',
    "src/cpu/avx512.h": "#include <immintrin.h>\n",
    "src/cuda/tma.cuh": "#include <cuda.h>\n",
    "src/kernels/pool/pool.h": '#include "sparse/rules.h"\n',
    "src/kernels/pool/cpu/loop.h": '#include "cpu/avx512.h"\n',
    "src/kernels/pool/cpu/avx512.cc": '#include "kernels/pool/cpu/loop.h"\n',
    "src/kernels/pool/cuda/pool.cu": "#include <cuda_runtime.h>\n",
    "src/kernels/select/select.h": '#include "base/error.h"\n',
    "src/prefill/prefill.cc": '#include "kernels/pool/pool.h"\n#include "kernels/select/select.h"\n',
    "src/capi/prefill.cc": '#include <minference/minference.h>\n#include "base/error.h"\n',
    "examples/c/dense.c": "#include <minference/minference.h>\n",
    "python/minference/__init__.py": "from . import functions\ndef patch():\n    import torch\n",
    "python/minference/functions.py": "from ._library import load\n",
    "python/minference/_library.py": "import ctypes\n",
    "python/minference/patch.py": "import torch\n",
    "examples/python/functions.py": "from minference import functions\n",
}

WRONG = {
    "upwards": ("src/base/error.h", '#include "sparse/rules.h"\n'),
    "sideways between operations": ("src/kernels/pool/pool.h", '#include "kernels/select/select.h"\n'),
    "around the C ABI": ("examples/c/dense.c", '#include "prefill/prefill.h"\n'),
    "angle brackets hide nothing": ("examples/c/dense.c", "#include <base/error.h>\n"),
    "relative path": ("src/prefill/prefill.cc", '#include "../base/error.h"\n'),
    "path that starts at its own folder": ("src/kernels/pool/pool.h", '#include "cpu/loop.h"\n'),
    "intrinsics in sparse": ("src/sparse/rules.h", "#include <immintrin.h>\n"),
    "intrinsics outside an <isa>.cc file": ("src/kernels/pool/cpu/portable.cc", "#include <immintrin.h>\n"),
    "intrinsics through a header": (
        "src/kernels/pool/cpu/portable.cc",
        '#include "kernels/pool/cpu/loop.h"\n',
    ),
    "CUDA in base": ("src/base/error.h", "#include <cuda_runtime.h>\n"),
    "torch in src": ("src/kernels/pool/pool.h", "#include <torch/extension.h>\n"),
    "a public header with a dependency": (
        "include/minference/minference.h",
        "#include <nlohmann/json.hpp>\n",
    ),
    "eager torch": ("python/minference/functions.py", "import torch\n"),
    "eager torch in a try": (
        "python/minference/functions.py",
        "try:\n    import torch\nexcept ImportError:\n    pass\n",
    ),
    "eager torch by way of a module": ("python/minference/functions.py", "from .patch import anything\n"),
    "an example that uses a private module": (
        "examples/python/functions.py",
        "from minference import _library\n",
    ),
}


def plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # The header that some planted lines name.
    (root / "src/prefill/prefill.h").write_text("")


def test_right_tree_passes(tmp_path):
    plant(tmp_path, RIGHT)
    assert check_layers.check(tmp_path) == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong_dependency_is_found(tmp_path, name):
    blamed = {"eager torch by way of a module": "python/minference/patch.py"}
    file, text = WRONG[name]
    plant(tmp_path, RIGHT | {file: text})
    violations = check_layers.check(tmp_path)
    assert any(violation.startswith(blamed.get(name, file)) for violation in violations), violations


def test_this_project_passes():
    assert check_layers.check(ROOT) == []
