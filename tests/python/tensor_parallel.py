"""Sparse prefill of small models in one process, and on the ranks of transformers' tensor parallelism.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tensor_parallel.py FOLDER

computes on every rank, and writes what all of them found to FOLDER/ranks.pt.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from models import make, tokens
from patched import calls_taken, difference
from transformers.distributed import DistributedConfig

from minference import MInference, patterns, restore
from minference.observe import observe

# A model, and whether attention is divided among the ranks, or only the rest.
_CASES = {"llama": ("llama", True), "mistral": ("mistral", True), "undivided": ("llama", False)}

# Every head has a pattern of its own, so that another rank's would be seen.
_HEADS = [
    patterns.vertical_slash(20, 64),
    patterns.a_shape(4, 100),
    patterns.block_sparse(3),
    patterns.vertical_slash(100, 128, last_dense_rows=40),
]
_OPTIONS = {
    "minference": {},
    "adaptive": {"share": 0.6},
    "a_shape": {"n_init": 4, "n_local": 100},
    "tri_shape": {"n_init": 4, "n_local": 100, "n_last": 50},
    "static": {"vertical_size": 30, "slash_size": 100},
    "dense": {},
}


def save_models(folder, dtype):
    """Write what `compute` reads."""
    for name in ("llama", "mistral"):
        make(name, dtype).save_pretrained(folder / name)
    layers = [patterns.layer_array(heads, 4) for heads in (_HEADS, _HEADS[::-1])]
    patterns.HeadPatterns.from_array(layers).save(folder / "heads.json")


def _load(folder, name, divides_attention, options):
    config = transformers.AutoConfig.from_pretrained(folder / name)
    if not divides_attention:
        plan = config.base_model_tp_plan
        config.base_model_tp_plan = {part: style for part, style in plan.items() if ".mlp." in part}
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder / name, config=config, dtype="auto", attn_implementation="sdpa", **options
    )


def _patch(model, attention, folder):
    MInference(
        "minference" if attention == "adaptive" else attention,
        config_path=folder / "heads.json" if attention == "minference" else None,
        attn_kwargs={"fallback": "off", **_OPTIONS[attention]},
    )(model)


def _run(model, ids, recorded):
    """Logits, and {(layer, head, pattern): (density, kept mass)} of the heads that this process computed."""
    if not recorded:
        return model(ids).logits.cpu(), {}
    with observe(model) as (report, heads):
        logits = model(ids).logits.cpu()
    numbers = [pair for layer in report.layers for pair in zip(layer.density, layer.kept_mass)]
    return logits, {(head.layer, head.head, head.pattern): pair for head, pair in zip(heads, numbers)}


def compute(folder, **options):
    """What every model does with every attention, on this rank or in one process.

    Parameters
    ----------
    folder : pathlib.Path
        Written by `save_models`.
    **options
        Of ``from_pretrained``: where the model goes.

    Returns
    -------
    dict
        {(case, attention): (logits, number of layer calls taken, heads as `_run` says)}. "unpatched" is one of the
        attentions; it and "static" record no heads.
    """
    results = {}
    with pytest.MonkeyPatch.context() as monkeypatch, torch.no_grad():
        taken = calls_taken(monkeypatch)
        for case, (name, divides_attention) in _CASES.items():
            model = _load(folder, name, divides_attention, options)
            ids = tokens(1, 600).to(model.device)
            results[case, "unpatched"] = model(ids).logits.cpu(), 0, {}
            for attention in _OPTIONS:
                _patch(model, attention, folder)
                taken.clear()
                logits, heads = _run(model, ids, recorded=attention != "static")
                results[case, attention] = logits, len(taken), heads
                restore(model)
    return results


def compute_on_ranks(folder, **environment):
    """`compute` on each of two ranks; they see these variables beside this process's."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*program, __file__, folder], check=True, env={**os.environ, **environment})
    return torch.load(folder / "ranks.pt", weights_only=False)


def require_equal(ranks, whole, allowance):
    """That ranks found what one process finds.

    allowance: how far logits may lie apart, as a share of what an A-shape changes; densities and kept mass, absolutely.
    """
    dense = whole["llama", "unpatched"][0]
    changed = difference(whole["llama", "a_shape"][0], dense)
    assert changed > 0.1 * dense.double().std()
    for (case, attention), (expected, calls, heads) in whole.items():
        found = {}
        for results in ranks:
            logits, calls_of_rank, heads_of_rank = results[case, attention]
            assert difference(logits, expected) <= allowance * changed, (case, attention)
            assert calls_of_rank == calls == (0 if attention == "unpatched" else 2)
            assert len(heads_of_rank) == len(heads) // (len(ranks) if _CASES[case][1] else 1)
            found.update(heads_of_rank)
        assert found.keys() == heads.keys(), (case, attention)
        for head, numbers in heads.items():
            assert np.allclose(found[head], numbers, atol=allowance), (case, attention, head)


def _tensor_parallel():
    """How transformers is asked for it: since 5.17 by DistributedConfig."""
    if "tp_size" in DistributedConfig.__dataclass_fields__:
        return {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=2)}
    return {"tp_plan": "auto"}


def _main(folder):
    results = compute(folder, **_tensor_parallel())
    ranks = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, results)
    if torch.distributed.get_rank() == 0:
        torch.save(ranks, folder / "ranks.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
