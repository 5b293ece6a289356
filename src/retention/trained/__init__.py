"""A finished run as a model to use: texts in; answers, and what was remembered of each text, out."""

from retention.trained.loading import load
from retention.trained.model import Trained
from retention.trained.results import Answer, Prediction, Summary

__all__ = ["Answer", "Prediction", "Summary", "Trained", "load"]
