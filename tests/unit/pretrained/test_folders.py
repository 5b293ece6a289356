"""Folders of retained models: round trips, atomic writing, the hub."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2Model,
)

import retention
from retention import Adaptive, Embedder, Random, RetentionEncoder, Truncate
from retention.core.duals import AscentDual
from retention.core.hard_concrete import GateConfig
from retention.core.scorer import ScorerConfig
from retention.embedding_eval.main import load_variants
from retention.errors import CheckpointError, ConfigError, DataError
from retention.policies.registry import built_in_policies
from retention.pretrained import folder as folder_module
from retention.pretrained import load_retained
from retention.pretrained.sentence_files import EmbeddingSettings

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", " ".join(f"w{i}" for i in range(25)), "w7 w9"]

Make = Callable[..., Embedder]


def test_round_trip_is_bit_identical(make_embedder: Make, tmp_path: Path) -> None:
    policy = Adaptive(
        rho=0.4,
        dual=AscentDual(eta=0.2),
        gate=GateConfig(beta=0.5),
        scorer=ScorerConfig(scorer_kind="mlp"),
        layers=[0, 2],
        name="ours",
    ).eval()
    settings = EmbeddingSettings(pooling="depth", prompts={"query": "w1 "}, max_seq_length=20)
    model = make_embedder(policy, settings, dropped="cut", prune_at="after_attention")
    model.save_pretrained(tmp_path / "model")
    loaded = Embedder.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.encode(TEXTS), model.encode(TEXTS))
    assert loaded.settings == settings and loaded.retention_settings == model.retention_settings
    assert loaded.policy.name == "ours" and loaded.policy.layers == (0, 2)
    assert isinstance(loaded.policy, Adaptive) and isinstance(loaded.policy.dual, AscentDual)
    assert loaded.policy.dual.eta == 0.2 and loaded.policy.gate_config.beta == 0.5
    assert loaded.policy.state_dict().keys() == policy.state_dict().keys()
    loaded.save_pretrained(tmp_path / "again")
    for name in ("retention/config.json", "retention/policy.safetensors", "model.safetensors", "modules.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_files_have_the_permissions_of_new_files(make_embedder: Make, tmp_path: Path) -> None:
    """safetensors writes files for their owner alone, and a server often runs as another user."""
    (tmp_path / "new").touch()
    make_embedder().save_pretrained(tmp_path / "model")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".safetensors", ".json", ".md"}
    assert {path.stat().st_mode for path in files} == {(tmp_path / "new").stat().st_mode}


def test_libraries_that_read_only_the_tokenizer_truncate_alike(make_embedder: Make, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 has a ``max_length`` of 128 in its tokenizer, where its models truncate at 256."""
    model = make_embedder(settings=EmbeddingSettings(max_seq_length=20))
    model.tokenizer.init_kwargs["max_length"] = 9
    model.save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert stored["max_length"] == 20
    assert model.tokenizer.init_kwargs["max_length"] == 9  # the model in memory is not changed


# early_exit removes no token, so there is nothing to retain
@pytest.mark.parametrize("name", sorted(built_in_policies().keys() - {"early_exit"}))
def test_every_policy_can_be_saved_and_loaded(name: str, make_embedder: Make, tmp_path: Path) -> None:
    torch.manual_seed(3)
    policy = built_in_policies()[name](rho=0.5).eval()
    eager = BertModel._from_config(make_embedder().encoder.config, attn_implementation="eager").eval()
    model = Embedder.build(eager, make_embedder().tokenizer, policy).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = Embedder.from_pretrained(tmp_path / "model", attn_implementation="eager")
    assert type(loaded.policy) is type(policy)
    assert torch.equal(loaded.encode(TEXTS), model.encode(TEXTS))


def test_policies_that_read_attention_maps_load_with_eager_attention(make_embedder: Make, tmp_path: Path) -> None:
    eager = BertModel._from_config(make_embedder().encoder.config, attn_implementation="eager").eval()
    policy = retention.H2O(rho=0.5).eval()
    Embedder.build(eager, make_embedder().tokenizer, policy).save_pretrained(tmp_path / "model")
    assert Embedder.from_pretrained(tmp_path / "model").encoder.config._attn_implementation == "eager"


