"""From a reward distribution to the number a decision needs: what to maximise, and how much risk to take.

``parse_utility("cvar:0.1")(reward)`` is [B]; higher is better. ``formulas.py`` has the closed forms, ``groups.py`` those
that compare the responses to one prompt, ``choices.py`` the names.
"""

from __future__ import annotations

from poise.utility.choices import KINDS, ReferenceUtility, Utility, against_references, parse_utility
from poise.utility.formulas import cvar, entropic, exponential
from poise.utility.groups import probability_best, shrinkage, win_rate

__all__ = [
    "KINDS",
    "ReferenceUtility",
    "Utility",
    "against_references",
    "cvar",
    "entropic",
    "exponential",
    "parse_utility",
    "probability_best",
    "shrinkage",
    "win_rate",
]
