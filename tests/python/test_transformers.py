"""Patched models: calls that the library takes give what the model gave before, to rounding."""

import gc
import subprocess
import sys
import weakref

import pytest
import tokenizers
import torch
import transformers
from models import MODELS, make, tokens
from patched import DENSE, EVERYTHING, calls_taken, difference

import minference
from minference import MInference, call_mask
from minference.patch import plans_of


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def taken(monkeypatch):
    return calls_taken(monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", [EVERYTHING, DENSE])
def test_full_budget_differs_from_eager_as_sdpa_does(name, dtype, attention, taken):
    ids = tokens(2, 300)
    eager = make(name, dtype, "eager")(ids).logits
    model = make(name, dtype)
    sdpa = model(ids).logits
    ours = attention(model)(ids).logits
    assert len(taken) == 2
    assert difference(ours, eager) <= 2 * difference(sdpa, eager)


@pytest.mark.parametrize("previous", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_restore_and_patched(name, previous):
    model = make(name, attn_implementation=previous)
    ids = tokens(1, 200)
    before = model(ids).logits
    classes = [type(module) for module in model.modules()]
    with MInference("a_shape", attn_kwargs={"n_init": 2, "n_local": 30}).patched(model):
        assert model.config._attn_implementation.startswith("minference")
        assert not torch.allclose(model(ids).logits, before)
    assert model.config._attn_implementation == previous
    assert [type(module) for module in model.modules()] == classes
    assert not any(name.startswith("_minference") for module in model.modules() for name in vars(module))
    assert torch.equal(model(ids).logits, before)
    assert minference.restore(model) is model


def test_patching_again_replaces_the_patch():
    model = make("llama")
    ids = tokens(1, 200)
    before = model(ids).logits
    MInference("a_shape", attn_kwargs={"n_init": 2, "n_local": 30})(model)
    torch.testing.assert_close(DENSE(model)(ids).logits, before, atol=1e-4, rtol=1e-4)
    assert torch.equal(MInference("hf")(model)(ids).logits, before)
    assert model.config._attn_implementation == "sdpa"


def test_an_earlier_patch_holds_again_behind_a_block():
    model = DENSE(make("llama", attn_implementation="eager"))
    plan = model.model.layers[0].self_attn._minference
    with MInference("a_shape").patched(model):
        assert model.model.layers[0].self_attn._minference is not plan
    assert model.model.layers[0].self_attn._minference is plan
    assert model.config._attn_implementation == "minference_over_eager"
    assert minference.restore(model).config._attn_implementation == "eager"


def test_models_that_share_a_config_are_told_apart():
    model = make("llama")
    other = type(model)(model.config)
    DENSE(model)
    for refused in (DENSE, minference.restore, MInference("hf")):
        with pytest.raises(ValueError, match="model must not share its config with a model that is patched"):
            refused(other)
    # The inner model has the same layers.
    minference.restore(model.model)
    assert model.config._attn_implementation == "sdpa" and not plans_of(model)
    assert DENSE(other) is other


def test_patched_models_can_be_pickled(tmp_path):
    model = EVERYTHING(make("llama"))
    ids = tokens(1, 100)
    torch.save((model, ids, model(ids).logits), tmp_path / "model.pt")
    program = (
        "import sys, torch; model, ids, logits = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad(): assert torch.equal(model(ids).logits, logits)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "model.pt"], check=True)


@pytest.mark.parametrize("kind", ["GPTNeoX", "GPT2", "OPT"])
def test_models_without_grouped_heads(kind, taken):
    config = getattr(transformers, kind + "Config")(
        vocab_size=128, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config).eval()
    ids = tokens(1, 100)
    expected = model(ids).logits
    torch.testing.assert_close(EVERYTHING(model)(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert len(taken) == config.num_hidden_layers


def test_decoders_of_another_shape_than_their_encoders(taken):
    config = transformers.BartConfig(
        vocab_size=128,
        d_model=64,
        encoder_layers=1,
        decoder_layers=3,
        decoder_attention_heads=2,
        decoder_ffn_dim=96,
    )
    torch.manual_seed(0)
    model = transformers.BartForCausalLM(config).eval()
    ids = tokens(1, 100)
    expected = model(ids, use_cache=False).logits
    torch.testing.assert_close(EVERYTHING(model)(ids, use_cache=False).logits, expected, atol=1e-4, rtol=1e-4)
    assert [layer for layer, _ in taken] == [0, 1, 2]


def test_a_refused_patch_changes_nothing():
    model = DENSE(make("llama"))
    plan = model.model.layers[0].self_attn._minference
    refused = MInference(model_name="no/such-model")
    with pytest.raises(ValueError, match="model_name"):
        refused(model)
    with pytest.raises(ValueError, match="model_name"), refused.patched(model):
        pass
    with pytest.raises(TypeError, match="config must be a MInferenceConfig, got NoneType"):
        minference.minference_patch(model, None)
    assert model.model.layers[0].self_attn._minference is plan
    assert model.config._attn_implementation == "minference"
    assert minference.restore(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda model: model.double(), "dtype .*got float64"),
        (lambda model: model.to("meta"), "on the CPU or CUDA devices, got device meta"),
        (
            lambda model: [setattr(layer.self_attn, "head_dim", 20) for layer in model.model.layers],
            "head_dim must be .*got 20",
        ),
    ],
)
def test_models_that_no_call_would_be_taken_for_are_refused(change, message):
    model = make("llama")
    change(model)
    with pytest.raises(NotImplementedError, match=message):
        EVERYTHING(model)
    assert model.config._attn_implementation == "sdpa"


def test_another_default_device_changes_nothing():
    plan = EVERYTHING(make("llama")).model.layers[0].self_attn._minference
    query = torch.randn(1, 4, 100, 64)
    with torch.device("meta"):
        mask = call_mask.describe(lambda: None, 1, 100, 100).as_tensor()
        out = plan.run(query, query, query, call_mask.of_tensor(mask), None)
        first = [[[0]] * 4]
        sparse = minference.vertical_slash_sparse_attention(query, query, query, first, first)
    assert mask.is_cpu and out.is_cpu and sparse.is_cpu


def test_saved_models_know_nothing_of_the_patch(tmp_path):
    model = DENSE(make("llama"))
    model.save_pretrained(tmp_path)
    assert "minference" not in (tmp_path / "config.json").read_text()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokens(1, 100)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_padded_batches(name, side, taken):
    model = make(name)
    ids, mask = tokens(3, 200), torch.ones(3, 200, dtype=torch.long)
    real = slice(77, None) if side == "left" else slice(0, -77)
    mask[1] = 0
    mask[1, real] = 1
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    expected = model(ids, attention_mask=mask, position_ids=positions).logits
    alone = EVERYTHING(model)(ids[1:2, real]).logits
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    assert len(taken) == 4
    for entry in (0, 2):
        torch.testing.assert_close(logits[entry], expected[entry], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1, real], expected[1, real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1, real], alone[0], atol=1e-4, rtol=1e-4)


def test_tokenizers_extra_tensors_change_nothing(taken):
    model = make("llama")
    ids = tokens(1, 150)
    expected = model(ids).logits
    kinds = torch.zeros_like(ids)
    torch.testing.assert_close(
        EVERYTHING(model)(ids, token_type_ids=kinds).logits, expected, atol=1e-4, rtol=1e-4
    )
    assert len(taken) == 2


def test_packed_sequences(taken):
    model = make("llama")
    ids = tokens(1, 250)
    positions = torch.cat([torch.arange(90), torch.arange(160)])[None]
    expected = model(ids, position_ids=positions, use_cache=False).logits
    logits = EVERYTHING(model)(ids, position_ids=positions, use_cache=False).logits
    assert len(taken) == 2
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    alone = model(ids[:, 90:], use_cache=False).logits
    torch.testing.assert_close(logits[:, 90:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral", "phi3_window"])
def test_chunks_and_turns_with_a_cache(name, taken):
    model = make(name)
    ids = tokens(2, 330)
    expected = model(ids).logits
    EVERYTHING(model)
    cache, logits = transformers.DynamicCache(config=model.config), []
    for begin, end in ((0, 120), (120, 121), (121, 250), (250, 330)):
        logits.append(model(ids[:, begin:end], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(logits, 1), expected, atol=1e-4, rtol=1e-4)
    assert [rows for layer, rows in taken if layer == 0] == [120, 129, 80]


# transformers 4.56 cannot add several tokens to a static cache whose sliding window is full.
@pytest.mark.parametrize("name, ends", [("llama", [100, 165]), ("mistral", [150])])
def test_static_cache(name, ends, taken):
    model = make(name)
    ids = tokens(1, ends[-1])
    expected = model(ids).logits
    EVERYTHING(model)
    cache = transformers.StaticCache(config=model.config, max_cache_len=256)
    logits = []
    for begin, end in zip([0, *ends], ends):
        logits.append(model(ids[:, begin:end], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(logits, 1), expected, atol=1e-4, rtol=1e-4)
    assert [rows for layer, rows in taken if layer == 0] == [
        end - begin for begin, end in zip([0, *ends], ends)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prefill_chunk_size": 60},
        {"cache_implementation": "static"},
        {"num_beams": 3},
        {"use_cache": False},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_generate(name, options, taken):
    model = make(name)
    ids, mask = tokens(2, 170), torch.ones(2, 170, dtype=torch.long)
    mask[0, :45] = 0
    arguments = dict(attention_mask=mask, max_new_tokens=6, do_sample=False, disable_compile=True, **options)
    expected = model.generate(ids, **arguments)
    assert torch.equal(EVERYTHING(model).generate(ids, **arguments), expected)
    assert taken and all(rows > 1 for _, rows in taken)


def test_pipeline(tmp_path, taken):
    words = {f"w{i}": i for i in range(128)}
    words["<unk>"] = words.pop("w127")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="w0", unk_token="<unk>"
    )
    prompt = " ".join(f"w{i}" for i in tokens(1, 200)[0].tolist())

    def answer(model):
        pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
        return pipe(prompt, max_new_tokens=5, do_sample=False)[0]["generated_text"]

    model = make("llama")
    expected = answer(model)
    assert answer(EVERYTHING(model)) == expected and taken


def test_starting_layer_keeps_lower_layers_dense():
    model = make("llama")
    ids = tokens(1, 300)
    MInference("a_shape", starting_layer=1, attn_kwargs={"n_init": 2, "n_local": 30})(model)
    with minference.record(model, kept_mass=True) as report:
        model(ids)
    assert (report.layers[0].density == 1).all() and (report.layers[1].density < 0.3).all()


@pytest.mark.parametrize("attn_type, rows_differ", [("a_shape", 200), ("tri_shape", 150)])
def test_tri_shape_is_a_shape_with_dense_last_rows(attn_type, rows_differ):
    model = make("llama")
    attention = model.model.layers[0].self_attn
    ids = tokens(1, 200)
    outputs = []
    attention.o_proj.register_forward_pre_hook(lambda _, arguments: outputs.append(arguments[0]))
    model(ids)
    options = {"n_init": 2, "n_local": 30, "fallback": "off"}
    if attn_type == "tri_shape":
        options["n_last"] = 50
    MInference(attn_type, attn_kwargs=options)(model)(ids)
    differs = ~torch.isclose(outputs[0], outputs[1], atol=1e-4).all(-1)[0]
    # Rows that see no further than sink and window are the same in any case.
    assert differs[32:rows_differ].float().mean() > 0.9 and not differs[:32].any()
    assert not differs[rows_differ:].any()


def test_static_keeps_the_members_of_the_first_call():
    model = make("llama")
    MInference("static", attn_kwargs={"vertical_size": 30, "slash_size": 100, "fallback": "off"})(model)
    plan = model.model.layers[0].self_attn._minference
    first = model(tokens(1, 300)).logits
    members = [chosen.clone() for chosen in plan.members]
    mask = torch.ones(2, 150, dtype=torch.long)
    mask[1, :20] = 0
    assert torch.isfinite(model(tokens(2, 150, seed=1), attention_mask=mask).logits).all()
    assert all(torch.equal(*pair) for pair in zip(members, plan.members))
    assert torch.equal(model(tokens(1, 300)).logits, first)


def test_composite_models_are_patched_in_their_text_part(taken):
    text = make("llama").config
    config = transformers.LlavaConfig(
        text_config=text,
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        image_token_index=3,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    ids = tokens(1, 120).clamp_min(4)
    expected = model(input_ids=ids).logits
    implementations = (config._attn_implementation, config.vision_config._attn_implementation)
    torch.testing.assert_close(EVERYTHING(model)(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert len(taken) == 2
    assert (config._attn_implementation, config.vision_config._attn_implementation) == implementations
    minference.restore(model)
    assert torch.equal(model(input_ids=ids).logits, expected)


class Adapted(torch.nn.Module):
    """What peft puts around a model: another module, whose attributes are the model's."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


@torch.no_grad()
def test_models_with_adapters_around_them(taken):
    model = make("llama")
    ids = tokens(1, 100)
    expected = model(ids).logits
    adapted = Adapted(model)
    assert EVERYTHING(adapted) is adapted
    torch.testing.assert_close(adapted(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert len(taken) == 2
    assert minference.restore(adapted) is adapted
    assert torch.equal(adapted(ids).logits, expected)


@torch.no_grad()
def test_offloaded_layers(taken, tmp_path):
    """Their parameters come when they run, and are on the meta device otherwise."""
    model = make("llama")
    ids = tokens(1, 100)
    expected = model(ids).logits
    model.save_pretrained(tmp_path / "model")
    devices = {
        name: "cpu" for name in ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm")
    }
    offloaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        device_map={**devices, "model.layers.1": "disk", "lm_head": "cpu"},
        offload_folder=tmp_path / "offloaded",
    )
    assert offloaded.model.layers[1].self_attn.q_proj.weight.is_meta
    torch.testing.assert_close(EVERYTHING(offloaded)(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert len(taken) == 2


def test_models_out_of_reach_are_refused(monkeypatch):
    model = make("llama")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(NotImplementedError, match="AttentionInterface, got LlamaForCausalLM"):
        DENSE(model)
    with pytest.raises(TypeError, match="PreTrainedModel, got Linear"):
        DENSE(torch.nn.Linear(1, 1))
    assert model.config._attn_implementation == "sdpa"


def test_flash_attention_is_refused():
    model = make("llama")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(
        NotImplementedError, match="must be sdpa, eager or one registered by name, got 'flash_attention_2'"
    ):
        DENSE(model)


def test_masks_need_no_garbage_collector():
    mask = call_mask.describe(lambda: None, 1, 100, 100).as_tensor()
    call = weakref.ref(mask)
    gc.disable()
    try:
        del mask
        assert call() is None
    finally:
        gc.enable()


def test_copied_masks_are_refused():
    mask = call_mask.describe(lambda: None, 1, 100, 100).as_tensor()
    assert call_mask.of_tensor(mask).sequences == [(0, 0, 100, 0, 100)]
    with pytest.raises(RuntimeError, match="got a copy"):
        call_mask.of_tensor(mask.clone())


def test_the_mask_of_a_call_survives_being_sent_to_a_layers_device():
    """Hooks that spread a model over devices send each layer's arguments after it."""
    call = call_mask.CallMask([(0, 0, 70, 0, 70)], 0, 70, 70, lambda: None)
    assert call_mask.of_tensor(call.as_tensor().to("meta", non_blocking=True)) is call
