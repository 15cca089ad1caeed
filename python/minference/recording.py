"""Recording what a patched model or engine computes."""

from __future__ import annotations

import contextlib

from .patch import plans_of
from .report import LayerReport, Recorder, Report
from .vllm import engine


@contextlib.contextmanager
def record(model, kept_mass=False):
    """Record what a patched model computes inside a ``with`` block; inside another one, the inner one records.

    Parameters
    ----------
    model : transformers.PreTrainedModel or vllm.LLM
        Patched by `MInference`.
    kept_mass : bool
        Measure how much of the exact attention mass the computed pairs hold: one more, dense, attention a
        layer call.

    Yields
    ------
    Report
        That of an engine is empty until the block ends. Each rank of a transformers model that tensor parallelism
        divides reports its own query heads.

    Examples
    --------
    >>> with record(model, kept_mass=True) as report:  # doctest: +SKIP
    ...     model(input_ids, logits_to_keep=1)
    >>> report.density, report.kept_mass, report.layers[0].density  # doctest: +SKIP
    """
    if engine.is_engine(model):
        with engine.record(model, kept_mass) as report:
            yield report
        return
    plans = list(plans_of(model).values())
    if not plans:
        raise ValueError("model must be patched by MInference, got one that is not")
    if any(plan.static for plan in plans):
        raise NotImplementedError("attn_type must not be 'static' while recording")
    report = Report([LayerReport(plan.layer) for plan in plans])
    outer = [plan.recorder for plan in plans]
    for plan, layer in zip(plans, report.layers):
        plan.recorder = Recorder(layer, kept_mass)
    try:
        yield report
    finally:
        for plan, recorder in zip(plans, outer):
            plan.recorder = recorder
