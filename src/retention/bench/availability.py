"""Which dense rivals a platform can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retention.bench.timing import release, waiter
from retention.bench.variants import Spec, Variant, VariantBuilder


def available(
    builder: VariantBuilder, wanted: Sequence[Spec], title: str, tell: Callable[[str], None]
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Everything that runs here, by name, and why the other dense variants do not.

    The first dense variant must run. Every other one runs a batch once, so that a kernel that is missing, or memory
    that does not suffice for it, shows before the timing.

    Args:
        workshop: builds the variants.
        wanted: dense variants first.
        title: of the case, for messages.
        tell: is given a line for each variant that is left out.
    """
    device = builder.plan.settings.device
    variants, unavailable = {}, {}
    for spec in wanted:
        if spec is wanted[0] or spec.candidate is not None:
            variants[spec.name] = builder.build(spec)
            continue
        try:
            variants[spec.name] = _tried(builder, spec, waiter(device))
        except Exception as error:  # compilers and kernels raise whatever they like
            unavailable[spec.name] = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"
        if spec.name in unavailable:  # by now the error is gone, and with it what its traceback held
            release(device)
            tell(f"{title}: {spec.name} is left out, it cannot run here ({unavailable[spec.name]})")
    return variants, unavailable


def _tried(builder: VariantBuilder, spec: Spec, wait: Callable[[], None]) -> Variant:
    variant = builder.build(spec)
    variant.calls()[0]()
    wait()
    return variant
