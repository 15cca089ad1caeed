"""Calls that the library does not take reach the previous implementation as if there were no patch: same mask, same bits."""

import pytest
import torch
import transformers
from models import SINKS, SOFT_CAPPED, make, tokens
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.masking_utils import sdpa_mask

from minference import MInference
from minference.call_mask import CallMask
from minference.transformers_backend import backend_over

EVERYTHING = MInference("minference", attn_kwargs={"share": 1.0, "fallback": "off"})


class Spy:
    """An attention implementation that notes what it is given and does what another one does."""

    def __init__(self):
        self.calls = []
        self.attend = transformers.AttentionInterface()["sdpa"]

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        self.calls.append(
            (module.layer_idx, query.shape[2], None if attention_mask is None else attention_mask.clone())
        )
        # Soft caps and sinks are what sdpa refuses or ignores; here only the arguments matter.
        kwargs.pop("softcap", None)
        return self.attend(module, query, key, value, attention_mask, **kwargs)


SPY = Spy()
transformers.AttentionInterface.register("spy", SPY.attention)
transformers.AttentionMaskInterface.register("spy", sdpa_mask)


def seen_by_spy(model, run):
    SPY.calls = []
    result = run(model)
    return result, SPY.calls


def assert_declined(model, run):
    """`run` gives the same bits and the same masks with and without the patch, and every layer call reaches the spy."""
    expected, expected_calls = seen_by_spy(model, run)
    EVERYTHING(model)
    assert model.config._attn_implementation == "minference_over_spy"
    result, calls = seen_by_spy(model, run)
    assert expected_calls and len(calls) == len(expected_calls)
    for (layer, rows, mask), (expected_layer, expected_rows, expected_mask) in zip(calls, expected_calls):
        assert (layer, rows) == (expected_layer, expected_rows)
        assert (mask is None) == (expected_mask is None)
        assert mask is None or (mask.dtype == expected_mask.dtype and torch.equal(mask, expected_mask))
    torch.testing.assert_close(result, expected, atol=0, rtol=0)


def forward(*shape, **options):
    def run(model):
        with torch.no_grad():
            return model(tokens(*shape), **options).logits

    return run


@pytest.mark.parametrize("kind", [SOFT_CAPPED, SINKS], ids=["softcap", "sinks"])
@pytest.mark.parametrize("padding", [0, 20])
def test_attention_with_more_than_softmax(kind, padding):
    mask = torch.ones(2, 150, dtype=torch.long)
    mask[0, :padding] = 0
    # Expert routing needs the model's usual small weights.
    assert_declined(make(kind, attn_implementation="spy"), forward(2, 150, attention_mask=mask))


def test_decode():
    def run(model):
        with torch.no_grad():
            cache = transformers.DynamicCache(config=model.config)
            return [
                model(tokens(2, 1, seed), past_key_values=cache, use_cache=True).logits for seed in range(3)
            ]

    for name in ("llama", "mistral"):
        assert_declined(make(name, attn_implementation="spy"), run)


def test_masks_with_holes():
    mask = torch.ones(2, 150, dtype=torch.long)
    mask[1, 70:75] = 0
    assert_declined(make("llama", attn_implementation="spy"), forward(2, 150, attention_mask=mask))


def test_masks_of_one_s_own():
    mask = torch.ones(1, 1, 150, 150, dtype=torch.bool).tril()
    mask[..., 3] = True
    assert_declined(make("llama", attn_implementation="spy"), forward(1, 150, attention_mask=mask))


def test_wanted_weights():
    model = make("llama", attn_implementation="eager")
    ids = tokens(1, 100)
    with torch.no_grad():
        expected = model(ids, output_attentions=True).attentions
        attentions = EVERYTHING(model)(ids, output_attentions=True).attentions
    torch.testing.assert_close(attentions, expected, atol=0, rtol=0)


def test_gradients():
    def run(model):
        model.zero_grad()
        model(tokens(1, 100), labels=tokens(1, 100)).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    assert_declined(make("llama", attn_implementation="spy"), run)


@pytest.mark.parametrize("projection", ["k_proj", "v_proj"])
def test_gradients_of_keys_or_values_alone(projection):
    def run(model):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        weight = getattr(model.model.layers[0].self_attn, projection).weight.requires_grad_()
        model(tokens(1, 100), labels=tokens(1, 100)).loss.backward()
        return weight.grad.clone()

    assert_declined(make("llama", attn_implementation="spy"), run)


