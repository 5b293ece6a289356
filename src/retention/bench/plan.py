"""From the settings to encoder, policies and data, built and checked before anything is loaded."""

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

from retention.bench.settings import SHAPES, VOCABULARY, Settings
from retention.core.flops import EncoderShape
from retention.data.base import RetentionData
from retention.engine.adapters import Adapter, adapter_for
from retention.engine.observer import check_observed
from retention.errors import Checks, ConfigError, Problem
from retention.experiment.builder import Builder
from retention.models.backbone import Backbone
from retention.policies import RetentionPolicy


@dataclass(frozen=True)
class Candidate:
    """One policy at one asked share, sized for the encoder.

    Attributes:
        name: of its file in conf/retention.
        policy: freshly initialised.
        prune_at: where tokens leave a layer.
        node: its resolved configuration.
    """

    name: str
    policy: RetentionPolicy
    prune_at: str
    node: dict[str, Any]

    @property
    def title(self) -> str:
        """Unique among contenders."""
        early = "" if self.prune_at == "after_layer" else f" {self.prune_at}"
        return f"{self.name} {self.policy.rho:g}{early}"


@dataclass(frozen=True)
class Plan:
    """Everything a measurement is made of.

    Attributes:
        settings: what was typed.
        backbone: the encoder, not loaded yet.
        backbone_node: its resolved configuration.
        shape: its dimensions.
        attention: attention implementations it can be measured with, the one that policies use first.
        engine_attention: whether the engine computes the attention of this family itself.
        contenders: policies x shares.
    """

    settings: Settings
    backbone: Backbone
    backbone_node: dict[str, Any]
    shape: EncoderShape
    attention: tuple[str, ...]
    engine_attention: bool
    candidates: tuple[Candidate, ...]

    def data(self, length: int, batch_size: int) -> RetentionData:
        """The data module of the task, with texts cut at ``length``."""
        builder = Builder(_data_config(self.settings, length, batch_size))
        data: RetentionData = builder.make("task.data")
        builder.finish()
        return data


def make_plan(settings: Settings) -> Plan:
    """Check the settings and build what needs neither weights nor data.

    Raises:
        ConfigError: everything wrong with the settings.
    """
    checks = Checks()
    settings.check(checks)
    checks.finish()
    builder = Builder(_config(settings, {}))
    backbone = builder.make("backbone")
    checks.problems += builder.checks.problems
    candidates = [
        _contender(settings, name, rho, prune_at, checks)
        for name in settings.policies
        for rho in settings.rhos
        for prune_at in settings.prune_points
    ]
    if settings.task is not None:
        checks.gather(lambda: _check_data(settings))
    if backbone is not None:
        checks.gather(lambda: _check_fit(settings, backbone, candidates))
    checks.problems = list(dict.fromkeys(checks.problems))  # the same mistake shows once per policy
    checks.finish()
    return Plan(
        settings=settings,
        backbone=backbone,
        backbone_node=_plain(builder.config, "backbone"),
        shape=backbone.shape(),
        attention=_attention(backbone),
        engine_attention=_adapter(backbone).computes_attention,
        candidates=tuple(candidate for candidate in candidates if candidate is not None),
    )


def backbone_node(settings: Settings) -> Mapping[str, Any] | None:
    """Configuration of the encoder where it does not come from conf/backbone; None = it does.

    ``--backbone`` names a file of conf/backbone or is one of your own; ``--path`` alone is a checkpoint folder;
    otherwise random weights of ``--shape``.
    """
    if settings.backbone is not None:
        own = settings.backbone.endswith(".yaml")
        return OmegaConf.to_container(OmegaConf.load(settings.backbone)) if own else None  # type: ignore[return-value]
    target = "retention.models.backbone"
    if settings.path is not None:
        return {"_target_": f"{target}.Pretrained", "name": Path(settings.path).resolve().name, "path": settings.path}
    shape = settings.shape or "minilm"
    preset = SHAPES[shape]
    spare = 2 if shape == "longformer" else 0  # its first token has the row after padding's
    fields = {**preset["fields"], "max_position_embeddings": max(512, *settings.lengths) + spare}
    return {"_target_": f"{target}.Scratch", "name": f"{shape}-random", **preset, "fields": fields}


