"""Find out which variants the machine can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retention.bench.timing import release_memory, synchronizer
from retention.bench.variants import Variant, VariantBuilder, VariantSpec
from retention.errors import first_line


def runnable_variants(
    builder: VariantBuilder, specs: Sequence[VariantSpec], title: str, log: Callable[[str], None]
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Build all variants that run on this machine.

    The first dense variant must run. Every other dense variant runs one batch here, so that a missing kernel or a lack
    of memory shows before the timing starts.

    Args:
        builder: builds the variants.
        specs: variants to build, dense ones first.
        title: name of the case, for messages.
        log: called with one line for each variant that is left out.

    Returns:
        variants by name, and name -> reason of the dense variants that cannot run.
    """
    device = builder.plan.settings.device
    variants, unavailable = {}, {}
    for spec in specs:
        if spec is specs[0] or spec.candidate is not None:
            variants[spec.name] = builder.build(spec)
            continue
        try:
            variants[spec.name] = _build_and_run_once(builder, spec, synchronizer(device))
        except Exception as error:  # compilers and kernels raise any exception
            unavailable[spec.name] = f"{type(error).__name__}: {first_line(error, 200)}"
        if spec.name in unavailable:  # outside of the except block, where the traceback no longer holds memory
            release_memory(device)
            log(f"{title}: {spec.name} is left out, it cannot run here ({unavailable[spec.name]})")
    return variants, unavailable


def _build_and_run_once(builder: VariantBuilder, spec: VariantSpec, synchronize: Callable[[], None]) -> Variant:
    variant = builder.build(spec)
    variant.calls()[0]()
    synchronize()
    return variant
