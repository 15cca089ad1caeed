"""Engines of vLLM's CPU backend, with the embedded model. They read these variables when they start."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_WAIT_POLICY="passive",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
)
