"""What is to be measured, as typed on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retention.errors import Checks

PHASES = ("inference", "train")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("cpu", "cuda")
VOCABULARY = 30522  # of random weights, whatever their shape: that of bert-base-uncased

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
class Settings:
    """The command line of scripts/bench.py; see its help for what the values mean.

    Attributes:
        conf: folder with the configuration groups.
        task: None = synthetic ids.
        backbone, path, shape: the encoder, see ``plan.backbone_node``.
        batches: batches per round and variant.
        schedule: a name, or one share per gated layer; None = as in the policy's file.
        prune_points: where tokens leave a layer, see ``Retainer``.
        sets: ``key=value`` for any other setting of the configuration.
        compiled: whether the compiled dense model takes part.
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
        """Record everything that is out of range or does not go together."""
        self._check_numbers(checks)
        self._check_choices(checks)
        self._check_source(checks)
        self._check_encoder(checks)
        self._check_names(checks)

    def _check_numbers(self, checks: Checks) -> None:
        least = {"--batches": 1, "--rounds": 1, "--warmup": 1, "--seed": 0}
        for (flag, low), value in zip(least.items(), (self.batches, self.rounds, self.warmup, self.seed), strict=True):
            checks.require(value >= low, flag, f"must be a whole number of at least {low}, got {value}")
        for length in self.lengths:
            checks.require(length >= 4, "--length", f"must be at least 4 tokens, got {length}")
        for size in self.batch_sizes:
            checks.require(size >= 1, "--batch", f"must be at least 1, got {size}")
        lists = {"--length": self.lengths, "--batch": self.batch_sizes, "--rho": self.rhos, "--policy": self.policies}
        lists["--prune-at"] = self.prune_points
        for flag, values in lists.items():
            checks.require(len(set(values)) == len(values), flag, f"names something twice: {list(values)}")
        enough = self.threads is None or self.threads >= 1
        checks.require(enough, "--threads", f"must be at least 1, got {self.threads}")

    def _check_choices(self, checks: Checks) -> None:
        choices = {"--phase": (self.phase, PHASES), "--dtype": (self.dtype, tuple(DTYPES))}
        for flag, (value, known) in {**choices, "--device": (self.device, DEVICES)}.items():
            checks.require(value in known, flag, f"must be one of {', '.join(known)}, got {value!r}")
        there = self.device != "cuda" or torch.cuda.is_available()
        checks.require(there, "--device", "this machine has no CUDA device; use --device cpu")
        stable = self.phase != "train" or self.dtype != "float16"
        checks.require(stable, "--dtype", "--phase train has no loss scaler, which float16 needs; use bfloat16")
        message = "is the baseline and always measured; name policies that remove tokens"
        checks.require("dense" not in self.policies, "--policy", message)

    def _check_source(self, checks: Checks) -> None:
        one = not (self.synthetic and self.task is not None)
        checks.require(one, "--synthetic", f"goes without --task, got --task {self.task}; choose one of them")
        named = self.data is None or self.task is not None
        checks.require(named, "--data", f"{self.data}: say which task its files are of; add --task")

    def _check_encoder(self, checks: Checks) -> None:
        if self.shape is None:
            return
        known = ", ".join(SHAPES)
        checks.require(self.shape in SHAPES, "--shape", f"must be one of {known}, got {self.shape!r}")
        alone = self.backbone is None and self.path is None
        checks.require(alone, "--shape", "means random weights; it goes without --backbone and --path")

    def _check_names(self, checks: Checks) -> None:
        """Names of files in the configuration groups, and a backbone file of the user's own."""
        asked = [("--policy", "retention", name) for name in self.policies]
        asked += [] if self.task is None else [("--task", "task", self.task)]
        if self.backbone is not None and self.backbone.endswith(".yaml"):
            message = f"{self.backbone}: no such file; give one, or a name of conf/backbone"
            checks.require(Path(self.backbone).is_file(), "--backbone", message)
        elif self.backbone is not None:
            asked.append(("--backbone", "backbone", self.backbone))
        for flag, group, name in asked:
            known = sorted(path.stem for path in (self.conf / group).glob("*.yaml"))
            checks.require(name in known, flag, f"must be one of {', '.join(known)}, got {name!r}")
