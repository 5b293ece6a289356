"""Build and check encoder, policies and data of a measurement before any weights are loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retention.bench.settings import SHAPES, VOCABULARY, BenchSettings
from retention.core.flops import EncoderShape
from retention.data.base import RetentionData
from retention.engine.adapters import Adapter, adapter_for
from retention.engine.observer import check_observed
from retention.errors import Checks, ConfigError, Problem, first_line
from retention.experiment.builder import Builder
from retention.experiment.hydra_setup import register_policies
from retention.experiment.listed_ratios import set_rho_of_list
from retention.models.backbone import Backbone
from retention.policies import RetentionPolicy


@dataclass(frozen=True)
class Candidate:
    """Policy at one target keep ratio, built for the encoder.

    Attributes:
        name: name of its file in conf/retention.
        policy: newly initialized.
        prune_at: ``after_layer`` or ``after_attention``, see ``Retainer``.
        node: its resolved configuration.
    """

    name: str
    policy: RetentionPolicy
    prune_at: str
    node: dict[str, Any]

    @property
    def title(self) -> str:
        """Name that is unique among the candidates."""
        suffix = "" if self.prune_at == "after_layer" else f" {self.prune_at}"
        return f"{self.name} {self.policy.rho:g}{suffix}"


@dataclass(frozen=True)
class BenchPlan:
    """Checked parts of a measurement.

    Attributes:
        settings: options of the command line.
        backbone: the encoder, not loaded yet.
        backbone_node: its resolved configuration.
        shape: its dimensions.
        attention: attention implementations to measure, the one that policies use first.
        engine_attention: True = the engine computes the attention of this family itself.
        candidates: one per policy, keep ratio and prune point.
    """

    settings: BenchSettings
    backbone: Backbone
    backbone_node: dict[str, Any]
    shape: EncoderShape
    attention: tuple[str, ...]
    engine_attention: bool
    candidates: tuple[Candidate, ...]

    def data(self, length: int, batch_size: int) -> RetentionData:
        """Build the data module of the task, with sequences truncated to ``length``."""
        builder = Builder(_data_config(self.settings, length, batch_size))
        data: RetentionData = builder.make("task.data")
        builder.finish()
        return data


def build_plan(settings: BenchSettings) -> BenchPlan:
    """Check the settings and build everything that needs neither weights nor data.

    Raises:
        ConfigError: with all problems of the settings.
    """
    checks = Checks()
    settings.check(checks)
    checks.finish()
    builder = Builder(_config(settings, {}))
    backbone = builder.make("backbone")
    checks.problems += builder.checks.problems
    candidates = [
        _build_candidate(settings, name, rho, prune_at, checks)
        for name in settings.policies
        for rho in settings.rhos
        for prune_at in settings.prune_points
    ]
    if settings.task is not None:
        checks.gather(lambda: _check_data(settings))
    if backbone is not None:
        checks.gather(lambda: _check_encoder(settings, backbone, candidates))
    checks.problems = list(dict.fromkeys(checks.problems))  # the same problem is reported once per policy
    checks.finish()
    return BenchPlan(
        settings=settings,
        backbone=backbone,
        backbone_node=_plain(builder.config, "backbone"),
        shape=backbone.shape(),
        attention=_attention(backbone),
        engine_attention=_adapter(backbone).computes_attention,
        candidates=tuple(candidate for candidate in candidates if candidate is not None),
    )


def backbone_node(settings: BenchSettings) -> Mapping[str, Any] | None:
    """Return the encoder's configuration, or None if it is a file of conf/backbone.

    ``--backbone`` is a name of conf/backbone or the path of a yaml file; ``--path`` alone is a checkpoint folder;
    without both the encoder has random weights and the dimensions of ``--shape``.
    """
    if settings.backbone is not None:
        if not settings.backbone.endswith(".yaml"):
            return None
        return OmegaConf.to_container(OmegaConf.load(settings.backbone))  # type: ignore[return-value]
    target = "retention.models.backbone"
    if settings.path is not None:
        name = Path(settings.path).resolve().name
        return {"_target_": f"{target}.PretrainedBackbone", "name": name, "path": settings.path}
    shape = settings.shape or "minilm"
    preset = SHAPES[shape]
    reserved = 2 if shape == "longformer" else 0  # positions of the first tokens start after the padding index
    fields = {**preset["fields"], "max_position_embeddings": max(512, *settings.lengths) + reserved}
    return {"_target_": f"{target}.ScratchBackbone", "name": f"{shape}-random", **preset, "fields": fields}


def _config(settings: BenchSettings, changes: Mapping[str, Any], policy: str = "adaptive") -> DictConfig:
    """Compose the configuration of this encoder, task and policy; ``--set`` overrides everything else."""
    groups = [f"retention={policy}"]
    groups += [f"task={settings.task}"] if settings.task is not None else []
    node = backbone_node(settings)
    groups += [f"backbone={settings.backbone}"] if node is None else []
    config = copy.deepcopy(_composed(settings.conf.resolve(), tuple(groups)))
    if node is not None:
        config.backbone = node
    for part in (config.backbone, config.retention):
        OmegaConf.set_struct(part, False)  # the builder checks the keys against the constructors
    overrides = {"backbone.path": settings.path, "data.dir": settings.data, **changes}
    try:
        for key, value in overrides.items():
            if value is not None:
                OmegaConf.update(config, key, value)
        return OmegaConf.merge(config, OmegaConf.from_dotlist(list(settings.sets)))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key, message = str(error.full_key or "--set"), first_line(error)
        raise ConfigError(
            [Problem(key, f"{message}; the files in conf list the settings (retention={policy})")]
        ) from error


@cache
def _composed(conf: Path, groups: tuple[str, ...]) -> DictConfig:
    register_policies()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", overrides=list(groups))


def _build_candidate(settings: BenchSettings, name: str, rho: float, prune_at: str, checks: Checks) -> Candidate | None:
    schedule = list(settings.schedule) if isinstance(settings.schedule, tuple) else settings.schedule
    changes = {"retention.rho": rho, "retention.slope": settings.slope, "retention.schedule": schedule}
    try:
        config = _config(settings, changes, name)
        set_rho_of_list(config, given=True)
        builder = Builder(config)
    except ConfigError as error:
        checks.problems += error.problems
        return None
    policy = builder.make("retention")
    checks.problems += builder.checks.problems
    return None if policy is None else Candidate(name, policy, prune_at, _plain(builder.config, "retention"))


def _data_config(settings: BenchSettings, length: int, batch_size: int) -> DictConfig:
    return _config(settings, {"task.data.max_length": length, "task.data.eval_batch_size": batch_size})


def _check_data(settings: BenchSettings) -> None:
    for length in settings.lengths:
        builder = Builder(_data_config(settings, length, settings.batch_sizes[0]))
        builder.make("task.data")
        builder.finish()


def _check_encoder(settings: BenchSettings, backbone: Backbone, candidates: list[Candidate | None]) -> None:
    """Check that lengths, prune points and policies fit the encoder; builds the policies for it, without weights."""
    checks = Checks()
    shape = backbone.shape()
    for prune_at in settings.prune_points:
        checks.gather(partial(backbone.check_prune_at, prune_at))
    for candidate in candidates:
        if candidate is not None:
            policy = candidate.policy
            checks.gather(lambda policy=policy: policy.build(shape, backbone.name), "retention")  # type: ignore[misc]
            checks.gather(lambda policy=policy: _check_observations(policy, backbone), "backbone")  # type: ignore[misc]
    config = backbone.config(VOCABULARY)
    table = _adapter(backbone).position_table(config)
    positions = getattr(config, "max_position_embeddings", None) if table is None else table.num_positions(config)
    for length in settings.lengths:
        fits = positions is None or length <= positions
        checks.require(fits, "--length", f"must be at most {positions}, the positions of {backbone.name}; got {length}")
    checks.finish()


def _adapter(backbone: Backbone) -> Adapter:
    return adapter_for(backbone.config(VOCABULARY).model_type)


def _check_observations(policy: RetentionPolicy, backbone: Backbone) -> None:
    """Check that the family can show what the policy observes; the attention implementation is chosen to suit."""
    family = str(backbone.config(VOCABULARY).model_type)
    check_observed(policy.observes, adapter_for(family).observable, None, family)


def _attention(backbone: Backbone) -> tuple[str, ...]:
    supported = _adapter(backbone).attention
    first = backbone.attn_implementation or supported[0]
    return first, *(name for name in supported if name != first)


def _plain(config: DictConfig, key: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.select(config, key), resolve=True)  # type: ignore[return-value]
