import copy
import json
import pickle

import numpy
import pytest
import torch
from models import make

import minference
from minference import HeadPatterns, MInference, MInferenceConfig, patterns

LAYERS = numpy.array(
    [
        [patterns.vertical_slash(1000, 6096), patterns.dense()],
        [patterns.a_shape(100, 800), patterns.block_sparse(7)],
        [patterns.adaptive(0.9), patterns.vertical_slash(30, 800, last_dense_rows=64)],
    ]
)


def test_files_round_trip(tmp_path):
    original = HeadPatterns.from_array(LAYERS, source="a test")
    assert (original.num_layers, original.num_query_heads, original.source) == (3, 2, "a test")
    path = tmp_path / "head_patterns.json"
    original.save(path)
    for read in (HeadPatterns.load(path), HeadPatterns.parse(original.json())):
        assert read.source == "a test"
        for layer in range(3):
            numpy.testing.assert_array_equal(read.layer(layer)[:, :4], LAYERS[layer][:, :4])
            adaptive = LAYERS[layer][:, 0] == 4
            numpy.testing.assert_array_equal(read.layer(layer)[adaptive, 4], LAYERS[layer][adaptive, 4])
    json.loads(original.json())


def test_copies_and_pickles():
    original = HeadPatterns.from_array(LAYERS, source="a test")
    for same in (copy.copy(original), copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert same.source == "a test" and same.json() == original.json()


def test_files_of_minference_1_0_are_read():
    text = json.dumps([{"0": ["vertical_and_slash", 1000, 6096, 1], "1": ["stream_llm", 100, 800, 1]}])
    layer = HeadPatterns.parse(text).layer(0)
    assert layer[:, :3].tolist() == [[2, 1000, 6096], [1, 100, 800]]


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[]", '[{"0": ["zigzag", 1, 2, 3]}]', '[{"0": ["stream_llm", -1, 2, 3]}]']
)
def test_broken_files_are_refused_by_name(text):
    with pytest.raises(ValueError, match="broken.json"):
        HeadPatterns.parse(text, "broken.json")


def test_refusals(tmp_path):
    original = HeadPatterns.from_array(LAYERS)
    with pytest.raises(ValueError, match="3"):
        original.layer(3)
    with pytest.raises(ValueError, match="32"):
        original.check(3, 32)
    with pytest.raises(OSError, match="missing.json"):
        HeadPatterns.load(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="no/such-model"):
        HeadPatterns.builtin("no/such-model")
    with pytest.raises(ValueError, match=r"\[num_layers, num_query_heads, 5\]"):
        HeadPatterns.from_array(LAYERS[0])
    with pytest.raises(ValueError, match="integers"):
        HeadPatterns.from_array(LAYERS + 0.7)
    with pytest.raises(ValueError, match="layers must fit int32, got values from .* to 4294967301"):
        HeadPatterns.from_array(numpy.where(LAYERS == 7, 2**32 + 5, LAYERS))
    with pytest.raises(TypeError, match="text must be a str, got int"):
        HeadPatterns.parse(3)
    with pytest.raises(TypeError, match="model must be a str, got None"):
        HeadPatterns.builtin(None)
    with pytest.raises(ValueError, match="model must have no NUL character"):
        HeadPatterns.builtin(minference.get_support_models()[0] + "\0junk")
    with pytest.raises(TypeError, match="path must be a str or a path, got 5"):
        HeadPatterns.load(5)
    with pytest.raises(ValueError, match="layer must be an integer from 0 to 2, got 'a'"):
        original.layer("a")
    for name in ("model_name", "config_path"):
        with pytest.raises(TypeError, match=f"{name} must be a str or a path, got 5"):
            MInference(**{name: 5})


def test_supported_models():
    models = minference.get_support_models()
    assert "meta-llama/Llama-3.1-8B-Instruct" in models and models == sorted(models)
    for model in models:
        assert HeadPatterns.builtin(model).num_layers > 0


def test_layers_come_from_the_hub_id():
    for config, own_name in (
        (MInferenceConfig(model_name="meta-llama/Llama-3.1-8B-Instruct"), "anything"),
        (MInferenceConfig(), "meta-llama/Llama-3.1-8B-Instruct"),
    ):
        layers = config.layers(32, 32, own_name)
        expected = HeadPatterns.builtin("meta-llama/Llama-3.1-8B-Instruct")
        for layer in range(32):
            numpy.testing.assert_array_equal(layers[layer], expected.layer(layer))


def test_layers_come_from_a_folder_or_file(tmp_path):
    path = tmp_path / "head_patterns.json"
    HeadPatterns.from_array(LAYERS).save(path)
    for config, own_name in (
        (MInferenceConfig(model_name=tmp_path), ""),
        (MInferenceConfig(), str(tmp_path)),
        (MInferenceConfig(model_name="meta-llama/Llama-3.1-8B-Instruct", config_path=path), ""),
    ):
        numpy.testing.assert_array_equal(config.layers(3, 2, own_name)[1][:, :4], LAYERS[1][:, :4])


def test_models_without_a_file_are_adaptive(tmp_path, monkeypatch):
    HeadPatterns.from_array(LAYERS).save(tmp_path / "head_patterns.json")
    # A model without a name has no folder: not the current one either.
    monkeypatch.chdir(tmp_path)
    for own_name in ("", "some/other-model"):
        layers = MInferenceConfig().layers(2, 4, own_name)
        assert all(layer.tolist() == [[4, 0, 0, 0, 950000]] * 4 for layer in layers)


