import multiprocessing
import subprocess
import sys
import threading

import numpy
import pytest
import torch

import minference


@pytest.fixture(autouse=True)
def follow_torch_again():
    yield
    minference.set_num_threads(None)


def attend(seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, 4, 300, 64, generator=generator) for _ in range(3))
    heads = minference.patterns.vertical_slash(20, 100)
    return minference.prefill_attention(query, key, value, heads, fallback="off")


def test_follows_torch_unless_told_otherwise():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert minference.get_num_threads() == 1
        torch.set_num_threads(2)
        assert minference.get_num_threads() == 2
        minference.set_num_threads(3)
        assert minference.get_num_threads() == 3
        minference.set_num_threads(None)
        assert minference.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit():
    results = []
    for num_threads in (1, 2, 5):
        minference.set_num_threads(num_threads)
        results.append(attend(0))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_many_threads_at_once():
    expected = [attend(seed) for seed in range(6)]
    wrong = []

    def work(seed):
        for _ in range(5):
            if not torch.equal(attend(seed), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


_ON_OPENMP_THREADS = """
import os, torch
from minference import _context, dense_attention, set_num_threads

query = torch.randn(1, 2, 300, 64)
set_num_threads(1)
expected = dense_attention(query, query, query)
torch.set_num_threads(3)
torch.randn(1 << 20).exp()
assert _context.use_openmp_threads()
set_num_threads(3)
threads = len(os.listdir("/proc/self/task"))
assert torch.equal(dense_attention(query, query, query), expected)
assert len(os.listdir("/proc/self/task")) == threads
"""


def test_openmp_threads_in_place_of_its_own():
    subprocess.run([sys.executable, "-c", _ON_OPENMP_THREADS], check=True)


def _attend_in_child(queue, array):
    queue.put(minference.dense_attention(array, array, array))


def test_survives_fork():
    array = numpy.random.default_rng(0).standard_normal((1, 2, 300, 64), dtype=numpy.float32)
    minference.set_num_threads(2)
    expected = minference.dense_attention(array, array, array)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_attend_in_child, args=(queue, array))
    child.start()
    numpy.testing.assert_array_equal(queue.get(timeout=60), expected)
    child.join(60)
    assert child.exitcode == 0
    numpy.testing.assert_array_equal(minference.dense_attention(array, array, array), expected)


def test_the_instruction_set_can_be_forced(monkeypatch):
    seen = []

    def look():
        try:
            seen.append(minference.instruction_set())
        except ValueError as error:
            seen.append(error)

    # A context reads the variable once and lives as long as its thread.
    for name in ("portable", "z80"):
        monkeypatch.setenv("MINFERENCE_ISA", name)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen[0] == "portable" and "z80" in str(seen[1])
