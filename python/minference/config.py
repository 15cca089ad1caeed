"""What `MInference` was asked for: attention types, their options, and the head patterns that follow."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import _library, patterns
from ._checks import INT32_END, require_boolean, require_integer, require_number, require_path

# Options that attn_kwargs may set, with their defaults. Sizes are MInference 1.0's (its README and
# models_patch.py).
_OPTIONS = {
    "minference": {"share": None, "last_dense_rows": 0, "minference_ratio": 1.0, "share_index": False},
    "dense": {},
    "a_shape": {"n_init": 128, "n_local": 3968},
    "tri_shape": {"n_init": 128, "n_local": 3968, "n_last": 100},
    "static": {"vertical_size": 1000, "slash_size": 6096},
    "hf": {},
}
# Every type but hf: "off" computes what the patterns say even where dense attention is faster.
_COMMON_OPTIONS = {"fallback": "auto"}

# What MInference 1.0 calls the same computation inside vLLM.
_VLLM_ALIASES = {
    "vllm": "minference",
    "vllm_minference": "minference",
    "vllm_a_shape": "a_shape",
    "vllm_tri_shape": "tri_shape",
}
_ALIASES = {"minference_with_dense": "dense", "streaming": "a_shape", **_VLLM_ALIASES}

# Names that MInference 1.0 (versions 0.1.5 and 0.1.6) has and this package does not.
_UPSTREAM_TYPES = (
    "dilated1",
    "dilated2",
    "flexprefill",
    "inf_llm",
    "streaming2",
    "tri_mix",
    "tri_mix_minference",
    "vllm_flexprefill",
    "xattention",
)
_UPSTREAM_KV_TYPES = ("kivi", "leank", "pyramidkv", "quest", "retr_attn", "snapkv", "streamingllm")

# A model without a head-pattern file keeps this share of the estimated attention mass.
DEFAULT_SHARE = 0.95


def _refuse_type(attn_type):
    ours = ", ".join(MInferenceConfig.get_available_attn_types())
    if attn_type in _UPSTREAM_TYPES:
        raise NotImplementedError(f"attn_type {attn_type!r} is not available here; available: {ours}")
    raise ValueError(f"attn_type must be one of {ours}, got {attn_type!r}")


def _checked_options(attn_type, given):
    allowed = dict(_OPTIONS[attn_type])
    if attn_type != "hf":
        allowed.update(_COMMON_OPTIONS)
    for name in given:
        if name not in allowed:
            names = ", ".join(sorted(allowed)) or "nothing"
            raise ValueError(f"attn_kwargs for {attn_type!r} may set {names}, got {name!r}")
    options = {**allowed, **given}
    for name in ("n_init", "n_local", "n_last", "last_dense_rows", "vertical_size", "slash_size"):
        if name in options:
            options[name] = require_integer(options[name], f"attn_kwargs[{name!r}]")
    fallback = options.get("fallback", "auto")
    if not isinstance(fallback, str) or fallback not in ("auto", "off"):
        raise ValueError(f'attn_kwargs[\'fallback\'] must be "auto" or "off", got {fallback!r}')
    if "share_index" in options:
        require_boolean(options["share_index"], "attn_kwargs['share_index']")
    if "minference_ratio" in options:
        options["minference_ratio"] = require_number(
            options["minference_ratio"],
            "attn_kwargs['minference_ratio']",
            "a finite number above 0",
            lambda x: x > 0,
        )
    if options.get("share") is not None:
        patterns.adaptive(options["share"])
    return options


class MInferenceConfig:
    """A checked request. Parameters are those of `MInference`.

    Attributes
    ----------
    attn_type : str
        Without aliases.
    for_vllm : bool
        Whether the alias given asks for an engine of vLLM.
    options : dict
        Those of attn_kwargs, with defaults.
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
        if not isinstance(attn_type, str):
            _refuse_type(attn_type)
        self.attn_type = _ALIASES.get(attn_type, attn_type)
        if self.attn_type not in _OPTIONS:
            _refuse_type(attn_type)
        self.for_vllm = attn_type in _VLLM_ALIASES
        for name, wanted in (
            ("kv_cache_cpu", kv_cache_cpu),
            ("use_snapkv", use_snapkv),
            ("is_search", is_search),
        ):
            if wanted:
                raise NotImplementedError(f"{name} must be False: it is not available here")
        if kv_type != "dense":
            if kv_type in _UPSTREAM_KV_TYPES:
                raise NotImplementedError(f"kv_type {kv_type!r} is not available here; available: dense")
            raise ValueError(f"kv_type must be 'dense', got {kv_type!r}")
        kwargs.pop("kv_cache_cpu_device", None)
        if kwargs:
            raise TypeError(f"MInference got an unexpected argument {sorted(kwargs)[0]!r}")
        self.model_name = model_name if model_name is None else require_path(model_name, "model_name")
        self.config_path = config_path if config_path is None else require_path(config_path, "config_path")
        self.starting_layer = require_integer(starting_layer, "starting_layer", -INT32_END)
        if attn_kwargs is not None and not isinstance(attn_kwargs, Mapping):
            raise ValueError(f"attn_kwargs must be a dict or None, got {attn_kwargs!r}")
        self.options = _checked_options(self.attn_type, dict(attn_kwargs or {}))

    @staticmethod
    def get_available_attn_types():
        """The values of attn_type, aliases included."""
        return sorted([*_OPTIONS, *_ALIASES])

    @staticmethod
    def get_available_kv_types():
        """The values of kv_type."""
        return ["dense"]

    def _pattern_set(self, own_name):
        """The model's `HeadPatterns`, or None when there is no file for it."""
        if self.config_path is not None:
            return patterns.HeadPatterns.load(self.config_path)
        name = self.model_name if self.model_name is not None else own_name
        path = os.path.join(name, "head_patterns.json")
        # Without a name, the path would be a file of the current directory.
        if name and os.path.isfile(path):
            return patterns.HeadPatterns.load(path)
        if name in patterns.get_support_models():
            return patterns.HeadPatterns.builtin(name)
        if self.model_name is not None:
            raise ValueError(
                "model_name must be a hub id of get_support_models() or a folder that holds "
                f"head_patterns.json, got {name!r}: leave it out for adaptive patterns"
            )
        return None

    def layers(self, num_layers, num_query_heads, own_name=""):
        """The head patterns of every layer, for a model of this size.

        Parameters
        ----------
        own_name : str
            What the model calls itself, used when neither model_name nor config_path is given.

        Returns
        -------
        list of int32 NumPy arrays ``[num_query_heads, 5]``

        Raises
        ------
        ValueError
            If the pattern file is for a model of another size, or there is none for an explicit model_name.
        """
        options = self.options
        if self.attn_type == "minference":
            layers = self._minference_layers(num_layers, num_query_heads, own_name)
        else:
            pattern = {
                "dense": lambda: patterns.dense(),
                "a_shape": lambda: patterns.a_shape(options["n_init"], options["n_local"]),
                "tri_shape": lambda: patterns.a_shape(
                    options["n_init"], options["n_local"], options["n_last"]
                ),
                "static": lambda: patterns.vertical_slash(options["vertical_size"], options["slash_size"]),
            }[self.attn_type]()
            layers = [patterns.layer_array(pattern, num_query_heads) for _ in range(num_layers)]
        dense = patterns.layer_array(patterns.dense(), num_query_heads)
        return [dense if layer < self.starting_layer else heads for layer, heads in enumerate(layers)]

    def _minference_layers(self, num_layers, num_query_heads, own_name):
        options = self.options
        found = self._pattern_set(own_name) if options["share"] is None else None
        ratio = options["minference_ratio"]
        if found is None:
            if ratio != 1:
                raise ValueError(
                    "attn_kwargs['minference_ratio'] must be 1 without a head-pattern file, whose sizes it "
                    f"multiplies, got {ratio!r}"
                )
            pattern = patterns.adaptive(options["share"] or DEFAULT_SHARE, options["last_dense_rows"])
            return [patterns.layer_array(pattern, num_query_heads) for _ in range(num_layers)]
        found.check(num_layers, num_query_heads)
        layers = [found.layer(layer) for layer in range(num_layers)]
        for heads in layers:
            chosen = heads[:, 0] == _library.VERTICAL_SLASH
            sizes = heads[chosen, 1:3] * ratio
            if sizes.size and sizes.max() >= INT32_END:
                raise ValueError(
                    f"attn_kwargs['minference_ratio'] must leave sizes below 2^31, got {ratio!r} for sizes up to "
                    f"{heads[chosen, 1:3].max()}"
                )
            heads[chosen, 1:3] = sizes.astype(heads.dtype)
            if options["last_dense_rows"]:
                heads[:, 3] = options["last_dense_rows"]
        return layers
