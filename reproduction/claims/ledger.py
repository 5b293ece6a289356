"""The ledger of claims as a Markdown page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from reproduction.claims.claim import Claim, Finding, Verdict
from reproduction.claims.cost import cost_claims
from reproduction.claims.facts import FACTS
from reproduction.claims.quality import quality_claims
from reproduction.claims.training import knob_claims, theory_claims
from reproduction.paper import SEEDS, SOURCE
from reproduction.sources import Evidence, cite
from reproduction.tables import aligned

_HEADER = ("claim", "paper", "verdict", "measured", "setting", "records")
_INTRODUCTION = f"""\
# Claims

What the paper ({SOURCE}) claims, and what our records say.
Made by `make claims` from the committed records alone; nothing here is written by hand.

- One line per claim and setting. A verdict holds for the setting beside it: encoders, rows and settings are never
  mixed, and where ours are not the paper's it is the relation to our own dense model, or to another policy trained in
  the same way, that is tested.
- **reproduced**: the whole 95 % interval over seeds (of a speed: the 10-90 % range over rounds) is on the claim's
  side. **not reproduced**: the whole of it is on the other. **undecided**: it lies across, or there are fewer than
  {SEEDS} seeds. **not yet run**: no record, or one on rows that stand in for the benchmark. **not testable here**:
  with the reason.
- Intervals are of seed-by-seed differences or ratios, in square brackets.
"""


def all_claims() -> list[Claim]:
    """Every claim, in the order of the page."""
    return [*quality_claims(), *cost_claims(), *knob_claims(), *theory_claims()]


def ledger(evidence: Evidence) -> str:
    """The page: verdicts counted by topic, one table per topic, and what is no target.

    The same records give the same text.
    """
    topics: dict[str, list[tuple[Claim, list[Finding]]]] = {}
    for claim in all_claims():
        findings = list(claim.check(evidence)) or [Finding(Verdict.NOT_RUN)]
        topics.setdefault(claim.topic, []).append((claim, findings))
    blocks = [_INTRODUCTION, _counts(topics)]
    blocks += [f"## {topic}\n\n{_section(entries)}" for topic, entries in topics.items()]
    blocks.append(
        "## Not targets\n\nWhat the paper states but contradicts itself, or published results speak against.\n\n"
        + "\n".join(_table(("statement", "why it is no target"), FACTS))
        + "\n"
    )
    return "\n".join(blocks)


def _counts(topics: Mapping[str, Sequence[tuple[Claim, Sequence[Finding]]]]) -> str:
    rows = [("claims and settings", *(verdict.value for verdict in Verdict))]
    totals: Counter[Verdict] = Counter()
    for topic, entries in topics.items():
        tally = Counter(finding.verdict for _, findings in entries for finding in findings)
        totals += tally
        rows.append((topic, *(str(tally[verdict]) for verdict in Verdict)))
    rows.append(("all", *(str(totals[verdict]) for verdict in Verdict)))
    return "\n".join(aligned(rows)) + "\n"


def _section(entries: Sequence[tuple[Claim, Sequence[Finding]]]) -> str:
    """A line for every claim and setting of which there is a record; claims without any are folded away below."""
    rows = [row for claim, findings in entries for row in _rows(claim, findings)]
    untouched = [f"{claim.text} ({claim.source})" for claim, findings in entries if not any(map(_told, findings))]
    blocks = ["\n".join(_table(_HEADER, rows)) + "\n"] if rows else []
    if untouched:
        listed = "\n".join(f"- {claim}" for claim in untouched)
        summary = f"<summary>Not yet run: {len(untouched)}</summary>"
        blocks.append(f"<details>{summary}\n\n{listed}\n\n</details>\n")
    return "\n".join(blocks)


def _told(finding: Finding) -> bool:
    return finding.verdict is not Verdict.NOT_RUN or bool(finding.records)


def _rows(claim: Claim, findings: Sequence[Finding]) -> Iterator[tuple[str, ...]]:
    for finding in filter(_told, findings):
        verdict = f"**{finding.verdict.value}**" if finding.verdict is not Verdict.NOT_RUN else finding.verdict.value
        yield claim.text, claim.source, verdict, finding.measured, finding.setting, cite(finding.records)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown without padding: cells are long, and a new figure should change one line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
