"""Models that transformers spreads over two GPUs: heads over ranks, or layers over devices."""

import pytest
import torch
from models import make, tokens
from patched import calls_taken, difference
from tensor_parallel import compute, compute_on_ranks, require_equal, save_models
from transformers import AutoModelForCausalLM

from minference import MInference

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def test_ranks_find_what_one_process_finds(tmp_path):
    save_models(tmp_path, torch.float16)
    ranks = compute_on_ranks(tmp_path)
    require_equal(ranks, compute(tmp_path, device_map={"": 0}), allowance=0.05)


# Fewer rows than 1024 stay with the previous implementation, which needs a mask on every layer's device.
@pytest.mark.parametrize("length, num_taken", [(512, 0), (4096, 2)])
def test_layers_on_two_gpus_give_what_one_gpu_gives(length, num_taken, tmp_path, monkeypatch):
    make("llama", torch.float16).save_pretrained(tmp_path)
    second = {"model.layers.1": 1, "model.norm": 1, "lm_head": 1}
    first = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers.0": 0}
    taken = calls_taken(monkeypatch)
    ids, mask = tokens(2, length), torch.ones(2, length, dtype=torch.long)
    mask[0, :100] = 0
    logits = []
    for device_map in ({"": 0}, {**first, **second}):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto", device_map=device_map)
        MInference("a_shape", attn_kwargs={"n_init": 4, "n_local": 100})(model)
        taken.clear()
        logits.append(model(ids.cuda(), attention_mask=mask.cuda()).logits.cpu()[mask.bool()])
        assert len(taken) == num_taken
    assert difference(*logits) <= 0.01 * logits[0].double().std().item()