def _config(settings: Settings, changes: Mapping[str, Any], policy: str = "adaptive") -> DictConfig:
    """The project's configuration with this encoder, task and policy; ``--set`` goes on top of everything."""
    groups = [f"retention={policy}"]
    groups += [f"task={settings.task}"] if settings.task is not None else []
    node = backbone_node(settings)
    groups += [f"backbone={settings.backbone}"] if node is None else []
    config = copy.deepcopy(_composed(settings.conf.resolve(), tuple(groups)))
    if node is not None:
        config.backbone = node
    for part in (config.backbone, config.retention):
        OmegaConf.set_struct(part, False)  # the constructors say which keys they know
    typed = {"backbone.path": settings.path, "data.dir": settings.data, **changes}
    try:
        for key, value in typed.items():
            if value is not None:
                OmegaConf.update(config, key, value)
        return OmegaConf.merge(config, OmegaConf.from_dotlist(list(settings.sets)))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key, message = str(error.full_key or "--set"), str(error).splitlines()[0]
        raise ConfigError([Problem(key, f"{message}; see the files in conf (retention={policy})")]) from error


@cache
def _composed(conf: Path, groups: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", overrides=list(groups))


def _contender(settings: Settings, name: str, rho: float, prune_at: str, checks: Checks) -> Candidate | None:
    schedule = list(settings.schedule) if isinstance(settings.schedule, tuple) else settings.schedule
    changes = {"retention.rho": rho, "retention.slope": settings.slope, "retention.schedule": schedule}
    try:
        builder = Builder(_config(settings, changes, name))
    except ConfigError as error:
        checks.problems += error.problems
        return None
    policy = builder.make("retention")
    checks.problems += builder.checks.problems
    return None if policy is None else Candidate(name, policy, prune_at, _plain(builder.config, "retention"))


def _data_config(settings: Settings, length: int, batch_size: int) -> DictConfig:
    return _config(settings, {"task.data.max_length": length, "task.data.eval_batch_size": batch_size})


def _check_data(settings: Settings) -> None:
    for length in settings.lengths:
        builder = Builder(_data_config(settings, length, settings.batch_sizes[0]))
        builder.make("task.data")
        builder.finish()


def _check_fit(settings: Settings, backbone: Backbone, candidates: list[Candidate | None]) -> None:
    """Sizes the policies, too; weights are not needed for it."""
    checks = Checks()
    shape = backbone.shape()
    for prune_at in settings.prune_points:
        checks.gather(partial(backbone.check_prune_at, prune_at))
    for candidate in candidates:
        if candidate is not None:
            policy = candidate.policy
            checks.gather(lambda policy=policy: policy.build(shape, backbone.name), "retention")  # type: ignore[misc]
            checks.gather(lambda policy=policy: _check_shown(policy, backbone), "backbone")  # type: ignore[misc]
    config = backbone.config(VOCABULARY)
    table = _adapter(backbone).position_table(config)
    prune_points = getattr(config, "max_position_embeddings", None) if table is None else table.num_positions(config)
    for length in settings.lengths:
        fits = prune_points is None or length <= prune_points
        checks.require(fits, "--length", f"{backbone.name} has {prune_points} positions, got {length}")
    checks.finish()


def _adapter(backbone: Backbone) -> Adapter:
    return adapter_for(backbone.config(VOCABULARY).model_type)


def _check_shown(policy: RetentionPolicy, backbone: Backbone) -> None:
    """Every implementation can be measured, so only the family can be at fault."""
    family = str(backbone.config(VOCABULARY).model_type)
    check_observed(policy.observes, adapter_for(family).observable, None, family)


def _attention(backbone: Backbone) -> tuple[str, ...]:
    known = _adapter(backbone).attention
    first = backbone.attn_implementation or known[0]
    return first, *(name for name in known if name != first)


def _plain(config: DictConfig, key: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.select(config, key), resolve=True)  # type: ignore[return-value]
