"""Provide base classes that several retention policies share."""
