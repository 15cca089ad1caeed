"""The entry point of the group ``vllm.general_plugins``: vLLM calls `register` in every process, perhaps repeatedly."""

from __future__ import annotations

from ..serving import requested
from .layers import VARIABLE


def _in_worker(self, name, **arguments):
    # Not before it is needed: processes that are no workers load this file too.
    from . import worker

    return getattr(worker, name)(self.vllm_config, **arguments)


def register():
    """Give workers the method that `engine` calls through collective_rpc, and, where MINFERENCE_VLLM asks for it, take
    the CPU backend's place.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.minference = _in_worker
    if requested(VARIABLE) is not None:
        register_backend(AttentionBackendEnum.CPU_ATTN, class_path="minference.vllm.backend.Backend")
