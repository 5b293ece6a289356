"""Send many requests of mixed lengths to ``examples/serve.py``, and compare the answers with single calls."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import CLEAR, INNER, RIGHT, WRONG, Tally
from reproduction.reliability.small_runs import SMALL, quiet_libraries, start
from reproduction.reliability.threads import draw_texts
from retention.records import Reliability
from retention.tasks.classification.predict import Prediction
from retention.trained import Classifier, load

ROOT = Path(__file__).resolve().parents[2]
LONG = 1_000_000  # characters
_CLIENTS = 48
_WARMUP = 0.2  # share of the requests before memory is measured
_FLAT_MIB = 32.0  # growth that still counts as flat
_TOLERANCE = 1e-5


def load_server() -> ModuleType:
    """Import ``examples/serve.py``."""
    spec = importlib.util.spec_from_file_location("serve_example", ROOT / "examples" / "serve.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(ROOT / "examples" / "serve.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check_server(scale: Scale, folder: Path) -> Reliability:
    """Serve a trained model, send requests from many clients, and watch answers and memory."""
    draw = random.Random(scale.seed)
    words = " ".join(draw_texts(1, draw, longest=100)[0].split() or ["river"])
    long = [(f"{words} " * (LONG // len(words) + 1))[:LONG] for _ in range(2)]
    texts = [*draw_texts(100, draw), *long]
    with quiet_libraries(folder / "cache"):
        shutil.rmtree(folder / "run", ignore_errors=True)
        start(folder / "run", *SMALL)
    model = load(folder / "run")
    if not isinstance(model, Classifier):
        raise TypeError(f"loaded a {type(model).__name__}")
    expected = [model.predict([text])[0] for text in texts]
    started = time.perf_counter()
    model.predict(long[:1])
    long_s = time.perf_counter() - started
    order = [draw.randrange(len(texts)) for _ in range(scale.requests)]
    result = asyncio.run(send_requests(model.predict, texts, expected, order))
    return result.result(
        clients=_CLIENTS,
        longest_characters=LONG,
        truncated=sum(expected[index].truncated for index in order),
        **_memory(result.memory),
        seconds_for_longest=round(long_s, 3),
    )


class LoadTally(Tally):
    """Counts of a load test, with the memory of the process after each hundredth of the requests, in MiB."""

    memory: list[float]


async def send_requests(
    predict: Callable[[list[str]], Sequence[Any]],
    texts: Sequence[str],
    expected: Sequence[Prediction],
    order: Sequence[int],
) -> LoadTally:
    """Send one request per index of ``order`` from ``_CLIENTS`` clients and compare the answers."""
    server = load_server()
    app = server.create_app(predict)
    tally, waiting = LoadTally("server_load"), iter(order)
    tally.memory = []
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://server", timeout=300
        ) as client,
    ):

        async def work() -> None:
            for index in waiting:
                answer = await client.post("/predict", json={"text": texts[index]})
                tally.add(*judge(answer, expected[index], f"{len(texts[index])} characters"))
                if tally.tried % max(1, len(order) // 100) == 0:
                    tally.memory.append(resident_mib())

        await asyncio.gather(*(work() for _ in range(_CLIENTS)))
    return tally


def judge(answer: httpx.Response, expected: Prediction, text: str) -> tuple[str, str, str]:
    """Return outcome, kind and description of one answer."""
    if answer.status_code == 503:
        return CLEAR, "refused", text
    if answer.status_code != 200:
        return INNER, f"status {answer.status_code}", f"{text}: {answer.text[:200]}"
    content = answer.json()
    same = (
        tuple(content["labels"]) == expected.labels
        and content["truncated"] == expected.truncated
        and abs(content["keep_ratio"] - expected.keep_ratio) < _TOLERANCE
        and all(abs(content["probabilities"][name] - p) < _TOLERANCE for name, p in expected.probabilities.items())
    )
    return (RIGHT if same else WRONG), "truncated" if expected.truncated else "whole", text


def resident_mib() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _memory(values: Sequence[float]) -> dict[str, Any]:
    """Return the growth of memory after the warm-up, from the median of its first tenth to that of the last."""
    rest = list(values)[int(_WARMUP * len(values)) :]
    tenth = max(1, len(rest) // 10)
    growth = sorted(rest[-tenth:])[tenth // 2] - sorted(rest[:tenth])[tenth // 2] if rest else 0.0
    return {"memory_growth_mib": round(growth, 1), "memory_is_flat": growth < _FLAT_MIB}
