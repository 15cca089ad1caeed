"""`MInference`: the drop-in interface of MInference 1.0 for transformers models and vLLM engines."""

from __future__ import annotations

import contextlib

from . import _library
from .config import MInferenceConfig
from .vllm import engine

# Checkpoints whose remote code AttentionInterface cannot reach, and the same weights for transformers' own
# classes.
_NATIVE_CHECKPOINTS = {
    "ChatGLMForConditionalGeneration": "zai-org/glm-4-9b-chat-1m-hf",
    "ChatGLMModel": "zai-org/glm-4-9b-chat-1m-hf",
}


def text_config(model):
    """The configuration of the causal part, and its name inside model.config ("" for the whole model)."""
    text = model.config.get_text_config(decoder=True)
    for name in getattr(model.config, "sub_configs", ()):
        if getattr(model.config, name, None) is text:
            return text, name
    return text, ""


def attention_modules(model):
    """The causal self-attention modules, by layer."""
    text, _ = text_config(model)
    modules = {}
    for module in model.modules():
        layer = getattr(module, "layer_idx", None)
        if isinstance(layer, int) and getattr(module, "is_causal", False):
            if getattr(module, "config", None) is text:
                modules[layer] = module
    return modules


def tensor_parallel_rank(model):
    """This process among those that transformers' tensor parallelism spreads a model over: its rank, and their number."""
    num_ranks = getattr(model, "_tp_size", None) or 1
    if num_ranks == 1:
        return 0, 1
    # 5.24 keeps a mesh of all parallelisms; up to 5.17 it is tensor parallelism's alone, without names.
    mesh = model._device_mesh if model._device_mesh.ndim == 1 else model._device_mesh["tp"]
    return mesh.get_local_rank(), num_ranks


def require_whole(model, what):
    """Refuse a model that is spread over tensor-parallel ranks: `what` needs all of its heads in one process."""
    rank, num_ranks = tensor_parallel_rank(model)
    if num_ranks > 1:
        raise NotImplementedError(
            f"model must have all its heads in one process for {what}, got tensor-parallel rank {rank} of {num_ranks}"
        )


def plans_of(model):
    """The plans of a patched model, by layer, in their order; none for any other object."""
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        return {}
    return {
        layer: module._minference
        for layer, module in sorted(attention_modules(model).items())
        if hasattr(module, "_minference")
    }


def _require_reachable(model):
    from transformers import PreTrainedModel

    # A PeftModel stands around one.
    kind = type(model.get_base_model() if hasattr(model, "get_base_model") else model)
    if not issubclass(kind, PreTrainedModel):
        raise TypeError(f"model must be a transformers PreTrainedModel, got {kind.__name__}")
    if kind._can_set_attn_implementation():
        return
    module, kind = kind.__module__, kind.__name__
    native = _NATIVE_CHECKPOINTS.get(kind)
    advice = (
        f"load {native}" if native else "load the checkpoint without trust_remote_code, or its -hf version"
    )
    raise NotImplementedError(
        f"model must use transformers' AttentionInterface, got {kind} from {module}: {advice}"
    )


def _device_of(module, parameter):
    """Where a parameter of an attention module is computed with.

    Offloaded ones lie on the meta device until their layer runs, and accelerate's hooks say where that is.
    """
    import torch

    if parameter.device.type == "meta":
        for part in module.modules():
            device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
            if device is not None:
                return torch.device(device)
    return parameter.device


