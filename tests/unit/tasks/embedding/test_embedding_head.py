"""Tests of the embedding head: embeddings, losses, settings, and the saliency that its projections estimate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.errors import ConfigError
from retention.models.pooling import pool
from retention.models.retention_model import RetentionModel
from retention.policies import Dense, Truncate
from retention.tasks.embedding.head import EmbeddingHead
from retention.tasks.embedding.losses import cosine_loss, neighbor_loss, relational_loss
from retention.training.saliency import layer_saliency
from retention.training.teacher import Teacher

MakeModel = Callable[..., RetentionModel]


def write_sentence_files(folder: Path, pooling: str) -> None:
    """Write what sentence-transformers writes beside an encoder: pooling, normalization, prompts, length."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    mode = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}[pooling]
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, mode: True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))


@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_pooled_states(normalize: bool, make_model: MakeModel, make_batch: Any) -> None:
    policy = Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])
    model = make_model(policy, EmbeddingHead, pooling="survivors", normalize=normalize, dropped="forward").eval()
    batch = make_batch(10, 5)
    encoded = model.encode(batch)
    expected = pool(encoded, "survivors")
    lengths = expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(model.head.logits(encoded, batch), expected / lengths if normalize else expected)
    assert (lengths - 1.0).abs().min() > 0.1


def test_special_tokens_compete_if_nothing_is_protected(make_model: MakeModel, make_batch: Any) -> None:
    batch = make_batch(10, 5)
    heads = {protect: make_model(Dense(), EmbeddingHead, protect=protect).head for protect in ("special", "nothing")}
    assert torch.equal(heads["special"].protected(batch), batch["protected_mask"])
    assert not heads["nothing"].protected(batch).any() and batch["protected_mask"].any()