def test_automodel_loads_the_encoder_without_removal(saved: Path, bert: BertModel) -> None:
    encoder = AutoModel.from_pretrained(saved, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, found = bert(**batch).last_hidden_state, encoder(**batch).last_hidden_state
    assert torch.equal(found, expected)


def test_encoder_round_trip_is_called_like_the_hugging_face_model(bert: BertModel, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = RetentionEncoder(bert, Adaptive(rho=0.4).eval(), protected_ids=[2, 3]).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = RetentionEncoder.from_pretrained(tmp_path / "model")
    batch = {"input_ids": torch.randint(4, 44, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    batch["attention_mask"][1, 8:] = 0
    with torch.no_grad():
        output, again = model(**batch, output_hidden_states=True), loaded(**batch)
    assert torch.equal(output.last_hidden_state, again.last_hidden_state)
    assert output.last_hidden_state.shape == (2, 12, 16) and len(output.hidden_states) == 5
    assert output.attention_mask.tolist() == batch["attention_mask"].tolist()
    assert loaded.retainer.protected_ids == (2, 3)
    cut = RetentionEncoder(copy.deepcopy(bert), copy.deepcopy(model.policy), dropped="cut").eval()
    with torch.no_grad():
        short = cut(**batch, rho=0.3)
    assert short.last_hidden_state.shape[1] < 12 and short.positions.shape == short.attention_mask.shape


def test_default_keep_ratio_can_be_chosen_at_loading(saved: Path) -> None:
    model, other = Embedder.from_pretrained(saved), Embedder.from_pretrained(saved, rho=0.7)
    assert torch.equal(other.encode(TEXTS), model.encode(TEXTS, rho=0.7))
    assert torch.equal(other.encode(TEXTS, rho=0.4), model.encode(TEXTS))
    assert not torch.allclose(other.encode(TEXTS), model.encode(TEXTS), atol=1e-3)
    with pytest.raises(ConfigError, match="rho"):
        Embedder.from_pretrained(saved, rho=0.0)


def test_default_keep_ratio_is_saved(saved: Path, tmp_path: Path) -> None:
    assert "rho" not in json.loads((saved / "retention/config.json").read_text())  # as in folders of earlier versions
    model = Embedder.from_pretrained(saved, rho=0.7)
    model.save_pretrained(tmp_path / "first")
    loaded = Embedder.from_pretrained(tmp_path / "first")
    assert loaded.retention_settings.rho == 0.7 and torch.equal(loaded.encode(TEXTS), model.encode(TEXTS))
    other = Embedder.from_pretrained(tmp_path / "first", rho=0.4)
    assert torch.equal(other.encode(TEXTS), Embedder.from_pretrained(saved).encode(TEXTS))
    other.save_pretrained(tmp_path / "second")
    assert Embedder.from_pretrained(tmp_path / "second").retention_settings.rho is None


def test_keep_ratio_without_scorers_is_refused(make_embedder: Make, tmp_path: Path) -> None:
    make_embedder(Adaptive(rho=0.9).eval()).save_pretrained(tmp_path / "narrow")  # no removal at the first gate
    with pytest.raises(ConfigError, match="no scorer after layer"):
        Embedder.from_pretrained(tmp_path / "narrow", rho=0.3)
    path = tmp_path / "narrow/retention/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rho": 0.3}))
    with pytest.raises(CheckpointError, match=r"retention/config\.json: rho: no scorer after layer"):
        Embedder.from_pretrained(tmp_path / "narrow")
    wide = Adaptive(rho=0.9).eval()
    wide.support_budgets(0.2, 0.9)
    make_embedder(wide).save_pretrained(tmp_path / "wide")
    loaded = Embedder.from_pretrained(tmp_path / "wide", rho=0.3)
    assert loaded.policy.budget_range == (0.2, 0.9) and loaded.encode(TEXTS).isfinite().all()


def test_learned_counts_refuse_another_keep_ratio(make_embedder: Make) -> None:
    eager = BertModel._from_config(make_embedder().encoder.config, attn_implementation="eager").eval()
    model = RetentionEncoder(eager, retention.ToP(rho=0.5).eval()).eval()
    with pytest.raises(ConfigError, match="keeps what it learned"):
        model(torch.tensor([[2, 5, 6, 3]]), rho=0.3)


def test_plain_encoder_is_a_dense_embedder(bert: BertModel, tokenizer: Any, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    model = Embedder.from_pretrained(tmp_path, normalize=True)
    assert torch.equal(torch.get_rng_state(), state)  # the missing pooler was not drawn from the global generator
    assert not model.encoder.gated_layers and model.encoder.encoder.pooler is None
    assert model.settings == EmbeddingSettings(normalize=True)


def test_saving_replaces_a_model_and_nothing_else(make_embedder: Make, saved: Path, tmp_path: Path) -> None:
    (saved / "onnx").mkdir()
    make_embedder(Adaptive(rho=0.6).eval()).save_pretrained(saved)
    assert Embedder.from_pretrained(saved).policy.rho == 0.6 and not (saved / "onnx").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds other files"):
        make_embedder().save_pretrained(other)
    assert (other / "thesis.txt").read_text() == "precious"


def test_failed_saving_leaves_the_earlier_model(make_embedder: Make, saved: Path, monkeypatch: Any) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    monkeypatch.setattr("retention.pretrained.embedder.write_settings", fail)
    with pytest.raises(OSError, match="No space"):
        make_embedder(Adaptive(rho=0.9).eval()).save_pretrained(saved)
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_models_that_automodel_would_not_load_are_refused(bert: BertModel, tmp_path: Path) -> None:
    class Changed(BertModel):
        pass

    model = RetentionEncoder(Changed(bert.config), Adaptive(rho=0.5).eval())
    with pytest.raises(ConfigError, match="cannot be saved"):
        model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="without a head"):
        RetentionEncoder(BertForSequenceClassification(bert.config), Adaptive(rho=0.5).eval())


def test_policy_with_unnamed_settings_cannot_be_saved(bert: BertModel, tmp_path: Path) -> None:
    class ByPosition(Adaptive):
        def __init__(self, rho: float) -> None:
            super().__init__(rho=rho)

    with pytest.raises(ConfigError, match="by name"):
        RetentionEncoder(bert, ByPosition(0.5).eval()).save_pretrained(tmp_path / "model")


def test_classes_from_outside_are_built_only_if_passed(bert: BertModel, tmp_path: Path) -> None:
    RetentionEncoder(bert, Outside(rho=0.5).eval()).save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="not a class of this package"):
        RetentionEncoder.from_pretrained(tmp_path / "model")
    loaded = RetentionEncoder.from_pretrained(tmp_path / "model", classes=[Outside])
    assert isinstance(loaded.policy, Outside)


