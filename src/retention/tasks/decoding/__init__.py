"""Train and compare bounded caches of decoders: what the tasks of decoders share."""
