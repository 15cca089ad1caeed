"""Tiny models of the supported architectures, with random weights."""

import torch
import transformers

_COMMON = dict(
    vocab_size=128,
    intermediate_size=96,
    num_hidden_layers=2,
    max_position_embeddings=4096,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    # Random weights of the usual 0.02 make attention nearly uniform, which hides mistakes.
    initializer_range=0.2,
)


def _shape(heads, kv_heads, head_dim, hidden_size=64):
    return dict(
        hidden_size=hidden_size, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim
    )


# Yi is the Llama architecture with its own sizes.
MODELS = {
    "llama": ("Llama", _shape(4, 2, 64)),
    "yi": ("Llama", {**_shape(8, 1, 128), "rope_theta": 5e6, "rms_norm_eps": 1e-6}),
    "glm4": ("Glm", {**_shape(4, 2, 128), "attention_bias": True, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", _shape(2, 2, 96, hidden_size=192)),
    "phi3_window": ("Phi3", {**_shape(2, 2, 96, hidden_size=192), "sliding_window": 100}),
    "qwen2": ("Qwen2", _shape(7, 1, 64, hidden_size=448)),
    "mistral": ("Mistral", {**_shape(4, 2, 64), "sliding_window": 70}),
    "qwen3": ("Qwen3", _shape(4, 2, 128)),
    # Gemma scales its embeddings up, and its heads are wide: scores of the same size need smaller weights.
    "gemma": ("Gemma", {**_shape(2, 1, 256), "initializer_range": 0.05}),
}
SOFT_CAPPED = ("Gemma2", {**_shape(2, 1, 64), "attn_logit_softcapping": 5.0, "sliding_window": 70})
SINKS = (
    "GptOss",
    {**_shape(2, 1, 64), "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 70},
)


def make(name, dtype=torch.float32, attn_implementation="sdpa"):
    """A model in evaluation mode; the same weights for the same name."""
    kind, sizes = MODELS[name] if isinstance(name, str) else name
    config = getattr(transformers, kind + "Config")(**{**_COMMON, **sizes})
    config._attn_implementation = attn_implementation
    torch.manual_seed(0)
    model = getattr(transformers, kind + "ForCausalLM")(config).eval().to(dtype)
    model.generation_config.eos_token_id = None
    return model


def tokens(batch, length, seed=0):
    return torch.randint(3, 128, (batch, length), generator=torch.Generator().manual_seed(seed))
