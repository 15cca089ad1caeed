"""The server that the environment tells to use the library, from its start."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from transformers import AutoTokenizer

from minference.needle.model import folder
from minference.needle.prompts import make_prompt

START_SECONDS = 300


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    """Address and log of a server with a sparse pattern of its own for every head."""
    port, log = free_port(), tmp_path / "log"
    environment = {
        **os.environ,
        "MINFERENCE_VLLM": json.dumps({"attn_kwargs": {"share": 0.97}}),
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder())]
    command += ["--served-model-name", "needle", "--dtype", "bfloat16", "--max-model-len", "20000"]
    command += ["--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{address}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(1)
        yield address, log
    finally:
        process.terminate()
        process.wait(60)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def complete(address, prompt):
    request = {"model": "needle", "prompt": prompt, "max_tokens": 16, "temperature": 0}
    body = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/v1/completions", body, headers)
    ) as response:
        return json.load(response)["choices"][0]["text"]


def test_a_server_prefills_through_the_library_and_says_so_once(server):
    address, log = server
    prompt = make_prompt(AutoTokenizer.from_pretrained(folder()), "multikey", 16384, 1)
    assert complete(address, prompt.text).startswith(prompt.answer)
    assert log.read_text().count("MInference prefills long chunks in 6 layers") == 1
