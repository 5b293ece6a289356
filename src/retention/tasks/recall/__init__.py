"""Answer questions about contexts of symbols with a bounded cache."""
