"""`MInference(...)(llm)`: the caller's side of an engine whose model lives in other processes."""

from __future__ import annotations

import contextlib
import sys

from .layers import layers_of


def is_engine(model):
    """Whether `model` is a `vllm.LLM`, without importing vLLM."""
    vllm = sys.modules.get("vllm")
    return vllm is not None and isinstance(model, vllm.LLM)


def _call(llm, function, **arguments):
    """What `worker.function` returns in each worker."""
    try:
        return llm.collective_rpc("minference", kwargs={"name": function, **arguments})
    except Exception as error:
        if "no attribute 'minference'" in str(error):
            raise RuntimeError(
                "the plugin minference must be loaded in the engine's processes: install minference-cpp in their "
                "environment, and let VLLM_PLUGINS name minference where it is set"
            ) from error
        raise


def _forget_prefixes(llm):
    """Drop keys and values of earlier requests, which another kind of attention would otherwise take for its own."""
    if not llm.reset_prefix_cache():
        raise RuntimeError("llm must be idle, got unfinished requests that hold its prefix cache")


def enable(llm, config):
    """Switch a running engine as a `MInferenceConfig` says; returns it."""
    layers, fallback, share_index = layers_of(config, llm.model_config)
    _forget_prefixes(llm)
    reports = _call(llm, "enable", layers=layers, fallback=fallback, share_index=share_index)
    if not any(report["taken"] for report in reports):
        reasons = sorted({reason for report in reports for reason in report["refused"]})
        raise NotImplementedError(
            f"llm must have attention layers that this library computes, got {'; '.join(reasons) or 'none'}"
        )
    return llm


def restore(llm):
    """Undo `enable`: every layer attends as the engine made it."""
    _forget_prefixes(llm)
    _call(llm, "disable")
    return llm


@contextlib.contextmanager
def record(llm, kept_mass):
    """`minference.record` for an engine."""
    from ..report import LayerReport, Report

    if not sum(_call(llm, "start_recording", kept_mass=kept_mass)):
        raise ValueError("model must be patched by MInference, got one that is not")
    report = Report([])
    try:
        yield report
    finally:
        by_layer = {}
        for rank in _call(llm, "stop_recording"):
            for numbers in rank:
                by_layer.setdefault(numbers["layer"], []).append(numbers)
        report.layers = [LayerReport.of_ranks(ranks) for _, ranks in sorted(by_layer.items())]
