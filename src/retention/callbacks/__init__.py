"""Lightning callbacks that log cost and token retention, and keep the latest checkpoint."""

from retention.callbacks.decoding import DecodingCost, KeptPositions
from retention.callbacks.last_checkpoint import LastCheckpoint
from retention.callbacks.memory import Memory
from retention.callbacks.predictions import Predictions
from retention.callbacks.profile import RetentionProfile
from retention.callbacks.progress import progress_bar
from retention.callbacks.slack import Slack
from retention.callbacks.throughput import Throughput
from retention.callbacks.training_cost import TrainingCost

__all__ = [
    "DecodingCost",
    "KeptPositions",
    "LastCheckpoint",
    "Memory",
    "Predictions",
    "RetentionProfile",
    "Slack",
    "Throughput",
    "TrainingCost",
    "progress_bar",
]
