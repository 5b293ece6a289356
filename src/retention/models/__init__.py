"""Retention models: an encoder with a retention policy and a task head."""
