"""A file of pairs in, a decision about every row out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from poise.curation.decide import Decision, Rules, decide, wrong_labels
from poise.curation.judge import Judgement, as_read, judge
from poise.curation.repeats import Finding, contaminated, repeated
from poise.data.load import BadRow, OnBad, load_preferences
from poise.data.records import Preference
from poise.errors import ConfigError
from poise.feature_cache import FeatureCache
from poise.model import RewardModel
from poise.pairing import pair_features
from poise.training.monitor import Reporter
from poise.training.prepare import progress_of


@dataclass(frozen=True)
class Search:
    """What to look for beside labels: ``repeats`` (pairs alike to ``near`` or more, drop or keep) and prompts ``against``
    other files. ``folds`` as in ``judge``.
    """

    repeats: Literal["drop", "keep"] = "drop"
    near: float = 0.8
    against: tuple[str, ...] = ()
    folds: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.near <= 1:
            raise ConfigError(f"near is {self.near}; a similarity lies above 0 and at most at 1")
        if self.folds is not None and self.folds != 0 and self.folds < 2:
            raise ConfigError(f"--cross-fit {self.folds}; give 2 folds or more, or 0 for none")


@dataclass(frozen=True)
class Material:
    """What was read before a model is loaded: the pairs, the rows that cannot be used, and the evaluation pairs."""

    source: str
    pairs: tuple[Preference, ...]
    bad: tuple[BadRow, ...]
    against: tuple[Preference, ...]


@dataclass(frozen=True)
class Curated:
    """Every pair with its decision, and the ``bad`` rows: together all there is. ``noise`` is the estimated share of wrong
    labels (NaN without judged ones), ``judgement`` says who judged.
    """

    source: str
    decisions: tuple[Decision, ...]
    bad: tuple[BadRow, ...]
    noise: float
    folds: int
    model: str

    @property
    def kept(self) -> tuple[Decision, ...]:
        """What is in the curated data, in the order of the source."""
        return tuple(one for one in self.decisions if one.kept)

    @property
    def left_out(self) -> tuple[Decision, ...]:
        """What is not, in the order of the source."""
        return tuple(one for one in self.decisions if not one.kept)

    def actions(self) -> Counter[str]:
        """How many of which action; bad rows are dropped."""
        return Counter(one.action for one in self.decisions) + Counter({"drop": len(self.bad)})

    def reasons(self) -> Counter[tuple[str, str]]:
        """How many by (rule, action); bad rows by the rule ``unusable``."""
        return Counter((one.kind, one.action) for one in self.decisions) + Counter(
            {("unusable", "drop"): len(self.bad)}
        )

    def groups(self) -> Counter[str]:
        """How many of which group, before anything was left out."""
        return Counter(one.group for one in self.decisions)

    def queue(self, size: int) -> list[Decision]:
        """What people should look at, the most informative first: all judged pairs but those whose label is not what they
        were left out for.
        """
        open_ = [one for one in self.decisions if one.kind in ("kept", "mislabelled", "disputed")]
        return sorted(open_, key=lambda one: -one.information)[:size]


def read(source: str, search: Search, on_bad: OnBad = "drop") -> Material:
    """Read everything that is needed of files; DataError as ``load_preferences`` raises it."""
    loaded = load_preferences(source, on_bad)
    against = tuple(pair for name in search.against for pair in load_preferences(name, "drop").records)
    return Material(source, loaded.records, loaded.bad, against)


def curate(
    model: RewardModel,
    run: Path,
    material: Material,
    rules: Rules,
    search: Search,
    *,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> Curated:
    """Judge all pairs and decide about each. Pairs that do not fit the model are left out as unusable."""
    given = as_read(model, material.pairs)
    came = {id(read): pair for read, pair in zip(given, material.pairs, strict=True)}
    data = pair_features(
        model.backbone,
        given,
        cache,
        prompt_states=model.method.needs_prompt_state,
        progress=progress_of(reporter, "features"),
    )
    judgement = judge(model, run, data, folds=search.folds, cache=cache, reporter=reporter)
    pairs = [came[id(pair)] for pair in data.preferences]  # in the form in which they came
    reporter.say(f"{len(pairs):,} pairs of {material.source} judged; looking for repeats")
    findings = _findings(pairs, material.against, search)
    decisions = decide(pairs, judgement, [findings.get(i) for i in range(len(pairs))], rules)
    return Curated(
        material.source,
        decisions,
        (*material.bad, *data.dropped),
        _noise(pairs, judgement),
        judgement.folds,
        str(run),
    )


def _findings(pairs: Sequence[Preference], against: Sequence[Preference], search: Search) -> dict[int, Finding]:
    found = contaminated(pairs, against, search.near) if against else {}
    return found | (repeated(pairs, search.near, found) if search.repeats == "drop" else {})


def _noise(pairs: Sequence[Preference], judgement: Judgement) -> float:
    return wrong_labels(judgement.p, np.array([pair.label for pair in pairs]))
