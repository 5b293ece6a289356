"""Summarize documents, extractively or abstractively."""
