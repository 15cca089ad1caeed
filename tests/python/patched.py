"""What tests of patched models share, on the CPU and on a GPU."""

import functools

from minference import MInference, transformers_backend

EVERYTHING = MInference("minference", attn_kwargs={"share": 1.0, "fallback": "off"})
DENSE = MInference("dense", attn_kwargs={"fallback": "off"})


def calls_taken(monkeypatch):
    """A list that grows by (layer, rows) with each layer call that runs in the library."""
    calls = []
    run = transformers_backend.LayerPlan.run

    @functools.wraps(run)
    def counted(plan, query, *rest):
        calls.append((plan.layer, query.shape[2]))
        return run(plan, query, *rest)

    monkeypatch.setattr(transformers_backend.LayerPlan, "run", counted)
    return calls


def difference(logits, expected):
    """Root mean square."""
    return (logits.double() - expected.double()).pow(2).mean().sqrt().item()
