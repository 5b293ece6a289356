"""Run a Hugging Face encoder on 30 % of its tokens, and compare it with the full encoder.

python examples/quickstart.py                       # a tiny encoder with random weights, no download
python examples/quickstart.py <name or folder>      # for example sentence-transformers/all-MiniLM-L6-v2
"""

import argparse
import time

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from retention import Truncate, retain

TEXT = "the encoder reads a long review of a film and keeps the first words of it after each layer "


def tiny_encoder():
    """Build a tokenizer and a four-layer BERT with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(TEXT.split()))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512
    )
    return tokenizer, BertModel(config)


def main() -> None:
    """Compare the full encoder with the pruned one."""
    parser = argparse.ArgumentParser(description="Run an encoder on 30 % of its tokens.")
    parser.add_argument("name", nargs="?", help="model on the hub, or a local folder; default: a tiny one")
    name = parser.parse_args().name
    if name is None:
        tokenizer, model = tiny_encoder()
    else:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name, dtype=torch.float32)
    model = model.eval()
    texts = [TEXT * 10, TEXT * 5]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    batch = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    policy = Truncate(rho=0.3, schedule="flat").eval()
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    with torch.no_grad():
        model(**batch)  # warm up
        start = time.perf_counter()
        model(**batch)
        dense_seconds = time.perf_counter() - start
        with retain(model, policy, protected_ids=special) as retainer:
            model(**batch)  # warm up
            start = time.perf_counter()
            output = model(**batch)
            pruned_seconds = time.perf_counter() - start
            report = retainer.report

    print(f"real tokens per sequence: {report.lengths.tolist()}")
    for layer, kept in report.kept.items():
        print(f"kept after layer {layer}: {kept.tolist()}")
    print(f"output shape: {tuple(output.last_hidden_state.shape)} (removed tokens return with their last state)")
    print(f"time: {1000 * dense_seconds:.1f} ms dense, {1000 * pruned_seconds:.1f} ms pruned")


if __name__ == "__main__":
    main()
