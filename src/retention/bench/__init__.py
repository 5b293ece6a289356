"""Measure speed and memory of token removal against the fastest dense model (``retention bench``)."""