class Outside(retention.Truncate):
    """A policy from outside the package."""


def test_copies_and_pickles_work(make_embedder: Make) -> None:
    model = make_embedder()
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(clone.encode(TEXTS, rho=0.3), model.encode(TEXTS, rho=0.3))


def test_t5_is_saved_as_an_encoder(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=44, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2)
    model = Embedder.build(T5EncoderModel(config).eval(), tokenizer, Adaptive(rho=0.5).eval()).eval()
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(Embedder.from_pretrained(tmp_path / "model").encode(TEXTS), model.encode(TEXTS))


def test_push_to_hub_uploads_the_folder(make_embedder: Make, monkeypatch: Any) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class FakeApi:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            calls.append(("create", {"repo_id": repo_id, **options}))
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, folder_path: Path, **options: Any) -> Any:
            files = sorted(str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file())
            calls.append(("upload", {"files": files, **options}))
            return SimpleNamespace(commit_url="https://huggingface.co/me/model/commit/1")

    monkeypatch.setattr(folder_module, "HfApi", FakeApi)
    url = make_embedder().push_to_hub("model", private=True, token="secret")
    assert url.endswith("/commit/1")
    assert calls[0] == ("token", {"token": "secret"})
    assert calls[1] == ("create", {"repo_id": "model", "private": True, "exist_ok": True})
    uploaded = calls[2][1]
    assert uploaded["repo_id"] == "me/model" and uploaded["repo_type"] == "model"
    assert {"config.json", "model.safetensors", "README.md", "modules.json", "retention/config.json"} <= set(
        uploaded["files"]
    )


