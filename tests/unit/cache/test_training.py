"""Test the training of scorers and the measurement of losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import Texts, random_scorers, run_cache, texts, tiny_decoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from retention.cache import CacheBudget, KeyNorm, LearnedScores, StreamingLLM, evaluate, train
from retention.cache.evaluation import mean_loss, measure_losses, text_loss, text_losses
from retention.cache.targets import Example, TargetSettings, collect_example, counted_tokens, future_attention
from retention.cache.texts import encode_texts, read_texts
from retention.cache.training import (
    TrainingSettings,
    layer_scores,
    pairwise_accuracy,
    score_loss,
    text_scores,
    train_scores,
)
from retention.core.scorer import ScorerConfig
from retention.errors import ConfigError, DataError, TrainingError

TARGETS = TargetSettings(sinks=2, window=4, min_queries=4)
SETTINGS = TrainingSettings(lr=1e-2)


def learnable_examples(count: int = 6, length: int = 60) -> list[Example]:
    """Build examples whose targets are a direction of the hidden states, another one in each layer."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 32, generator=generator)
    examples = []
    for _ in range(count):
        states = torch.randn(3, length, 32, generator=generator)
        targets = torch.einsum("ltd,ld->lt", states, directions)
        examples.append(Example(states.half(), targets, counted_tokens(length, TARGETS)))
    return examples


def test_future_attention_equals_a_plain_sum() -> None:
    attention = torch.rand(1, 3, 12, 12).tril()
    attention = attention / attention.sum(-1, keepdim=True)
    result = future_attention(attention, window=4)
    for key in range(12):
        terms = [float(attention[0, :, query, key].mean()) * (query + 1) for query in range(key + 4, 12)]
        if terms:
            assert float(result[0, key]) == pytest.approx(torch.tensor(sum(terms) / len(terms)).log().item(), rel=1e-4)
        else:
            assert float(result[0, key]) == torch.finfo(torch.float32).min


def test_uniform_attention_gives_zero() -> None:
    attention = torch.ones(1, 2, 10, 10).tril() / torch.arange(1, 11)[:, None]
    torch.testing.assert_close(future_attention(attention, 1)[0, :9], torch.zeros(9))


def test_collected_states_give_the_scores_of_the_cache() -> None:
    model, batch = tiny_decoder("llama", "eager"), texts("none", lengths=(40,))
    policy = random_scorers(model)
    example = collect_example(model, batch.input_ids, TARGETS)
    recorded: list[Any] = []

    class Listening(LearnedScores):
        def score(self, arrivals: Any) -> Any:
            recorded.append(super().score(arrivals))
            return recorded[-1]

    listening = Listening(32, 3, policy.config)
    listening.load_state_dict(policy.state_dict())
    run_cache(model, listening, CacheBudget(size=40, sinks=2, window=4), batch, [40])
    torch.testing.assert_close(layer_scores(policy, example.hidden_states), torch.cat(recorded), rtol=0, atol=2e-2)
    assert example.targets.shape == (3, 40)
    assert example.counted.nonzero().flatten().tolist() == list(range(2, 33))
    assert not any(module._forward_hooks for module in model.modules())


def test_scores_are_float32_under_autocast() -> None:
    policy, states = random_scorers(tiny_decoder("llama")), torch.randn(1, 40, 32)
    expected = text_scores(policy, 0, states)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(text_scores(policy, 0, states), expected)
        assert not torch.equal(policy.scorers[0](states).float(), expected)  # what plain autocast makes of them


def test_collecting_needs_eager_attention_and_enough_tokens() -> None:
    ids = texts("none", lengths=(40,)).input_ids
    with pytest.raises(ConfigError, match="attn_implementation"):
        collect_example(tiny_decoder("llama", "sdpa"), ids, TARGETS)
    with pytest.raises(ConfigError, match="at least 11 tokens"):
        collect_example(tiny_decoder("llama", "eager"), ids[:, :10], TARGETS)


@pytest.mark.parametrize("loss", ["regression", "ranking"])
@pytest.mark.parametrize("kind", ["gated", "mlp", "linear"])
def test_training_learns_the_order(kind: str, loss: str) -> None:
    torch.manual_seed(0)
    *training, validation = learnable_examples()
    policy = LearnedScores(32, 3, ScorerConfig(scorer_kind=kind, keep_bias=0.0))
    before = pairwise_accuracy(policy, [validation])
    settings = TrainingSettings(lr=1e-2, epochs=20, loss=loss)
    losses = train_scores(policy, training, settings)
    assert losses[-1] < 0.7 * losses[0]
    assert pairwise_accuracy(policy, [validation]) > 0.8 > before
    assert not policy.training


