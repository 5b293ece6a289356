"""Call one trained model from several threads; each answer must equal that of one text in a single thread."""

from __future__ import annotations

import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import INNER, RIGHT, WRONG, Tally
from reproduction.reliability.small_runs import SMALL, quiet_libraries, start
from retention.records import Reliability
from retention.tasks.classification.predict import Prediction
from retention.trained import Classifier, load

THREADS = 4
_POLICIES = ("adaptive", "attention_topk", "tome")
_TOLERANCE = 1e-5
_WORDS = "river forest stone market price goal team match ballot senate choir hymn harbor crew sail"


def draw_texts(count: int, draw: random.Random, longest: int = 400) -> list[str]:
    """Draw texts of 1 to ``longest`` words, short ones more often."""
    words = _WORDS.split()
    lengths = [max(1, int(longest * draw.random() ** 3)) for _ in range(count)]
    return [" ".join(draw.choice(words) for _ in range(length)) for length in lengths]


def same_prediction(one: Prediction, other: Prediction) -> bool:
    """Return True if two predictions agree within rounding: labels, probabilities and kept tokens."""
    close = all(abs(value - other.probabilities[name]) < _TOLERANCE for name, value in one.probabilities.items())
    return close and (one.labels, one.depth, one.truncated) == (other.labels, other.depth, other.truncated)


def check_threads(scale: Scale, folder: Path) -> Reliability:
    """Call a trained model of each of some policies from four threads, with texts of mixed lengths."""
    tally, draw = Tally("threads"), random.Random(scale.seed)
    texts = draw_texts(80, draw)
    batches = [[text] for text in texts[:20]] + [texts[start : start + 3] for start in range(20, 80, 3)]
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with quiet_libraries(folder / "cache"):
            for name in _POLICIES:
                shutil.rmtree(folder / name, ignore_errors=True)
                start(folder / name, *SMALL, f"retention={name}")
                model = load(folder / name)
                if not isinstance(model, Classifier):
                    raise TypeError(f"loaded a {type(model).__name__}")
                alone = {text: model.predict([text])[0] for text in texts}
                expected = [[alone[text] for text in batch] for batch in batches]
                calls = scale.thread_calls // len(_POLICIES)
                for outcome, text in call_from_threads(model, batches, expected, calls, scale.seed):
                    tally.add(outcome, name, text)
    finally:
        sys.setswitchinterval(switch_interval)
    return tally.result(threads=THREADS, policies=list(_POLICIES))


def call_from_threads(
    model: Classifier, batches: list[list[str]], expected: list[list[Prediction]], calls: int, seed: int
) -> list[tuple[str, str]]:
    """Call ``predict`` from ``THREADS`` threads; return outcome and description of every call."""

    def work(thread: int) -> list[tuple[str, str]]:
        draw, outcomes = random.Random(seed + thread), []
        for _ in range(calls // THREADS):
            index = draw.randrange(len(batches))
            try:
                answers = model.predict(batches[index])
            except Exception as error:
                outcomes.append((INNER, repr(error)[:200]))
                continue
            right = all(map(same_prediction, answers, expected[index]))
            outcomes.append((RIGHT, "") if right else (WRONG, f"batch {index}"))
        return outcomes

    with ThreadPoolExecutor(THREADS) as pool:
        return [each for outcomes in pool.map(work, range(THREADS)) for each in outcomes]
