"""Test the generated tasks with exact answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import tiny_decoder
from tests.unit.cache.test_training import save_decoder
from transformers import PreTrainedTokenizerFast

from retention.cache import H2O, CacheBudget, CachePolicy, StreamingLLM, evaluate
from retention.cache.recall import (
    Question,
    RecallExample,
    exact_answers,
    needle_examples,
    recall_examples,
    tracking_examples,
)
from retention.errors import ConfigError, DataError


def test_the_last_password_of_a_name_is_the_answer() -> None:
    reassigned = 0
    for example in recall_examples(5, pairs=10, reassigned=3, questions=4, seed=1):
        words: dict[str, list[str]] = {}
        for name, word in re.findall(r"password of (\w+) is (\w+)\.", example.context):
            words.setdefault(name, []).append(word)
        assert len(words) == 10 and sum(map(len, words.values())) == 13
        assert all(len(set(given)) == len(given) for given in words.values())
        assert len({question.prompt for question in example.questions}) == 4
        for question in example.questions:
            name = question.prompt.split()[3]
            assert question.answer == f" {words[name][-1]}"
            reassigned += len(words[name]) > 1
    assert reassigned == 5 * 2


def test_examples_depend_on_the_seed_alone() -> None:
    assert list(recall_examples(3, seed=2)) == list(recall_examples(3, seed=2)) != list(recall_examples(3, seed=3))


def test_codes_are_handed_on_to_the_last_name() -> None:
    for example in tracking_examples(5, chains=4, hops=3, seed=1):
        codes: dict[str, str] = {}
        for name, code, source in re.findall(r"code of (\w+) is (?:(\d{4})|the code of (\w+))\.", example.context):
            assert name not in codes
            codes[name] = code or codes[source]
        assert len(codes) == 4 * (3 + 1) and len(set(codes.values())) == 4
        answers = {question.prompt.split()[6]: question.answer.strip() for question in example.questions}
        assert len(answers) == 4 and all(codes[name] == code for name, code in answers.items())
        # names in questions hand their code on to nobody, and got it from another one
        assert not any(f"is the code of {name}." in example.context for name in answers)
        assert not any(f"code of {name} is {code}." in example.context for name, code in answers.items())


@pytest.mark.parametrize("values", [{"hops": -1}, {"chains": 0}, {"chains": 7, "hops": 3}])
def test_chains_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        list(tracking_examples(1, **values))


def test_the_needle_is_inside_the_text() -> None:
    texts = ["too short", "word " * 60, "other " * 70]
    examples = list(needle_examples(texts, 2, words=50))
    for example, word in zip(examples, ("word", "other"), strict=True):
        before, needle, after = re.split(r"(The code of \w+ is \d{4}\.)", example.context)
        assert needle == f"The{example.questions[0].prompt[4:]}{example.questions[0].answer}."
        assert before.split().count(word) >= 5 and after.split().count(word) >= 5
        assert (before + after).split() == [word] * 50
    with pytest.raises(DataError, match="only 2 texts"):
        list(needle_examples(texts, 3, words=50))


@pytest.mark.parametrize("values", [{"pairs": 40}, {"pairs": 3, "reassigned": 4}, {"questions": 0}])
def test_settings_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"must be in \["):
        list(recall_examples(1, **values))


def decoder_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    save_decoder(folder)
    return tiny_decoder("llama", "eager"), PreTrainedTokenizerFast.from_pretrained(folder)


def answered_examples(model: Any, tokenizer: Any) -> list[RecallExample]:
    """Build examples whose exact answers are what the library's ``generate`` writes after context and prompt."""
    model.generation_config.eos_token_id = None
    # the tokenizer has 27 words, so that every written token can be read back
    model.lm_head.weight.data[27:] = 0.0
    model.lm_head.weight.data[:27] *= 5.0
    examples = []
    for context in ("thequickbrownfox" * 3, "jumpsoverthelazydog" * 4):
        questions = []
        for prompt in ("abc", "zyxwv"):
            ids = tokenizer(context + prompt, return_tensors="pt")["input_ids"]
            written = model.generate(ids, max_new_tokens=3, do_sample=False)[0, -3:]
            questions.append(Question(prompt, "".join(tokenizer.convert_ids_to_tokens(written))))
        examples.append(RecallExample(context, tuple(questions)))
    return examples


@pytest.mark.parametrize("policy", [None, StreamingLLM(), H2O()], ids=["full", "on_arrival", "rescoring"])
@torch.no_grad()
def test_answers_are_those_of_generate(policy: CachePolicy | None, tmp_path: Path) -> None:
    model, tokenizer = decoder_and_tokenizer(tmp_path)
    examples = answered_examples(model, tokenizer)
    assert all("<" not in question.answer for example in examples for question in example.questions)
    budget = CacheBudget(size=128, sinks=2, window=8)
    assert exact_answers(model, tokenizer, examples, policy, budget) == [1.0, 1.0]
    # negative control: one wrong letter at the end of one answer
    first, second = examples[0].questions
    wrong = "b" if first.answer.endswith("a") else "a"
    changed = RecallExample(examples[0].context, (Question(first.prompt, first.answer[:-1] + wrong), second))
    assert exact_answers(model, tokenizer, [changed, examples[1]], policy, budget) == [0.5, 1.0]


def test_the_command_records_exact_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retention.records import read_objects

    save_decoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join("a b c d e f g h i j " * 3 for _ in range(3)))
    record = tmp_path / "records.jsonl"
    options = [
        "--tasks",
        "recall",
        "tracking",
        "needle",
        "--texts",
        str(tmp_path / "texts.txt"),
        "--words",
        "20",
        "--limit",
        "2",
    ]
    options += ["--pairs", "4", "--sizes", "20", "--policies", "random", "tova", "--record", str(record)]
    options += ["--chains", "2", "--hops", "1"]
    assert evaluate.main(["--model", str(tmp_path / "model"), *options]) == 0
    rows = [row for _, row in read_objects(record)]
    assert [(row["task"], row["policy"]) for row in rows] == [
        (task, policy) for task in ("recall", "tracking", "needle") for policy in ("random", "tova")
    ]
    assert rows[0]["texts"] is None and rows[2]["texts"] is None and rows[4]["texts"] == "texts.txt"
    assert all(0 <= row["accuracy"] <= 1 and row["loss"] is None for row in rows)
    assert "| recall | 20 | random |" in capsys.readouterr().out


def test_the_command_needs_texts_for_a_needle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--model", str(tmp_path), "--tasks", "needle"]) == 1
    assert "--texts" in capsys.readouterr().err