def _require_computable(model, modules, plans):
    """What no call of the model would be taken for, said once, here, rather than never."""
    import torch

    from . import _cuda_calls

    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    if model.dtype not in dtypes:
        raise NotImplementedError(
            f"model must have dtype float32, float16 or bfloat16, got {str(model.dtype).split('.')[-1]}"
        )
    for layer, module in sorted(modules.items()):
        head_dim = getattr(module, "head_dim", 8)
        if head_dim % 8 or head_dim > 256:
            raise NotImplementedError(
                f"head_dim must be a multiple of 8 up to 256, got {head_dim} in layer {layer}"
            )
        for parameter in module.parameters():
            device = _device_of(module, parameter)
            if device.type not in ("cpu", "cuda"):
                raise NotImplementedError(
                    f"model must be on the CPU or CUDA devices, got device {device} in layer {layer}"
                )
            if device.type == "cuda" and (
                reason := _cuda_calls.refusal(model.dtype, head_dim, plans[layer].heads)
            ):
                raise NotImplementedError(
                    f"model must be one that CUDA kernels compute: layer {layer}: {reason}"
                )


def _set_implementation(model, name):
    _, part = text_config(model)
    model.set_attn_implementation({part: name} if part else name)
    text, _ = text_config(model)
    if text._attn_implementation != name:
        raise NotImplementedError(
            f"{type(model).__name__} must accept attn_implementation {name!r}, "
            f"kept {text._attn_implementation!r}"
        )


def minference_patch(model, config):
    """Patch `model`, of transformers or a `vllm.LLM`, as a `MInferenceConfig` says; as ``MInference(...)(model)`` does.

    A model that is refused stays as it was, with an earlier patch too.
    """
    if not isinstance(config, MInferenceConfig):
        raise TypeError(f"config must be a MInferenceConfig, got {type(config).__name__}")
    if config.attn_type == "hf":
        return restore(model)
    if engine.is_engine(model):
        return engine.enable(model, config)
    if config.for_vllm:
        raise TypeError(f"model must be a vllm.LLM for the attn_type given, got {type(model).__name__}")
    _require_reachable(model)
    import torch

    from .transformers_backend import LayerPlan, backend_over

    text, _ = text_config(model)
    previous = _previous(model)
    modules = attention_modules(model)
    if not modules:
        raise NotImplementedError(
            f"{type(model).__name__} must have causal self-attention layers with layer_idx, found none"
        )
    own_name = getattr(model.config, "_name_or_path", "") or ""
    # The configurations of encoder-decoders count the encoder's layers and heads.
    num_layers = max(text.num_hidden_layers, max(modules) + 1)
    num_heads = getattr(modules[max(modules)], "num_heads", text.num_attention_heads)
    layers = config.layers(num_layers, num_heads, own_name)
    backend = backend_over(previous or text._attn_implementation)
    fallback = _library.FALLBACK_OFF if config.options["fallback"] == "off" else _library.FALLBACK_AUTO
    plans = {
        layer: LayerPlan(
            layer,
            torch.from_numpy(layers[layer]),
            fallback,
            backend.previous,
            config.attn_type == "static" and layer >= config.starting_layer,
            config.options.get("share_index", False),
            *tensor_parallel_rank(model),
        )
        for layer in modules
    }
    _require_computable(model, modules, plans)
    restore(model)
    _install(model, plans)
    return model


def _install(model, plans):
    from .transformers_backend import backend_over

    _set_implementation(model, backend_over(next(iter(plans.values())).previous).name)
    for layer, module in attention_modules(model).items():
        module._minference = plans[layer]


def _previous(model):
    """The implementation that a patched model had before, or None for one that is not patched."""
    for plan in plans_of(model).values():
        return plan.previous
    from .transformers_backend import is_backend

    text, _ = text_config(model)
    if is_backend(text._attn_implementation or ""):
        raise ValueError(
            "model must not share its config with a model that is patched already, got a "
            f"{type(model).__name__} whose attn_implementation is {text._attn_implementation!r}: "
            "give each model a config of its own, with the attn_implementation that it had before"
        )
    return None


def restore(model):
    """Undo `MInference` on a model: it attends as before, with the implementation that it had.

    Returns
    -------
    model

    Raises
    ------
    ValueError
        If another model that shares the config was patched: that one must be restored.
    """
    if engine.is_engine(model):
        return engine.restore(model)
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        return model
    previous = _previous(model)
    if previous is not None:
        for module in attention_modules(model).values():
            del module._minference
        _set_implementation(model, previous)
    return model


