"""Check Proposition 3 (appendix I): stored attention scores and time of attention to kept tokens."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict
from reproduction.theory.instances import generator
from retention.policies import Truncate, retain

LENGTHS, RATIOS = (256, 512, 1024, 2048), (1.0, 0.5, 0.3, 0.1)
LAYERS, HEADS = 3, 2
SIZES = {"T": (1024, 2048, 4096, 8192), "M": (256, 512, 1024, 2048), "d": (64, 128, 256, 512)}
BASE = {"T": 2048, "M": 512, "d": 128}
REPEATS = 15
TOLERANCE = 0.1
ENCODER, ATTENTION = "BERT, eager attention", "T queries, M keys"


class SoftmaxElements(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the elements of every softmax input inside the block, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator; note the size of its input if it is a softmax."""
        if func is torch.ops.aten._softmax.default:
            self.elements.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def run(lengths: tuple[int, ...] = LENGTHS, repeats: int = REPEATS) -> Evidence:
    """Count stored scores per layer of an encoder with token removal, and fit the exponents of time and FLOPs."""
    measurements = []
    wrong = 0
    for length in lengths:
        for ratio in RATIOS:
            scores, kept = scores_by_layer(length, ratio)
            wrong += sum(stored != tokens**2 for stored, tokens in zip(scores, kept, strict=True))
            at = {"T": float(length), "rho": ratio}
            measurements += [
                Measurement(ENCODER, "scores of the last layer / T^2", scores[-1] / length**2, at=at),
                Measurement(ENCODER, "largest scores of a layer / T^2", max(scores) / length**2, at=at),
            ]
    decisive = Measurement(ENCODER, "layers with scores other than M^2", float(wrong))
    measurements.append(decisive)
    exponents = []
    for name, sizes in SIZES.items():
        shapes = [BASE | {name: size} for size in sizes]
        flops = _exponent(sizes, [float(attention_flops(**shape)) for shape in shapes])
        seconds = [attention_seconds(**shape, repeats=repeats) for shape in shapes]
        measurements += [
            Measurement(ATTENTION, f"FLOPs exponent of {name}", flops),
            Measurement(ATTENTION, f"time exponent of {name}", _exponent(sizes, seconds)),
        ]
        exponents.append(flops)
    holds = wrong == 0 and all(abs(each - 1.0) <= TOLERANCE for each in exponents)
    return Evidence(TheoryVerdict.HOLDS if holds else TheoryVerdict.FAILS, decisive, tuple(measurements))


def scores_by_layer(length: int, ratio: float) -> tuple[list[int], list[int]]:
    """Count attention scores per head and layer of a small random encoder, and the tokens that enter each layer.

    Args:
        length: T, tokens of the sequence.
        ratio: rho; every layer but the first sees floor(rho T) tokens. 1 = dense.
    """
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=16 * HEADS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=32,
        max_position_embeddings=max(length, 2),
    )
    config._attn_implementation = "eager"
    model = BertModel(config)
    model.eval()  # type: ignore[no-untyped-call]
    inputs = torch.randint(5, 100, (1, length), generator=generator(0))
    if ratio == 1.0:
        with torch.no_grad(), SoftmaxElements() as counter:
            model(input_ids=inputs)
        entering = [length] * LAYERS
    else:
        with retain(model, Truncate(rho=ratio, schedule="flat").eval()) as retainer, torch.no_grad():
            with SoftmaxElements() as counter:
                model(input_ids=inputs, attention_mask=torch.ones_like(inputs))
            kept = retainer.report.kept
        entering = [length, *(int(kept[layer][0]) for layer in sorted(kept))]
    return [elements // HEADS for elements in counter.elements], entering


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute softmax attention of T queries over M keys; stores T x M scores."""
    scores = queries @ keys.T / queries.shape[-1] ** 0.5
    output: Tensor = scores.softmax(-1) @ values
    return output


def attention_flops(T: int, M: int, d: int) -> int:
    """Count the FLOPs of the two matrix products with PyTorch's counter."""
    with FlopCounterMode(display=False) as counter:
        attend(*_inputs(T, M, d))
    return int(counter.get_total_flops())


def attention_seconds(T: int, M: int, d: int, repeats: int) -> float:
    """Measure the shortest time of an attention call, in seconds, on the threads that torch is set to."""
    inputs, best = _inputs(T, M, d), float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        attend(*inputs)
        best = min(best, time.perf_counter() - start)
    return best


def _inputs(T: int, M: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    source = generator(1)
    return (
        torch.randn(T, d, generator=source),
        torch.randn(M, d, generator=source),
        torch.randn(M, d, generator=source),
    )


def _exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def describe(evidence: Evidence) -> str:
    """State the counts and the exponents."""
    longest = max(each.at["T"] for each in evidence.measurements if "rho" in each.at)
    counts = "; ".join(
        f"rho {ratio:g}: {100 * last:.2f} % in the last layer, {100 * largest:.0f} % in the largest"
        for ratio in RATIOS
        for last, largest in [
            tuple(
                evidence.find(ENCODER, f"{layer} / T^2", T=longest, rho=ratio).value
                for layer in ("scores of the last layer", "largest scores of a layer")
            )
        ]
    )
    flops, seconds = (
        ", ".join(f"{name} {evidence.find(ATTENTION, f'{kind} exponent of {name}').value:.2f}" for name in SIZES)
        for kind in ("FLOPs", "time")
    )
    return (
        f"- Layers whose scores are not exactly M x M: {evidence.decisive.value:.0f}.\n"
        f"- Scores at T = {longest:.0f} as a share of T x T: {counts}.\n"
        f"- T queries over M keys, exponents of the FLOPs: {flops}; of the measured time: {seconds}."
    )


CLAIM = TheoryClaim(
    name="proposition3",
    title="Proposition 3: cost of attention",
    source="appendix I",
    statement=(
        "Attention among M kept tokens stores M x M scores instead of T x T; if all T tokens query the M kept ones, "
        "time grows as T M d."
    ),
    method=(
        f"An encoder of {LAYERS} layers with eager attention and real token removal, T = {LENGTHS[0]} ... "
        f"{LENGTHS[-1]}: elements of every softmax input. Then T queries over M keys of width d: exponents of FLOPs "
        f"(counted by PyTorch) and of time (shortest of several calls on one thread), fitted over a factor of 8 "
        f"each. Refuted by a layer with another count or a FLOPs exponent outside 1 +- 0.1; times depend on the "
        f"machine and only inform."
    ),
    run=run,
    describe=describe,
    valid_form=(
        "The count holds in every layer behind a gate. The largest layer still stores T x T scores, because the "
        "first layer sees all tokens; the peak of inference memory does not shrink unless tokens leave before it."
    ),
)
