"""Generate text with a key-value cache of fixed size, and compare it with the full cache.

python examples/bounded_cache.py                       # a tiny decoder with random weights, no download
python examples/bounded_cache.py <name or folder>      # for example HuggingFaceTB/SmolLM2-135M-Instruct
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from retention.cache import CacheBudget, KeyNorm, RandomBank, StreamingLLM, retain_cache

PROMPT = "A cache of fixed size holds the first tokens, the newest ones, and the best of those in between. " * 20


def tiny_decoder():
    """Build a four-layer Llama with random weights and a prompt of 400 tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval(), torch.randint(3, 256, (1, 400))


def kibibytes(cache) -> float:
    """Return the memory of keys and values."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors) / 1024


def main() -> None:
    """Generate with the full cache and with bounded ones, and print what they hold."""
    parser = argparse.ArgumentParser(description="Generate text with a key-value cache of fixed size.")
    parser.add_argument("name", nargs="?", help="model on the hub, or a local folder; default: a tiny one")
    name = parser.parse_args().name
    if name is None:
        model, input_ids = tiny_decoder()
    else:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        input_ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    settings = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(input_ids)}

    full = DynamicCache(config=model.config)
    model.generate(input_ids, past_key_values=full, **settings)
    print(f"full cache: {full.get_seq_length()} tokens per layer, {kibibytes(full):.0f} KiB")

    budget = CacheBudget(size=64, sinks=4, window=16)
    for policy in (StreamingLLM(), RandomBank(), KeyNorm()):
        with retain_cache(model, policy, budget) as cache:
            model.generate(input_ids, past_key_values=cache, **settings)
            print(f"{type(policy).__name__}: {cache.kept[0].shape[1]} tokens per layer, {kibibytes(cache):.0f} KiB")
            print(f"  first layer holds {cache.kept[0][0].tolist()}")


if __name__ == "__main__":
    main()
