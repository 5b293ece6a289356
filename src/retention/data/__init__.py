"""Load, split, encode and batch the documents of every task."""
