"""Train a classifier and its retention policy by the Trainer of transformers, and load the result.

    python examples/hf_trainer.py                    # a tiny model on made-up texts, a few seconds
    python examples/hf_trainer.py --output outputs/hf_trainer

Needs `accelerate`. The class of a text is whether the word "signal" occurs in it.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from retention import Adaptive, retain
from retention.integrations.trainer import RetentionCallback
from retention.pretrained import load_retained

CLS, SEP, SIGNAL, WORDS, LENGTH = 1, 2, 3, 60, 24


def rows(count: int, seed: int) -> list[dict]:
    """Make rows of random words; every second one contains the signal."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        ids = torch.randint(4, WORDS, (LENGTH,), generator=generator)
        ids[0], ids[-1] = CLS, SEP
        if index % 2:
            ids[int(torch.randint(1, LENGTH - 1, (), generator=generator))] = SIGNAL
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": index % 2})
    return made


def accuracy(model, data: list[dict]) -> float:
    """Compute the share of rows with the right class."""
    with torch.no_grad():
        predicted = model(torch.stack([row["input_ids"] for row in data])).logits.argmax(-1)
    return float((predicted == torch.tensor([row["labels"] for row in data])).float().mean())


def main() -> None:
    """Train with 30 % of the tokens and test the loaded checkpoint."""
    parser = argparse.ArgumentParser(description="Train a retention policy by the Trainer of transformers.")
    parser.add_argument("--output", type=Path, help="folder of the checkpoints; default: a temporary one")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps (default: %(default)s)")
    options = parser.parse_args()
    output = options.output or Path(tempfile.mkdtemp())

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    model, policy = BertForSequenceClassification(config), Adaptive(rho=0.3)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=options.steps,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        save_steps=options.steps,
        report_to="none",
        use_cpu=True,
    )
    with retain(model, policy, protected_ids=[CLS, SEP]) as retainer:
        callback = RetentionCallback(retainer)
        optimizers = (callback.optimizer(model, arguments), None)
        Trainer(model, arguments, train_dataset=rows(1024, seed=0), callbacks=[callback], optimizers=optimizers).train()

    loaded, retainer = load_retained(output / f"checkpoint-{options.steps}", AutoModelForSequenceClassification)
    test = rows(256, seed=1)
    with retainer:
        print(f"accuracy on {len(test)} unseen texts: {accuracy(loaded, test):.2f}")
        report = retainer.report
        ratio = torch.stack(list(report.kept.values())).float().mean() / report.lengths.float().mean()
        print(f"keep ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
