"""Answer questions by spans of a text."""
