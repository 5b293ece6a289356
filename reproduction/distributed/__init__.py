"""Check training on two processes: equal state on all ranks, exact metrics, resuming, signals and failures."""
