"""Build, run, resume and sweep Hydra-configured experiments."""

from retention.experiment.folders import register_resolvers

register_resolvers()  # before any configuration is composed