def test_distillation_loss_is_weighted_sum(make_model: MakeModel, make_batch: Any) -> None:
    settings = {"cosine": 0.5, "relational": 2.0, "neighbors": 0.25, "temperature": 0.2}
    head = make_model(Dense(), EmbeddingHead, **settings).head
    student, teacher = (torch.randn(4, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    parts = [cosine_loss(student, teacher), relational_loss(student, teacher), neighbor_loss(student, teacher, 0.2)]
    expected = 0.5 * parts[0] + 2.0 * parts[1] + 0.25 * parts[2]
    torch.testing.assert_close(head.distillation_loss(student, teacher, {}, 7.0), expected)
    assert all(float(part) > 0.01 for part in parts)
    assert float(head.distillation_loss(teacher, teacher, {}, 7.0)) == pytest.approx(0.0, abs=1e-6)


def test_task_loss_is_zero_without_gradient(make_model: MakeModel) -> None:
    head, embeddings = make_model(Dense(), EmbeddingHead).head, torch.ones(2, 16, requires_grad=True)
    loss = head.task_loss(embeddings, {})
    loss.backward()
    assert loss.item() == 0.0 and not embeddings.grad.any()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"pooling": "cls", "protect": "nothing"}, "protect"),
        ({"cosine": 0.0}, "cosine"),
        ({"relational": -1.0}, "relational"),
        ({"temperature": 0.0}, "temperature"),
        ({"projections": 0}, "projections"),
        ({"normalize": "yes"}, "normalize"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], key: str) -> None:
    EmbeddingHead.check_settings()
    with pytest.raises(ConfigError) as caught:
        EmbeddingHead.check_settings(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def jacobian_norms(model: RetentionModel, batch: dict[str, Tensor], layer: int) -> Tensor:
    """Return the Frobenius norm of the normalized embedding's Jacobian in each token state after a layer, [B, T]."""
    captured: dict[str, Tensor] = {}

    def capture(module: Any, args: Any, output: Any) -> Tensor:
        states = output[0] if isinstance(output, tuple) else output
        captured["states"] = states.detach().requires_grad_()
        return captured["states"]

    handle = model.encoder.encoder.layer[layer].register_forward_hook(capture)
    with torch.enable_grad():
        embeddings = torch.nn.functional.normalize(model.outputs(batch).logits, dim=-1)
    handle.remove()
    squares = torch.zeros(batch["input_ids"].shape)
    for dimension in range(embeddings.shape[1]):
        [gradient] = torch.autograd.grad(embeddings[:, dimension].sum(), captured["states"], retain_graph=True)
        squares += gradient.square().sum(-1)
    return squares.sqrt()


@pytest.mark.parametrize("normalize", [True, False])
def test_projections_estimate_jacobian_norms(normalize: bool, make_model: MakeModel, make_batch: Any) -> None:
    batch = make_batch(7, 4, 6)
    model = make_model(Dense(), EmbeddingHead, normalize=normalize, projections=64).requires_grad_(False).eval()
    exact = jacobian_norms(model, batch, 1)
    estimates = []
    for first in range(0, 1600, 100):  # other rows have other signs; 16 x 64 of them
        moved = {**batch, "index": batch["index"] + first}

        def scalars(moved: dict[str, Tensor] = moved) -> Tensor:
            return model.head.confidence(model.outputs(moved).logits, moved)

        estimates.append(layer_saliency(model.encoder, (1,), scalars)[1].square())
    estimate = torch.stack(estimates).mean(0).sqrt()
    real = batch["attention_mask"].bool()
    errors = (estimate[real] / exact[real] - 1.0).abs()
    assert float(errors.max()) < 0.1
    single = (estimates[0].sqrt()[real] / exact[real] - 1.0).abs()
    assert float(single.mean()) > float(errors.mean()), "more projections are more exact"
    assert (exact[~real] == 0).all() and (estimate[~real] == 0).all()
    shuffled = (estimate[real].roll(1) / exact[real] - 1.0).abs()
    assert float(shuffled.max()) > 0.1, "the norms differ from token to token"


def test_signs_of_a_text_do_not_depend_on_its_batch(make_model: MakeModel, make_batch: Any) -> None:
    batch = make_batch(7, 4, 6, first_index=5)
    teacher = Teacher(make_model(Dense(), EmbeddingHead, projections=3))
    together = teacher.outputs(batch, saliency_layers=(1,)).saliency[1]
    alone = teacher.outputs({name: value[2:] for name, value in batch.items()}, saliency_layers=(1,)).saliency[1]
    torch.testing.assert_close(alone[0], together[2])
    other = teacher.outputs({**batch, "index": batch["index"] + 1}, saliency_layers=(1,)).saliency[1]
    assert not torch.allclose(other, together)


def test_sentence_transformers_files_are_kept(tiny_bert: Any, tmp_path: Path) -> None:
    write_sentence_files(tmp_path, "mean")
    encoder = tiny_bert()
    encoder.config._name_or_path = str(tmp_path)
    head = EmbeddingHead(encoder=encoder, pooling="depth")
    settings = head.settings(max_length=30)
    assert (settings.pooling, settings.normalize, settings.max_seq_length) == ("depth", True, 30)
    assert settings.prompts == {"query": "query: "} and head.settings(max_length=8).max_seq_length == 20
    assert not EmbeddingHead(encoder=encoder, normalize=False).settings(8).normalize
    copy = tmp_path / "copy"
    copy.mkdir()
    head.write_files(copy)
    encoder.config._name_or_path = str(copy)
    assert EmbeddingHead(encoder=encoder, pooling="depth").settings(30) == settings


def test_pooling_must_be_that_of_the_model(tiny_bert: Any, tmp_path: Path) -> None:
    write_sentence_files(tmp_path, "cls")
    encoder = tiny_bert()
    encoder.config._name_or_path = str(tmp_path)
    assert EmbeddingHead(encoder=encoder, pooling="cls").normalize
    with pytest.raises(ConfigError, match=r"task\.head\.pooling: the model is read by cls, got depth"):
        EmbeddingHead(encoder=encoder, pooling="depth")


def test_plain_encoder_is_not_normalized(tiny_bert: Any) -> None:
    head = EmbeddingHead(encoder=tiny_bert())
    assert not head.normalize and head.settings(30).max_seq_length is None
