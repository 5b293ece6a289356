"""Check the paper's claims against result records."""

from reproduction.claims.ledger import claims_ledger
from reproduction.claims.page import LEDGER, claims_page

__all__ = ["LEDGER", "claims_ledger", "claims_page"]
