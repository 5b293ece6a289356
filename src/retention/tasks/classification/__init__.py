"""Classify texts into one or several classes."""
