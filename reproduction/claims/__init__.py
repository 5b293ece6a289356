"""Check the paper's claims against result records."""

from reproduction.claims.page import claims_page

__all__ = ["claims_page"]
