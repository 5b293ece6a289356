"""Build the model and the LightningModule of a run, and the teacher of distillation."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from retention.data.encoded_split import cache_folder
from retention.engine import encoder_of
from retention.errors import require
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.config import loaded_config
from retention.experiment.parts import Parts, build_parts
from retention.experiment.stored import StoredTargets, storable_config
from retention.models.early_exit import EarlyExitModel
from retention.models.retention_model import RetentionModel
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.early_exit import EarlyExit
from retention.tasks.classification.labelled_text import LabelledTextData
from retention.training.distillation import BACKBONE
from retention.training.module import RetentionModule
from retention.training.teacher import Teacher

DENSE = {"_target_": "retention.policies.dense.Dense", "rho": 1.0}


def resolve_tokenizer(parts: Parts) -> Any:
    """Return the backbone's tokenizer, or the task's if the backbone has none.

    Raises:
        ConfigError: neither has one.
    """
    tokenizer = parts.backbone.tokenizer() or parts.data.build_tokenizer()
    message = f"{parts.backbone.name} is trained from scratch and has no tokenizer; this task needs a pretrained one"
    require(tokenizer is not None, "backbone", message)
    return tokenizer


def use_trained_label_order(config: DictConfig, parts: Parts) -> None:
    """Number the classes of the rows as the models do that the run tests, continues, starts from or learns from.

    A run may start from a model with other classes (``init``), whose head then learns new ones.

    Raises:
        DataError: a model has other classes than the rows, or two models number them differently.
    """
    data, distill = parts.data, parts.training.distill
    if not isinstance(data, LabelledTextData):
        return
    fits = config.mode == "fit"
    init, teacher = config.init if fits else None, distill.teacher if fits and distill.active else None
    for path in dict.fromkeys((config.ckpt, teacher, init)):
        names = None if path in (None, BACKBONE) else _stored_label_names(path)
        if names is not None and (path != init or set(names) == set(data.label_names)):
            data.use_label_order(names, path)


def _stored_label_names(path: str) -> list[str] | None:
    """Return the class names that a model was trained with, in label order; None if its task has none."""
    node = read_checkpoint(path)["hyper_parameters"]["config"]
    for key in ("task", "data", "label_names"):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, list) else None


def build_module(config: DictConfig, parts: Parts, vocab_size: int) -> RetentionModule:
    """Build the LightningModule with its starting weights and its teacher."""
    plain = storable_config(config)
    if "label_names" in plain["task"]["data"]:  # those in use, which a file of the data may have given
        plain["task"]["data"]["label_names"] = [str(name) for name in getattr(parts.data, "label_names", ())]

    model = build_model(config, parts, parts.policy, vocab_size)
    module = RetentionModule(model, parts.training, plain)
    if config.init is not None and config.mode == "fit":
        layers = parts.backbone.layer_indices  # a shallower student starts from these layers of a deeper model
        load_weights(model, read_checkpoint(config.init), config.init, policy=False, layers=layers)
    distill = parts.training.distill
    compares = parts.compares_with_teacher and distill.active
    if compares or (distill.active and config.mode == "fit"):
        teacher, origin = _teacher_model(config, parts, vocab_size)
        if config.mode == "fit":
            parts_of_key = [*origin, parts.data.fingerprint("train"), *_numerics(config)]
            key = hashlib.sha256("/".join(parts_of_key).encode()).hexdigest()[:16]
            file = cache_folder() / f"{parts.data.name}-teacher-{key}.pt"
            module.set_teacher(Teacher(teacher, file), parts.backbone.layer_indices)
        if compares:
            module.set_reference(teacher)
    return module


def build_model(config: DictConfig, parts: Parts, policy: RetentionPolicy, vocab_size: int) -> RetentionModel:
    """Build encoder and head around a policy, with the starting weights of the backbone."""
    loaded = parts.backbone.load(parts.loads, vocab_size)
    encoder = encoder_of(loaded)  # before the head takes the rest of the model
    head = parts.head_type(encoder=loaded, **parts.data.head())
    if isinstance(policy, EarlyExit):
        return EarlyExitModel(encoder, policy, head, reference_shape=parts.backbone.full_shape())
    return RetentionModel(
        encoder,
        policy,
        head,
        dropped=str(config.dropped),
        prune_at=str(config.prune_at),
        reference_shape=parts.backbone.full_shape(),
    )


def _teacher_model(config: DictConfig, parts: Parts, vocab_size: int) -> tuple[RetentionModel, list[str]]:
    """Return the dense teacher of distillation, which may have more layers than the student.

    Returns:
        The model, and what its outputs depend on: its weights and the settings of its head.
    """
    path = cast(str, parts.training.distill.teacher)  # Distillation refuses to be active without one
    content = None if path == BACKBONE else read_checkpoint(path)
    dense = _backbone_config(config) if content is None else loaded_config(content, Path(path))
    dense.retention = DENSE
    written_by_user = content is None and config.mode == "fit"
    dense_parts = build_parts(dense, None if written_by_user else StoredTargets())
    dense_parts.data = parts.data  # the student's rows and number of classes
    model = build_model(dense, dense_parts, dense_parts.policy, vocab_size)
    if content is None:
        weights = _weights_digest(model)
    else:
        load_weights(model, content, path, policy=False)
        weights = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    head: Any = OmegaConf.to_container(dense.task.head, resolve=True)
    return model, [weights, str({key: value for key, value in head.items() if key not in dense_parts.loss_settings})]


def _numerics(config: DictConfig) -> tuple[str, str]:
    """Return the precision and the type of device that a run computes with; outputs of others are not the same."""
    accelerator = str(config.trainer.get("accelerator", "auto"))
    if accelerator in ("auto", "gpu"):
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        accelerator = "cpu" if device is None else device.type
    return str(config.trainer.get("precision")), accelerator


def _backbone_config(config: DictConfig) -> DictConfig:
    """Return the configuration of the encoder as it was before training, with all layers."""
    original = config.copy()
    OmegaConf.set_struct(original, False)
    if config.mode == "test":  # the configuration is a checkpoint's, which may not run code
        original.backbone = {**config.trained_backbone, "trust_remote_code": False}
    original.backbone.layers = None
    original.mode, original.freeze, original.callbacks, original.logger = "test", None, {}, None
    original.budgets = {**original.budgets, "sampled": 0, "sandwich": False}
    return original


def _weights_digest(model: nn.Module) -> str:
    """Compute the SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
