"""Which claims there are, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.claims import bsr, drpo, drpo_belief, oprm, qrm, relatives, vrm
from experiments.claims.claim import Claim


@dataclass(frozen=True)
class Family:
    """A method's claims under a heading, in the paper's own name."""

    title: str
    claims: Sequence[Claim]


FAMILIES: Mapping[str, Family] = {
    "drpo": Family(
        "DRPO: rewards as a policy's actions",
        sorted([*drpo.CLAIMS, *drpo_belief.CLAIMS], key=lambda one: int(one.id[1:])),
    ),
    "oprm": Family("OPRM and RgFT: ordinal levels and regions", oprm.CLAIMS),
    "qrm": Family("QRM: quantiles of attributes", qrm.CLAIMS),
    "vrm": Family("VRM: variational weights of objectives", vrm.CLAIMS),
    "bsr": Family("BT-BSR: Bradley–Terry with a batch sum to zero", bsr.CLAIMS),
    "relatives": Family("Relatives: hidden context, and choosing among many answers", relatives.CLAIMS),
}
KNOWN: Mapping[str, Claim] = {claim.id: claim for family in FAMILIES.values() for claim in family.claims}
