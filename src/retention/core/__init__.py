"""The mathematics of token retention; torch only, no model knowledge."""
