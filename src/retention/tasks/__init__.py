"""One folder per kind of task: its data, head, metrics and predictions."""
