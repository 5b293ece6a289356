from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from retention.data.encoding import check_tokenizer, encode_texts, leading_part, tokenizer_digest
from retention.errors import DataError
from retention.tasks.classification.keywords import KeywordData


def tokenizer_without_template(**special: str) -> PreTrainedTokenizerFast:
    """Build a word tokenizer without a template, so that it adds no special tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "horse"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special)


def test_only_special_tokens_are_protected(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_texts(tokenizer, ["horse [SEP] bread", "unknownword"], 10)
    cls, sep, unk = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id
    assert encoded["input_ids"][0][0] == cls and encoded["input_ids"][0][-1] == sep
    assert encoded["protected_mask"][0] == [True, False, False, False, True], "a [SEP] in the text is an ordinary token"
    assert encoded["input_ids"][1] == [cls, unk, sep]
    assert encoded["length"] == [5, 3]
    assert encoded["truncated"] == [False, False]


@pytest.mark.parametrize("words", [7, 8, 9])
def test_truncated_documents_keep_their_last_special_token_and_are_marked(
    tokenizer: PreTrainedTokenizerFast, words: int
) -> None:
    encoded = encode_texts(tokenizer, [" ".join(["horse"] * words)], 10)
    assert encoded["truncated"] == [words > 8]
    assert encoded["length"] == [min(words + 2, 10)]
    assert encoded["input_ids"][0][-1] == tokenizer.sep_token_id
    assert encoded["protected_mask"][0][-1] and sum(encoded["protected_mask"][0]) == 2


def test_padding_set_in_the_tokenizer_file_is_not_used() -> None:
    tokenizer = KeywordData.build_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=12)
    assert encode_texts(tokenizer, ["horse"], 10)["length"] == [3]


def test_unusable_tokenizers_raise(tokenizer: PreTrainedTokenizerFast) -> None:
    check_tokenizer(tokenizer, 3)
    with pytest.raises(DataError, match="max_length=2 leaves no room beside 2 special tokens"):
        check_tokenizer(tokenizer, 2)
    with pytest.raises(DataError, match="no special token"):
        check_tokenizer(tokenizer_without_template(pad_token="[PAD]"), 10)
    with pytest.raises(DataError, match="no special token"):
        check_tokenizer(tokenizer_without_template(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"), 10)
    with pytest.raises(DataError, match="no padding token"):
        check_tokenizer(tokenizer_without_template(cls_token="[CLS]"), 10)


def test_digest_depends_on_vocabulary_and_not_on_the_last_call() -> None:
    tokenizer = KeywordData.build_tokenizer()
    before = tokenizer_digest(tokenizer)
    encode_texts(tokenizer, ["horse and bread"], 4)
    assert tokenizer_digest(tokenizer) == before == tokenizer_digest(KeywordData.build_tokenizer())
    tokenizer.add_tokens(["newword"])
    assert tokenizer_digest(tokenizer) != before


def subword_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer of a kind that splits words, on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    model, splitter, trainer = {
        "wordpiece": (
            models.WordPiece(unk_token="[UNK]"),
            pre_tokenizers.BertPreTokenizer(),
            trainers.WordPieceTrainer,
        ),
        "bpe": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainers.BpeTrainer),
        "unigram": (models.Unigram(), pre_tokenizers.Metaspace(), trainers.UnigramTrainer),
    }[kind]
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitter
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    unknown = {"unk_token": "[UNK]"} if kind == "unigram" else {}
    corpus = ["the harbor crew repaired a sail before the regatta", "two hours that I want back, really"] * 20
    backend.train_from_iterator(corpus, trainer(vocab_size=300, special_tokens=special, **unknown))
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    backend.decoder = decoders.ByteLevel()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize(
    "text",
    [
        "the harbor crew  repaired\na sail, before the regatta " * 3000,
        "harbor" * 20_000,
        "crew" + " " * 100_000 + "sail",
        "\N{COMBINING ACUTE ACCENT} e\N{COMBINING ACUTE ACCENT} sail\u3000" * 9000,
        "crew " * 40,
    ],
    ids=["words", "one_word", "spaces", "accents", "short"],
)
def test_long_text_is_encoded_like_the_whole_text(kind: str, text: str) -> None:
    tokenizer = subword_tokenizer(kind)
    row = encode_texts(tokenizer, [text], 32)
    whole = tokenizer(text, truncation=True, max_length=32).encodings[0]
    assert row["input_ids"] == [whole.ids]
    assert row["truncated"] == [bool(whole.overflowing)]


def test_only_long_texts_with_enough_tokens_are_shortened() -> None:
    tokenizer = subword_tokenizer("wordpiece")
    long = "the harbor crew " * 10_000
    part = leading_part(tokenizer, long, 32)
    assert long.startswith(part) and len(part) < 1000
    assert leading_part(tokenizer, "crew " * 40, 32) == "crew " * 40
    one_word = "harbor" * 1000
    assert leading_part(tokenizer, one_word, 32) == one_word
    tokenizer.truncation_side = "left"
    assert leading_part(tokenizer, long, 32) == long


def test_another_thread_cannot_change_the_truncation_of_a_running_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread calls the tokenizer when the first has set the truncation and has not encoded yet."""
    tokenizer, pool, others = subword_tokenizer("wordpiece"), ThreadPoolExecutor(1), []
    text = "the harbor crew " * 10_000
    expected = encode_texts(tokenizer, [text], 32)
    expected_part = leading_part(tokenizer, text, 32)
    set_truncation = tokenizer.set_truncation_and_padding

    def interrupt(**settings: Any) -> None:
        set_truncation(**settings)
        if settings["max_length"] == 32 and not others:
            others.append(pool.submit(leading_part, tokenizer, text, 24))
            wait(others, timeout=0.5)  # long enough to change the truncation if nothing prevents it

    monkeypatch.setattr(tokenizer, "set_truncation_and_padding", interrupt)
    with pool:
        assert encode_texts(tokenizer, [text], 32) == expected
    assert expected_part.startswith(others[0].result())
