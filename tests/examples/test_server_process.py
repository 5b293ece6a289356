"""Start the example server under uvicorn and stop it while requests are in flight."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from retention import load

ROOT = Path(__file__).parents[2]
TEXTS = [f"river forest stone market price goal {number} " * 60 for number in range(40)]
Start = Callable[[], tuple["subprocess.Popen[str]", str]]

pytestmark = pytest.mark.slow


@pytest.fixture
def start_server(trained_run: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the server with batches of one text, and returns process and address."""
    running: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        variables = {"PYTHONPATH": str(ROOT / "src"), "HF_DATASETS_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
        words = [str(ROOT / "examples" / "serve.py"), str(trained_run), "--port", str(port), "--batch-size", "1"]
        running.append(
            subprocess.Popen(
                [sys.executable, *words], env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
            )
        )
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(f"{address}/health").status_code == 200)
        return running[-1], address

    yield start
    for process in running:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], limit_s: float = 600.0) -> None:
    """Wait until a condition holds; a server that does not answer yet counts as False."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s")


def interrupt(process: subprocess.Popen[str], address: str, number: int) -> list[httpx.Response | None]:
    """Send all texts at once, a signal as soon as some wait, and return the answers; None = none came."""

    def send(text: str) -> httpx.Response | None:
        try:
            return httpx.post(f"{address}/predict", json={"text": text}, timeout=120)
        except httpx.TransportError:
            return None

    with ThreadPoolExecutor(len(TEXTS)) as pool:
        answers = pool.map(send, TEXTS)
        wait_for(lambda: httpx.get(f"{address}/health").json()["waiting"] >= 5)
        process.send_signal(number)
        return list(answers)


def test_sigterm_answers_what_was_accepted(start_server: Start, trained_run: Path) -> None:
    process, address = start_server()
    answers = interrupt(process, address, signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    errors = process.stderr.read() if process.stderr else ""
    assert "Traceback" not in errors and "Finished server process" in errors
    answered = [(text, answer) for text, answer in zip(TEXTS, answers, strict=True) if answer is not None]
    assert len(answered) >= 5 and {answer.status_code for _, answer in answered} <= {200, 503}
    right = [(text, answer.json()) for text, answer in answered if answer.status_code == 200]
    assert len(right) >= 5
    model = load(trained_run)
    for text, content in right:
        [expected] = model.predict([text])  # type: ignore[attr-defined]
        assert content["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{address}/health")


def test_sigkill_leaves_requests_unanswered(start_server: Start) -> None:
    """Negative control: a server that does not shut down cleanly is noticed."""
    process, address = start_server()
    answers = interrupt(process, address, signal.SIGKILL)
    assert answers.count(None) >= 5
