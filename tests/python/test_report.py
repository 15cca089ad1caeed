import numpy
import pytest
import torch
import transformers
from models import make, tokens
from reference import a_shape_mask, causal_mask, masked_attention

from minference import MInference, record
from minference.observe import MAP_BINS, computed_share, observe

SPARSE = MInference("a_shape", attn_kwargs={"n_init": 4, "n_local": 60, "fallback": "off"})


def queries_and_keys(model, run):
    """What the first layer attends with."""
    seen = []
    plan = model.model.layers[0].self_attn._minference
    original = plan.recorder

    def recorder(plan, query, key, *rest):
        seen.append((query.clone(), key.clone()))
        return original(plan, query, key, *rest)

    plan.recorder = recorder
    run()
    return seen


@torch.no_grad()
def test_density_and_kept_mass_are_exact():
    model = SPARSE(make("llama"))
    mask = torch.ones(2, 200, dtype=torch.long)
    mask[1, :50] = 0
    with record(model, kept_mass=True) as report:
        ((query, key),) = queries_and_keys(model, lambda: model(tokens(2, 200), attention_mask=mask))
    masses, pairs, all_pairs = [], 0, 0
    for batch, length in ((0, 200), (1, 150)):
        rows, keys = query[batch : batch + 1, :, -length:], key[batch : batch + 1, :, -length:]
        kept = a_shape_mask(length, length, 4, 60)
        _, sparse = masked_attention(rows, keys, keys, kept)
        _, dense = masked_attention(rows, keys, keys, causal_mask(length, length))
        masses.append((sparse - dense).exp()[0])
        pairs, all_pairs = pairs + kept.sum().item(), all_pairs + length * (length + 1) // 2
    layer = report.layers[0]
    assert layer.calls == 1 and layer.seconds > 0 and not layer.fallback.any()
    numpy.testing.assert_allclose(layer.density, pairs / all_pairs)
    numpy.testing.assert_allclose(layer.kept_mass, torch.cat(masses, 1).mean(1).numpy(), atol=1e-4)
    last = torch.cat([mass[:, -64:] for mass in masses], 1).mean(1).numpy()
    numpy.testing.assert_allclose(layer.kept_mass_last, last, atol=1e-4)
    assert report.density == pytest.approx(pairs / all_pairs)
    assert report.kept_mass == pytest.approx(numpy.mean([layer.kept_mass.mean() for layer in report.layers]))
    assert report.seconds == sum(layer.seconds for layer in report.layers)


@torch.no_grad()
def test_recording_changes_no_result_and_ends():
    model = SPARSE(make("llama"))
    expected = model(tokens(1, 200)).logits
    with record(model) as report:
        assert torch.equal(model(tokens(1, 200)).logits, expected)
    assert report.kept_mass is None and report.layers[0].kept_mass is None
    model(tokens(1, 200))
    assert [layer.calls for layer in report.layers] == [1, 1]


@torch.no_grad()
def test_recording_inside_recording_leaves_the_outer_one():
    model = SPARSE(make("llama"))
    with record(model) as outer:
        model(tokens(1, 100))
        with record(model) as inner:
            model(tokens(1, 100))
        model(tokens(1, 100))
    assert [layer.calls for layer in outer.layers] == [2, 2]
    assert [layer.calls for layer in inner.layers] == [1, 1]


@torch.no_grad()
def test_chunks_add_up():
    model = SPARSE(make("llama"))
    ids, cache = tokens(1, 200), transformers.DynamicCache(config=model.config)
    with record(model) as report:
        for chunk in ids.split(80, dim=1):
            model(chunk, past_key_values=cache, use_cache=True)
    assert [layer.calls for layer in report.layers] == [3, 3]
    pairs = a_shape_mask(200, 200, 4, 60).sum().item()
    numpy.testing.assert_allclose(report.layers[0].density, pairs / (200 * 201 // 2))


@torch.no_grad()
def test_a_shared_index_has_one_density_for_a_group():
    logits, densities = {}, {}
    for share_index in (False, True):
        options = {"share": 0.5, "fallback": "off", "share_index": share_index}
        model = MInference("minference", attn_kwargs=options)(make("llama"))
        logits[share_index] = model(tokens(1, 1000)).logits
        with record(model) as report:
            assert torch.equal(model(tokens(1, 1000)).logits, logits[share_index])
        densities[share_index] = [layer.density.reshape(2, 2) for layer in report.layers]
    assert all((layer[:, 0] != layer[:, 1]).any() for layer in densities[False])
    assert all((layer[:, 0] == layer[:, 1]).all() and (layer < 1).all() for layer in densities[True])
    assert not torch.equal(logits[False], logits[True])


@torch.no_grad()
def test_declined_calls_are_not_recorded():
    model = SPARSE(make("llama"))
    with record(model) as report:
        model(tokens(1, 1))
    assert [layer.calls for layer in report.layers] == [0, 0]
    assert report.density is None and report.seconds == 0


def test_observers_see_the_window_of_a_layer():
    model = MInference("minference", attn_kwargs={"fallback": "off"})(make("mistral"))
    with observe(model, with_attention=True) as (report, heads), torch.no_grad():
        model(tokens(1, 400))
    for head in heads:
        assert head.pattern[:3] == (1, 0, 70)
        # Of the last row looked at, at position 398, the window leaves the keys from 329 on.
        assert head.attention[-1, : 328 * MAP_BINS // 400].sum() == 0
    shares = [numpy.nanmean(computed_share(head, 400)) for head in heads]
    numpy.testing.assert_allclose(shares, report.density, atol=1e-3)


def test_models_without_a_patch_are_refused():
    with pytest.raises(ValueError, match="must be patched"):
        with record(make("llama")):
            pass
