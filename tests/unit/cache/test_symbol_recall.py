"""Test associative recall over symbols, and the decoder that learns it from scratch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.unit.cache.decoders import tiny_decoder

from retention.cache import H2O, CacheBudget, CachePolicy, KeyNorm, StreamingLLM, recall_experiment
from retention.cache.small_decoder import DecoderSettings, build_decoder, train_decoder
from retention.cache.symbol_recall import QUESTION, START, SymbolBatch, SymbolRecall, recall_accuracy
from retention.errors import ConfigError, TrainingError

TASK = SymbolRecall(keys=6, values=5, fillers=4, pairs=4, reassigned=2, context=40, tail=10)
KEYS, VALUES, FILLERS = range(3, 9), range(9, 14), range(14, 18)


def drawn(rows: int = 20, questions: int = 4, seed: int = 0) -> SymbolBatch:
    return TASK.batch(rows, questions, torch.Generator().manual_seed(seed))


def test_the_last_value_of_a_key_is_the_answer() -> None:
    again = 0
    batch = drawn()
    for context, keys, answers in zip(
        batch.contexts.tolist(), batch.keys.tolist(), batch.answers.tolist(), strict=True
    ):
        assert context[0] == START and all(token in FILLERS for token in context[-10:])
        given: dict[int, list[int]] = {}
        for first, second in pairwise(context):
            if first in KEYS:
                assert second in VALUES
                given.setdefault(first, []).append(second)
        assert sorted(map(len, given.values())) == [1, 1, 2, 2]
        assert sum(token in FILLERS for token in context) == 40 - 1 - 12
        for key, answer in zip(keys, answers, strict=True):
            assert answer == given[key][-1]
            assert len(set(given[key])) == len(given[key])  # a new value differs from the one before
            again += answer != given[key][0]
    assert 20 < again < 60  # about half of the keys have a second value


def test_batches_depend_on_the_generator_alone() -> None:
    first, second, other = drawn(), drawn(), drawn(seed=1)
    assert torch.equal(first.contexts, second.contexts) and torch.equal(first.answers, second.answers)
    assert not torch.equal(first.contexts, other.contexts)


def test_chained_questions_follow_the_context() -> None:
    batch = drawn(rows=3, questions=6)
    chained, columns = batch.chained(), batch.answering()
    assert chained.shape == (3, 40 + 18) and torch.equal(chained[:, :40], batch.contexts)
    assert torch.equal(chained[:, columns], batch.keys) and torch.equal(chained[:, columns + 1], batch.answers)
    assert bool((chained[:, columns - 1] == QUESTION).all())


@pytest.mark.parametrize(
    "values", [{"pairs": 7}, {"reassigned": 5}, {"context": 22}, {"tail": -1}, {"values": 1}, {"fillers": 0}]
)
def test_settings_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(values))}: must be"):
        SymbolRecall(**{"keys": 6, **values})
    SymbolRecall(keys=6)


@pytest.mark.parametrize("policy", [None, StreamingLLM(), H2O()], ids=["full", "on_arrival", "rescoring"])
@torch.no_grad()
def test_accuracy_of_a_large_cache_is_that_of_the_full_model(policy: CachePolicy | None) -> None:
    model, batch = tiny_decoder("llama", "eager"), drawn()
    written = []
    for index in range(4):
        prompt = torch.stack([torch.full_like(batch.keys[:, index], QUESTION), batch.keys[:, index]], dim=1)
        written.append(model(torch.cat([batch.contexts, prompt], dim=1)).logits[:, -1].argmax(-1))
    answers = torch.stack(written, dim=1)
    right = SymbolBatch(batch.contexts, batch.keys, answers)
    large, small = CacheBudget(size=64, sinks=1, window=4), CacheBudget(size=3, sinks=0, window=1)
    assert recall_accuracy(model, right, policy, large) == [1.0] * 20
    # negative controls: one wrong answer, and a cache that forgets
    wrong = answers.clone()
    wrong[3, 1] += 1
    assert recall_accuracy(model, SymbolBatch(batch.contexts, batch.keys, wrong), policy, large)[3] == 0.75
    assert sum(recall_accuracy(model, right, KeyNorm(), small)) < 20


EASY = SymbolRecall(keys=2, values=2, fillers=2, pairs=1, reassigned=0, context=16, tail=8)
EASY_DECODER = DecoderSettings(width=32, batch=16, questions=2, steps=400, accuracy=0.95, warmup=10)


def test_a_decoder_learns_and_contexts_grow() -> None:
    shown: list[tuple[int, int, float]] = []
    model = train_decoder(EASY, EASY_DECODER, 0, lambda *values: shown.append(values))
    contexts = [context for _, context, _ in shown]
    assert contexts == sorted(contexts) and contexts[0] == 3 and contexts[-1] == 16
    batch = EASY.batch(100, 1, torch.Generator().manual_seed(5))
    learned = sum(recall_accuracy(model, batch)) / 100
    torch.manual_seed(0)
    untrained = sum(recall_accuracy(build_decoder(EASY, EASY_DECODER).eval(), batch)) / 100
    assert learned > 0.85 > untrained


def test_a_decoder_that_does_not_learn_is_reported() -> None:
    with pytest.raises(TrainingError, match=r"reached 0\.\d+ of 0\.995 .* after 2 steps"):
        train_decoder(EASY, DecoderSettings(width=32, batch=4, steps=2), 0)
    for values in ({"layers": 1}, {"accuracy": 1.5}, {"lr": 0.0}, {"questions": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(values))}: .*must be"):
            DecoderSettings(**values)  # type: ignore[arg-type]


def test_the_command_reports_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert recall_experiment.main(["--seeds", "0", "--decoder-steps", "1"]) == 1
    assert "--decoder-steps" in capsys.readouterr().err
    assert recall_experiment.main(["--share", "1.5"]) == 1
    assert "--share" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_compares_all_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retention.cache.policies.named import POLICIES
    from retention.records import read_objects

    record = tmp_path / "records.jsonl"
    options = ["--context", "32", "--pairs", "1", "--reassigned", "0", "--texts", "8", "--epochs", "2"]
    options += ["--distillation-steps", "4", "--contexts", "10", "--record", str(record)]
    assert recall_experiment.main(["--seeds", "0", "1", *options]) == 0
    rows = [row for _, row in read_objects(record)]
    assert {(row["policy"], row["seed"]) for row in rows} == {
        (name, seed) for name in (*POLICIES, "learned") for seed in (0, 1)
    }
    for row in rows:
        assert row["task"] == "symbol_recall" and row["size"] == 8 and len(row["accuracy_by_text"]) == 10
        assert (row["difference"] is None) == (row["policy"] == "full")
        assert (row["scores"] is not None) == (row["policy"] == "learned")
    assert "| learned |" in capsys.readouterr().out