@pytest.mark.parametrize("name", ["", "some/other-model"])
def test_names_that_match_nothing_are_refused(name):
    with pytest.raises(
        ValueError, match=r"get_support_models\(\) or a folder that holds head_patterns.json, got"
    ):
        MInferenceConfig(model_name=name).layers(2, 4, "meta-llama/Llama-3.1-8B-Instruct")


def test_ratios_that_multiply_nothing_or_too_much_are_refused(tmp_path):
    with pytest.raises(ValueError, match="minference_ratio.* without a head-pattern file.*got 0.5"):
        MInferenceConfig(attn_kwargs={"minference_ratio": 0.5}).layers(2, 4)
    path = tmp_path / "patterns.json"
    HeadPatterns.from_array(LAYERS).save(path)
    with pytest.raises(ValueError, match="minference_ratio.*below 2.31, got 1000000.0"):
        MInferenceConfig(config_path=path, attn_kwargs={"minference_ratio": 1e6}).layers(3, 2)


def test_advised_checkpoints_are_built_in():
    from minference.patch import _NATIVE_CHECKPOINTS

    assert set(_NATIVE_CHECKPOINTS.values()) <= set(minference.get_support_models())


def test_share_goes_before_files():
    config = MInferenceConfig(model_name="meta-llama/Llama-3.1-8B-Instruct", attn_kwargs={"share": 0.8})
    assert (config.layers(32, 32)[0] == [4, 0, 0, 0, 800000]).all()


def test_options_change_layers(tmp_path):
    path = tmp_path / "patterns.json"
    HeadPatterns.from_array(LAYERS).save(path)
    config = MInferenceConfig(
        config_path=path, starting_layer=1, attn_kwargs={"minference_ratio": 0.5, "last_dense_rows": 9}
    )
    layers = config.layers(3, 2)
    assert layers[0].tolist() == [[0, 0, 0, 0, 0]] * 2
    assert layers[1][:, :4].tolist() == [[1, 100, 800, 9], [3, 7, 0, 9]]
    assert layers[2][1, :4].tolist() == [2, 15, 400, 9]


def test_patterns_for_another_model_are_refused(tmp_path):
    path = tmp_path / "patterns.json"
    HeadPatterns.from_array(LAYERS).save(path)
    model = make("llama")
    with pytest.raises(ValueError, match="3"):
        MInference(config_path=path)(model)
    with pytest.raises(ValueError, match="32"):
        MInference(model_name="meta-llama/Llama-3.1-8B-Instruct")(model)
    assert model.config._attn_implementation == "sdpa"
    assert not hasattr(model.model.layers[0].self_attn, "_minference")


@pytest.mark.parametrize("attn_type", ["vllm_flexprefill", "inf_llm", "dilated1", "flexprefill", "tri_mix"])
def test_upstream_types_that_are_missing(attn_type):
    with pytest.raises(NotImplementedError, match=f"{attn_type}.*available: a_shape, dense, hf, minference"):
        MInference(attn_type)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, "attn_type must be one of", {"attn_type": "nonsense"}),
        (NotImplementedError, "kv_cache_cpu must be False", {"kv_cache_cpu": True}),
        (NotImplementedError, "use_snapkv must be False", {"use_snapkv": True}),
        (NotImplementedError, "is_search must be False", {"is_search": True}),
        (NotImplementedError, "kv_type 'snapkv'", {"kv_type": "snapkv"}),
        (ValueError, "kv_type must be 'dense'", {"kv_type": "nonsense"}),
        (ValueError, "starting_layer must be an integer", {"starting_layer": 1.5}),
        (TypeError, "unexpected argument 'nonsense'", {"nonsense": 1}),
        (
            ValueError,
            "may set fallback, last_dense_rows, minference_ratio, share, share_index, got 'n_init'",
            {"attn_kwargs": {"n_init": 1}},
        ),
        (ValueError, "may set nothing, got 'n_init'", {"attn_type": "hf", "attn_kwargs": {"n_init": 1}}),
        (
            ValueError,
            r"attn_kwargs\['n_local'\] must be an integer",
            {"attn_type": "streaming", "attn_kwargs": {"n_local": -1}},
        ),
        (ValueError, "share must be at least 1e-6", {"attn_kwargs": {"share": 0}}),
        (ValueError, "minference_ratio.* above 0, got 0", {"attn_kwargs": {"minference_ratio": 0}}),
        (ValueError, "minference_ratio.* must be a finite", {"attn_kwargs": {"minference_ratio": "a"}}),
        (ValueError, "fallback.* must be", {"attn_kwargs": {"fallback": "never"}}),
        (ValueError, "fallback.* must be", {"attn_kwargs": {"fallback": [1]}}),
        (ValueError, "share_index.* must be True or False, got 1", {"attn_kwargs": {"share_index": 1}}),
        (ValueError, "attn_kwargs must be a dict or None, got 3", {"attn_kwargs": 3}),
        (ValueError, r"attn_type must be one of.*got \['a'\]", {"attn_type": ["a"]}),
    ],
)
def test_refused_requests(error, message, arguments):
    with pytest.raises(error, match=message):
        MInference(**arguments)


def test_aliases():
    assert MInferenceConfig("minference_with_dense").attn_type == "dense"
    assert MInferenceConfig("streaming").attn_type == "a_shape"
    assert {"minference", "dense", "a_shape", "tri_shape", "static", "hf"} <= set(
        MInferenceConfig.get_available_attn_types()
    )
    assert MInferenceConfig.get_available_kv_types() == ["dense"]


def test_heads_are_attached_to_modules():
    model = MInference("tri_shape")(make("llama"))
    heads = model.model.layers[1].self_attn._minference.heads
    assert heads.dtype == torch.int32 and heads.tolist() == [[1, 128, 3968, 100, 0]] * 4
