"""Distribution-free guarantees: quantiles of scores for intervals, tests of error rates for abstention."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from poise.calibration.abstention import Abstention
from poise.calibration.evidence import IntArray, RatingEvidence
from poise.calibration.ratings import ConformalInterval, RatingCalibration
from poise.errors import DataError

FloatArray = NDArray[np.float64]
THRESHOLDS = tuple(i / 200 for i in range(100, 200))  # fixed beforehand: the tests need that
STARTS = (0.95, 0.9, 0.8, 0.7, 0.6)
PAIRS_OF_A_PROMPT = 16
DELTA = 0.1


def conformal_quantile(scores: FloatArray, mass: FloatArray, level: float) -> float:
    """The smallest score at or below which there is ``level`` of the mass; infinite where all of it is not enough.

    ``mass`` [R] of each score; what is missing to 1 is that of the unknown new one. With 1/(n + 1) each it is the
    ⌈(n + 1)·level⌉-th smallest score.
    """
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(mass[order])
    place = int(np.searchsorted(reached, level - 1e-12))
    return float(scores[order[place]]) if place < len(scores) else math.inf


def rating_masses(evidence: RatingEvidence) -> FloatArray:
    """1/(prompts + 1) for every prompt, shared by its responses, and by the ratings of each: [R]."""
    _, prompt, responses = np.unique(evidence.groups, return_inverse=True, return_counts=True)
    of_response = 1 / responses[prompt] / (len(responses) + 1)
    return np.asarray(evidence.weights.numpy() * of_response[evidence.row])


def fit_interval(calibration: RatingCalibration, evidence: RatingEvidence, coverage: float) -> ConformalInterval:
    """The central interval of the calibrated belief, moved until it covers a rating of a new prompt with ``coverage``.

    Conformalised quantile regression: guaranteed if prompts are exchangeable and ``calibration`` was fitted on others.
    Raises ``DataError`` for too few prompts.
    """
    belief = calibration.apply(evidence.belief)
    low, high = ConformalInterval(coverage=coverage, margin=0.0).of(evidence.each(belief))
    outside = np.maximum((low - evidence.value).numpy(), (evidence.value - high).numpy())
    margin = conformal_quantile(outside, rating_masses(evidence), coverage)
    if math.isinf(margin):
        needed, prompts = math.ceil(coverage / (1 - coverage)), len(np.unique(evidence.groups))
        raise DataError(
            f"a {coverage:.0%} interval needs ratings of at least {needed} prompts, got {prompts}; "
            "give more data or ask for less"
        )
    return ConformalInterval(coverage=coverage, margin=margin)


def fit_abstention(p: FloatArray, y: FloatArray, groups: IntArray, error: float, delta: float = DELTA) -> Abstention:
    """The lowest threshold on confidence whose error rate among answered pairs is proven to be at most ``error``.

    ``p`` [P] are calibrated win probabilities from a fit to other prompts, ``y`` [P] shares of votes: an answer errs by the
    share that disagrees. Learn then test (Angelopoulos et al. 2021): for every threshold of a fixed grid a test of "the
    error rate is above ``error``", in fixed sequences from ``STARTS`` downwards with ``delta`` shared among them, so that
    with probability 1 − ``delta`` no false threshold is taken. The tests are binomial, or bet against the hypothesis one
    prompt after another (Waudby-Smith & Ramdas 2024); they assume that prompts are independent draws, and nothing else.
    """
    confidence, errs = np.maximum(p, 1 - p), disagreement(p, y)
    kept = at_most(groups, PAIRS_OF_A_PROMPT)
    confidence, errs, groups = confidence[kept], errs[kept], groups[kept]
    level, proven = delta / len(STARTS), set[float]()
    for start in STARTS:
        for threshold in sorted((t for t in THRESHOLDS if t <= start), reverse=True):
            if _p_value(errs, confidence >= threshold, groups, error, level) > level:
                break
            proven.add(threshold)
    if not proven:
        return Abstention(error=error, delta=delta, threshold=None, answered=0.0)
    answered = confidence >= min(proven)
    return Abstention(
        error=error,
        delta=delta,
        threshold=min(proven),
        answered=float(answered.mean()),
        observed=float(errs[answered].mean()),
    )


def disagreement(p: FloatArray, y: FloatArray) -> FloatArray:
    """The share of votes [P] against what win probabilities ``p`` choose; half at p = ½."""
    return np.where(p > 0.5, 1 - y, np.where(p < 0.5, y, 0.5))


def at_most(groups: IntArray, most: int, seed: int = 0) -> IntArray:
    """Rows of which no group has more than ``most``, drawn at random, in random order."""
    order = np.random.default_rng(seed).permutation(len(groups))
    ranks, seen = np.empty(len(groups), dtype=np.int64), {}  # type: ignore[var-annotated]
    for row in order:
        ranks[row] = seen[groups[row]] = seen.get(groups[row], -1) + 1
    return np.asarray(order[ranks[order] < most])


def _p_value(errs: FloatArray, answered: NDArray[np.bool_], groups: IntArray, error: float, level: float) -> float:
    """Of "the error rate among answered pairs exceeds ``error``"; exact where prompts have one pair and errors are whole."""
    if len(np.unique(groups)) == len(groups) and np.isin(errs, (0.0, 1.0)).all():
        return float(binom.cdf(errs[answered].sum(), answered.sum(), error))
    return betting_p_value(selective_losses(errs, answered, groups, error), error, level)


def selective_losses(errs: FloatArray, answered: NDArray[np.bool_], groups: IntArray, error: float) -> FloatArray:
    """A loss in [0, 1] of every prompt whose mean is at most ``error`` exactly if the error rate among answered pairs is.

    A pair that is not answered counts as ``error`` itself, and so does what a prompt has fewer pairs than the largest one.
    """
    _, prompt = np.unique(groups, return_inverse=True)
    excess = np.bincount(prompt, np.where(answered, errs - error, 0.0))
    return np.asarray(np.clip(error + excess / np.bincount(prompt).max(), 0.0, 1.0), dtype=np.float64)


def betting_p_value(losses: FloatArray, error: float, level: float) -> float:
    """P-value of "the mean of independent losses [n] in [0, 1] exceeds ``error``", in the order of the rows.

    The wealth of one who bets on small losses with stakes from the rows before is a nonnegative supermartingale under the
    hypothesis, so 1/(largest wealth) is a p-value (Ville). ``level`` only tunes the stakes.
    """
    n = len(losses)
    before = np.arange(1, n + 1)
    mean = (0.5 * error + np.concatenate([[0.0], np.cumsum(losses)[:-1]])) / before
    spread = np.square(losses - mean)
    variance = (0.25 * error * (1 - error) + np.concatenate([[0.0], np.cumsum(spread)[:-1]])) / before
    stakes = np.minimum(np.sqrt(2 * math.log(1 / level) / (n * np.maximum(variance, 1e-12))), 0.75 / (1 - error))
    wealth = np.cumsum(np.log1p(stakes * (error - losses)))
    return float(np.exp(-max(wealth.max(), 0.0)))
