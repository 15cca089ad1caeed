#!/usr/bin/env python3
"""Checks that every dependency points the way docs/architecture.md says, over #include lines and Python imports.

    tools/check_layers.py [ROOT]

Prints one line a violation, `file:line: what`, and exits 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# layer -> the layers it may include, besides itself. A layer is a folder; src/kernels/* is one an operation.
ALLOWED = {
    "src/base": set(),
    "src/sparse": {"src/base"},
    "src/cpu": {"src/base"},
    "src/cuda": {"src/base"},
    "src/kernels/*": {"src/base", "src/sparse", "src/cpu", "src/cuda"},
    "src/prefill": {"src/base", "src/sparse", "src/kernels/*"},
    "src/search": {"src/base", "src/sparse", "src/kernels/*", "src/prefill"},
    "src/capi": {"src/base", "src/sparse", "src/kernels/*", "src/prefill", "src/search", "include"},
    "include": set(),
    # Plugins link the core's objects: threads and number formats are not written twice.
    "plugins": {"include", "src/base"},
    "examples": {"include"},
    # The unit tests' main() asks which instruction sets this machine has; fuzz targets call the file reader.
    "tests": {"include", "src/base", "src/sparse"},
    # Benchmarks of one operation read its kernel table.
    "bench": {"include", "src/base", "src/sparse", "src/cpu", "src/cuda", "src/kernels/*", "src/prefill"},
}
SOURCE_SUFFIXES = {".c", ".cc", ".h", ".hpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

# Instruction sets that have files of their own (src/base/isa.h). `avx2.cc` and `amx_pack.cc` are such files.
ISA_FILE = re.compile(r"(avx2|avx512|avx512bf16|amx)(_\w+)?\.cc")
SIMD_HEADER = re.compile(r"(\w+intrin|x86gprintrin)\.h")
CUDA_HEADER = re.compile(r"(cuda\w*|cooperative_groups|mma|cub/.*|cute/.*|cutlass/.*)(\.h|\.cuh|\.hpp)?")
PYTHON_HEADER = re.compile(r"(Python\.h|torch/|ATen/|c10/|pybind11/|nanobind/|dlpack/)")

# What `import minference` must do without.
OPTIONAL_MODULES = {"torch", "transformers", "vllm", "sglang", "matplotlib", "rich", "gradio", "cuda"}


def layer_of(path: str) -> str | None:
    """The layer of a path relative to the root; None where no rule applies."""
    if re.match(r"src/kernels/[^/]+/", path):
        return "src/kernels/*"
    parts = path.split("/")
    folder = "/".join(parts[:2]) if parts[0] == "src" else parts[0]
    return folder if folder in ALLOWED else None


def operation_of(path: str) -> str | None:
    match = re.match(r"src/kernels/([^/]+)/", path)
    return match.group(1) if match else None


def includes(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, '<' or '"', target) of every #include line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := INCLUDE.match(line):
            yield number, match.group(1), match.group(2)


class Tree:
    """The C++ sources under a root, and where their quoted includes lead."""

    def __init__(self, root: Path):
        self.root = root
        self.files = [
            path.relative_to(root).as_posix()
            for top in ("src", "include", "plugins", "examples", "tests", "bench")
            for path in sorted((root / top).rglob("*"))
            if path.suffix in SOURCE_SUFFIXES and path.is_file()
        ]
        self.includes = {name: list(includes(root / name)) for name in self.files}

    def resolve(self, target: str) -> str | None:
        """The file that `#include "target"` means: project paths start at src/ or include/."""
        for base in ("src", "include"):
            if (self.root / base / target).is_file():
                return f"{base}/{target}"
        return None


def check_project_include(tree: Tree, name: str, target: str) -> str | None:
    if ".." in target.split("/"):
        return f'"{target}": write the path from src/ or include/, not ../'
    found = tree.resolve(target)
    if found is None:
        if (tree.root / name).parent.joinpath(target).is_file():
            # Outside src, a program's own files lie beside it; inside, a path says which layer it crosses.
            return f'"{target}": write the path from src/' if name.startswith("src/") else None
        return f'"{target}" is no file under src/ or include/'
    layer, other = layer_of(name), layer_of(found)
    if layer is None or other is None:
        return None
    if layer == other:
        if operation_of(name) != operation_of(found):
            return f"kernels/{operation_of(name)} may not include kernels/{operation_of(found)}: compose in prefill"
        return None
    if other not in ALLOWED[layer]:
        return f"{layer} may not include {other} ({target})"
    return None


def check_system_include(name: str, target: str) -> str | None:
    folder = name.rsplit("/", 1)[0] + "/"
    if PYTHON_HEADER.match(target):
        return f"<{target}>: no Python or torch header in C++ sources"
    if CUDA_HEADER.fullmatch(target):
        if not (folder.startswith("src/cuda/") or re.match(r"src/kernels/[^/]+/cuda/", folder)):
            return f"<{target}> only under src/cuda and src/kernels/*/cuda"
    if SIMD_HEADER.fullmatch(target):
        in_kernel = re.match(r"src/kernels/[^/]+/cpu/", folder)
        is_header = name.endswith(".h")
        if not (folder.startswith("src/cpu/") or (in_kernel and (is_header or is_isa_file(name)))):
            return f"<{target}> only under src/cpu, and in src/kernels/*/cpu in <isa>.cc files and headers"
    if name.startswith("include/") and "/" in target and not target.startswith("minference/"):
        return f"<{target}>: public headers need the standard library only"
    return None


def is_isa_file(name: str) -> bool:
    return ISA_FILE.fullmatch(name.rsplit("/", 1)[-1]) is not None


def check_simd_reach(tree: Tree) -> Iterator[str]:
    """Only <isa>.cc files may reach intrinsics, through whatever headers: others are compiled for plain x86-64."""
    simd = {
        name
        for name in tree.files
        if any(SIMD_HEADER.fullmatch(target) for _, kind, target in tree.includes[name])
    }
    reaching = dict.fromkeys(simd, 1)
    grew = True
    while grew:
        grew = False
        for name in tree.files:
            if name in reaching:
                continue
            for line, kind, target in tree.includes[name]:
                if kind == '"' and tree.resolve(target) in reaching:
                    reaching[name] = line
                    grew = True
                    break
    for name, line in sorted(reaching.items()):
        if (
            name.endswith(".cc")
            and not is_isa_file(name)
            and not name.startswith("src/cpu/")
            and name not in simd
        ):
            yield f"{name}:{line}: reaches <immintrin.h>, but is not an <isa>.cc file"


def check_cpp(root: Path) -> Iterator[str]:
    tree = Tree(root)
    for name in tree.files:
        for line, kind, target in tree.includes[name]:
            found = tree.resolve(target)
            if kind == '"' or found is not None:
                problem = check_project_include(tree, name, target)
            else:
                problem = check_system_include(name, target)
            if problem:
                yield f"{name}:{line}: {problem}"
    yield from check_simd_reach(tree)


def imports_at_load(module: Path) -> Iterator[tuple[int, int, str, list[str]]]:
    """(line, level, module, names) of the imports that run when `module` is loaded: not those inside functions or
    under `if TYPE_CHECKING`."""
    pending = list(ast.parse(module.read_text(encoding="utf-8"), str(module)).body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending[:0] = node.orelse
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ClassDef)):
            pending[:0] = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def module_file(package: Path, dotted: str) -> Path | None:
    path = package.joinpath(*[part for part in dotted.split(".") if part])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def check_python(root: Path) -> Iterator[str]:
    """`import minference` loads no module that needs more than NumPy; examples see public names only."""
    package = root / "python" / "minference"
    pending, seen = [package / "__init__.py"], set()
    while pending:
        module = pending.pop()
        if module in seen or not module.is_file():
            continue
        seen.add(module)
        for line, level, name, names in imports_at_load(module):
            if level == 0:
                if name.split(".")[0] in OPTIONAL_MODULES:
                    yield f"{module.relative_to(root)}:{line}: `import minference` must not load {name}"
                continue
            base = module.parent
            for _ in range(level - 1):
                base = base.parent
            for candidate in [name, *(f"{name}.{child}" for child in names)]:
                if target := module_file(base, candidate):
                    pending.append(target)
    for example in sorted((root / "examples").rglob("*.py")):
        for line, _, name, names in imports_at_load(example):
            dotted = [*name.split("."), *names]
            if dotted[0] == "minference" and any(part.startswith("_") for part in dotted):
                yield f"{example.relative_to(root)}:{line}: examples use public names only"


def check(root: Path) -> list[str]:
    """All violations under `root`, sorted."""
    return sorted([*check_cpp(root), *check_python(root)])


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    violations = check(root)
    print("\n".join(violations) if violations else "layers: every dependency points the right way")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
