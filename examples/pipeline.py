"""Classify texts by ``transformers.pipeline`` on a part of their tokens.

python examples/pipeline.py                      # a tiny classifier with random weights, no download
python examples/pipeline.py <name or folder>     # a sequence classifier, for example a fine-tuned BERT
"""

import argparse

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from retention import Truncate, retain

TEXT = "a long review of a gripping film with a fine cast and a slow middle part "


def tiny_classifier():
    """Build a tokenizer and a four-layer BERT classifier with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(TEXT.split()))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **special)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
    )
    return tokenizer, BertForSequenceClassification(config)


def main() -> None:
    """Classify texts with all tokens, then with the first 40 % of them."""
    parser = argparse.ArgumentParser(description="Classify texts on a part of their tokens.")
    parser.add_argument(
        "name", nargs="?", help="sequence classifier on the hub, or a local folder; default: a tiny one"
    )
    parser.add_argument("--rho", type=float, default=0.4, help="target keep ratio (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.name is None:
        tokenizer, model = tiny_classifier()
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.name)
        model = AutoModelForSequenceClassification.from_pretrained(arguments.name, dtype=torch.float32)
    classify = pipeline("text-classification", model=model.eval(), tokenizer=tokenizer, device="cpu")
    texts = [TEXT * 4, TEXT * 2]

    for result in classify(texts, truncation=True):
        print(f"all tokens: {result['label']} {result['score']:.3f}")
    policy = Truncate(rho=arguments.rho, schedule="flat").eval()
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    with retain(model, policy, protected_ids=special) as retainer:
        for text in texts:
            [result] = classify([text], truncation=True)
            report = retainer.report
            kept, length = int(report.kept[0]), int(report.lengths)
            print(f"kept {kept} of {length} tokens: {result['label']} {result['score']:.3f}")


if __name__ == "__main__":
    main()
