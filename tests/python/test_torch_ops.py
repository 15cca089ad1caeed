"""Functions under torch.compile and torch.export: one node each, the same numbers."""

import pytest
import torch

import minference


def inputs(q_len=150, kv_len=200):
    torch.manual_seed(0)
    return torch.randn(2, 4, q_len, 64), torch.randn(2, 2, kv_len, 64), torch.randn(2, 2, kv_len, 64)


def members(count, limit):
    return torch.randint(limit, (2, 4, count), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


COLUMNS, OFFSETS = members(5, 150), members(3, 150)
HEADS = [
    minference.patterns.dense(),
    minference.patterns.a_shape(4, 30),
    *[minference.patterns.adaptive(0.9)] * 2,
]

FUNCTIONS = {
    "dense": lambda q, k, v: minference.dense_attention(q, k, v, return_lse=True),
    "streaming": lambda q, k, v: minference.streaming_forward(q, k, v, 5, 20, softmax_scale=0.2),
    "block_sparse": lambda q, k, v: minference.block_sparse_attention(q, k, v, 2),
    "vertical_slash": lambda q, k, v: minference.vertical_slash_sparse_attention(q, k, v, COLUMNS, OFFSETS),
    "layer": lambda q, k, v: minference.prefill_attention(
        q, k, v, HEADS, sequences=[(0, 5, 60, 0, 90), (1, 0, 60, 3, 80)], fallback="off", return_lse=True
    ),
}


def count_nodes(graph):
    return sum(
        str(node.target).startswith("minference.") for node in graph.nodes if node.op == "call_function"
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile_sees_one_node(name):
    graphs = []

    def backend(module, _):
        graphs.append(module.graph)
        return module

    function = FUNCTIONS[name]
    compiled = torch.compile(lambda q, k, v: function(q * 2, k, v), fullgraph=True, backend=backend)
    arguments = inputs()
    expected = function(arguments[0] * 2, *arguments[1:])
    torch.testing.assert_close(compiled(*arguments), expected, atol=0, rtol=0)
    assert [count_nodes(graph) for graph in graphs] == [1]


def test_compile_with_functionalization_and_dynamic_lengths():
    compiled = torch.compile(
        lambda q, k, v: FUNCTIONS["streaming"](q * 2, k, v) + 1,
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for lengths in ((150, 200), (90, 170)):
        query, key, value = inputs(*lengths)
        expected = FUNCTIONS["streaming"](query * 2, key, value) + 1
        torch.testing.assert_close(compiled(query, key, value), expected)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_export_sees_one_node(name, strict):
    class Module(torch.nn.Module):
        def forward(self, query, key, value):
            return FUNCTIONS[name](query, key, value)

    arguments = inputs()
    program = torch.export.export(Module(), arguments, strict=strict)
    assert count_nodes(program.graph) == 1
    other = tuple(argument.flip(-1) for argument in arguments)
    torch.testing.assert_close(program.module()(*other), FUNCTIONS[name](*other), atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_jit_trace_records_the_call(name):
    arguments = inputs()
    traced = torch.jit.trace(FUNCTIONS[name], arguments)
    other = tuple(argument.flip(-1) for argument in arguments)
    torch.testing.assert_close(traced(*other), FUNCTIONS[name](*other), atol=0, rtol=0)


def test_parameters_are_ordinary_tensors():
    query, key, value = inputs()
    out, statistics = minference.prefill_attention(
        torch.nn.Parameter(query), key, value, HEADS, fallback="off", return_statistics=True
    )
    expected = minference.prefill_attention(query, key, value, HEADS, fallback="off")
    assert torch.equal(out, expected) and statistics.pairs > 0


def test_operators_keep_their_promises():
    from minference import _torch_ops  # noqa: F401

    query, key, value = inputs(70, 90)
    heads = torch.tensor(HEADS, dtype=torch.int32)
    sequences = torch.tensor([[0, 5, 60, 0, 90]])
    for where in (None, sequences):
        torch.library.opcheck(torch.ops.minference.prefill, (query, key, value, heads, where, 0.0, True, 1))
    index = (COLUMNS % 90, OFFSETS % 90)
    torch.library.opcheck(torch.ops.minference.vertical_slash, (query, key, value, *index, 0.2, True))


def test_operators_refuse_wrong_shapes_while_tracing():
    with pytest.raises(Exception, match="query must have 4 dimensions"):
        torch.compile(
            lambda q, k, v: minference.dense_attention(q[0], k, v), fullgraph=True, backend="eager"
        )(*inputs())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"heads": torch.tensor(HEADS[:3], dtype=torch.int32)},
            r"heads must be int32 .* = \[4, 5\], got \[3, 5\]",
        ),
        ({"heads": torch.tensor(HEADS)}, "heads must be int32 .* of torch.int64"),
        ({"sequences": torch.tensor([[0, 0, 60, 0]])}, r"sequences must be int64 .*got \[1, 4\]"),
        (
            {"sequences": torch.tensor([[0, 0, 60, 0, 60]], dtype=torch.int32)},
            "sequences must be int64 .*int32",
        ),
    ],
)
def test_operators_refuse_rows_of_another_form(changed, message, device):
    from minference import _torch_ops  # noqa: F401

    tensors = dict(zip(("query", "key", "value"), inputs()))
    tensors |= {"heads": torch.tensor(HEADS, dtype=torch.int32), "sequences": None, **changed}
    tensors = {name: None if x is None else x.to(device) for name, x in tensors.items()}
    with pytest.raises(ValueError, match=message):
        torch.ops.minference.prefill(*tensors.values(), 0.0, True, 1)


def test_compiled_calls_refuse_fractions():
    with pytest.raises(Exception, match="heads must hold integers"):
        torch.compile(
            lambda q, k, v: minference.prefill_attention(q, k, v, (0.5,) * 5), fullgraph=True, backend="eager"
        )(*inputs())


def test_compiled_calls_do_not_wrap_numbers():
    heads = torch.tensor([2**32, 0, 0, 0, 0])
    with pytest.raises(Exception, match=r"heads\[0\].pattern"):
        torch.compile(lambda q, k, v: minference.prefill_attention(q, k, v, heads), backend="eager")(
            *inputs()
        )


def test_no_sequences_are_no_rows():
    from minference import _torch_ops  # noqa: F401

    query, key, value = inputs()
    heads, none = torch.tensor(HEADS, dtype=torch.int32), torch.empty(0, 5, dtype=torch.int64)
    out, lse = torch.ops.minference.prefill(query, key, value, heads, none, 0.0, True, 1)
    assert not out.any() and (lse == -torch.inf).all()
