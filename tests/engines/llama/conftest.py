"""llama.cpp's own programs with the embedded model, with and without the backend. `make test-engines-llama` builds them."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from minference.needle.model import folder
from minference.needle.prompts import make_prompt

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = Path(os.environ.get("LLAMA_CPP_BIN", ROOT / "build/engines/llama/build/bin"))
MODEL = ROOT / "build/engines/llama/needle.gguf"
BACKEND = ROOT / "build/release/lib/libggml-minference.so"
START_SECONDS = 120


def environment(backend, **variables):
    """What a user exports. Programs that hold their CPU backend look for others only when some option is about
    backends: the second variable is such an option, and matches no tensor."""
    chosen = {**os.environ, "OMP_WAIT_POLICY": "passive", **variables}
    if backend:
        chosen.update(GGML_BACKEND_PATH=str(BACKEND), LLAMA_ARG_OVERRIDE_TENSOR="minference=CPU")
    return chosen


def run(program, *arguments, backend=True, **variables):
    """Output and log of a program that ends by itself."""
    return subprocess.run(
        [PROGRAMS / program, "-m", MODEL, *map(str, arguments)],
        env=environment(backend, **variables),
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


class Server:
    """A llama-server that runs."""

    def __init__(self, address, log):
        self.address, self._log = address, log

    def post(self, path, **request):
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(self.address + path, body, headers), timeout=900
        ) as response:
            return json.load(response)

    def complete(self, prompt, **options):
        return self.post("/completion", prompt=prompt, n_predict=16, temperature=0, **options)["content"]

    def log(self):
        return self._log.read_text()


@pytest.fixture
def serve(tmp_path):
    """A function that starts a server for a `with` block."""

    @contextmanager
    def start(*arguments, backend=True, **variables):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        log = tmp_path / f"log-{port}"
        command = [PROGRAMS / "llama-server", "-m", MODEL, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, "--verbosity", "4", *map(str, arguments)],
                env=environment(backend, **variables),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        server = Server(f"http://127.0.0.1:{port}", log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not answers(f"{server.address}/health"):
                assert process.poll() is None and time.monotonic() < deadline, server.log()[-4000:]
                time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            process.wait(60)

    return start


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(folder())


@pytest.fixture(scope="session")
def prompt_of(tokenizer):
    """A function (task, tokens, seed) -> prompt with its answer."""
    return lambda task, tokens, seed: make_prompt(tokenizer, task, tokens, seed)
