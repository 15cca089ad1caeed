"""SGLang's side of the package as far as it needs no SGLang: the layers that are declined. tests/engines/sglang runs the engine."""

import types

import pytest
import torch

from minference.sglang.rules import refusal


def layer(**changes):
    """A layer of SGLang that is plain causal attention."""
    return types.SimpleNamespace(
        **{
            "attn_type": "decoder",
            "is_cross_attention": False,
            "sliding_window_size": -1,
            "logit_cap": 0.0,
            "pos_encoding_mode": "NONE",
            "xai_temperature_len": -1,
            "qk_head_dim": 64,
            "v_head_dim": 64,
            **changes,
        }
    )


def test_ordinary_layers_are_taken():
    assert refusal(layer(), torch.bfloat16, torch.bfloat16) is None


@pytest.mark.parametrize(
    "changes, cache_dtype, reason",
    [
        ({"attn_type": "encoder_only"}, torch.bfloat16, "encoder_only attention"),
        ({"is_cross_attention": True}, torch.bfloat16, "cross attention"),
        ({"sliding_window_size": 4095}, torch.bfloat16, "a sliding window of 4095"),
        ({"logit_cap": 30.0}, torch.bfloat16, "a soft cap of 30.0"),
        ({"pos_encoding_mode": "ALIBI"}, torch.bfloat16, "position encoding ALIBI"),
        ({"xai_temperature_len": 1024}, torch.bfloat16, "a temperature that grows with the length"),
        ({}, torch.float8_e5m2, "a KV cache of torch.float8_e5m2"),
        ({"qk_head_dim": 192, "v_head_dim": 128}, torch.bfloat16, "values of head_dim 128"),
        ({"qk_head_dim": 512, "v_head_dim": 512}, torch.bfloat16, "head_dim 512"),
    ],
)
def test_layers_that_are_left_alone(changes, cache_dtype, reason):
    assert reason in refusal(layer(**changes), torch.bfloat16, cache_dtype)
