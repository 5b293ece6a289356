"""Folders from other people are data: what is damaged or dangerous is refused with the file and the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from retention import Embedder
from retention.errors import CheckpointError

POLICY = "retention.policies.adaptive.Adaptive"


def changed(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "retention/config.json") -> None:
    """Change a JSON file of the folder."""
    path = folder / name
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(content if result is None else result))


def policy(**settings: Any) -> dict[str, Any]:
    """Return the description of an adaptive policy."""
    return {"class": POLICY, "settings": {"rho": 0.4, **settings}}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "function": ({"policy": {"class": "os.system", "settings": {"command": "touch hacked"}}}, "not a class"),
    "module of ours": ({"policy": {"class": "retention.cli.main", "settings": {}}}, "not a class"),
    "other class of ours": ({"policy": {"class": "retention.core.duals.ExactDual", "settings": {}}}, "not a"),
    "base class": (
        {"policy": {"class": "retention.policies.bases.retention_policy.RetentionPolicy", "settings": {"rho": 0.5}}},
        "not a policy",
    ),
    "dual": ({"policy": policy(dual={"class": "builtins.eval", "settings": {}})}, "dual.class"),
    "dual of another kind": ({"policy": policy(dual=policy())}, "is not a Dual"),
    "object instead of a number": ({"policy": policy(rho={"class": "builtins.eval", "settings": {}})}, "rho"),
    "unknown setting": ({"policy": policy(trust=True)}, "unknown key 'trust'"),
    "rho out of range": ({"policy": policy(rho=1.5)}, "rho"),
    "text instead of a number": ({"policy": policy(rho="0.4")}, "rho"),
    "huge scorer": ({"policy": policy(scorer_dim=10**9)}, "scorer_dim"),
    "huge number": ({"policy": policy(rho=10**400)}, "rho"),
    "many layers": ({"policy": policy(layers=list(range(2000)))}, "layers"),
    "nested layers": ({"policy": policy(layers=[[0]])}, "layers"),
    "missing layer": ({"policy": policy(layers=[7])}, "layers"),
    "text layers": ({"policy": policy(layers="01")}, "policy"),
    "policy without settings": ({"policy": {"class": POLICY}}, "must hold 'class' and 'settings'"),
    "policy as text": ({"policy": POLICY}, "must hold 'class' and 'settings'"),
    "further key": ({"auto_map": {"AutoModel": "x.Y"}}, "unknown keys"),
    "future version": ({"format_version": 2}, "format_version"),
    "boolean version": ({"format_version": True}, "format_version"),
    "dropped": ({"dropped": "explode"}, "dropped"),
    "prune_at": ({"prune_at": ["after_layer"]}, "prune_at"),
    "protected": ({"protected_ids": ["[CLS]"]}, "protected_ids"),
    "negative id": ({"protected_ids": [-1]}, "protected_ids"),
    "budgets": ({"budgets": [0.5, 0.2]}, "budgets"),
    "budget of nothing": ({"budgets": [0, 1]}, "budgets"),
    "pooling": ({"pooling": "max"}, "pooling"),
    "default keep ratio out of range": ({"rho": 1.5}, "rho"),
    "default keep ratio as text": ({"rho": "0.4"}, "rho"),
    "boolean default keep ratio": ({"rho": True}, "rho"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_bad_settings_are_refused(case: str, saved: Path) -> None:
    change, fragment = CASES[case]
    changed(saved, lambda content: content.update(change))
    with pytest.raises(CheckpointError, match=fragment) as caught:
        Embedder.from_pretrained(saved)
    assert "retention/config.json" in str(caught.value)


def test_unchanged_folder_loads(saved: Path) -> None:
    changed(saved, lambda content: content.update(policy=policy()))
    assert Embedder.from_pretrained(saved).policy.rho == 0.4


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format_version": 1}', "x" * 2_000_000])
def test_damaged_settings_are_refused(text: str, saved: Path) -> None:
    (saved / "retention/config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"retention/config\.json"):
        Embedder.from_pretrained(saved)


def test_damaged_and_foreign_weights_are_refused(saved: Path) -> None:
    path = saved / "retention/policy.safetensors"
    weights = load_file(path)
    name, value = next((key, each) for key, each in weights.items() if each.is_floating_point() and each.dim() == 2)
    for broken, fragment in [
        ({**weights, name: torch.full_like(value, torch.nan)}, "not finite"),
        ({**weights, name: torch.zeros(1)}, "not of this policy"),
        ({key: each for key, each in weights.items() if key != name}, "missing"),
        ({**weights, "further": torch.zeros(1)}, "unexpected"),
    ]:
        save_file(broken, path)
        with pytest.raises(CheckpointError, match=fragment):
            Embedder.from_pretrained(saved)
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="safetensors"):
        Embedder.from_pretrained(saved)
    path.unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        Embedder.from_pretrained(saved)


def test_damaged_weights_of_the_encoder_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"cannot be loaded .*; copy the folder again"):
        Embedder.from_pretrained(saved)


def test_encoder_configuration_runs_no_code(saved: Path) -> None:
    marker = saved / "hacked"
    (saved / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Model: pass\nclass Config: pass\n")
    mapping = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    changed(saved, lambda content: content.update(auto_map=mapping, model_type="evil"), "config.json")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Embedder.from_pretrained(saved)
    assert not marker.exists()


def test_attention_from_the_hub_is_refused(saved: Path) -> None:
    changed(saved, lambda content: content.update(attn_implementation="me/kernels"), "config.json")
    with pytest.raises(CheckpointError, match="attn_implementation"):
        Embedder.from_pretrained(saved)


def test_missing_encoder_weights_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = load_file(path)
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        Embedder.from_pretrained(saved)


def test_parts_that_an_embedder_lacks_are_refused(saved: Path) -> None:
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    changed(saved, lambda content: [*content[:2], dense], "modules.json")
    with pytest.raises(CheckpointError, match="Dense"):
        Embedder.from_pretrained(saved)


@pytest.mark.parametrize("path", ["../secret", "/etc", None])
def test_paths_out_of_the_folder_are_refused(path: Any, saved: Path) -> None:
    changed(saved, lambda content: content[1].update(path=path), "modules.json")
    with pytest.raises(CheckpointError, match="leaves the folder"):
        Embedder.from_pretrained(saved)


@pytest.mark.parametrize(
    ("name", "change", "fragment"),
    [
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "max"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "cls, mean"),
        ("1_Pooling/config.json", {"include_prompt": False}, "over all tokens"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length"),
    ],
)
def test_bad_sentence_settings_are_refused(name: str, change: dict[str, Any], fragment: str, saved: Path) -> None:
    changed(saved, lambda content: content.update(change), name)
    with pytest.raises(CheckpointError, match=fragment):
        Embedder.from_pretrained(saved)
