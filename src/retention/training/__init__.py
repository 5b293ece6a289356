"""Train a retention model with PyTorch Lightning."""