def test_noise_cannot_be_learned() -> None:
    """Negative control: targets without any relation to the states leave new texts at chance."""
    torch.manual_seed(0)
    noise = [Example(each.hidden_states, torch.randn(3, 60), each.counted) for each in learnable_examples()]
    policy = LearnedScores(32, 3)
    train_scores(policy, noise[:-1], SETTINGS)
    assert pairwise_accuracy(policy, noise[-1:]) == pytest.approx(0.5, abs=0.08)


def test_losses_ignore_shift_and_scale_of_targets() -> None:
    scores, targets = torch.randn(3, 50), torch.randn(3, 50)
    for loss in ("regression", "ranking"):
        first = score_loss(scores, targets, loss, torch.Generator().manual_seed(0))
        second = score_loss(scores, 3 * targets - 5, loss, torch.Generator().manual_seed(0))
        torch.testing.assert_close(first, second)
        assert score_loss(targets, targets, loss) < score_loss(-targets, targets, loss)


def test_a_loss_that_is_no_number_is_reported() -> None:
    examples = learnable_examples(1)
    examples[0].hidden_states[0, 0, 0] = torch.nan
    with pytest.raises(TrainingError, match="lower lr"):
        train_scores(LearnedScores(32, 3), examples, SETTINGS)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("loss", {"loss": "mse"}),
        ("epochs", {"epochs": 0}),
        ("lr", {"lr": 0.0}),
        ("weight_decay", {"weight_decay": -1.0}),
        ("sinks", {"sinks": -1}),
        ("window", {"window": 0}),
        ("min_queries", {"min_queries": 0}),
    ],
)
def test_settings_refuse_values_out_of_range(key: str, values: dict[str, Any]) -> None:
    settings = TargetSettings if key in ("sinks", "window", "min_queries") else TrainingSettings
    with pytest.raises(ConfigError, match=f"{key}: must be"):
        settings(**values)


def test_training_needs_examples() -> None:
    with pytest.raises(ConfigError, match="at least one text"):
        train_scores(LearnedScores(32, 3), [], SETTINGS)


def test_loss_of_the_full_model_equals_that_of_the_library_and_of_a_large_cache() -> None:
    model, batch = tiny_decoder("llama"), texts("none", lengths=(40,))
    with torch.no_grad():
        expected = float(model(batch.input_ids, labels=batch.input_ids).loss)
    full = text_loss(model, batch.input_ids, 0)
    assert full.mean == pytest.approx(expected, abs=1e-5) and full.tokens == 39
    large = CacheBudget(size=40, sinks=2, window=4)
    assert text_loss(model, batch.input_ids, 0, KeyNorm(), large, chunk=7).mean == pytest.approx(expected, abs=1e-5)
    small = CacheBudget(size=8, sinks=2, window=4)
    after = text_loss(model, batch.input_ids, 20, KeyNorm(), small)
    assert after.tokens == 20
    assert after.mean != pytest.approx(text_loss(model, batch.input_ids, 20).mean, abs=1e-3)
    assert mean_loss([full, after]) == pytest.approx((39 * full.mean + 20 * after.mean) / 59)


def test_losses_by_quarter_are_means_over_consecutive_tokens() -> None:
    model = tiny_decoder("llama")
    rows = [texts("none", lengths=(length,)).input_ids for length in (40, 60)]
    measured = measure_losses(model, rows, None, CacheBudget(size=20, sinks=2, window=4))
    quarters = [loss.by_quarter for loss in text_losses(model, rows, 20)]
    for row, values in zip(rows, quarters, strict=True):
        with torch.no_grad():
            logits = model(row).logits[0, 19:-1]
        losses = torch.nn.functional.cross_entropy(logits, row[0, 20:], reduction="none")
        assert values == pytest.approx([float(part.mean()) for part in losses.chunk(4)])
        assert values != pytest.approx([float(part.mean()) for part in losses.flip(0).chunk(4)])
    means = [(first + second) / 2 for first, second in zip(*quarters, strict=True)]
    assert measured.fields["loss_by_quarter"] == pytest.approx(means)
    short = text_losses(model, [rows[0]], 38)[0]  # two counted tokens
    assert [value is None for value in short.by_quarter] == [False, False, True, True]


