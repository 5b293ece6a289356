"""Write the model card of a retained model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from retention.policies.bases.retention_policy import RetentionPolicy
from retention.pretrained.retention_files import RetentionSettings

LICENSE_NOTE = "The license of the base model and of the data applies to this model; neither was checked here."


def model_card(
    policy: RetentionPolicy,
    settings: RetentionSettings,
    config: Any,
    details: str = "",
    *,
    model_class: str | None = None,
) -> str:
    """Return the ``README.md`` of a model folder: how tokens are removed, and how to load the model.

    Args:
        policy: of the model.
        settings: of the removal.
        config: Hugging Face configuration of the encoder.
        details: further sections, in Markdown.
        model_class: Hugging Face class of a model with a head; None = an encoder without one.
    """
    embeds = settings.pooling is not None
    low, high = settings.budgets
    facts = [
        ("encoder", f"{config.model_type}, {config.num_hidden_layers} layers"),
        ("policy", policy.name),
        ("target keep ratio", policy.rho if settings.rho is None else settings.rho),
        ("trained for", low if low == high else f"{low} to {high}"),
        ("gated layers", ", ".join(map(str, policy.layers)) or "none"),
        ("removal", settings.prune_at),
        ("removed tokens", "return with their last state" if settings.dropped == "forward" else "are left out"),
    ]
    if embeds:
        facts.append(("pooling", settings.pooling))
    sections = [
        _front_matter(embeds=embeds, model_class=model_class),
        f"# {policy.name} on {config.model_type}",
        "Tokens are really removed between the layers of this encoder. Made with the Python package `retention` "
        f"(adaptive-retention). `{model_class or 'AutoModel'}` loads the same weights without removal.",
        markdown_table(("property", "value"), facts),
        "## Use",
        _use(settings, model_class),
        *([details.strip()] if details.strip() else []),
        "## License",
        LICENSE_NOTE,
    ]
    return "\n\n".join(sections) + "\n"


def markdown_table(header: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    """Return a Markdown table with two columns."""
    lines = [header, ("---", "---"), *rows]
    return "\n".join(f"| {name} | {str(value).replace('|', '/')} |" for name, value in lines)


_EMBEDDER = """```python
from retention import Embedder

model = Embedder.from_pretrained("<this folder>")
embeddings = model.encode(["a text", "another one"], rho=0.3)
```"""

_ENCODER = """```python
from retention import RetentionEncoder

model = RetentionEncoder.from_pretrained("<this folder>")
states = model(**tokenizer(["a text"], return_tensors="pt"), rho=0.3).last_hidden_state
```"""


_RERANKER = """
With sentence-transformers; the first text of a pair, the query, keeps all tokens:

```python
from retention.integrations.sentence_transformers import load

reranker = load("<this folder>")
scores = reranker.predict([("a query", "a long passage")])
```"""

_WITH_HEAD = """```python
from transformers import {model_class}
from retention.pretrained import load_retained

model, retainer = load_retained("<this folder>", {model_class})
with retainer:
    output = model(**tokenizer(["a text"], return_tensors="pt"))
```"""


def _use(settings: RetentionSettings, model_class: str | None) -> str:
    if model_class is None:
        return _ENCODER if settings.pooling is None else _EMBEDDER
    with_head = _WITH_HEAD.format(model_class=model_class)
    is_reranker = settings.protect_query and _classifies_sequences(model_class)
    return f"{with_head}\n{_RERANKER}" if is_reranker else with_head


def _classifies_sequences(model_class: str) -> bool:
    return model_class.endswith("ForSequenceClassification")


def _front_matter(*, embeds: bool, model_class: str | None) -> str:
    header = [f"library_name: {'sentence-transformers' if embeds else 'transformers'}"]
    if embeds:
        header.append("pipeline_tag: sentence-similarity")
    elif model_class is None:
        header.append("pipeline_tag: feature-extraction")
    elif _classifies_sequences(model_class):
        header.append("pipeline_tag: text-classification")
    tags = ["adaptive-retention", "token-pruning", *(["sentence-transformers", "feature-extraction"] if embeds else [])]
    return "\n".join(["---", *header, "tags:", *(f"- {tag}" for tag in tags), "---"])
