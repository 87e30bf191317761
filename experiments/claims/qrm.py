"""Claims of QRM: coverage, against ridge regression, multimodality, the left tail, the joint solver."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import QuantileRegressor

from experiments.claims.bed import fit, judge
from experiments.claims.claim import Check, Claim, Finding, Setting
from experiments.claims.worlds import worlds
from poise.distributions import Quantiles
from poise.distributions.combine import barycentre, mixture
from poise.quantile_regression import QuantileRegression
from poise.training.heads import HeadData
from poise.utility import parse_utility

Array = NDArray[np.float64]
LEVELS = np.arange(1, 20) / 20
WIDTH = 32


def heteroscedastic(seed: int, rows: int, noise: int = 0) -> tuple[Array, Array, Array]:
    """(X [n, H] with a constant, y [n], spread [n]): y = X·w + spread · N(0, 1), the spread linear in X and positive."""
    draw, fresh = np.random.default_rng([seed, 3]), np.random.default_rng([seed, rows, noise])
    location, scale = draw.normal(size=WIDTH) / WIDTH**0.5, draw.normal(size=WIDTH) / WIDTH**0.5
    x = np.clip(fresh.normal(size=(rows, WIDTH)), -2.5, 2.5)
    x[:, 0] = 1.0
    spread = np.maximum(0.7 + 0.25 * x[:, 1:] @ scale[1:], 0.05)
    return x, x @ location + spread * fresh.normal(size=rows), spread


def pinball(y: Array, q: Array) -> float:
    """Mean pinball loss of quantiles [n, K]."""
    error = y[:, None] - q
    return float(np.maximum(LEVELS * error, (LEVELS - 1) * error).mean())


def coverage(setting: Setting) -> Finding:
    """Q1: share of held-out labels below each predicted quantile."""
    worst, crossing, tied = [], [], []
    for seed in range(setting.seeds):
        x, y, _ = heteroscedastic(seed, setting.size(8000, 500))
        fresh, label, _ = heteroscedastic(seed, setting.size(20_000, 500), 1)
        model = QuantileRegression(LEVELS.tolist(), alpha=1e-4).fit(x, y)
        q = model.predict(fresh)[:, 0]
        worst.append(float(np.abs((label[:, None] <= q).mean(0) - LEVELS).max()))
        crossing.append(pinball(label, q) - pinball(label, model.predict(fresh, sort=False)[:, 0]))
        tied.append(discrete_coverage(seed, setting))
    checks = [
        Check("largest |coverage − τ| over 19 levels", worst, "below", 0.02),
        Check("pinball sorted less unsorted", crossing, "below", 1e-12, every=True),
        Check("the same on ratings 1 … 5: distance of τ from [P(x < q), P(x ≤ q)]", tied, "below", 0.02),
    ]
    return Finding(
        checks, why="On discrete ratings P(x ≤ q) alone is no coverage: an atom lies on many quantiles at once."
    )


def discrete_coverage(seed: int, setting: Setting) -> float:
    """Largest distance of a level from the interval that ratings allow."""
    x, y, _ = heteroscedastic(seed, setting.size(8000, 500))
    fresh, label, _ = heteroscedastic(seed, setting.size(20_000, 500), 1)
    cuts = np.quantile(y, [0.2, 0.4, 0.6, 0.8])
    rating, held = (1.0 + np.searchsorted(cuts, values) for values in (y, label))
    q = QuantileRegression(LEVELS.tolist(), alpha=1e-4).fit(x, rating).predict(fresh)[:, 0]
    below, upto = (held[:, None] < q).mean(0), (held[:, None] <= q).mean(0)
    return float(np.maximum(np.maximum(below - LEVELS, LEVELS - upto), 0).max())


def ridge(setting: Setting) -> Finding:
    """Q2: accuracy of the gated mean against ridge regression with the same gate, on held-out pairs of the world."""
    gain, raw = [], []
    for seed, one in enumerate(worlds(setting)):
        data, held = HeadData(one.train, rated=one.rated), one.splits["in_domain"]
        other = judge(fit("attributes", data, seed), held).accuracy
        gain.append(judge(fit("qrm", data, seed), held).accuracy - other)
        raw.append(judge(fit("qrm", data, seed, penalise="raw"), held).accuracy - other)
    return Finding(
        [Check("accuracy, QRM less ridge and gate", gain, "above", 0.0)], {"with the penalty as published": raw}
    )


def multimodal(setting: Setting) -> Finding:
    """Q3: two attributes, one at 0 and one at 1, in equal weights."""
    levels = torch.tensor(LEVELS)
    parts = [Quantiles(torch.full((1, 19), value, dtype=torch.float64), levels) for value in (0.0, 1.0)]
    ratio = float(barycentre(parts).std / mixture(parts).std)
    why = "Averaging quantile functions (equation 3) puts the reward between the modes; only pooling the parts keeps both."
    return Finding(
        [Check("sd of the averaged quantiles : sd of the mixture", [ratio], "below", 0.2, every=True)],
        why=why,
        refutes=True,
    )


def left_tail(setting: Setting) -> Finding:
    """Q4: best of 16 by entropic certainty equivalent (λ = 1 per sd of the reward) against best by mean; truth drawn."""
    gains: dict[float, list[float]] = {level: [] for level in (0.05, 0.1, 0.15, 0.2, 0.25)}
    change = []
    for seed in range(setting.seeds):
        x, y, _ = heteroscedastic(seed, setting.size(8000, 500))
        model = QuantileRegression(LEVELS.tolist(), alpha=1e-4).fit(x, y)
        fresh, outcome, _ = heteroscedastic(seed, 16 * setting.size(4000, 200), 1)
        belief = Quantiles(torch.from_numpy(model.predict(fresh)[:, 0]), torch.tensor(LEVELS))
        prompts = np.arange(len(fresh)).reshape(-1, 16)
        drawn = {}
        for spec in ("mean", f"entropic:{1 / y.std():.3f}"):
            value = parse_utility(spec)(belief).numpy()
            drawn[spec] = outcome[prompts[np.arange(len(prompts)), value[prompts].argmax(1)]]
        plain, careful = drawn.values()
        for level, found in gains.items():
            found.append(float(np.quantile(careful, level) - np.quantile(plain, level)))
        change.append(float(careful.mean() - plain.mean()) / y.std())
    checks = [
        Check(f"quantile {level:g} of the true reward, careful less mean", found, "above", 0.0)
        for level, found in gains.items()
    ]
    checks.append(Check("|change of the mean|, sd of the reward", [abs(c) for c in change], "below", 0.1))
    return Finding(
        checks,
        {"change of the mean, signed": change},
        "The policy half of the claim is experiments/risk_aware_policy.py.",
    )


def solver(setting: Setting) -> Finding:
    """Q5: penalised objective against the linear programs of HiGHS."""
    gaps = []
    for seed in range(setting.seeds):
        x, y, _ = heteroscedastic(seed, setting.size(600, 120))
        ours = QuantileRegression((0.1, 0.5, 0.9), alpha=0.003).fit(x, y)
        for k, level in enumerate((0.1, 0.5, 0.9)):
            theirs = QuantileRegressor(quantile=level, alpha=0.003, fit_intercept=False, solver="highs").fit(x, y)
            mine, best = (objective(x, y, w, level) for w in (ours.coef_[:, k], theirs.coef_))
            gaps.append((mine - best) / best)
    return Finding([Check("objective above HiGHS, relative", gaps, "below", 1e-4, every=True)])


def objective(x: Array, y: Array, weights: Array, level: float) -> float:
    """Mean pinball loss plus the penalty."""
    error = y - x @ weights
    return float(np.maximum(level * error, (level - 1) * error).mean() + 0.003 * np.abs(weights).sum())


CLAIMS = (
    Claim(
        "Q1",
        "The predicted quantiles are right.",
        "|coverage − τ| < .02, interval form for ratings; sorting never raises the pinball loss",
        "holds",
        coverage,
    ),
    Claim(
        "Q2",
        "The mean of the quantiles orders better than ridge regression.",
        "accuracy above ridge with the same gate",
        "open",
        ridge,
    ),
    Claim(
        "Q3",
        "Equation 3 gives a multimodal reward distribution.",
        "refuted if its sd is below .2 of the mixture's for two atoms",
        "does not hold",
        multimodal,
    ),
    Claim(
        "Q4",
        "A risk-aware utility lifts the left tail.",
        "best of 16: quantiles .05 … .25 higher, |change of mean| < .1 sd",
        "holds",
        left_tail,
    ),
    Claim(
        "Q5",
        "The joint solver reaches the optimum of the linear programs.",
        "objective within 1e-4 of HiGHS",
        "holds",
        solver,
    ),
)
