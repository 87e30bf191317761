"""What a reward model is worth when it chooses: best-of-n against gold scores, and where more choice begins to hurt.

N responses per prompt with proxy and gold scores give every n <= N at once, without a draw: the response of ascending proxy
rank i is the best of n drawn without replacement with probability C(i−1, n−1)/C(N, n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from scipy.special import gammaln

from poise.errors import ConfigError, DataError
from poise.evaluation.bootstrap import Metric
from poise.evaluation.metrics.rows import EqualValues, FloatArray, mean, row_weights


def best_of_n(proxy: ArrayLike, gold: ArrayLike, n: Sequence[int]) -> FloatArray:
    """Expected ``gold`` [N] of the response with the highest ``proxy`` [N] among n drawn from the N: [len(n)].

    Exact, hence unbiased for N draws of a policy; equal proxies are chosen among at random.
    """
    order, target = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    sizes = np.asarray(n)
    if order.ndim != 1 or order.shape != target.shape or not np.isfinite([order, target]).all():
        raise DataError("best-of-n needs one finite proxy and one finite gold score per response")
    if not sizes.size or sizes.min() < 1 or sizes.max() > len(order):
        raise ConfigError(f"n={list(n)}; it counts responses, from 1 to the {len(order)} that every prompt has")
    groups = EqualValues.of(order)
    ends = np.concatenate([groups.starts, [len(order)]])
    # P(the best lies among the lowest i) = C(i, n)/C(N, n), so that a block of equal proxies has the difference at its ends
    reached = np.exp(_log_choose(ends, sizes) - _log_choose(np.array([len(order)]), sizes))
    return np.asarray(np.diff(reached, axis=1) @ (groups.sum(target) / np.diff(ends)))


def kl_bound(n: ArrayLike) -> FloatArray:
    """ln n − (n−1)/n in nat: KL(best-of-n ‖ policy) for a proxy without ties, and an upper bound with them (Beirami et al. 2024)."""
    count = np.asarray(n, dtype=np.float64)
    return np.log(count) - (count - 1.0) / count


@dataclass(frozen=True)
class BestOfN:
    """Curves per prompt, ``proxy`` and ``gold`` [prompts, len(n)], as gains over n = 1 in within-prompt standard deviations."""

    n: tuple[int, ...]
    proxy: FloatArray
    gold: FloatArray

    @classmethod
    def of(cls, proxy: Sequence[ArrayLike], gold: Sequence[ArrayLike], n: Sequence[int]) -> BestOfN:
        """From the scores [N] of each prompt's responses; n = 1 is added."""
        sizes = tuple(sorted({1, *n}))
        if not len(proxy) or len(proxy) != len(gold):
            raise DataError(f"proxy has {len(proxy)} prompts, gold {len(gold)}; both score the same responses")
        given = list(zip(proxy, gold, strict=True))
        one = np.stack([best_of_n(scores, scores, sizes) for scores, _ in given])
        two = np.stack([best_of_n(scores, target, sizes) for scores, target in given])
        return cls(sizes, _gain(one, proxy), _gain(two, gold))

    @property
    def distance(self) -> FloatArray:
        """√KL from the policy at each n."""
        return np.sqrt(np.maximum(kl_bound(self.n), 0.0))

    def curves(self, weights: ArrayLike | None = None) -> tuple[FloatArray, FloatArray]:
        """Mean proxy and gold gains over prompts, each [..., len(n)]."""
        weight = row_weights(weights, len(self.gold))
        columns = [np.stack([mean(gain, weight) for gain in side.T], axis=-1) for side in (self.proxy, self.gold)]
        return columns[0], columns[1]

    def metrics(self) -> dict[str, Metric]:
        """Gains at each n, ``over_optimisation`` of the mean curves and ``fit_gain`` of gold, for a bootstrap by prompt."""
        gains: dict[str, Metric] = {
            f"{side}_at_{n}": partial(mean, curve[:, i])
            for side, curve in (("gold", self.gold), ("proxy", self.proxy))
            for i, n in enumerate(self.n)
            if n > 1
        }
        fitted = FIT if len(self.n) > 2 else ()
        return gains | {name: partial(self._summary, name) for name in (*SUMMARY, *fitted)}

    def _summary(self, name: str, *, weights: FloatArray) -> FloatArray:
        proxy, gold = self.curves(weights)
        if name in FIT:
            return fit_gain(self.distance, gold)[FIT.index(name)]
        return over_optimisation(self.distance, proxy, gold)[name]


FIT = ("alpha", "beta")
SUMMARY = ("peak_gold", "distance_at_peak", "final_over_peak", "proxy_gold_area")


def over_optimisation(distance: FloatArray, proxy: FloatArray, gold: FloatArray) -> dict[str, FloatArray]:
    """Where gold gains peak along ``distance`` [n] and what is lost beyond, for gain curves [..., n]: each [...].

    ``final_over_peak`` is 1 without over-optimisation; ``proxy_gold_area`` = ∫(proxy − gold) over distance.
    """
    peak = gold.argmax(axis=-1)
    highest = gold.max(axis=-1)
    return {
        "peak_gold": highest,
        "distance_at_peak": distance[peak],
        "final_over_peak": np.divide(gold[..., -1], highest, out=np.full_like(highest, np.nan), where=highest > 0.0),
        "proxy_gold_area": np.asarray(trapezoid(proxy - gold, distance, axis=-1)),
    }


def fit_gain(
    distance: ArrayLike, gain: ArrayLike, kind: Literal["best_of_n", "policy_gradient"] = "best_of_n"
) -> tuple[FloatArray, FloatArray]:
    """(α, β) of R(d) = d(α − βd), or d(α − β ln d) for ``policy_gradient``, by least squares; gains [..., n] (Gao et al. 2023)."""
    d, reward = np.asarray(distance, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    moved = d > 0.0
    d, reward = d[moved], reward[..., moved]
    if len(np.unique(d)) < 2:
        raise DataError("a fit of two coefficients needs gains at two distances above 0; give more values of n")
    bend = d if kind == "best_of_n" else np.log(d)
    found = reward @ np.linalg.pinv(np.stack([d, -d * bend], axis=1)).T
    return found[..., 0], found[..., 1]


def _gain(curves: FloatArray, scores: Sequence[ArrayLike]) -> FloatArray:
    """Curves [prompts, n], whose first column is n = 1, as gains in units of the mean within-prompt spread of the scores."""
    spread = float(np.sqrt(np.mean([np.var(np.asarray(values, dtype=np.float64)) for values in scores])))
    return (curves - curves[:, :1]) / (spread if spread > 0.0 else 1.0)


def _log_choose(total: FloatArray, n: FloatArray) -> FloatArray:
    """ln C(total, n), −∞ where n > total: [len(n), len(total)]."""
    count, size = np.asarray(total, dtype=np.float64)[None], np.asarray(n, dtype=np.float64)[:, None]
    left = np.maximum(count - size, 0.0)
    return np.where(size > count, -np.inf, gammaln(count + 1) - gammaln(size + 1) - gammaln(left + 1))
