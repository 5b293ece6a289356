"""Tests of the generating head: what the decoder reads, losses over real tokens, and summaries that end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LEDConfig, LEDForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from retention.core.duals import ExactDual
from retention.engine.adapters import adapter_for
from retention.errors import ConfigError
from retention.models.encoded import Encoded
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive, Dense, Random
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.tasks.summarization.abstractive_head import AbstractiveSummarizationHead

Make = Callable[..., RetentionModel]
PAD, END = 1, 2


def random_led() -> LEDForConditionalGeneration:
    """Return a random LED with attention far from uniform, without dropout."""
    torch.manual_seed(5)
    sizes = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "attention_window": 8, "vocab_size": 50}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    positions = {"max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32}
    return LEDForConditionalGeneration(LEDConfig(**sizes, **heads, **positions, dropout=0.0, init_std=0.2)).eval()


@pytest.fixture
def make(make_model: Any) -> Make:
    """``make(policy, ...)``: a model that generates summaries, around a random LED."""

    def build(policy: RetentionPolicy | None = None, dropped: str = "cut", **settings: Any) -> RetentionModel:
        defaults: dict[str, Any] = {
            "decode_fn": lambda rows: [" ".join(f"w{token}" for token in row if token > 2) for row in rows],
            "max_summary_length": 7,
        }
        model: RetentionModel = make_model(
            policy, AbstractiveSummarizationHead, loaded=random_led(), dropped=dropped, **{**defaults, **settings}
        )
        return model

    return build


@pytest.fixture
def batch(make_batch: Any) -> dict[str, Any]:
    """Articles of 14 and 9 tokens, abstracts of 5 and 3."""
    made: dict[str, Any] = make_batch(14, 9)
    made["input_ids"] = torch.where(made["attention_mask"].bool(), made["input_ids"], PAD)
    made["labels"] = torch.tensor([[0, 11, 12, 13, END], [0, 21, END, -100, -100]])
    made["abstract"] = ["w11 w12 w13", "w21"]
    return made


def test_encoder_is_registered_once_and_checkpoint_holds_both(make: Make) -> None:
    model = make(Dense())
    names = set(model.state_dict())
    assert not any(name.startswith("head.decoder.led.encoder.") for name in names)
    assert any(name.startswith("encoder.layers.0.") for name in names)
    assert any(name.startswith("head.decoder.led.decoder.layers.0.encoder_attn.") for name in names)
    counted = [name for name, _ in model.named_parameters()]
    assert "encoder.embed_tokens.weight" in counted and "head.decoder.lm_head.weight" not in counted, "tied"
    assert model.encoder.embed_tokens.weight is model.head.decoder.lm_head.weight  # type: ignore[union-attr]


def test_dense_logits_equal_those_of_transformers(make: Make, batch: dict[str, Any]) -> None:
    model, original = make(Dense()).eval(), random_led()
    inputs = adapter_for("led").inputs(batch)
    with torch.no_grad():
        expected = original(**inputs, labels=batch["labels"])
        logits = model(batch)
    torch.testing.assert_close(logits, expected.logits, atol=5e-6, rtol=0)
    torch.testing.assert_close(model.head.task_loss(logits, batch), expected.loss, atol=5e-6, rtol=0)


def transformers_logits(model: RetentionModel, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the logits of the unmodified decoder over states [B, N, D] with a mask [B, N] of zeros and ones."""
    decoder: Any = model.head.decoder
    decoder_input_ids = decoder.prepare_decoder_input_ids_from_labels(labels=labels)
    outputs = BaseModelOutput(last_hidden_state=states)
    logits: Tensor = decoder(encoder_outputs=outputs, attention_mask=mask, decoder_input_ids=decoder_input_ids).logits
    return logits


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_decoder_reads_states_that_are_passed_on(dropped: str, make: Make, batch: dict[str, Any]) -> None:
    model = make(Random(rho=0.4, slope=0.0), dropped=dropped).eval()
    with torch.no_grad():
        encoded = model.encode(batch)
        logits = model.head.logits(encoded, batch)
        mask = (encoded.weights > 0).long()
        expected = transformers_logits(model, encoded.hidden_states, mask, batch["labels"])
    kept = [5, 3] if dropped == "cut" else [14, 9]
    assert mask.sum(1).tolist() == kept and encoded.hidden_states.shape[1] == max(kept)
    torch.testing.assert_close(logits, expected, atol=5e-6, rtol=0)


def test_closed_gate_equals_removed_token(make: Make, batch: dict[str, Any]) -> None:
    """With gates of 0 and 1 the decoder gives during soft gating what it gives after hard pruning."""
    model = make(Dense()).eval()
    with torch.no_grad():
        encoded = model.encode(batch)
        is_open = torch.rand(encoded.weights.shape, generator=torch.Generator().manual_seed(3)) < 0.6
        gates = is_open.float() * encoded.weights
        masked = model.head.logits(Encoded(encoded.hidden_states, gates, encoded.positions), batch)
        for row in range(2):
            kept = gates[row] > 0
            fields = (encoded.hidden_states, encoded.weights, encoded.positions)
            removed = Encoded(*(field[row : row + 1, kept] for field in fields))
            logits = model.head.logits(removed, {"labels": batch["labels"][row : row + 1]})
            torch.testing.assert_close(logits[0], masked[row], atol=5e-6, rtol=0)
        full = model.head.logits(encoded, batch)
    assert (full - masked).abs().max() > 1e-3


