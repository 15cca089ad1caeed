"""The entry point of the group ``vllm.general_plugins``: vLLM calls `register` in every process, perhaps repeatedly."""

from __future__ import annotations


def _enable(self, layers, fallback):
    from . import worker

    return worker.enable(self.vllm_config, layers, fallback)


def _disable(self):
    from . import worker

    worker.disable(self.vllm_config)


def register():
    """Give workers the methods that `engine` calls through collective_rpc."""
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.minference_enable = _enable
    WorkerBase.minference_disable = _disable
