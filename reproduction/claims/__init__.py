"""The paper's claims, each with a check over records: what holds here, what does not, and what was not run."""

from reproduction.claims.ledger import ledger

__all__ = ["ledger"]