def test_a_full_cache_changes_no_token_before_it_is_full() -> None:
    """The first counted token is the first one predicted by a full cache that has evicted nothing."""
    model, batch = tiny_decoder("llama"), texts("none", lengths=(40,))
    budget = CacheBudget(size=8, sinks=2, window=4)
    logits, _ = run_cache(model, StreamingLLM(), budget, Texts(batch.input_ids, batch.attention_mask), [40])
    with torch.no_grad():
        plain = model(batch.input_ids).logits
    difference = (logits - plain).abs().amax(2)[0]
    assert float(difference[:8].max()) < 5e-6 < 1e-3 < float(difference[8])


def save_decoder(folder: Path) -> None:
    """Write a tiny decoder with a tokenizer of letters."""
    letters = ["<pad>", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(letters)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)  # type: ignore[no-untyped-call]
    tiny_decoder("llama").save_pretrained(folder)


def test_commands_train_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_decoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join("thequickbrownfoxjumpsoverthelazydog" * 2 for _ in range(4)))
    inputs = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt")]
    sizes = ["--limit", "3", "--validation", "1", "--length", "64", "--epochs", "2"]
    scores = tmp_path / "scores.safetensors"
    assert train.main([*inputs, *sizes, "--precision", "bfloat16", "--output", str(scores)]) == 0
    assert LearnedScores.load(scores).origin["precision"] == "bfloat16"
    assert "pairs in the right order on 1 other texts" in capsys.readouterr().out
    record = tmp_path / "records.jsonl"
    options = ["--sizes", "16", "--scores", str(scores), "--limit", "2", "--record", str(record)]
    assert evaluate.main([*inputs, *options]) == 0
    output = capsys.readouterr().out
    from retention.records import read_objects

    rows = [row for _, row in read_objects(record)]
    names = ["random", "full", "streaming_llm", "key_norm", "h2o", "tova", "snapkv", "expected_attention"]
    assert [row["policy"] for row in rows] == [*names, "learned:scores"]
    assert rows[-1]["scores"]["texts"] == "texts.txt" and rows[-1]["scores"]["tokens"] == 3 * 64
    for row in rows:
        assert row["kind"] == "decoding" and row["counted_tokens"] == [54, 54]
        assert (row["scores"] is not None) == row["policy"].startswith("learned")
        assert f"| 16 | {row['policy']} | {row['loss']:.4f} |" in output
        assert (row["difference"] is None) == (row["policy"] == "random")
        if row["difference"] is not None:
            gains = [ours - base for ours, base in zip(row["loss_by_text"], rows[0]["loss_by_text"], strict=True)]
            assert row["difference"]["mean"] == pytest.approx(sum(gains) / len(gains))


def test_commands_report_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_decoder(tmp_path / "model")
    inputs = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "missing.txt")]
    assert train.main([*inputs, "--output", str(tmp_path / "x.safetensors")]) == 1
    assert evaluate.main(inputs) == 1
    assert "missing.txt" in capsys.readouterr().err


