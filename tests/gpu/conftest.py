"""Tests of the Python package on one GPU, some on two: `make test-gpu`. They need PyTorch with CUDA and libminference_cuda.so."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))


def pytest_configure():
    if not torch.cuda.is_available():
        pytest.exit("these tests need a CUDA device and a PyTorch that sees it", returncode=4)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield
