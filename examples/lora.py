"""Train LoRA adapters and a retention policy on a frozen classifier, then merge the adapters.

    python examples/lora.py

Needs `peft`. The task is that of `examples/hf_trainer.py`: does a text contain the word "signal"?
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from retention import Adaptive, retain
from retention.training.phases import TrainingPhases

CLS, SEP, SIGNAL, WORDS, LENGTH, STEPS = 1, 2, 3, 60, 24, 60


def batch(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Make texts of random words; every second one contains the signal."""
    ids = torch.randint(4, WORDS, (size, LENGTH), generator=generator)
    ids[:, 0], ids[:, -1] = CLS, SEP
    labels = torch.arange(size) % 2
    places = torch.randint(1, LENGTH - 1, (size,), generator=generator)
    ids[labels == 1, places[labels == 1]] = SIGNAL
    return ids, labels


def main() -> None:
    """Train in a plain loop, merge, and compare the merged model with the adapted one."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    base = BertForSequenceClassification(config)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "key", "value"]))
    policy, phases = Adaptive(rho=0.3).train(), TrainingPhases()
    trained = [each for each in model.parameters() if each.requires_grad]
    generator = torch.Generator().manual_seed(1)
    with retain(model.train(), policy, protected_ids=[CLS, SEP]):  # builds the policy, which has parameters then
        optimizer = torch.optim.AdamW([{"params": trained, "lr": 5e-3}, {"params": policy.parameters(), "lr": 1e-2}])
        for step in range(STEPS):
            policy.phase, policy.anneal = phases.at(step / STEPS)
            ids, labels = batch(32, generator)
            loss = model(input_ids=ids, labels=labels).loss + policy.budget_loss()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            policy.step_dual(policy.budget_slack().detach())
    print(f"trained weights of the model: {sum(each.numel() for each in trained)} of {base.num_parameters()}")

    ids, _ = batch(8, generator)
    policy.eval()
    with torch.no_grad(), retain(model.eval(), policy, protected_ids=[CLS, SEP]):
        adapted = model(input_ids=ids).logits
    merged = model.merge_and_unload()
    with torch.no_grad(), retain(merged, policy, protected_ids=[CLS, SEP]) as retainer:
        difference = (merged(input_ids=ids).logits - adapted).abs().max()
        print(f"largest difference after merging: {difference:.1e}")
        print(f"kept of {LENGTH} tokens: {[int(kept[0]) for kept in retainer.report.kept.values()]}")


if __name__ == "__main__":
    main()
