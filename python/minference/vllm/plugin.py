"""The entry point of the group ``vllm.general_plugins``: vLLM calls `register` in every process, perhaps repeatedly."""

from __future__ import annotations

from .environment import requested


def _enable(self, layers, fallback):
    from . import worker

    return worker.enable(self.vllm_config, layers, fallback)


def _disable(self):
    from . import worker

    worker.disable(self.vllm_config)


def register():
    """Give workers the methods that `engine` calls through collective_rpc, and, where MINFERENCE_VLLM asks for it, take
    the CPU backend's place.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.minference_enable = _enable
    WorkerBase.minference_disable = _disable
    if requested() is not None:
        register_backend(AttentionBackendEnum.CPU_ATTN, class_path="minference.vllm.backend.Backend")