def test_model_that_cannot_be_saved_creates_no_repository(bert: BertModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(folder_module, "HfApi", lambda token: SimpleNamespace(create_repo=pytest.fail))

    class Changed(BertModel):
        pass

    with pytest.raises(ConfigError):
        RetentionEncoder(Changed(bert.config), Adaptive(rho=0.5).eval()).push_to_hub("me/model")


def test_hub_names_are_downloaded_without_code(saved: Path, monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(saved)

    monkeypatch.setattr(folder_module, "snapshot_download", download)
    assert Embedder.from_pretrained("me/model", revision="v1", token="t").policy.rho == 0.4
    assert asked["name"] == "me/model" and asked["revision"] == "v1" and asked["token"] == "t"
    assert not {"*.py", "*.bin", "*.pt"} & set(asked["allow_patterns"])


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/no-such-folder"])
def test_missing_folders_are_not_asked_from_the_hub(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(folder_module, "snapshot_download", pytest.fail)
    with pytest.raises(CheckpointError, match="is not a folder"):
        Embedder.from_pretrained(name)


def test_unknown_hub_names_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a model"):
        Embedder.from_pretrained("nobody/no-such-model")


def test_model_card_names_policy_and_use(saved: Path) -> None:
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers")
    assert "| policy | adaptive |" in card and "Embedder.from_pretrained" in card and "License" in card
    assert json.loads((saved / "config.json").read_text())["model_type"] == "bert"


def test_folder_of_another_encoder_is_refused(saved: Path, tokenizer: Any) -> None:
    config = BertConfig(vocab_size=44, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32)
    BertModel(config, add_pooling_layer=False).save_pretrained(saved)
    with pytest.raises(CheckpointError, match="not of this policy and encoder"):
        Embedder.from_pretrained(saved)


def test_run_and_model_folders_point_to_each_other(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"is the folder of a run, which retention\.load loads"):
        Embedder.from_pretrained(run)
    with pytest.raises(CheckpointError, match=r"is the folder of a model, .* retention\.Embedder\.from_pretrained"):
        retention.load(saved)


def test_unsupported_family_names_the_folder(tmp_path: Path) -> None:
    GPT2Model(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path}: no adapter for the family 'gpt2'"):
        Embedder.from_pretrained(tmp_path)


def test_keep_ratio_of_a_folder_is_its_default_everywhere(make_embedder: Make, tmp_path: Path) -> None:
    make_embedder(Truncate(rho=0.2).eval()).save_pretrained(tmp_path / "first")
    Embedder.from_pretrained(tmp_path / "first", rho=0.6).save_pretrained(tmp_path / "second")
    [variant] = load_variants([f"m={tmp_path}/second"], None)
    assert variant.rho == 0.6
    assert "| target keep ratio | 0.6 |" in (tmp_path / "second" / "README.md").read_text()
    assert Embedder.from_pretrained(tmp_path / "second").encoder.default_rho == 0.6
    with pytest.raises(CheckpointError, match=r"was saved with a keep ratio of its own, 0\.6"):
        load_retained(tmp_path / "second", AutoModel)
    _, retainer = load_retained(tmp_path / "first", AutoModel)
    assert retainer.gate.rho == 0.2  # type: ignore[attr-defined]


def test_what_could_not_be_loaded_is_not_saved(make_embedder: Make, tmp_path: Path) -> None:
    make_embedder(Random(rho=0.3, seed=20250101).eval()).save_pretrained(tmp_path / "model")
    assert Embedder.from_pretrained(tmp_path / "model").policy.seed == 20250101  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"policy\.name: has 1001 entries or characters, at most 1000 can be saved"):
        make_embedder(Adaptive(rho=0.3, name="n" * 1001).eval()).save_pretrained(tmp_path / "long")
    assert not (tmp_path / "long").exists()
