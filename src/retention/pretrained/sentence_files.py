"""Read and write what a sentence-transformers folder says about pooling, normalization, prompts and length.

The library itself is not needed. Folders with other parts, such as dense layers, are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retention.errors import CheckpointError, require
from retention.json_text import parse_json

RETENTION_MODULE = "retention.integrations.sentence_transformers.RetentionTransformer"

_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"
_LIBRARY = "sentence_transformers.models"  # names that all versions of the library know
_MODES = {"cls": "cls", "mean": "mean"}
_OLD_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_MODULES = "modules.json"
_TRANSFORMER_CONFIG = "sentence_bert_config.json"
_MODEL_CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """How texts become embeddings.

    Attributes:
        pooling: ``cls`` or ``mean``, as the folder says, or another one of ``retention.models.pooling.POOLINGS``.
        normalize: divide embeddings by their Euclidean norm.
        prompts: name -> text put in front of every input.
        default_prompt_name: prompt of calls that name none; None = no prompt.
        max_seq_length: tokens per text, special tokens included; None = the maximum of tokenizer and encoder.
        do_lower_case: lower texts before they are tokenized.
        similarity: name of the similarity function that the library uses; None = its default.

    Raises:
        ConfigError: ``max_seq_length`` is no whole number >= 1.
    """

    pooling: str = "mean"
    normalize: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    similarity: str | None = None

    def __post_init__(self) -> None:
        length = self.max_seq_length
        whole = isinstance(length, int) and not isinstance(length, bool) and length >= 1
        require(length is None or whole, "max_seq_length", f"must be a whole number >= 1, got {length!r}")


def read_settings(folder: Path) -> EmbeddingSettings | None:
    """Return the settings of a sentence-transformers folder; None if the folder is a plain encoder.

    Raises:
        CheckpointError: a file cannot be read, or the model has parts that an ``Embedder`` does not.
    """
    if not is_library_folder(folder):
        return None
    modules = _json(folder / _MODULES, list)
    kinds = [str(each.get("type", "")).rpartition(".")[2] if isinstance(each, dict) else "" for each in modules]
    kinds = [_TRANSFORMER if kind == RETENTION_MODULE.rpartition(".")[2] else kind for kind in kinds]
    if kinds not in ([_TRANSFORMER, _POOLING], [_TRANSFORMER, _POOLING, _NORMALIZE]):
        raise CheckpointError(
            f"{folder / _MODULES}: an Embedder consists of Transformer, Pooling and Normalize, got {', '.join(kinds)}; "
            "load the model with sentence-transformers"
        )
    transformer = _optional(folder / _TRANSFORMER_CONFIG)
    model = _optional(folder / _MODEL_CONFIG)
    prompts = model.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{folder / _MODEL_CONFIG}: prompts must map names to texts, got {prompts!r}")
    max_seq_length = transformer.get("max_seq_length")
    if max_seq_length is not None and (type(max_seq_length) is not int or max_seq_length < 1):
        raise CheckpointError(f"{folder / _TRANSFORMER_CONFIG}: max_seq_length must be >= 1, got {max_seq_length!r}")
    return EmbeddingSettings(
        pooling=_pooling(_inside(folder, modules[1].get("path")) / "config.json"),
        normalize=_NORMALIZE in kinds,
        prompts=dict(prompts),
        default_prompt_name=model.get("default_prompt_name"),
        max_seq_length=max_seq_length,
        do_lower_case=bool(transformer.get("do_lower_case", False)),
        similarity=model.get("similarity_fn_name"),
    )


def write_settings(folder: Path, settings: EmbeddingSettings, dimension: int, *, retained: bool) -> None:
    """Write the files by which sentence-transformers loads a model folder.

    Args:
        folder: with the encoder.
        settings: of the embeddings. A pooling that the library does not have is written as ``mean``, for which
            ``RetentionTransformer`` weights the tokens.
        dimension: D.
        retained: True if tokens are removed, which needs ``RetentionTransformer``.
    """
    transformer = RETENTION_MODULE if retained else f"{_LIBRARY}.{_TRANSFORMER}"
    parts = [(transformer, ""), (f"{_LIBRARY}.{_POOLING}", "1_Pooling")]
    if settings.normalize:
        parts.append((f"{_LIBRARY}.{_NORMALIZE}", "2_Normalize"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(parts)]
    _write(folder / _MODULES, modules)
    mode = settings.pooling if settings.pooling in _MODES else "mean"
    old_modes = {key: value == mode for key, value in _OLD_MODES.items()}  # read by all versions of the library
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dimension, **old_modes})
    length = settings.max_seq_length
    _write(folder / _TRANSFORMER_CONFIG, {"max_seq_length": length, "do_lower_case": settings.do_lower_case})
    similarity = {} if settings.similarity is None else {"similarity_fn_name": settings.similarity}
    prompts = {"prompts": settings.prompts, "default_prompt_name": settings.default_prompt_name}
    _write(folder / _MODEL_CONFIG, {"model_type": "SentenceTransformer", **prompts, **similarity})


def is_library_folder(folder: Path) -> bool:
    """Return True if sentence-transformers wrote a folder, or ``write_settings`` made it one of the library."""
    return (folder / _MODULES).is_file()


def model_kind(folder: Path) -> str:
    """Return the class of the library that wrote a folder, ``SentenceTransformer`` or ``CrossEncoder``.

    Raises:
        CheckpointError: it is neither of them.
    """
    kind = _optional(folder / _MODEL_CONFIG).get("model_type", "SentenceTransformer")
    if kind not in ("SentenceTransformer", "CrossEncoder"):
        path = folder / _MODEL_CONFIG
        raise CheckpointError(f"{path}: model_type must be SentenceTransformer or CrossEncoder, got {kind!r}")
    return str(kind)


def pooling_includes_prompt(folder: Path) -> bool:
    """Return False if a pooling of a sentence-transformers folder leaves the tokens of the prompt out.

    Raises:
        CheckpointError: a file cannot be read.
    """
    modules = _json(folder / _MODULES, list) if is_library_folder(folder) else []
    parts = [each for each in modules if isinstance(each, dict) and str(each.get("type", "")).endswith(f".{_POOLING}")]
    configs = [_optional(_inside(folder, each.get("path")) / "config.json") for each in parts]
    return all(config.get("include_prompt", True) for config in configs)


def _pooling(path: Path) -> str:
    config = _json(path, dict)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode
    if modes is None:
        modes = [_OLD_MODES.get(key, key) for key, used in config.items() if key.startswith("pooling_mode_") and used]
    if len(modes) != 1 or modes[0] not in _MODES or not config.get("include_prompt", True):
        raise CheckpointError(
            f"{path}: pooling must be cls or mean over all tokens, got {', '.join(map(str, modes))}; load the model "
            "with sentence-transformers"
        )
    return str(modes[0])


def _inside(folder: Path, path: Any) -> Path:
    parts = Path(path).parts if isinstance(path, str) else ("..",)
    if ".." in parts or Path(*parts).is_absolute():
        raise CheckpointError(f"{folder / _MODULES}: the path {path!r} leaves the folder; correct it")
    return folder.joinpath(*parts)


def _optional(path: Path) -> dict[str, Any]:
    return dict(_json(path, dict)) if path.is_file() else {}


def _json(path: Path, kind: type) -> Any:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy the folder again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); copy the folder again") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path}: must hold a JSON {'list' if kind is list else 'object'}")
    return content


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
