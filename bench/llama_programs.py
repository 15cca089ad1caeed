"""llama.cpp's programs, with libggml-minference.so or without."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# As `make test-engines-llama` builds them.
PROGRAMS = Path(os.environ.get("LLAMA_CPP_BIN", ROOT / "build/engines/llama/build/bin"))
MODEL = ROOT / "build/engines/llama/needle.gguf"
BACKEND = ROOT / "build/release/lib/libggml-minference.so"
START_SECONDS = 120


def environment(backend: bool, **variables: str) -> dict[str, str]:
    """What a user exports. Programs that hold their CPU backend look for others only when some option is about
    backends: the second variable is such an option, and matches no tensor."""
    chosen = {**os.environ, "OMP_WAIT_POLICY": "passive", **variables}
    chosen.pop("GGML_BACKEND_PATH", None)
    if backend:
        chosen.update(GGML_BACKEND_PATH=str(BACKEND), LLAMA_ARG_OVERRIDE_TENSOR="minference=CPU")
    return chosen


def command(program: str, *arguments) -> list[str]:
    return [str(PROGRAMS / program), "-m", str(MODEL), *map(str, arguments)]


def run(program: str, *arguments, backend: bool = True, **variables: str) -> subprocess.CompletedProcess:
    """Output and log of a program that ends by itself."""
    return subprocess.run(
        command(program, *arguments),
        env=environment(backend, **variables),
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


class Server:
    """A llama-server that runs."""

    def __init__(self, address: str, log: Path):
        self.address, self._log = address, log

    def post(self, path: str, **request) -> dict:
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(self.address + path, body, headers), timeout=900
        ) as response:
            return json.load(response)

    def complete(self, prompt: str, **options) -> str:
        return self.post("/completion", prompt=prompt, n_predict=16, temperature=0, **options)["content"]

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def serve(folder: Path, *arguments, backend: bool = True, **variables: str):
    """A server for a `with` block, its log in `folder`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = Path(folder) / f"log-{port}"
    place = ["--host", "127.0.0.1", "--port", port, "--verbosity", 4]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command("llama-server", *place, *arguments),
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
