"""Vocabulary of the generated keyword documents: plain English, so that a reader sees which words a gate kept."""

from __future__ import annotations

KEY_WORDS: dict[str, tuple[str, ...]] = {
    "animals": ("horse", "tiger", "rabbit", "eagle", "dolphin", "monkey"),
    "tools": ("hammer", "shovel", "drill", "ladder", "knife", "needle"),
    "foods": ("bread", "cheese", "honey", "butter", "apple", "soup"),
    "cities": ("london", "paris", "tokyo", "cairo", "madrid", "boston"),
}

_FILLERS = """
about above across after again against ago ahead almost alone along already also although always among another any
anyone anything apart around aside away back because before behind below beside besides between beyond both but by
certain certainly clearly close despite down during each early either else enough entire even ever every everyone
everything exactly except fairly far few finally first for forever forward from further generally gone hardly hence
here how however if in indeed inside instead into just last late later least less likely little long lots many maybe
meanwhile merely might more most mostly much must near nearly neither never nevertheless next nobody none nor normally
nothing now nowhere of off often on once one only onto or other otherwise our out outside over overall own partly
perhaps plus possible possibly pretty probably quite rather really recent recently regarding same seldom several shall
she should similar simply since slightly so some somebody somehow someone something sometimes somewhat soon still such
suddenly than that their them then there therefore these they thing this those though through throughout thus till to
today together tomorrow tonight too toward under unless until up upon us usually very was way we well what whatever
when whenever where wherever whether which while who whole whose why will with within without would yes yesterday yet
you your
act add affect agree allow answer appear argue arrive ask attempt avoid become begin believe belong bring build call
carry cause change choose claim collect combine come compare consider contain continue count cover create decide
deliver demand describe deserve develop differ discuss draw drive enjoy ensure enter establish examine exist expect
explain express extend fall feel fill find finish follow forget form get give go grow guess handle happen have hear
help hold hope identify imagine improve include increase inform intend introduce involve join judge keep know lead
learn leave let lie like listen look lose maintain make manage mean measure meet mention move need notice observe
obtain occur offer open order pass pay perform plan play point prefer prepare prove provide put raise reach read
realize receive remain remember remove repeat replace reply report require rest result return rise run say see seem
send serve set show sit speak spend stand start stay stop suggest support take talk teach tell think touch travel try
turn understand use visit wait walk want watch wear wonder work write
"""

FILLER_WORDS: tuple[str, ...] = tuple(_FILLERS.split())
