"""Predict the next token of texts with a bounded cache."""
