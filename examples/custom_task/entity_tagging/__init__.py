"""Named entity recognition: one tag (O, B-person, I-person, ...) per word."""
