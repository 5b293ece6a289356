"""Build, run, resume and sweep Hydra-configured experiments."""
