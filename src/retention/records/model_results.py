"""Define the records of embedding models and of decoders with a bounded cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from retention.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Quality and speed of an embedding model at one keep ratio, beside a reference model.

    Attributes:
        model: name of the model.
        reference: name of the model that is compared with, usually the dense one.
        policy: name of the retention policy; ``dense`` where nothing is removed.
        layers: number of encoder layers.
        rho: target keep ratio, in (0, 1].
        precision: number format of the encoder: ``float32``, ``bfloat16`` or ``int8`` (linear layers).
        keep_ratio: benchmark -> achieved keep ratio on real tokens, mean over the gated layers.
        flops_ratio: benchmark -> encoder FLOPs on real tokens divided by those of the reference.
        split: ``validation`` or ``test``.
        data: benchmark -> description (``source``) and numbers of its rows.
        metrics: name -> value, ratios and correlations: ``stsb_spearman``, ``cranfield_ndcg10``,
            ``newsgroups_accuracy``, ``newsgroups_knn_accuracy``, and ``<benchmark>_cosine``, the mean cosine of the
            embeddings to those of the reference.
        differences: metric -> ``mean`` of model - reference, its 95 % bootstrap interval ``low`` .. ``high`` and the
            number of ``rows`` (pairs, queries or texts); empty for the reference.
        speed: ``ms_per_document``, ``documents_per_s`` and ``speedup`` over the reference, each with ``median``,
            ``low`` and ``high``, and the conditions of the measurement; None if not timed.
        rows: name of the file with the outcome of every row, beside the file of records; None = not written.
    """

    kind: ClassVar[str] = "embedding"
    model: str
    reference: str
    policy: str
    layers: int
    rho: float
    keep_ratio: Mapping[str, float]
    flops_ratio: Mapping[str, float]
    split: str
    data: Mapping[str, Any]
    metrics: Mapping[str, float]
    differences: Mapping[str, Any]
    speed: Mapping[str, Any] | None = None
    rows: str | None = None
    precision: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Results of a decoder whose key-value cache holds at most M tokens per layer.

    Attributes:
        model: name of the decoder.
        policy: name of the cache policy; ``full`` for the full cache.
        size: M, tokens per layer, or per key-value head; where ``share`` is set, the largest of ``size_by_text``.
        sinks: first tokens that are always held.
        window: newest tokens that are always held.
        per_head: True = each key-value head of a layer held its own M tokens; False = all heads the same ones.
        scores: how learned scores were trained; None for other policies.
        share: M as a share of the context's tokens, in (0, 1]; None = M is a number of tokens.
        size_by_text: M for each text where ``share`` is set.
        task: ``text`` (loss of a language model), ``recall``, ``tracking``, ``needle``, ``symbol_recall`` (exact
            answers), ``qa`` (answers to questions on a document), or ``cost``.
        texts: name of the file of texts; None = none was read.
        text_lengths: tokens of each text, or of the context of each example.
        counted_tokens: tokens of each text that ``loss`` counts; for other tasks, questions of each example.
        loss: mean loss in nats over the counted tokens; None for other tasks.
        loss_by_text: the same for each text.
        loss_by_quarter: the same for each quarter of a text's counted tokens, from the first to the last, mean over
            texts; None = no token in it. Empty for other tasks.
        accuracy: share of questions with the exact answer, in [0, 1]; for ``qa`` SQuAD's exact match, mean over texts;
            None for other tasks.
        accuracy_by_text: the same for each example.
        f1: token F1 of the answers as in SQuAD, in [0, 1], mean over texts; None for other tasks than ``qa``.
        f1_by_text: the same for each text, mean over its questions.
        interval: 95 % bootstrap interval over texts of loss, accuracy or (``qa``) F1, ``low`` and ``high``; None with
            one text.
        difference: mean over texts of this policy minus ``baseline``, and its interval ``low`` .. ``high``; None where
            the baseline was not measured in the same run.
        cost: ``form`` (``dynamic``, ``fixed`` or ``compiled``, see ``retention.cache.bench``; older records: dynamic),
            ``length``, ``cache_bytes``, ``prefill_s``, and ``ms_per_token`` with ``median``, ``low`` and ``high``.
        training: of scores that were trained in the same run: ``epochs``, ``steps`` (all, and by phase in ``phases``)
            and summaries of the callbacks (``memory``, ``cost``, ``kept``); empty otherwise.

    Raises:
        DataError: the record holds no result.
    """

    kind: ClassVar[str] = "decoding"
    model: str
    policy: str
    size: int
    sinks: int
    window: int
    per_head: bool = False
    scores: Mapping[str, Any] | None = None
    share: float | None = None
    size_by_text: Sequence[int] = ()
    task: str = "text"
    texts: str | None = None
    text_lengths: Sequence[int] = ()
    counted_tokens: Sequence[int] = ()
    loss: float | None = None
    loss_by_text: Sequence[float] = ()
    loss_by_quarter: Sequence[float | None] = ()
    accuracy: float | None = None
    accuracy_by_text: Sequence[float] = ()
    f1: float | None = None
    f1_by_text: Sequence[float] = ()
    interval: Mapping[str, float | None] | None = None
    difference: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss is None and self.accuracy is None and self.cost is None:
            raise DataError(f"decoding record {self.policy}: needs loss, accuracy or cost")
