"""The page as a person has it: `minference demo --web` in a process of its own, and a headless Chromium."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "web"
_START_SECONDS = 120


class Server:
    """A running page. address: where; memory(): MiB that its process has in use."""

    def __init__(self, process, address):
        self.process, self.address = process, address

    def memory(self):
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def serve(log_path, *arguments):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "minference", "demo", "--web", "--port", str(port), *arguments]
    with open(log_path, "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        begin = time.monotonic()
        while not (found := re.search(r"http://[\d.:]+", log_path.read_text())):
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < begin + _START_SECONDS, log_path.read_text()
            time.sleep(0.2)
        yield Server(process, found[0])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == 130, log_path.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "chromium must be installed"
    with sync_playwright() as playwright:
        # Root has no sandbox of Chromium's.
        running = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Opens pages; at the end no request may have left this machine, and no script may have failed."""
    requests, faults, pages, here = [], [], [], ["data:"]

    def open_one(address, width=1200, height=900):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#start")
        pages.append(page)
        here.extend((address, f"blob:{address}"))
        return page

    yield open_one
    for page in pages:
        page.close()
    assert [url for url in requests if not url.startswith(tuple(here))] == []
    assert faults == []


@pytest.fixture
def shoot():
    """Keeps a screenshot of the whole page in build/web, to be looked at."""

    def keep(page, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    return keep
