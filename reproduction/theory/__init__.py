"""Check the propositions, lemmas and the theorem of the paper on small exact instances."""

from reproduction.theory.lab import run_theory_lab
from reproduction.theory.page import CLAIMS, RECORDS, theory_page, write_theory_page

__all__ = ["CLAIMS", "RECORDS", "run_theory_lab", "theory_page", "write_theory_page"]
