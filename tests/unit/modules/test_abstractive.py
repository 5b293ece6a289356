"""The writing head: what the decoder reads, losses over real tokens, and summaries that end."""

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
from retention.policies import Adaptive, Dense, Random
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.tasks.summarization.abstractive_head import AbstractiveSummarizationModule
from retention.training.distillation import Distillation
from retention.training.optimization import AdamWSettings
from retention.training.phases import Phases
from retention.training.settings import TrainingSettings

MakeModule = Callable[..., AbstractiveSummarizationModule]
PAD, END = 1, 2


def led() -> LEDForConditionalGeneration:
    """A random LED far from uniform attention, without dropout."""
    torch.manual_seed(5)
    sizes = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "attention_window": 8, "vocab_size": 50}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    places = {"max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32}
    return LEDForConditionalGeneration(LEDConfig(**sizes, **heads, **places, dropout=0.0, init_std=0.2)).eval()


@pytest.fixture
def make() -> MakeModule:
    def build(
        policy: RetentionPolicy | None = None, dropped: str = "cut", **head: Any
    ) -> AbstractiveSummarizationModule:
        model = led()
        chosen = Adaptive(dual=ExactDual(), rho=0.5, slope=0.5) if policy is None else policy
        torch.manual_seed(6)
        chosen.build(adapter_for("led").shape(model.config))
        return AbstractiveSummarizationModule(
            encoder=model,
            policy=chosen,
            training=TrainingSettings(AdamWSettings(lr=1e-3), Phases(), Distillation()),
            dropped=dropped,
            config={},
            spell=lambda rows: [" ".join(f"w{token}" for token in row if token > 2) for row in rows],
            **{"max_summary_length": 7, **head},
        )

    return build


@pytest.fixture
def batch(batch_of: Any) -> dict[str, Any]:
    """Articles of 14 and 9 tokens, abstracts of 5 and 3."""
    made: dict[str, Any] = batch_of(14, 9)
    made["input_ids"] = torch.where(made["attention_mask"].bool(), made["input_ids"], PAD)
    made["labels"] = torch.tensor([[0, 11, 12, 13, END], [0, 21, END, -100, -100]])
    made["abstract"] = ["w11 w12 w13", "w21"]
    return made


def test_the_encoder_is_in_one_place_and_the_checkpoint_holds_both(make: MakeModule) -> None:
    module = make(Dense())
    names = set(module.state_dict())
    assert not any(name.startswith("decoder.led.encoder.") for name in names)
    assert any(name.startswith("encoder.layers.0.") for name in names)
    assert any(name.startswith("decoder.led.decoder.layers.0.encoder_attn.") for name in names)
    counted = [name for name, _ in module.named_parameters()]
    assert "encoder.embed_tokens.weight" in counted and "decoder.lm_head.weight" not in counted, "tied, counted once"
    assert module.encoder.embed_tokens.weight is module.decoder.lm_head.weight  # type: ignore[union-attr]


def test_dense_logits_are_the_library_s(make: MakeModule, batch: dict[str, Any]) -> None:
    module, whole = make(Dense()).eval(), led()
    inputs = adapter_for("led").inputs(batch)
    with torch.no_grad():
        expected = whole(**inputs, labels=batch["labels"])
        logits = module(batch)
    torch.testing.assert_close(logits, expected.logits, atol=5e-6, rtol=0)
    torch.testing.assert_close(module.task_loss(logits, batch), expected.loss, atol=5e-6, rtol=0)


def library_logits(module: AbstractiveSummarizationModule, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """The library's decoder over states [B, N, D] with a mask [B, N] of its own kind."""
    begun = module.decoder.prepare_decoder_input_ids_from_labels(labels=labels)
    outputs = BaseModelOutput(last_hidden_state=states)
    logits: Tensor = module.decoder(encoder_outputs=outputs, attention_mask=mask, decoder_input_ids=begun).logits
    return logits


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_the_decoder_reads_what_is_handed_over(dropped: str, make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Random(rho=0.4, slope=0.0), dropped=dropped).eval()
    with torch.no_grad():
        encoded = module.encode(batch)
        logits = module.logits(encoded, batch)
        mask = (encoded.weights > 0).long()
        expected = library_logits(module, encoded.hidden_states, mask, batch["labels"])
    kept = [5, 3] if dropped == "cut" else [14, 9]
    assert mask.sum(1).tolist() == kept and encoded.hidden_states.shape[1] == max(kept)
    torch.testing.assert_close(logits, expected, atol=5e-6, rtol=0)


def test_a_closed_gate_is_a_token_that_is_not_there(make: MakeModule, batch: dict[str, Any]) -> None:
    """With gates of 0 and 1 the decoder of the soft phase gives what it gives after real removal."""
    module = make(Dense()).eval()
    with torch.no_grad():
        encoded = module.encode(batch)
        open_gates = torch.rand(encoded.weights.shape, generator=torch.Generator().manual_seed(3)) < 0.6
        gates = open_gates.float() * encoded.weights
        masked = module.logits(type(encoded)(encoded.hidden_states, gates, encoded.positions), batch)
        for row in range(2):
            left = gates[row] > 0
            alone = [field[row : row + 1, left] for field in (encoded.hidden_states, encoded.weights)]
            single = {"labels": batch["labels"][row : row + 1]}
            removed = module.logits(type(encoded)(*alone, encoded.positions[row : row + 1, left]), single)
            torch.testing.assert_close(removed[0], masked[row], atol=5e-6, rtol=0)
        whole = module.logits(encoded, batch)
    assert (whole - masked).abs().max() > 1e-3


@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_gates_learn_from_the_decoder(phase: str, make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Adaptive(dual=ExactDual(), rho=0.5, slope=0.0, layers=[2])).train()
    module.policy.phase = phase
    loss = module.task_loss(module(batch), batch)
    loss.backward()
    gradients = [value.grad for value in module.policy.scorers.parameters()]  # type: ignore[union-attr]
    # nothing but the cross-attention comes after the last layer of the encoder
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_losses_count_real_tokens_alone(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Dense())
    logits = torch.randn(2, 5, 50, generator=torch.Generator().manual_seed(1))
    real = batch["labels"] >= 0
    each = F.cross_entropy(logits[real], batch["labels"][real], reduction="none")
    torch.testing.assert_close(module.task_loss(logits, batch), each.mean())
    changed = logits.clone()
    changed[1, 3:] += 9.0 * torch.randn(2, 50)
    assert module.distillation_loss(logits, changed, batch) == 0.0
    assert module.confidence(logits, batch) == module.confidence(changed, batch)
    changed[0, 0, 0] += 1.0
    assert module.distillation_loss(logits, changed, batch) > 0.0


@pytest.mark.parametrize("settings", [{}, {"beams": 3, "length_penalty": 2.0}, {"no_repeat": 0}])
def test_summaries_end_and_do_not_depend_on_the_batch(
    settings: dict[str, Any], make: MakeModule, batch: dict[str, Any]
) -> None:
    module = make(Random(rho=0.4, slope=0.0), **settings).eval()
    with torch.no_grad():
        together = module.write(module.encode(batch))
        read = ("input_ids", "attention_mask", "protected_mask")
        alone = module.write(module.encode({key: batch[key][1:, :9] for key in read}))
    assert all(2 <= len(row) <= 8 for row in together), "the start token and at most seven"
    assert module._spell(alone) == module._spell(together[1:])


def test_greedy_writing_follows_the_logits(make: MakeModule, batch: dict[str, Any]) -> None:
    """What is written is what the teacher-forced logits of the same tokens say, step by step."""
    module = make(Random(rho=0.4, slope=0.0), no_repeat=0).eval()
    with torch.no_grad():
        encoded = module.encode(batch)
        written = torch.tensor(module.write(encoded))
        labels = torch.where(written[:, 1:] == PAD, -100, written[:, 1:])
        best = module.logits(encoded, {**batch, "labels": labels}).argmax(-1)
    free = labels >= 0
    free[:, 0] = False  # the rule of a least length forbids the end there
    assert free.sum() > 4 and torch.equal(best[free], labels[free])


def test_scores(make: MakeModule, batch: dict[str, Any]) -> None:
    module = make(Dense())
    module.write = lambda encoded: [[END, 0, 11, 12, 13, END], [END, 0, 33, END, PAD, PAD]]  # type: ignore[method-assign]
    logits = F.one_hot(batch["labels"].clamp(min=0), 50) * 50.0
    module.encode(batch)
    rows = module.collect(logits, batch)
    assert rows["summary"] == ["w11 w12 w13", "w33"] and rows["tokens"] == [5, 3]
    scores = module.score(rows)
    assert scores["rouge1"] == pytest.approx(0.5) and scores["rouge2"] == pytest.approx(0.5)
    assert list(scores) == ["rouge1", "rouge2", "rougeLsum", "token_loss"] and scores["token_loss"] < 1e-6
    uniform = module.encode(batch) and module.collect(torch.zeros_like(logits), batch)
    assert module.score(uniform)["token_loss"] == pytest.approx(torch.log(torch.tensor(50.0)).item())


def test_a_summary_must_fit_the_decoder(make: MakeModule) -> None:
    with pytest.raises(ConfigError, match=r"task\.data\.max_summary_length: the decoder has room for 32 tokens"):
        make(Dense(), max_summary_length=32)
    assert make(Dense(), max_summary_length=31).generation.max_new_tokens == 31


def test_bad_settings() -> None:
    with pytest.raises(ConfigError) as raised:
        AbstractiveSummarizationModule.check_settings(beams=0, no_repeat=-1, length_penalty=2.0)
    assert [problem.key for problem in raised.value.problems] == ["beams", "no_repeat", "length_penalty"]
