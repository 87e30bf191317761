"""Every read-out acts row by row: a batch of two axes, a batch of one and a single distribution say the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from poise.distributions import (
    Link,
    Mixture,
    RewardDistribution,
    Samples,
    WinMap,
    barycentre,
    comparison,
    mixture,
    prob_best,
    win_matrix,
)
from poise.distributions.disagreement import bimodality_coefficient
from poise.errors import UnsupportedOperation
from tests.distributions.families import FAMILIES, build

LEVELS = torch.tensor([0.031, 0.27, 0.52, 0.971], dtype=torch.float64)
X = torch.tensor([-1.5, -0.3, 0.0, 0.4, 1.0, 2.5], dtype=torch.float64)
READ_OUTS: dict[str, Callable[[RewardDistribution, Tensor], Tensor]] = {
    "mean": lambda d, x: d.mean,
    "variance": lambda d, x: d.variance,
    "std": lambda d, x: d.std,
    "third": lambda d, x: d.third_central_moment,
    "fourth": lambda d, x: d.fourth_central_moment,
    "bimodality": lambda d, x: bimodality_coefficient(d),
    "cdf": lambda d, x: d.cdf(x),
    "cdf_left": lambda d, x: d.cdf_left(x),
    "quantile": lambda d, x: d.quantile(0.31),
    "quantiles": lambda d, x: d.quantile(LEVELS),
    "crps": lambda d, x: d.crps(x),
    "entropy": lambda d, x: d.entropy(),
    "log_prob": lambda d, x: d.log_prob(x),
    "mixture of it": lambda d, x: Mixture.of(d).std,
    "moved": lambda d, x: Mixture.of(d).affine(x, -x).quantile(0.7),
}
COMPARISONS: dict[str, Callable[[RewardDistribution, RewardDistribution], Tensor]] = {
    "prob_greater": lambda a, b: a.prob_greater(b),
    "prob_tie": lambda a, b: a.prob_tie(b),
    "log_prob_greater": lambda a, b: a.log_prob_greater(b),
    "logistic": lambda a, b: a.prob_greater(b, link=Link("logistic", 0.7, 0.3)),
    "logistic logarithm": lambda a, b: a.log_prob_greater(b, link=Link("logistic", 0.7, 0.3)),
    "mapped": lambda a, b: a.prob_greater(b, link=Link("probit", win_map=WinMap(2.0, 0.1, ((0.7, 0.6), (1.0, 0.9))))),
    "paired": lambda a, b: a.prob_greater(b, "paired"),
    "paired logarithm": lambda a, b: a.log_prob_greater(b, "paired"),
    "comonotone": lambda a, b: a.prob_greater(b, "comonotone"),
    "wasserstein": lambda a, b: a.wasserstein(b),
    "cramer": lambda a, b: a.cramer(b),
    "kl": lambda a, b: a.kl(b),
    "mixture": lambda a, b: mixture([a, b], torch.tensor([0.3, 0.7], dtype=torch.float64)).std,
    "barycentre": lambda a, b: barycentre([a, b]).quantile(0.31),
    "between": lambda a, b: Mixture.from_members([a, b]).split().between,
    "within": lambda a, b: Mixture.from_members([a, b]).split().within,
}


def folded(d: RewardDistribution) -> RewardDistribution:
    """[6] as [2, 3]."""
    return RewardDistribution.concatenate([d[:3][None], d[3:][None]])


def same(find: Callable[..., Tensor], rows: list[RewardDistribution], x: Tensor | None = None) -> None:
    """``find`` of [6], of [2, 3] and of each row alone."""
    points = [] if x is None else [x]
    try:
        whole = find(*rows, *points)
    except UnsupportedOperation:
        return  # refused for this family; which ones are is tested elsewhere
    assert whole.dtype == torch.float64
    two = find(*(folded(d) for d in rows), *(p.reshape(2, 3) for p in points))
    torch.testing.assert_close(two, whole.reshape(2, 3, *whole.shape[1:]), rtol=1e-9, atol=1e-9)
    for i in (0, 4):
        torch.testing.assert_close(find(*(d[i] for d in rows), *(p[i] for p in points)), whole[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", READ_OUTS)
def test_read_outs(family: str, name: str) -> None:
    same(READ_OUTS[name], [build(family, 3, batch=6)], X)


@pytest.mark.parametrize(
    "pair", [*((f, f) for f in FAMILIES), ("mixture", "mixed"), ("gaussian", "samples"), ("samples", "mixed")]
)
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(pair: tuple[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [build(family, seed, batch=6) for family, seed in zip(pair, (3, 4), strict=True)]
    same(COMPARISONS[name], rows)
    monkeypatch.setattr(comparison, "SORT_LOG_ABOVE", 0)
    monkeypatch.setattr(comparison, "CHUNK", 20)
    if name == "log_prob_greater":
        same(COMPARISONS[name], rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_of_groups(family: str) -> None:
    """[2, 3]: the best along either axis is the best of each slice, and a matrix of wins is one per slice."""
    d = folded(build(family, 3, batch=6, rounded=True))
    matrix, across, down = win_matrix(d), prob_best(d, axis=-1), prob_best(d, axis=0)
    for i in range(2):
        torch.testing.assert_close(matrix[i], win_matrix(d[i]))
        torch.testing.assert_close(across[i], prob_best(d[i]))
    for j in range(3):
        torch.testing.assert_close(down[:, j], prob_best(d[:, j]))
    drawn = prob_best(d, axis=0, draws=4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, down, atol=0.04, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_of_two_axes(family: str) -> None:
    """Row i of a batch is drawn from distribution i: five standard errors of 4,000 draws."""
    d = folded(build(family, 3, batch=6))
    drawn = d.sample(4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 2, 3)
    assert ((drawn.mean(0) - d.mean).abs() <= 5 * d.std / 4000**0.5 + 1e-12).all()
    assert ((drawn.std(0) - d.std).abs() <= 0.1 * d.std + 1e-12).all()


def test_fair_crps_of_two_axes() -> None:
    draws = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Samples(draws).crps(X.reshape(2, 3), fair=True)
    for i in range(2):
        torch.testing.assert_close(found[i], Samples(draws[i]).crps(X.reshape(2, 3)[i], fair=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_expanding_and_reordering(family: str) -> None:
    d = build(family, 3, batch=6)
    assert d.expand(2, 6).shape == (2, 6)
    torch.testing.assert_close(d.expand(2, 6).quantile(0.4), d.quantile(0.4).expand(2, 6))
    assert len(folded(d)) == 2
    with pytest.raises(TypeError, match="has no length"):
        len(d[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [3, 10, 20])
def test_a_row_of_atoms_has_its_quantiles_beside_rows_with_spread(dtype: torch.dtype, count: int) -> None:
    """Levels k/C are where rounding decides: C equal atoms have k/C at atom k, alone and in company."""
    means = torch.arange(1, count + 1, dtype=dtype).expand(3, count)
    stds = torch.stack([torch.zeros(count), torch.ones(count), torch.arange(count) % 2]).to(dtype)
    rows = Mixture(torch.zeros(3, count, dtype=dtype), means, stds)
    levels = (torch.arange(1, count, dtype=torch.float64) / count).to(dtype)
    assert torch.equal(rows[:1].quantile(levels), means[:1, :-1])
    assert torch.equal(rows.quantile(levels)[0], means[0, :-1])
    for i in (1, 2):
        assert torch.equal(rows.quantile(levels)[i], rows[i : i + 1].quantile(levels)[0])
    atoms = Samples(torch.randn(4, 1, 5, generator=torch.Generator().manual_seed(0), dtype=dtype))
    distances = rows.wasserstein(atoms)  # [4, 3]: levels that differ by row
    assert torch.allclose(distances[:, 0], rows[:1].wasserstein(atoms)[:, 0], rtol=1e-5)
    with pytest.raises(UnsupportedOperation, match="entropy"):
        rows.entropy()
