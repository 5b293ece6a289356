"""Settings of a speed measurement, as given on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retention.errors import Checks
from retention.policies.registry import available_policies

PHASES = ("inference", "train")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("cpu", "cuda")
NO_CUDA = "this machine has no CUDA device; use --device cpu"
VOCABULARY = 30522  # vocabulary size of models with random weights: that of bert-base-uncased

_BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SHAPES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "model_type": "distilbert",
        "fields": {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
    },
    "bert": {"model_type": "bert", "fields": _BERT},
    "minilm": {"model_type": "bert", "fields": _MINILM},
    "longformer": {"model_type": "longformer", "fields": {**_BERT, "attention_window": 512}},
    "modernbert": {
        "model_type": "modernbert",
        "fields": {
            "hidden_size": 768,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "intermediate_size": 1152,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Options of ``retention bench``; its help explains the values.

    Attributes:
        conf: folder with the configuration groups.
        task: name of the task whose test data are used; None = random ids.
        backbone, path, shape: the encoder, see ``plan.backbone_node``.
        batches: batches per round and variant.
        schedule: a name, or one keep ratio per gated layer; None = as in the policy's file.
        prune_points: points in a layer where tokens are removed, see ``Retainer``.
        sets: ``key=value`` for any other setting of the configuration.
        compiled: True = measure a compiled dense model as well.
    """

    conf: Path
    phase: str = "inference"
    task: str | None = None
    data: str | None = None
    synthetic: bool = False
    lengths: tuple[int, ...] = (256,)
    batch_sizes: tuple[int, ...] = (16,)
    batches: int = 4
    backbone: str | None = None
    path: str | None = None
    shape: str | None = None
    policies: tuple[str, ...] = ("adaptive", "random", "truncate")
    rhos: tuple[float, ...] = (0.5, 0.3, 0.1)
    schedule: str | tuple[float, ...] | None = None
    slope: float | None = None
    prune_points: tuple[str, ...] = ("after_layer",)
    sets: tuple[str, ...] = ()
    rounds: int = 10
    warmup: int = 2
    threads: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False
    seed: int = 0

    def check(self, checks: Checks) -> None:
        """Record every value that is out of range and every combination that is not allowed."""
        self._check_numbers(checks)
        self._check_choices(checks)
        self._check_source(checks)
        self._check_encoder(checks)
        self._check_names(checks)

    def _check_numbers(self, checks: Checks) -> None:
        minimum = {"--batches": 1, "--rounds": 1, "--warmup": 1, "--seed": 0}
        values = (self.batches, self.rounds, self.warmup, self.seed)
        for (flag, low), value in zip(minimum.items(), values, strict=True):
            checks.require(value >= low, flag, f"must be an integer of at least {low}, got {value}")
        for length in self.lengths:
            checks.require(length >= 4, "--length", f"must be at least 4 tokens, got {length}")
        for size in self.batch_sizes:
            checks.require(size >= 1, "--batch", f"must be at least 1, got {size}")
        lists = {"--length": self.lengths, "--batch": self.batch_sizes, "--rho": self.rhos, "--policy": self.policies}
        lists["--prune-at"] = self.prune_points
        for flag, listed in lists.items():
            checks.require(len(set(listed)) == len(listed), flag, f"has a value twice: {list(listed)}")
        checks.require(
            self.threads is None or self.threads >= 1, "--threads", f"must be at least 1, got {self.threads}"
        )

    def _check_choices(self, checks: Checks) -> None:
        choices = {"--phase": (self.phase, PHASES), "--dtype": (self.dtype, tuple(DTYPES))}
        for flag, (value, allowed) in {**choices, "--device": (self.device, DEVICES)}.items():
            checks.require(value in allowed, flag, f"must be one of {', '.join(allowed)}, got {value!r}")
        checks.require(is_usable(self.device), "--device", NO_CUDA)
        stable = self.phase != "train" or self.dtype != "float16"
        checks.require(
            stable, "--dtype", "float16 needs a loss scaler, which --phase train does not have; use bfloat16"
        )
        message = "dense is the baseline and always measured; give policies that remove tokens"
        checks.require("dense" not in self.policies, "--policy", message)

    def _check_source(self, checks: Checks) -> None:
        exclusive = not (self.synthetic and self.task is not None)
        checks.require(exclusive, "--synthetic", f"cannot be used with --task {self.task}; choose one of them")
        has_task = self.data is None or self.task is not None
        checks.require(has_task, "--data", f"got {self.data} without a task; add --task with the task of these files")

    def _check_encoder(self, checks: Checks) -> None:
        if self.shape is None:
            return
        allowed = ", ".join(SHAPES)
        checks.require(self.shape in SHAPES, "--shape", f"must be one of {allowed}, got {self.shape!r}")
        exclusive = self.backbone is None and self.path is None
        checks.require(exclusive, "--shape", "means random weights and cannot be used with --backbone or --path")

    def _check_names(self, checks: Checks) -> None:
        """Check names of files in the configuration groups, and the path of a backbone file."""
        names = [("--policy", "retention", name) for name in self.policies]
        names += [] if self.task is None else [("--task", "task", self.task)]
        if self.backbone is not None and self.backbone.endswith(".yaml"):
            message = f"{self.backbone}: no such file; give a yaml file or a name of conf/backbone"
            checks.require(Path(self.backbone).is_file(), "--backbone", message)
        elif self.backbone is not None:
            names.append(("--backbone", "backbone", self.backbone))
        for flag, group, name in names:
            available = {path.stem for path in (self.conf / group).glob("*.yaml")}
            available |= set(available_policies()) if group == "retention" else set()
            message = f"must be one of {', '.join(sorted(available))}, got {name!r}"
            checks.require(name in available, flag, message)


def is_usable(device: str) -> bool:
    """Return True unless a device is ``cuda`` and this machine has none."""
    return device != "cuda" or torch.cuda.is_available()
