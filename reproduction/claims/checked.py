"""List all claims with the findings of their checks, by topic, and format what the pages have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from reproduction.claims.claim import BY_CONSTRUCTION, Claim, Finding, Verdict
from reproduction.claims.cost import cost_claims
from reproduction.claims.decoding import decoding_claims
from reproduction.claims.quality import quality_claims
from reproduction.claims.training import hyperparameter_claims, theory_claims
from reproduction.sources import RecordSet
from retention.report.tables import markdown_table, text_frame

Checked = tuple[Claim, list[Finding]]


def all_claims() -> list[Claim]:
    """Return every claim, in the order of the pages."""
    return [*quality_claims(), *cost_claims(), *hyperparameter_claims(), *theory_claims(), *decoding_claims()]


def check_claims(records: RecordSet) -> Mapping[str, list[Checked]]:
    """Return topic -> claims with at least one finding each: a claim without a record is not run."""
    topics: dict[str, list[Checked]] = {}
    for claim in all_claims():
        findings = list(claim.check(records)) or [Finding(Verdict.NOT_RUN)]
        topics.setdefault(claim.topic, []).append((claim, findings))
    return topics


def is_evidence(finding: Finding) -> bool:
    """Return True if a finding has a verdict or a record, such as one on stand-in data."""
    return finding.verdict is not Verdict.NOT_RUN or bool(finding.records)


def counts_table(title: str, counts: Mapping[str, Counter[Verdict]], verdicts: Sequence[Verdict]) -> str:
    """Return verdicts counted by topic as a Markdown table.

    What holds by construction is no claim of the paper: it stands below the sum and is not part of it.

    Args:
        title: heading of the first column.
        counts: topic -> number of each verdict.
        verdicts: columns of the table.
    """
    claims = [counted for topic, counted in counts.items() if topic != BY_CONSTRUCTION]
    rows = {topic: counted for topic, counted in counts.items() if topic != BY_CONSTRUCTION}
    rows["all"] = sum(claims, Counter())
    if BY_CONSTRUCTION in counts:
        rows[BY_CONSTRUCTION] = counts[BY_CONSTRUCTION]
    cells = [[topic, *(str(counted[verdict]) for verdict in verdicts)] for topic, counted in rows.items()]
    return markdown_table(text_frame([title, *(verdict.value for verdict in verdicts)], cells)) + "\n"


def folded_list(claims: Sequence[Claim]) -> str:
    """Return claims that were not run as a list that is folded away, empty if there are none."""
    listed = "\n".join(f"- {claim.text} ({claim.source})" for claim in claims)
    return f"<details><summary>Not run: {len(claims)}</summary>\n\n{listed}\n\n</details>\n" if claims else ""


def unpadded_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without padding: cells are long, and a new figure should change one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