def test_texts_are_read_from_lines_and_json(tmp_path: Path) -> None:
    lines, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_text("one\n\ntwo\n")
    rows.write_text('{"body": "one"}\n{"body": "two"}\n{"title": "x"}\n')
    assert list(read_texts(lines)) == ["one", "two"]
    with pytest.raises(DataError, match=r"a\.jsonl:3"):
        list(read_texts(rows, "body"))
    rows.write_text('{"body": "one", "body": "two"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: the key 'body' occurs twice"):
        list(read_texts(rows, "body"))
    with pytest.raises(DataError, match=r"must be \.txt"):
        list(read_texts(tmp_path / "a.csv"))


def test_only_line_feeds_end_a_line_and_encodings_are_named(tmp_path: Path) -> None:
    lines, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_bytes("\ufeffone\ftwo\u2028three\r\nfour\n".encode())
    assert list(read_texts(lines)) == ["one\ftwo\u2028three", "four"]
    rows.write_text('\ufeff{"text": "one\u2028two"}\n', encoding="utf-8")
    assert list(read_texts(rows)) == ["one\u2028two"]
    lines.write_bytes("one\ncafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt, line 2: not UTF-8 .* iconv"):
        list(read_texts(lines))


def test_repeated_texts_are_left_out_on_request(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "model")
    path = tmp_path / "a.txt"
    path.write_text("abcdef\nxyzxyz\nabcdef\nabcdeg\nghijkl\n")
    for distinct, count in ((True, 3), (False, 5)):
        options: dict[str, Any] = {"limit": 9, "shortest": 4, "longest": 5, "distinct": distinct}
        assert len(encode_texts(path, tokenizer, **options)) == count, "texts that differ after the cut are equal"


def test_short_texts_are_left_out(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "model")
    path = tmp_path / "a.txt"
    path.write_text("abc\nabcdef\nxyzxyz\nabcdefgh\n")
    ids = encode_texts(path, tokenizer, limit=2, skip=1, shortest=4, longest=7)
    assert [tokens.shape[1] for tokens in ids] == [6, 7]
    with pytest.raises(DataError, match="only 0 texts have 9 tokens"):
        encode_texts(path, tokenizer, limit=2, shortest=9, longest=20)


def test_targets_per_head_are_the_attention_of_the_queries_that_read_it() -> None:
    model, batch = tiny_decoder("llama", "eager"), texts("none", lengths=(40,))
    example = collect_example(model, batch.input_ids, TARGETS, per_head=True)
    assert example.targets.shape == (3, 2, 40)
    with torch.no_grad():
        attention = model(batch.input_ids, output_attentions=True, use_cache=False).attentions[1]
    for head in range(2):
        expected = future_attention(attention[:, 2 * head : 2 * head + 2], TARGETS.window)[0]
        torch.testing.assert_close(example.targets[1, head], expected)
    assert not torch.allclose(example.targets[1, 0], example.targets[1, 1])


@pytest.mark.parametrize("loss", ["regression", "ranking"])
def test_each_head_learns_its_own_order(loss: str) -> None:
    """The second head has the opposite targets of the first, so scores that heads share cannot learn both."""
    torch.manual_seed(0)
    examples = [
        Example(each.hidden_states, torch.stack([each.targets, -each.targets], dim=1), each.counted)
        for each in learnable_examples()
    ]
    policy = LearnedScores(32, 3, ScorerConfig(keep_bias=0.0), heads=2)
    train_scores(policy, examples[:-1], TrainingSettings(lr=1e-2, epochs=20, loss=loss))
    assert pairwise_accuracy(policy, examples[-1:]) > 0.8
    scores = layer_scores(policy, examples[-1].hidden_states)
    assert scores.shape == (3, 2, 60) and float(torch.corrcoef(scores[0])[0, 1].detach()) < -0.5


def test_targets_for_other_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="same per_head"):
        train_scores(LearnedScores(32, 3, heads=2), learnable_examples(1), SETTINGS)


def test_commands_train_and_compare_per_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retention.records import read_objects

    save_decoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join("thequickbrownfoxjumpsoverthelazydog" * 2 for _ in range(3)))
    inputs = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt")]
    options = ["--limit", "2", "--validation", "1", "--length", "64", "--epochs", "1", "--per-head"]
    scores, distilled, record = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "records.jsonl"))
    assert train.main([*inputs, *options, "--output", str(scores)]) == 0
    distillation = ["--loss", "distillation", "--size", "16", "--window", "4", "--init", str(scores)]
    assert train.main([*inputs, *options, *distillation, "--output", str(distilled)]) == 0
    assert LearnedScores.load(distilled).heads == 2
    policies = ["--policies", "random", "key_norm", "tova", "--scores", str(distilled), "--sizes", "16", "--limit", "1"]
    assert evaluate.main([*inputs, *policies, "--per-head", "--record", str(record)]) == 0
    rows = [row for _, row in read_objects(record)]
    assert [row["policy"] for row in rows] == ["random", "key_norm", "tova", "learned:b"]
    assert all(row["per_head"] for row in rows) and rows[-1]["scores"]["heads"] == 2
    capsys.readouterr()
    assert evaluate.main([*inputs, *policies]) == 1
    assert "CacheBudget(per_head=True)" in capsys.readouterr().err
    assert train.main([*inputs, *options[:-1], "--init", str(scores), "--output", str(tmp_path / "c.safetensors")]) == 1
    assert "--per-head: must be as the scorers of --init" in capsys.readouterr().err
