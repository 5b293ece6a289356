"""Measuring speed and memory beside the fastest dense model; used by scripts/bench.py alone."""