@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_gates_get_gradients_from_decoder(phase: str, make: Make, batch: dict[str, Any]) -> None:
    model = make(Adaptive(dual=ExactDual(), rho=0.5, slope=0.0, layers=[2])).train()
    model.policy.phase = phase
    loss = model.head.task_loss(model(batch), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [value.grad for value in model.policy.scorers.parameters()]  # type: ignore[union-attr]
    # only the cross-attention comes after the last layer of the encoder
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_losses_ignore_padding(make: Make, batch: dict[str, Any]) -> None:
    head = make(Dense()).head
    logits = torch.randn(2, 5, 50, generator=torch.Generator().manual_seed(1))
    is_real = batch["labels"] >= 0
    losses = F.cross_entropy(logits[is_real], batch["labels"][is_real], reduction="none")
    torch.testing.assert_close(head.task_loss(logits, batch), losses.mean())
    changed = logits.clone()
    changed[1, 3:] += 9.0 * torch.randn(2, 50)
    assert head.distillation_loss(logits, changed, batch, 2.0) == 0.0
    assert head.confidence(logits, batch) == head.confidence(changed, batch)
    changed[0, 0, 0] += 1.0
    assert head.distillation_loss(logits, changed, batch, 2.0) > 0.0


@pytest.mark.parametrize("settings", [{}, {"beams": 3, "length_penalty": 2.0}, {"no_repeat": 0}])
def test_summaries_end_and_do_not_depend_on_batch(settings: dict[str, Any], make: Make, batch: dict[str, Any]) -> None:
    model = make(Random(rho=0.4, slope=0.0), **settings).eval()
    head: Any = model.head
    with torch.no_grad():
        together = head.generate(model.encode(batch))
        inputs = ("input_ids", "attention_mask", "protected_mask")
        alone = head.generate(model.encode({key: batch[key][1:, :9] for key in inputs}))
    assert all(2 <= len(row) <= 8 for row in together), "the start token and at most seven"
    assert head._decode_fn(alone) == head._decode_fn(together[1:])


def test_greedy_generation_follows_logits(make: Make, batch: dict[str, Any]) -> None:
    """The generated tokens are those with the highest teacher-forced logits, step by step."""
    model = make(Random(rho=0.4, slope=0.0), no_repeat=0).eval()
    head: Any = model.head
    with torch.no_grad():
        encoded = model.encode(batch)
        tokens = torch.tensor(head.generate(encoded))
        labels = torch.where(tokens[:, 1:] == PAD, -100, tokens[:, 1:])
        best = head.logits(encoded, {**batch, "labels": labels}).argmax(-1)
    free = labels >= 0
    free[:, 0] = False  # the minimum length forbids the end token there
    assert free.sum() > 4 and torch.equal(best[free], labels[free])


def test_evaluation_rows_and_metrics(make: Make, batch: dict[str, Any]) -> None:
    model = make(Dense())
    head: Any = model.head
    head.generate = lambda encoded: [[END, 0, 11, 12, 13, END], [END, 0, 33, END, PAD, PAD]]
    logits, encoded = F.one_hot(batch["labels"].clamp(min=0), 50) * 50.0, model.encode(batch)
    rows = head.eval_rows(logits, encoded, batch)
    assert rows["summary"] == ["w11 w12 w13", "w33"] and rows["tokens"] == [5, 3]
    metrics = head.compute_metrics(rows)
    assert metrics["rouge1"] == pytest.approx(0.5) and metrics["rouge2"] == pytest.approx(0.5)
    assert list(metrics) == ["rouge1", "rouge2", "rougeLsum", "token_loss"] and metrics["token_loss"] < 1e-6
    assert [row["score"] for row in head.prediction_rows(rows)] == pytest.approx([1.0, 0.0])
    uniform = head.eval_rows(torch.zeros_like(logits), encoded, batch)
    assert head.compute_metrics(uniform)["token_loss"] == pytest.approx(torch.log(torch.tensor(50.0)).item())


def test_summary_longer_than_decoder_raises(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"task\.data\.max_summary_length: the decoder has 32 positions"):
        make(Dense(), max_summary_length=32)
    head: Any = make(Dense(), max_summary_length=31).head
    assert head.generation.max_new_tokens == 31


@pytest.mark.parametrize(("key", "value"), [("beams", 0), ("no_repeat", -1), ("length_penalty", 2.0)])
def test_invalid_setting_raises(key: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        AbstractiveSummarizationHead.check_settings(**{key: value})  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == [key]
