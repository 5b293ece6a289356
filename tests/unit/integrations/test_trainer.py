"""Training by the Trainer of transformers, and with PEFT."""

from __future__ import annotations

import copy
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from retention import Adaptive, Truncate, retain
from retention.core.duals import AscentDual
from retention.errors import CheckpointError, ConfigError
from retention.pretrained import load_retained, save_retained
from retention.training.phases import TrainingPhases

pytest.importorskip("accelerate")

from transformers import Trainer, TrainerCallback, TrainingArguments

from retention.integrations.trainer import RetentionCallback, _average_gradients

LENGTH = 12


def tiny_config() -> BertConfig:
    """Return the configuration of a tiny encoder of three layers without dropout."""
    return BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


@pytest.fixture
def model() -> BertForSequenceClassification:
    """A tiny classifier."""
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config())


def rows(count: int = 32) -> list[dict[str, Any]]:
    """Return rows whose class is whether token 5 occurs."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        ids = torch.randint(6, 30, (LENGTH,), generator=generator)
        ids[0], ids[-1] = 2, 3
        if index % 2:
            ids[int(torch.randint(1, LENGTH - 1, (), generator=generator))] = 5
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": index % 2})
    return made


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Return quiet arguments of eight steps on the CPU."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 4,
        "seed": 3,
    }
    return TrainingArguments(**(settings | changes))


class Recorder(TrainerCallback):
    """Records phase, budget and multipliers of every step."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.steps: list[tuple[str, float]] = []
        self.multipliers: list[float] = []
        self.first: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = self.first or {name: value.clone() for name, value in self.policy.state_dict().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append((self.policy.phase, round(self.policy.anneal, 3)))
        self.multipliers.append(float(self.policy.dual.multipliers.sum()))


def train(model: Any, policy: Any, folder: Path, resume: bool = False, **changes: Any) -> Recorder:
    """Train with a policy and return what was recorded."""
    args = arguments(folder, **changes)
    with retain(model, policy, protected_ids=[2, 3]) as retainer:
        callback = RetentionCallback(retainer, TrainingPhases(anneal_start=0.25, anneal_end=0.5, pruning_start=0.75))
        recorder = Recorder(policy)
        trainer = Trainer(
            model,
            args,
            train_dataset=rows(),
            eval_dataset=rows(8),
            callbacks=[callback, recorder],
            optimizers=(callback.optimizer(model, args), None),
        )
        trainer.train(resume_from_checkpoint=resume or None)
    return recorder


def test_phases_budget_dual_and_checkpoints(model: Any, tmp_path: Path) -> None:
    policy = Adaptive(rho=0.3, dual=AscentDual(eta=1.0))
    policy_before = {}
    with retain(model, policy):
        policy_before = {name: value.clone() for name, value in policy.state_dict().items()}
    recorder = train(model, policy, tmp_path, eval_strategy="steps", eval_steps=4)
    phases = ["warmup"] * 2 + ["soft"] * 4 + ["hard"] * 2
    assert [phase for phase, _ in recorder.steps] == phases
    assert [anneal for _, anneal in recorder.steps] == [0, 0, 0, 0.5, 1, 1, 1, 1]
    assert recorder.multipliers[1] == 0.0 and recorder.multipliers[-1] != recorder.multipliers[2]
    assert any(not torch.equal(policy_before[name], value) for name, value in policy.state_dict().items())
    assert not policy.training and not model._forward_hooks and not model._forward_pre_hooks
    loaded, retainer = load_retained(tmp_path / "checkpoint-8", AutoModelForSequenceClassification)
    assert retainer.protected_ids == (2, 3)
    for name, value in policy.state_dict().items():
        assert torch.equal(retainer.gate.state_dict()[name], value)
    batch = torch.stack([row["input_ids"] for row in rows(4)])
    with torch.no_grad(), retainer:
        found = loaded(batch).logits
    with torch.no_grad(), retain(model.eval(), policy, protected_ids=[2, 3]):
        assert torch.equal(found, model(batch).logits)
    with torch.no_grad():
        assert not torch.equal(found, model(batch).logits)  # all tokens give another result


def test_budget_loss_is_added_to_that_of_the_model(model: Any, tmp_path: Path) -> None:
    policy = Adaptive(rho=0.3, dual=AscentDual(eta=1.0, augmented=10.0)).train()
    batch = {"input_ids": torch.stack([row["input_ids"] for row in rows(4)]), "labels": torch.tensor([0, 1, 0, 1])}
    with retain(model.train(), policy, protected_ids=[2, 3]) as retainer:
        callback = RetentionCallback(retainer)
        policy.phase, policy.anneal = "hard", 1.0
        plain = model(**batch).loss
        output = model(**batch)
        penalty = policy.budget_loss().detach()
        assert penalty > 0
        changed = callback._after_forward(model, (), {}, output)
        assert torch.allclose(changed["loss"], plain + penalty)
        shared = callback._after_forward(model, (), {**batch, "num_items_in_batch": 8}, model(**batch))
        assert torch.allclose(shared["loss"], plain + penalty / 2)


def record_weights(policy: Any) -> list[float]:
    """Replace the loss of a policy by a constant; return the list that gets its weight in every backward pass."""
    weights: list[float] = []

    def constant() -> torch.Tensor:
        loss = torch.ones((), requires_grad=True)
        loss.register_hook(lambda gradient: weights.append(float(gradient)))
        return loss

    policy.budget_loss = constant
    return weights


def test_loss_of_the_policy_weighs_the_same_in_a_shorter_accumulation_window(model: Any, tmp_path: Path) -> None:
    policy = Adaptive(rho=0.3, dual=AscentDual())
    weights = record_weights(policy)
    args = arguments(tmp_path, gradient_accumulation_steps=3, max_steps=4, save_strategy="no")
    with retain(model, policy, protected_ids=[2, 3]) as retainer:
        callback = RetentionCallback(retainer, TrainingPhases(anneal_start=0.0, anneal_end=0.5, pruning_start=1.0))
        optimizers = (callback.optimizer(model, args), None)
        Trainer(model, args, train_dataset=rows(20), callbacks=[callback], optimizers=optimizers).train()
    assert weights == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2] * 2)


