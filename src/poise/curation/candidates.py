"""Pairs that could be labelled, from rows with responses: every two of a row, or of successive rows of one prompt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from poise.curation.judge import as_read
from poise.data.load import BadRow, bad_rows_error, iter_candidates
from poise.data.records import Preference
from poise.errors import DataError
from poise.feature_cache import FeatureCache
from poise.features import unit_scale
from poise.laplace import PairData, Posterior, fit_posterior
from poise.model import RewardModel
from poise.pairing import PairFeatures, pair_features
from poise.scoring import groups_of
from poise.training.monitor import Reporter
from poise.training.prepare import progress_of


@dataclass(frozen=True)
class Pool:
    """P candidate pairs with the feature differences [P, H] of their responses, and what labels so far say about such."""

    pairs: tuple[Preference, ...]
    prompts: tuple[str, ...]
    difference: Tensor
    posterior: Posterior
    labels: int


def read_pairs(source: str, on_bad: str = "error") -> list[Preference]:
    """All pairs of different responses that compete; labels that the rows may have are not read.

    DataError for bad rows unless ``on_bad`` is drop, and where no row has two responses to its prompt.
    """
    bad: list[BadRow] = []
    found = list(_pairs(source, bad))
    if bad and on_bad == "error":
        raise bad_rows_error(bad)
    if not found:
        raise DataError(
            f"{source}: no prompt has two different responses to compare; give a column responses, or pairs"
        )
    return found


def _pairs(source: str, bad: list[BadRow]) -> Iterator[Preference]:
    for group in groups_of(iter_candidates(source, bad)):
        responses = list(dict.fromkeys(one.response for one in group))
        for first, second in itertools.combinations(responses, 2):
            yield Preference(prompt=group[0].prompt, chosen=first, rejected=second, row=group[0].row, source=source)


def pool_of(
    model: RewardModel,
    pairs: list[Preference],
    labelled: list[Preference],
    *,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> Pool:
    """Candidates and the posterior after the ``labelled`` pairs (none is fine), on the features of the model's backbone.

    Candidates that are labelled already are left out; DataError where none is left.
    """
    known = {(pair.prompt, frozenset((pair.chosen, pair.rejected))) for pair in as_read(model, labelled)}
    fresh = [p for p in as_read(model, pairs) if (p.prompt, frozenset((p.chosen, p.rejected))) not in known]
    if not fresh:
        raise DataError(f"{pairs[0].source}: all {len(pairs):,} candidate pairs are labelled already; give others")

    def features(records: list[Preference], what: str) -> PairFeatures:
        progress = progress_of(reporter, f"features: {what}")
        return pair_features(model.backbone, records, cache, progress=progress)

    candidates = features(fresh, "candidates")
    if candidates.dropped:
        reporter.say(f"{len(candidates.dropped):,} candidate pairs left out; the first: {candidates.dropped[0]}")
    scale = unit_scale(candidates.features)
    difference = _difference(candidates) * scale
    if not labelled:
        empty = difference[:0]
        prior = fit_posterior(PairData.equal(empty, empty[:, 0]))
        return Pool(candidates.preferences, candidates.prompts, difference, prior, 0)
    old = features(as_read(model, labelled), "labelled pairs")
    posterior = fit_posterior(PairData.equal(_difference(old) * scale, old.targets().label.double()))
    return Pool(candidates.preferences, candidates.prompts, difference, posterior, len(old))


def _difference(data: PairFeatures) -> Tensor:
    states = data.features.response.to(torch.float64)
    return states[data.pairs[:, 0]] - states[data.pairs[:, 1]]
