"""Evaluate embedding models: similarity, retrieval and classification, speed, and agreement with a dense model."""
