"""Reproduce the tables, figures and claims of the Adaptive Retention paper from result records."""
