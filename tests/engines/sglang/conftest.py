"""SGLang engines on the CPU. Their processes read these variables when they start; this one has started already."""

import os
import sys
from pathlib import Path

SHIMS = str(Path(__file__).parent / "shims")
os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_WAIT_POLICY="passive",
    PYTHONPATH=os.pathsep.join(filter(None, [SHIMS, os.environ.get("PYTHONPATH")])),
    SGLANG_USE_CPU_ENGINE="1",
)
sys.path.insert(0, SHIMS)

import torchvision_operators  # noqa: E402, F401
