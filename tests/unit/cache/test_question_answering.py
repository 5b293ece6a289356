"""Test questions about documents that a bounded cache has read before the questions are known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import tiny_decoder
from tests.unit.cache.test_training import save_decoder
from transformers import PreTrainedTokenizerFast

from retention.cache import H2O, CacheBudget, CachePolicy, KeyNorm, StreamingLLM, evaluate
from retention.cache.question_answering import (
    DocumentQuestion,
    QuestionedDocument,
    answer_documents,
    encode_document,
    read_documents,
)
from retention.errors import ConfigError, DataError

BARE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"  # prompts end with the question
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}<a>"
DOCUMENT = QuestionedDocument(
    "thequickbrownfoxjumps" * 3,
    tuple(DocumentQuestion(text, ("fox",)) for text in ("who", "whatjumps", "where")),
)


def squad_file(path: Path, contexts: int = 3) -> Path:
    """Write documents of one letter each; the last question of each has no answer."""
    data = []
    for number in range(contexts):
        context = " ".join("abcdefghij"[number] * 20)
        questions = [
            {"id": f"{number}-{index}", "question": f"is {index}", "answers": [{"text": context[0], "answer_start": 0}]}
            for index in range(3)
        ]
        questions.append({"id": f"{number}-none", "question": "no answer", "answers": []})
        data.append({"title": f"document {number}", "paragraphs": [{"context": context, "qas": questions}]})
    path.write_bytes(gzip.compress(json.dumps({"data": data}).encode()))
    return path


def decoder_and_tokenizer(folder: Path, attention: str = "eager") -> tuple[Any, Any]:
    save_decoder(folder)
    model = tiny_decoder("llama", attention)
    model.generation_config.eos_token_id = None
    # the tokenizer has 27 words, so that every written token can be read back
    model.lm_head.weight.data[27:] = 0.0
    model.lm_head.weight.data[:27] *= 5.0
    model.config.max_position_embeddings = 512
    for layer in model.model.layers:  # what has been read shall decide what is written
        layer.self_attn.q_proj.weight.data *= 4.0
        layer.self_attn.o_proj.weight.data *= 3.0
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def generated(model: Any, tokenizer: Any, encoded: Any, new_tokens: int) -> list[str]:
    """Answer with the library's ``generate`` on context and prompt, without a bounded cache."""
    answers = []
    for prompt in encoded.prompts:
        ids = torch.cat([encoded.context, prompt]).unsqueeze(0)
        written = model.generate(ids, max_new_tokens=new_tokens, do_sample=False, attention_mask=torch.ones_like(ids))
        answers.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


