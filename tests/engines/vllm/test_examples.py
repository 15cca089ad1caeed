"""Every example of the engine runs to its end and finds the answer, in an interpreter of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "vllm").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example):
    result = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    (expected,) = re.findall(r"^expected: +'(.*)'$", result.stdout, re.MULTILINE)
    answers = re.findall(r"^(?:vLLM|MInference): +'(.*?)(?:\\n.*)?' in ", result.stdout, re.MULTILINE)
    assert len(answers) == 2 and all(answer.startswith(expected) for answer in answers), result.stdout
