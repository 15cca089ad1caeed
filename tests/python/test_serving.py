"""What serving engines share."""

import pytest

from minference import _library
from minference.serving import layers_of, requested, slice_of_rank

VARIABLE = "MINFERENCE_SOME_ENGINE"


@pytest.mark.parametrize("text", ["", " ", "0", '{"attn_type": "hf"}'])
def test_an_environment_that_asks_for_nothing(monkeypatch, text):
    assert requested(VARIABLE) is None
    monkeypatch.setenv(VARIABLE, text)
    assert requested(VARIABLE) is None


def test_an_environment_that_asks_for_sparse_prefill(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    assert requested(VARIABLE).attn_type == "minference"
    monkeypatch.setenv(VARIABLE, '{"attn_type": "a_shape", "attn_kwargs": {"n_init": 3}}')
    config = requested(VARIABLE)
    assert config.attn_type == "a_shape" and config.options["n_init"] == 3


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("yes", ValueError, "MINFERENCE_SOME_ENGINE must be 1 or a JSON object, got 'yes'"),
        ("[1]", ValueError, "must be 1 or a JSON object"),
        ('{"attn_type": "nothing"}', ValueError, "attn_type must be one of"),
        ('{"unknown": 1}', TypeError, "unexpected argument 'unknown'"),
    ],
)
def test_an_environment_that_asks_for_something_else(monkeypatch, text, error, words):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(error, match=words.replace("[", r"\[")):
        requested(VARIABLE)


def test_patterns_of_all_layers_in_plain_numbers(monkeypatch):
    monkeypatch.setenv(
        VARIABLE, '{"attn_type": "a_shape", "attn_kwargs": {"fallback": "off"}, "starting_layer": 1}'
    )
    layers, fallback, share_index = layers_of(requested(VARIABLE), 2, 3, "some/model")
    assert layers == [[[0, 0, 0, 0, 0]] * 3, [[1, 128, 3968, 0, 0]] * 3]
    assert fallback == _library.FALLBACK_OFF and share_index is False


def test_a_shared_index_is_asked_for(monkeypatch):
    monkeypatch.setenv(VARIABLE, '{"attn_kwargs": {"share_index": true}}')
    assert layers_of(requested(VARIABLE), 2, 3, "some/model")[2] is True


def test_every_rank_has_its_heads():
    heads = [[i] * 5 for i in range(8)]
    assert [slice_of_rank(heads, rank, 4) for rank in range(2)] == [heads[:4], heads[4:]]
    with pytest.raises(ValueError, match="12 or more for rank 2, got 8"):
        slice_of_rank(heads, 2, 4)