class MInference:
    """Sparse prefill for a transformers model or a `vllm.LLM`.

    Parameters
    ----------
    attn_type : str
        ``minference``: head patterns of the model's file, or, for a model without one, adaptive ones.
        ``dense`` (also ``minference_with_dense``): exact attention by this library. ``a_shape`` (also
        ``streaming``): n_init first keys and a window of n_local. ``tri_shape``: the same with the last
        n_last rows dense. ``static``: vertical-slash, its members chosen in the first call and kept. ``hf``:
        no patch.
    model_name : str or path, optional
        A hub id of `get_support_models`, or a folder that holds ``head_patterns.json``. When left out, the
        model's own name, which need not be either.
    config_path : str or path, optional
        A head-pattern file, in this project's format or in MInference 1.0's; takes precedence over
        `model_name`.
    starting_layer : int
        Layers below it run densely.
    kv_cache_cpu, use_snapkv, is_search : bool
        Must be False; MInference 1.0's options that are not available here.
    attn_kwargs : dict, optional
        Options of the attention type. ``minference``: ``share`` (adaptive patterns that keep this share of
        the estimated mass, whatever files there are), ``last_dense_rows``, ``minference_ratio`` (multiplies
        vertical-slash sizes), ``share_index`` (as in `prefill_attention`). ``a_shape``: ``n_init``, ``n_local``. ``tri_shape``: also ``n_last``.
        ``static``: ``vertical_size``, ``slash_size``. All: ``fallback``, "auto" or "off" (what the patterns
        say even where dense attention is faster).
    kv_type : str
        ``dense``.

    Examples
    --------
    >>> model = MInference("minference", "meta-llama/Llama-3.1-8B-Instruct")(model)  # doctest: +SKIP
    >>> llm = MInference("vllm", "Qwen/Qwen2-7B-Instruct")(llm)  # doctest: +SKIP

    Notes
    -----
    A transformers model keeps its class and its forward methods: it is given an attention implementation that takes
    causal prefill, also padded, packed, in chunks, over caches and with sliding windows. The implementation
    it had before does everything else: decoding, short calls, masks with holes, training, soft caps, sinks.
    Prefill must run without gradients (``torch.no_grad()``, as ``generate`` does), or it counts as training.
    A model inside ``torch.compile`` or ``torch.export`` also keeps the implementation it had; layers that are compiled
    by themselves break their graph at attention, so not with ``fullgraph``.

    With transformers' tensor parallelism every rank patches its model, the one that ``from_pretrained`` returned, and
    takes the patterns of its own heads. A call of another number of heads keeps the implementation that it had.
    """

    def __init__(
        self,
        attn_type="minference",
        model_name=None,
        config_path=None,
        starting_layer=-1,
        kv_cache_cpu=False,
        use_snapkv=False,
        is_search=False,
        attn_kwargs=None,
        kv_type="dense",
        **kwargs,
    ):
        self.config = MInferenceConfig(
            attn_type,
            model_name,
            config_path,
            starting_layer,
            kv_cache_cpu,
            use_snapkv,
            is_search,
            attn_kwargs,
            kv_type,
            **kwargs,
        )

    def __call__(self, model):
        """Patch `model` in place and return it. An earlier patch is replaced."""
        return minference_patch(model, self.config)

    patch_model = __call__

    restore = staticmethod(restore)

    @contextlib.contextmanager
    def patched(self, model):
        """Patch `model` for the time of a ``with`` block; behind it an earlier patch of a transformers model holds again."""
        earlier = plans_of(model)
        patched = self(model)
        try:
            yield patched
        finally:
            restore(model)
            if earlier:
                _install(model, earlier)