def train_on_one_of_two_processes(folder: Path) -> None:
    """Train on the process of the environment variables and write what the test of two processes compares."""
    rank = int(os.environ["RANK"])
    torch.manual_seed(0)
    classifier = BertForSequenceClassification(tiny_config())
    torch.manual_seed(rank)  # initial scorers that differ
    policy = Adaptive(rho=0.3, dual=AscentDual(eta=1.0))
    train(classifier, policy, folder, max_steps=4, save_strategy="no")
    trained = {name: value.clone() for name, value in policy.state_dict().items()}
    on_one, on_none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    on_one.grad = torch.ones(2) if rank == 0 else None
    _average_gradients([on_one, on_none])
    assert on_none.grad is None
    weights = record_weights(policy)
    train(classifier, policy, folder, max_steps=4, save_strategy="no")
    torch.save({"trained": trained, "averaged": on_one.grad, "weights": weights}, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_the_same_policy(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import pathlib, sys; from tests.unit.integrations.test_trainer import train_on_one_of_two_processes as train"
    )
    command = [sys.executable, "-c", f"{code}; train(pathlib.Path(sys.argv[1]))", str(tmp_path)]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
        root = Path(__file__).resolve().parents[3]
        processes.append(subprocess.Popen(command, env=environment, cwd=root, stderr=subprocess.PIPE, text=True))
    try:
        outputs = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, value in first["trained"].items():
        assert torch.equal(second["trained"][name], value), name
    assert first["averaged"].tolist() == second["averaged"].tolist() == [0.5, 0.5]
    assert first["weights"] and set(first["weights"] + second["weights"]) == {1.0}


def test_resumed_training_takes_the_policy_of_its_checkpoint(model: Any, tmp_path: Path) -> None:
    start = copy.deepcopy(model)
    torch.manual_seed(7)
    train(model, Adaptive(rho=0.3), tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-8")
    saved = load_file(tmp_path / "checkpoint-4" / "retention" / "policy.safetensors")
    torch.manual_seed(8)  # other initial scorers, which the checkpoint replaces
    recorder = train(start, Adaptive(rho=0.3), tmp_path, resume=True)
    assert len(recorder.steps) == 4 and recorder.steps[0] == ("soft", 1.0)
    for name, value in saved.items():
        assert torch.equal(recorder.first[name], value), name


@pytest.mark.parametrize("accumulated", [1, 2])
def test_resumed_training_ends_with_the_weights_of_the_uninterrupted_one(
    accumulated: int, model: Any, tmp_path: Path
) -> None:
    settings = {"gradient_accumulation_steps": accumulated, "per_device_train_batch_size": 4 // accumulated}
    start, policies = copy.deepcopy(model), [Adaptive(rho=0.3, dual=AscentDual(eta=1.0)) for _ in range(2)]
    train(model, policies[0], tmp_path, **settings)
    shutil.rmtree(tmp_path / "checkpoint-8")
    train(start, policies[1], tmp_path, resume=True, **settings)
    for whole, resumed in ((model, start), policies):
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_gradients_of_the_policy_are_those_of_one_step(model: Any, tmp_path: Path) -> None:
    """Gradients that a policy has from before the training have no effect."""
    start, policies = copy.deepcopy(model), [Adaptive(rho=0.3) for _ in range(2)]
    for policy, trained in zip(policies, (model, start), strict=True):
        with retain(trained, policy):
            for index, parameter in enumerate(policy.parameters()):
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(index))
                parameter.grad = torch.full_like(parameter, 1e3) if policy is policies[1] else None
        train(trained, policy, tmp_path / str(policies.index(policy)), save_strategy="no")
    for name, value in policies[0].state_dict().items():
        assert torch.equal(policies[1].state_dict()[name], value), name


def test_checkpoint_without_a_policy_is_refused(model: Any, tmp_path: Path) -> None:
    train(model, Adaptive(rho=0.3), tmp_path, max_steps=4)
    shutil.rmtree(tmp_path / "checkpoint-4" / "retention")
    with pytest.raises(CheckpointError, match="holds no policy"):
        train(model, Adaptive(rho=0.3), tmp_path, resume=True)


def test_optimizer_without_the_policy_is_refused(model: Any, tmp_path: Path) -> None:
    policy = Adaptive(rho=0.3)
    with retain(model, policy) as retainer:
        trainer = Trainer(model, arguments(tmp_path), train_dataset=rows(), callbacks=[RetentionCallback(retainer)])
        with pytest.raises(ConfigError, match="does not train the policy"):
            trainer.train()


def test_lora_trains_under_retention_and_merges(model: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    wrapped = peft.get_peft_model(model, lora)
    frozen = wrapped.get_base_model().bert.embeddings.word_embeddings.weight.clone()
    policy = Adaptive(rho=0.3)
    train(wrapped, policy, tmp_path / "training", save_strategy="no")
    batch = torch.stack([row["input_ids"] for row in rows(4)])
    with torch.no_grad(), retain(wrapped.eval(), policy, protected_ids=[2, 3]):
        expected = wrapped(input_ids=batch).logits
    merged = wrapped.merge_and_unload().eval()
    assert torch.equal(merged.bert.embeddings.word_embeddings.weight, frozen)
    with torch.no_grad(), retain(merged, policy, protected_ids=[2, 3]) as retainer:
        assert torch.allclose(merged(batch).logits, expected, atol=1e-5)
        save_retained(tmp_path / "merged", merged, retainer)
    loaded, context = load_retained(tmp_path / "merged", AutoModelForSequenceClassification)
    with torch.no_grad(), context:
        assert torch.allclose(loaded(batch).logits, expected, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(loaded(batch).logits, expected, atol=1e-5)


def test_gate_must_be_a_policy(model: Any) -> None:
    retainer = retain(model, Truncate(rho=0.5))
    retainer.gate = object()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="retention policy"):
        RetentionCallback(retainer)


@pytest.mark.parametrize("return_dict", [True, False])
def test_a_loss_outside_of_the_model_is_refused(model: Any, tmp_path: Path, return_dict: bool) -> None:
    policy = Adaptive(rho=0.5)
    with retain(model, policy, protected_ids=[2, 3]) as retainer:
        callback = RetentionCallback(retainer, TrainingPhases(anneal_end=0.0))
        settings = arguments(tmp_path)
        optimizers = (callback.optimizer(model, settings), None)
        trainer = Trainer(
            model,
            settings,
            train_dataset=rows(),
            callbacks=[callback],
            optimizers=optimizers,
            compute_loss_func=lambda output, labels, **_: torch.nn.functional.cross_entropy(output[0], labels),
        )
        model.config.return_dict = return_dict
        with pytest.raises(ConfigError, match="compute_loss: the model must compute its loss"):
            trainer.train()
