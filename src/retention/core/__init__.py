"""Provide the mathematics of token retention: gates, scorers, budgets, duals, top-k and FLOPs; torch only."""