def test_documents_are_read_with_their_answerable_questions(tmp_path: Path) -> None:
    path = squad_file(tmp_path / "questions.json.gz")
    documents = read_documents(path, limit=5, pairs=2, skip=1)
    assert [document.text[0] for document in documents] == ["b", "c"]
    assert [[question.text for question in document.questions] for document in documents] == [["is 0", "is 1"]] * 2
    assert len(read_documents(path, limit=1, pairs=9)[0].questions) == 3  # the fourth has no answer
    with pytest.raises(DataError, match="only 3 documents"):
        read_documents(path, limit=1, pairs=1, skip=3)
    with pytest.raises(ConfigError, match="pairs: must be >= 1"):
        read_documents(path, limit=1, pairs=0)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_context_and_prompt_together_are_the_whole_prompt(template: str | None, tmp_path: Path) -> None:
    save_decoder(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.chat_template = template
    encoded = encode_document(tokenizer, DOCUMENT)
    letters = tokenizer.convert_ids_to_tokens(encoded.context)
    assert "".join(letters).endswith(DOCUMENT.text)  # no token of a question is read with the document
    for question, prompt in zip(encoded.questions, encoded.prompts, strict=True):
        rest = "".join(tokenizer.convert_ids_to_tokens(prompt))
        assert question.text in rest and DOCUMENT.text not in rest
        assert ("nswer" in rest) == (template is None)


def test_a_template_that_changes_the_text_and_a_long_document_are_refused(tmp_path: Path) -> None:
    save_decoder(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    with pytest.raises(DataError, match="has room for 50"):
        encode_document(tokenizer, DOCUMENT, positions=50)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    with pytest.raises(ConfigError, match="changes the text of a message"):
        encode_document(tokenizer, DOCUMENT)


@pytest.mark.parametrize("policy", [None, StreamingLLM(), H2O()], ids=["full", "on_arrival", "rescoring"])
def test_answers_of_a_large_cache_are_those_of_generate(policy: CachePolicy | None, tmp_path: Path) -> None:
    """Prompts have different lengths and share one reading of the document."""
    model, tokenizer = decoder_and_tokenizer(tmp_path)
    tokenizer.chat_template = BARE
    encoded = encode_document(tokenizer, DOCUMENT)
    large = [CacheBudget(size=400, sinks=2, window=8)]
    [score] = answer_documents(model, tokenizer, [encoded], policy, large, new_tokens=5)
    expected = generated(model, tokenizer, encoded, 5)
    assert list(score.answers) == expected
    assert len(set(expected)) > 1
    # negative control: a cache that forgets the document answers differently
    small = [CacheBudget(size=4, sinks=1, window=2)]
    [forgetful] = answer_documents(model, tokenizer, [encoded], KeyNorm(), small, new_tokens=5)
    assert list(forgetful.answers) != expected


def test_answers_are_scored_by_the_rules_of_squad(tmp_path: Path) -> None:
    model, tokenizer = decoder_and_tokenizer(tmp_path)
    [plain] = answer_documents(model, tokenizer, [encode_document(tokenizer, DOCUMENT)], new_tokens=5)
    first, second, third = plain.answers
    questions = tuple(
        DocumentQuestion(question.text, answers)
        for question, answers in zip(
            DOCUMENT.questions, (("zzz", f"The {first}."), (f"{second} extra",), ("zzz",)), strict=True
        )
    )
    [score] = answer_documents(
        model, tokenizer, [encode_document(tokenizer, QuestionedDocument(DOCUMENT.text, questions))], new_tokens=5
    )
    words = len(second.split())
    assert score.exact_match == pytest.approx(1 / 3)
    assert score.f1 == pytest.approx((1 + 2 * words / (2 * words + 1)) / 3)
    assert third != "zzz"


def test_an_answer_ends_at_a_stop_token(tmp_path: Path) -> None:
    model, tokenizer = decoder_and_tokenizer(tmp_path)
    encoded = encode_document(tokenizer, DOCUMENT)
    [plain] = answer_documents(model, tokenizer, [encoded], new_tokens=5)
    letters = plain.answers[0].split()
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(letters[-1])]
    [stopped] = answer_documents(model, tokenizer, [encoded], new_tokens=5)
    assert stopped.answers[0].split() == letters[: letters.index(letters[-1])] != letters


@pytest.mark.parametrize("option", ["--sizes", "--shares"])
def test_the_command_records_answers(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retention.records import read_objects

    model, _ = decoder_and_tokenizer(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    questions, record = squad_file(tmp_path / "questions.json.gz"), tmp_path / "records.jsonl"
    options = ["--tasks", "qa", "--questions", str(questions), "--pairs", "2", "--limit", "2", "--new-tokens", "3"]
    options += ["--policies", "random", "full", "--record", str(record), option]
    options += ["0.25"] if option == "--shares" else ["30"]
    assert evaluate.main(["--model", str(tmp_path / "model"), *options]) == 0
    random, full = (row for _, row in read_objects(record))
    assert [random["policy"], full["policy"]] == ["random", "full"]
    assert random["texts"] == "questions.json.gz" and random["counted_tokens"] == [2, 2]
    assert full["f1"] == pytest.approx(sum(full["f1_by_text"]) / 2) and 0 <= full["accuracy"] <= full["f1"] <= 1
    if option == "--shares":
        assert random["share"] == 0.25
        assert random["size_by_text"] == [round(0.25 * length) for length in random["text_lengths"]]
        assert random["size"] == max(random["size_by_text"])
    else:
        assert random["share"] is None and random["size"] == 30 and random["size_by_text"] == []
    assert ("| qa | 25 % | random |" if option == "--shares" else "| qa | 30 | random |") in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [["--tasks", "qa"], ["--tasks", "recall", "--questions", "x.json"], ["--tasks", "recall", "--shares", "0.5"]],
)
def test_the_command_refuses_incomplete_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--model", "none", *options]) == 1
    assert "--questions" in capsys.readouterr().err or "--shares" in options