def test_training():
    def run(model):
        model.train()
        logits = forward(1, 100)(model)
        model.eval()
        return logits

    assert_declined(make("llama", attn_implementation="spy"), run)


def test_bidirectional():
    def run(model):
        model.config.is_causal = False
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        logits = forward(1, 100)(model)
        model.config.is_causal = True
        for layer in model.model.layers:
            layer.self_attn.is_causal = True
        return logits

    assert_declined(make("llama", attn_implementation="spy"), run)


def test_double_precision():
    def run(model):
        logits = forward(1, 100)(model.double())
        model.float()
        return logits

    assert_declined(make("llama", attn_implementation="spy"), run)


def test_short_calls_unless_fallback_is_off():
    model = MInference("a_shape", attn_kwargs={"n_local": 2, "n_init": 0})(
        make("llama", attn_implementation="spy")
    )
    _, calls = seen_by_spy(model, forward(1, 8))
    assert [rows for _, rows, _ in calls] == [8, 8]


def test_an_implementation_without_masks_stays_without():
    transformers.AttentionInterface.register("spy_without_mask", SPY.attention)
    model = make("llama", attn_implementation="spy_without_mask")
    run = forward(1, 1)
    expected, _ = seen_by_spy(model, run)
    result, calls = seen_by_spy(EVERYTHING(model), run)
    assert torch.equal(result, expected) and [mask for *_, mask in calls] == [None, None]


def test_decoding_a_static_cache():
    model = make("llama", attn_implementation="spy")
    arguments = dict(max_new_tokens=4, do_sample=False, cache_implementation="static", disable_compile=True)

    def run(model):
        with torch.no_grad():
            return model.generate(tokens(1, 100), attention_mask=torch.ones(1, 100), **arguments)

    expected, expected_calls = seen_by_spy(model, run)
    result, calls = seen_by_spy(EVERYTHING(model), run)
    assert torch.equal(result, expected)
    decoding = [call for call in expected_calls if call[1] == 1]
    assert len(calls) == len(decoding) == 6
    for (*_, mask), (*_, expected_mask) in zip(calls, decoding):
        assert torch.equal(mask, expected_mask)


@pytest.mark.filterwarnings("ignore")
def test_traced_and_transformed_models_run_the_previous_implementation():
    model = make("llama", attn_implementation="sdpa")
    expected, other = (forward(1, 100, seed)(model) for seed in (0, 1))
    EVERYTHING(model)

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    with torch.no_grad():
        traced = torch.jit.trace(Logits(), tokens(1, 100))
        assert torch.equal(traced(tokens(1, 100)), expected)
        assert torch.equal(traced(tokens(1, 100, 1)), other)
        batch = torch.stack([tokens(1, 100), tokens(1, 100, 1)])
        mapped = torch.vmap(Logits())(batch)
    torch.testing.assert_close(mapped, torch.stack([expected, other]), atol=1e-5, rtol=1e-5)


def test_fake_tensors_run_the_previous_implementation():
    model = make("llama", attn_implementation="sdpa")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        assert EVERYTHING(model)(tokens(1, 100)).logits.shape == (1, 100, 128)


def test_compiled_models_run_the_previous_implementation():
    model = make("llama", attn_implementation="sdpa")
    expected = forward(1, 100)(model)
    # A pattern whose logits differ, so that a call taken would show.
    MInference("a_shape", attn_kwargs={"n_init": 2, "n_local": 30, "fallback": "off"})(model)
    assert not torch.allclose(forward(1, 100)(model), expected, atol=1e-2)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(forward(1, 100)(compiled), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_mask_is_on_the_device_of_its_layer(device):
    """Layers of one model may lie on several devices; masks are made on that of the model's inputs."""
    mask = CallMask([(0, 0, 70, 0, 70)], 0, 70, 70, lambda: torch.ones(1, 1, 70, 70, dtype=torch.bool))
    module = make("llama").model.layers[0].self_attn
    query, key = torch.zeros(1, 4, 70, 64, device=device), torch.zeros(1, 2, 70, 64, device=device)
    _, calls = seen_by_spy(
        backend_over("spy"), lambda backend: backend.attention(module, query, key, key, mask.as_tensor())
    )
    assert [seen.device.type for _, _, seen in calls] == [device]
    assert mask.previous(query.device) is mask.previous(query.device)
