"""Base classes that several retention policies share."""
