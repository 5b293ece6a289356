"""Write a policy in four lines and run it on an encoder.

python examples/custom_policy.py
"""

import torch
from transformers import BertConfig, BertModel

from retention import RetentionPolicy, retain


class LargestNorm(RetentionPolicy):
    """Keep the tokens with the largest hidden states."""

    def score(self, view):
        """Return one score per token, [B, N]; the tokens with the highest scores are kept."""
        return view.hidden_states.norm(dim=-1)


def main() -> None:
    """Run the policy on a tiny encoder with random weights and print what it keeps."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128)
    model = BertModel(config).eval()
    batch = {
        "input_ids": torch.randint(5, config.vocab_size, (2, 40)),
        "attention_mask": torch.ones(2, 40, dtype=torch.long),
    }
    batch["attention_mask"][1, 30:] = 0  # the second sequence has 30 tokens and padding

    with retain(model, LargestNorm(rho=0.3).eval()) as retainer, torch.no_grad():
        model(**batch)
    for layer, kept in retainer.report.kept.items():
        print(f"kept after layer {layer}: {kept.tolist()} of {retainer.report.lengths.tolist()} tokens")
    first = retainer.report.keep_indices[0][0]
    print(f"positions of the first sequence that pass the first gate: {first[first >= 0].tolist()}")


if __name__ == "__main__":
    main()
