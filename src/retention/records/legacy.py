"""Translate configurations and records of earlier versions: renamed keys, config groups, fields and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

# Dotted keys of the configuration that were renamed, old -> new. The new node is written beside the old one's siblings.
RENAMED_KEYS: Mapping[str, str] = {
    "place": "prune_at",
    "task.module": "task.head",
    "task.head.units": "task.head.spans",
    "phases.removal_start": "phases.pruning_start",
    "distill.states": "distill.pooled_states",
    "distill.tokens": "distill.token_states",
    "budgets.in_place": "budgets.in_place_weight",
    "dual.normalised": "dual.normalized",
    "retention.dual.normalised": "retention.dual.normalized",
    "retention.scorer": "retention.scorer_kind",
    "retention.inner": "retention.scorer_dim",
    "retention.both_ways": "retention.bidirectional",
    "retention.explore": "retention.ranking_noise",
    "retention.acts_on": "retention.gate_target",
    "retention.carry": "retention.token_fusion",
    "retention.strict": "retention.exact_topk",
    "retention.calibrate": "retention.calibrate_threshold",
}
# Config groups that were renamed, old -> new.
RENAMED_GROUPS: Mapping[str, str] = {"guidance": "distillation"}
# Fields of result records that were renamed, old -> new.
RENAMED_FIELDS: Mapping[str, str] = {
    "kept_share": "keep_ratio",
    "flops_share": "flops_ratio",
    "place": "prune_at",
}

# Present location of each class that a configuration may name -> locations of earlier versions.
_EARLIER_LOCATIONS: Mapping[str, Sequence[str]] = {
    "retention.core.duals.ExactDual": ("retention.core.dual.ExactDual",),
    "retention.core.duals.AscentDual": ("retention.core.dual.AscentDual",),
    "retention.core.duals.FixedDual": ("retention.core.fixed_dual.FixedDual",),
    "retention.core.duals.JointDual": ("retention.core.joint_dual.JointDual",),
    "retention.tasks.classification.data.TextClassificationData": (
        "retention.data.TextClassificationData",
        "retention.data.text_classification.TextClassificationData",
    ),
    "retention.tasks.classification.cuad_clauses.CuadClauseData": (
        "retention.data.CuadClauseData",
        "retention.data.cuad_clauses.CuadClauseData",
    ),
    "retention.tasks.classification.keywords.KeywordData": (
        "retention.data.KeywordData",
        "retention.data.keywords.KeywordData",
    ),
    "retention.tasks.question_answering.qasper.QasperData": (
        "retention.data.QasperData",
        "retention.data.qasper.QasperData",
    ),
    "retention.tasks.question_answering.cuad_spans.CuadSpanData": (
        "retention.data.CuadSpanData",
        "retention.data.cuad_spans.CuadSpanData",
    ),
    "retention.tasks.summarization.data.SummarizationData": (
        "retention.data.SummarizationData",
        "retention.data.summarization.SummarizationData",
    ),
    "retention.tasks.summarization.abstractive_data.AbstractiveData": (
        "retention.data.AbstractiveData",
        "retention.data.abstractive.AbstractiveData",
    ),
    "retention.tasks.classification.head.ClassificationHead": (
        "retention.modules.ClassificationModule",
        "retention.modules.classification.ClassificationModule",
        "retention.tasks.classification.head.ClassificationModule",
    ),
    "retention.tasks.classification.multilabel_head.MultiLabelHead": (
        "retention.modules.MultiLabelModule",
        "retention.modules.multilabel.MultiLabelModule",
        "retention.tasks.classification.multilabel_head.MultiLabelModule",
    ),
    "retention.tasks.question_answering.head.QuestionAnsweringHead": (
        "retention.modules.QuestionAnsweringModule",
        "retention.modules.question_answering.QuestionAnsweringModule",
        "retention.tasks.question_answering.head.QuestionAnsweringModule",
    ),
    "retention.tasks.summarization.extractive_head.ExtractiveSummarizationHead": (
        "retention.modules.ExtractiveSummarizationModule",
        "retention.modules.summarization.ExtractiveSummarizationModule",
        "retention.tasks.summarization.extractive_head.ExtractiveSummarizationModule",
    ),
    "retention.tasks.summarization.abstractive_head.AbstractiveSummarizationHead": (
        "retention.modules.AbstractiveSummarizationModule",
        "retention.modules.abstractive.AbstractiveSummarizationModule",
        "retention.tasks.summarization.abstractive_head.AbstractiveSummarizationModule",
    ),
    "retention.models.backbone.PretrainedBackbone": (
        "retention.modules.backbone.Pretrained",
        "retention.models.backbone.Pretrained",
    ),
    "retention.models.backbone.ScratchBackbone": (
        "retention.modules.backbone.Scratch",
        "retention.models.backbone.Scratch",
    ),
    "retention.models.saved.SavedBackbone": (
        "retention.modules.backbone.Saved",
        "retention.modules.saved.Saved",
        "retention.models.saved.Saved",
    ),
    "retention.training.optimization.AdamWSettings": ("retention.modules.optimization.AdamWSettings",),
    "retention.training.phases.TrainingPhases": (
        "retention.modules.phases.Phases",
        "retention.training.phases.Phases",
    ),
    "retention.training.distillation.Distillation": ("retention.modules.distillation.Distillation",),
    "retention.training.budget_sampling.BudgetSampling": ("retention.modules.budget_sampling.BudgetSampling",),
}
# Dotted path of a class in an earlier version -> its present path.
RENAMED_TARGETS: Mapping[str, str] = {
    earlier: present for present, locations in _EARLIER_LOCATIONS.items() for earlier in locations
}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a plain configuration in which renamed keys and classes have their present names.

    A configuration that already uses the present names is returned unchanged, so the function can be applied twice.

    Args:
        config: nested plain mapping, for example the configuration stored in a checkpoint or a record.
    """
    upgraded: dict[str, Any] = _with_present_classes(deepcopy(dict(config)))
    for old, new in RENAMED_KEYS.items():
        *parents, last = old.split(".")
        node: Any = upgraded
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            node.setdefault(new.rpartition(".")[2], node.pop(last))
    return upgraded


def upgrade_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a result record with the present names of its fields and of its configuration's keys."""
    upgraded = {RENAMED_FIELDS.get(field, field): value for field, value in record.items()}
    if isinstance(upgraded.get("config"), Mapping):
        upgraded["config"] = upgrade_config(upgraded["config"])
    return upgraded


def renamed_key(key: str) -> str | None:
    """Return the present name of a key or config group that was renamed, None if it was not.

    Examples:
        >>> renamed_key("task.module.units"), renamed_key("guidance"), renamed_key("retention.rho")
        ('task.head.spans', 'distillation', None)
    """
    present = RENAMED_GROUPS.get(key, key)
    for old, new in RENAMED_KEYS.items():
        if present == old or present.startswith(f"{old}."):
            present = new + present.removeprefix(old)
    return None if present == key else present


def _with_present_classes(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_present_classes(value) for value in node]
    if not isinstance(node, dict):
        return node
    upgraded = {key: _with_present_classes(value) for key, value in node.items()}
    target = upgraded.get("_target_")
    if isinstance(target, str):
        upgraded["_target_"] = RENAMED_TARGETS.get(target, target)
    return upgraded
