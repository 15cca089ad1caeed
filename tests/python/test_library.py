"""The binding: structs as C lays them out, errors, finding the library, importing."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minference import _library

HEADER_FOLDER = Path(__file__).parents[2] / "include"

C_NAMES = {
    "Tensor": "minference_tensor",
    "Sequence": "minference_sequence",
    "HeadPattern": "minference_head_pattern",
    "ContextOptions": "minference_context_options",
    "Statistics": "minference_statistics",
    "PrefillArgs": "minference_prefill_args",
    "EstimateArgs": "minference_estimate_args",
    "SelectArgs": "minference_select_args",
    "IndexArgs": "minference_index_args",
    "IndexHead": "minference_index_head",
    "AttentionArgs": "minference_attention_args",
    "ScorePatternsArgs": "minference_score_patterns_args",
    "FitArgs": "minference_fit_args",
}
ENUM_VALUES = {
    "ABI_VERSION": "MINFERENCE_ABI_VERSION",
    "F32": "MINFERENCE_F32",
    "F16": "MINFERENCE_F16",
    "BF16": "MINFERENCE_BF16",
    "I32": "MINFERENCE_I32",
    "I64": "MINFERENCE_I64",
    "DENSE": "MINFERENCE_DENSE",
    "A_SHAPE": "MINFERENCE_A_SHAPE",
    "VERTICAL_SLASH": "MINFERENCE_VERTICAL_SLASH",
    "BLOCK_SPARSE": "MINFERENCE_BLOCK_SPARSE",
    "ADAPTIVE": "MINFERENCE_ADAPTIVE",
    "FALLBACK_AUTO": "MINFERENCE_FALLBACK_AUTO",
    "FALLBACK_OFF": "MINFERENCE_FALLBACK_OFF",
}


def run_python(code, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_structs_and_constants_are_those_of_the_header(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler must be there: the library was built with one"
    lines = ["#include <stdio.h>", "#include <minference/minference.h>", "int main(void) {"]
    expected = []
    for python_name, c_name in C_NAMES.items():
        struct = getattr(_library, python_name)
        lines.append(f'printf("%zu\\n", sizeof({c_name}));')
        expected.append(ctypes.sizeof(struct))
        for field, *_ in struct._fields_:
            member = f"(({c_name}*)0)->{field}"
            lines.append(f'printf("%zu %zu\\n", offsetof({c_name}, {field}), sizeof({member}));')
            expected.append((getattr(struct, field).offset, getattr(struct, field).size))
    for python_name, c_name in ENUM_VALUES.items():
        lines.append(f'printf("%d\\n", (int){c_name});')
        expected.append(getattr(_library, python_name))
    source = tmp_path / "sizes.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run([compiler, "-I", HEADER_FOLDER, source, "-o", tmp_path / "sizes"], check=True)
    output = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    numbers = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert [number[0] if len(number) == 1 else number for number in numbers] == expected


def test_every_function_of_the_header_is_bound():
    header = (HEADER_FOLDER / "minference" / "minference.h").read_text()
    declared = set(re.findall(r"^MINFERENCE_API [^(]*?minference_(\w+)\(", header, re.MULTILINE))
    assert declared == set(_library._PROTOTYPES)


def test_import_needs_nothing_heavy():
    code = "import sys, time; t = time.process_time(); import minference; print(time.process_time() - t); "
    code += "print(*[m for m in ('numpy', 'torch', 'transformers') if m in sys.modules])"
    runs = [run_python(code).stdout.splitlines() for _ in range(3)]
    assert all(loaded == "" for _, loaded in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.1


def test_works_without_torch():
    code = "import sys; sys.modules['torch'] = None; import numpy, minference; "
    code += "x = numpy.ones((1, 1, 70, 64), 'f'); "
    code += "print(minference.dense_attention(x, x, x).sum())"
    result = run_python(code)
    assert result.stdout.strip() == "4480.0", result.stderr


def test_a_missing_library_is_named():
    code = "import minference; minference.get_support_models()"
    result = run_python(code, MINFERENCE_LIBRARY="/nowhere/lib.so")
    assert "ImportError" in result.stderr and "/nowhere/lib.so" in result.stderr


def test_another_library_is_refused():
    code = "import minference; minference.get_support_models()"
    result = run_python(code, MINFERENCE_LIBRARY=_path_of_c_library())
    assert "must export minference_" in result.stderr


def _path_of_c_library():
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/libc.so" in line or "/libc-" in line:
            return line.split()[-1]
    pytest.fail("this process must have a C library")


def test_statuses_become_exceptions(tmp_path):
    library = _library.load()
    handle = ctypes.c_void_p()
    with pytest.raises(OSError, match="no_such_file"):
        library.patterns_load(os.fsencode(tmp_path / "no_such_file.json"), ctypes.byref(handle))
    with pytest.raises(ValueError, match="must not be NULL"):
        library.prefill(None, None, None)
    options = _library.ContextOptions(num_threads=-1)
    with pytest.raises(ValueError, match="options.num_threads must be"):
        library.context_create(options, ctypes.byref(handle))
