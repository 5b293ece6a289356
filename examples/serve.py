"""Serve a trained classifier over HTTP: a bounded queue, batches of texts of similar length, a clean shutdown.

    retention run hydra.run.dir=outputs/demo 'compare=[]'
    python examples/serve.py outputs/demo
    curl localhost:8000/predict -H 'content-type: application/json' -d '{"text": "a gripping film"}'

Needs the extras `experiments` and `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from retention import load
from retention.errors import RetentionError

Predict = Callable[[list[str]], Sequence[Any]]


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        batch_size: most texts per forward pass.
        wait_s: seconds that a batch waits for more texts.
        queue: most texts that wait; further requests get status 503.
        characters: most characters of a text; longer ones get status 413. The model reads a part of long texts and
            says so (``truncated``).
    """

    batch_size: int = 32
    wait_s: float = 0.005
    queue: int = 1024
    characters: int = 2_000_000


class Overloaded(Exception):
    """Raised if the queue is full, or the server is shutting down."""


class Batcher:
    """Queue of texts; a task collects what is waiting, sorts it by length and predicts batch after batch.

    Args:
        predict: texts -> predictions; runs in one thread of its own.
        limits: see ``Limits``.
    """

    def __init__(self, predict: Predict, limits: Limits) -> None:
        self._predict, self._limits = predict, limits
        self._queue: asyncio.Queue[tuple[str, asyncio.Future[Any]] | None] = asyncio.Queue()
        self._executor = ThreadPoolExecutor(1)
        self._open = False
        self.waiting = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the batches within the context; its end waits for the texts in the queue."""
        self._open = True
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._open = False
            self._queue.put_nowait(None)
            await task
            self._executor.shutdown()

    async def submit(self, text: str) -> Any:
        """Return the prediction for a text.

        Raises:
            Overloaded: the queue is full, or the server is shutting down.
        """
        if not self._open or self.waiting >= self._limits.queue:
            raise Overloaded
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting += 1
        self._queue.put_nowait((text, future))
        try:
            return await future
        finally:
            self.waiting -= 1

    async def _work(self) -> None:
        while (item := await self._queue.get()) is not None:
            await asyncio.sleep(self._limits.wait_s)
            items, last = [item], False
            while not self._queue.empty() and not last:
                item = self._queue.get_nowait()
                last = item is None
                items += [] if item is None else [item]
            await self._run(items)
            if last:
                break

    async def _run(self, items: list[tuple[str, asyncio.Future[Any]]]) -> None:
        """Predict texts in batches of similar length, short ones first, and answer after each batch."""
        size = self._limits.batch_size
        ordered = sorted((item for item in items if not item[1].done()), key=lambda item: len(item[0]))
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            try:
                texts = [text for text, _ in batch]
                predictions = await asyncio.get_running_loop().run_in_executor(self._executor, self._predict, texts)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), prediction in zip(batch, predictions, strict=True):
                if not future.done():  # the client may have left
                    future.set_result(prediction)


class Text(BaseModel):
    """Body of a request."""

    text: str


def create_app(predict: Predict, limits: Limits | None = None) -> FastAPI:
    """Return the application: ``POST /predict`` and ``GET /health``."""
    limits = limits or Limits()
    batcher = Batcher(predict, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(title="Token retention", lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": batcher.waiting}

    @app.post("/predict")
    async def answer(request: Request) -> JSONResponse:
        text = _text_of(await _body(request, 12 * limits.characters + 1024), limits)
        try:
            prediction = await batcher.submit(text)
        except Overloaded:
            raise HTTPException(503, "too many requests are waiting; try again", {"Retry-After": "1"}) from None
        except RetentionError as error:
            raise HTTPException(422, str(error)) from None
        return JSONResponse(
            {
                "labels": prediction.labels,
                "probabilities": prediction.probabilities,
                "keep_ratio": prediction.keep_ratio,
                "truncated": prediction.truncated,
            }
        )

    return app


async def _body(request: Request, limit: int) -> bytes:
    """Read the body of a request, at most ``limit`` bytes (JSON may escape a character by 12 bytes)."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise HTTPException(413, f"the request is longer than {limit} bytes")
    return bytes(body)


def _text_of(body: bytes, limits: Limits) -> str:
    try:
        text = Text.model_validate_json(body).text
    except ValidationError as error:
        raise HTTPException(422, f'send {{"text": "..."}} as JSON: {error.errors()[0]["msg"]}') from None
    if len(text) > limits.characters:
        raise HTTPException(413, f"the text has {len(text)} characters, at most {limits.characters} are allowed")
    if not text.strip():
        raise HTTPException(422, "the text is empty")
    return text


def main() -> None:
    """Load a run and serve it until SIGTERM or Ctrl-C; requests that were accepted are answered first."""
    parser = argparse.ArgumentParser(description="Serve the classifier of a finished run.")
    parser.add_argument("run", help="run folder, or a checkpoint in it")
    parser.add_argument("--rho", type=float, help="target keep ratio; default: the one of the run")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=Limits.batch_size)
    parser.add_argument("--queue", type=int, default=Limits.queue, help="most waiting texts (default: %(default)s)")
    arguments = parser.parse_args()
    model = load(arguments.run, rho=arguments.rho)
    limits = Limits(batch_size=arguments.batch_size, queue=arguments.queue)
    app = create_app(lambda texts: model.predict(texts, batch_size=limits.batch_size), limits)
    uvicorn.run(app, host=arguments.host, port=arguments.port, timeout_graceful_shutdown=30)


if __name__ == "__main__":
    main()
