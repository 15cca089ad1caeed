"""transformers models whose heads tensor parallelism divides among processes."""

from types import SimpleNamespace

import pytest
import torch
from models import make, tokens
from tensor_parallel import compute, compute_on_ranks, require_equal, save_models

from minference import MInference
from minference.call_mask import CallMask
from minference.eval.settings import Methods
from minference.patch import tensor_parallel_rank
from minference.search.layers import visit_layers


def on_rank(rank, num_ranks):
    """A model that says of itself what transformers' say on a rank; its heads are all here."""
    model = make("llama")
    model._tp_size = num_ranks
    model._device_mesh = SimpleNamespace(ndim=1, get_local_rank=lambda: rank)
    return model


def test_ranks_find_what_one_process_finds(tmp_path):
    save_models(tmp_path, torch.float32)
    # transformers would take the accelerator that it sees.
    ranks = compute_on_ranks(tmp_path, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    require_equal(ranks, compute(tmp_path), allowance=1e-3)


def test_rank_of_a_model():
    assert tensor_parallel_rank(make("llama")) == (0, 1)
    assert tensor_parallel_rank(on_rank(2, 3)) == (2, 3)
    # Meshes of other parallelisms.
    assert tensor_parallel_rank(on_rank(2, 1)) == (0, 1)


@pytest.mark.parametrize(
    "num_heads, num_key_heads, taken", [(4, 2, True), (2, 1, True), (2, 2, False), (1, 1, False)]
)
def test_calls_of_all_heads_or_of_a_ranks_share(num_heads, num_key_heads, taken):
    module = MInference("dense")(on_rank(1, 2)).model.layers[0].self_attn
    query, key = torch.zeros(1, num_heads, 100, 64), torch.zeros(1, num_key_heads, 100, 64)
    call = CallMask([(0, 0, 100, 0, 100)], 0, 100, 100, lambda: None)
    assert module._minference.takes(module, query, key, key, call, 0.0, {}) == taken


def test_what_needs_all_heads_refuses_ranks():
    model = on_rank(1, 2)
    with pytest.raises(NotImplementedError, match="for an evaluation, got tensor-parallel rank 1 of 2"):
        Methods(model)
    with pytest.raises(NotImplementedError, match="must have all its heads in one process"):
        visit_layers(model, tokens(1, 100)[0].tolist(), print)
