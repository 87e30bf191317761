"""Shrinkage by hand and against a simulated truth; probabilities of being the best; reference answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from poise.distributions import Gaussian, Link, Mixture, Point, Samples, WinMap, win_matrix
from poise.errors import ConfigError
from poise.utility import against_references, groups, parse_utility, probability_best, shrinkage
from tests.distributions.families import FAMILIES, build
from tests.utility.test_formulas import Integrated


def test_shrinkage_by_hand():
    """Means 0, 2, 4; two members that differ by ±1 in opposite directions on the first two responses, agree on the third.

    Group mean 2. Member 1 says −1, 3, 4 (mean 2), member 2 says 1, 1, 4 (mean 2): σ² = 1, 1, 0, times n/(n−1): 1.5, 1.5, 0.
    Var(μ) = 4, mean σ² = 1, t² = 3: the factors are 3/4.5, 3/4.5, 1.
    """
    draws = torch.tensor([[-1.0, 1.0], [3.0, 1.0], [4.0, 4.0]], dtype=torch.float64)
    found = shrinkage(Samples(draws, coupling="paired"))
    assert found.tolist() == pytest.approx([2 - 2 * 3 / 4.5, 2.0, 4.0])


def test_shrinkage_without_difference_or_doubt():
    certain = Samples(torch.tensor([[1.0, 1.0], [3.0, 3.0]]), coupling="paired")
    assert shrinkage(certain).tolist() == [1.0, 3.0]
    noise = Samples(torch.tensor([[-9.0, 9.2], [9.0, -9.0]]), coupling="paired")
    assert shrinkage(noise).tolist() == pytest.approx([0.05, 0.05])
    assert shrinkage(certain[:1]).tolist() == [1.0]


def test_weighted_members():
    """Member 2 with weight 0 does not count."""
    draws = torch.tensor([[1.0, 50.0, 1.5], [2.0, -50.0, 2.5], [4.0, 0.0, 2.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64).expand(3, 3)
    weighted = Mixture.from_samples(draws, weights)
    paired = Mixture(weighted.log_weights, weighted.means, weighted.stds, coupling="paired")
    torch.testing.assert_close(shrinkage(paired), shrinkage(Samples(draws[:, [0, 2]], coupling="paired")))


def ensemble(means: np.ndarray, doubt: np.ndarray, rng: np.random.Generator) -> Samples:
    """Rewards [n] whose 32 members have these means and differ by ``doubt`` [n], unrelated between responses."""
    noise = rng.normal(size=(len(means), 32))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True)
    return Samples(torch.from_numpy(means[:, None] + doubt[:, None] * noise), coupling="paired")


def test_shrinkage_beats_lcb_beats_mean_in_best_of_256():
    """True rewards N(0, 1); proxies with an error of σ = .1, .5 or 3, which the members' disagreement tells.

    Un-shrunk proxies: shrinkage > LCB > mean. Proxies that are posterior means already: LCB is worse than the mean.
    """
    rng, prompts = np.random.default_rng(0), 200
    gold: dict[str, list[float]] = {}
    for _ in range(prompts):
        truth, sigma = rng.normal(size=256), rng.choice([0.1, 0.5, 3.0], size=256, p=[0.1, 0.6, 0.3])
        proxy = truth + sigma * rng.normal(size=256)
        kept = 1 / (1 + sigma**2)
        raw, posterior = ensemble(proxy, sigma, rng), ensemble(kept * proxy, np.sqrt(kept) * sigma, rng)
        for name, spec, reward in (
            ("mean", "mean", raw),
            ("lcb", "lcb_epistemic:2", raw),
            ("shrinkage", "shrinkage", raw),
            ("posterior", "mean", posterior),
            ("posterior lcb", "lcb_epistemic:2", posterior),
        ):
            chosen = parse_utility(spec)(reward, torch.zeros(256)).argmax().item()
            gold.setdefault(name, []).append(truth[chosen])
    for worse, better in (("lcb", "shrinkage"), ("mean", "lcb"), ("posterior lcb", "posterior")):
        difference = np.subtract(gold[better], gold[worse])
        assert difference.mean() > 3 * difference.std(ddof=1) / np.sqrt(prompts), (worse, better)


def test_best_of_gaussians_by_quadrature():
    mean, std = torch.tensor([0.0, 0.4, -1.0, 0.1], dtype=torch.float64), torch.tensor([1.0, 0.3, 2.0, 0.0])

    def density(x: float, i: int) -> float:
        others = [stats.norm.cdf(x, mean[j], std[j]) if std[j] > 0 else float(x >= mean[j]) for j in range(4) if j != i]
        return stats.norm.pdf(x, mean[i], std[i]) * np.prod(others)

    found = probability_best(Gaussian(mean, std.double()))
    for i in range(3):
        wanted = integrate.quad(density, -15, 15, args=(i,), points=[-1, 0, 0.1, 0.4], limit=400)[0]
        assert found[i].item() == pytest.approx(wanted, abs=1e-7)
    assert found[3].item() == pytest.approx(np.prod([stats.norm.cdf(0.1, mean[j], std[j]) for j in range(3)]), abs=1e-7)


def test_best_of_atoms_by_enumeration_with_ties_split():
    draws = torch.tensor([[0.0, 1.0], [1.0, 1.0], [-1.0, 2.0]])
    wanted = np.zeros(3)
    for picks in itertools.product(range(2), repeat=3):
        values = np.array([draws[i, p].item() for i, p in enumerate(picks)])
        winners = values == values.max()
        wanted += winners / winners.sum() / 8
    assert probability_best(Samples(draws)).tolist() == pytest.approx(wanted.tolist())


def test_members_of_an_ensemble_are_compared_with_their_own():
    """Member 1 puts response 0 first, member 2 response 1; they are far apart in level."""
    draws = torch.tensor([[1.0, 101.0], [0.0, 102.0], [-5.0, 90.0]])
    assert probability_best(Samples(draws, coupling="paired")).tolist() == [0.5, 0.5, 0.0]
    assert probability_best(Samples(draws)).tolist() == pytest.approx([0.375, 0.5, 0.125])


@pytest.mark.parametrize("kind", ["logistic", "probit", "step"])
@pytest.mark.parametrize("coupling", ["independent", "paired"])
def test_the_link_counts_and_two_responses_agree_with_the_win_matrix(kind, coupling):
    link = Link(kind, temperature=0.7)
    means = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reward = Mixture(torch.zeros(4), means, 0.3 * means.abs(), link=link, coupling=coupling)
    tolerance = 0.02 if kind == "logistic" else 1e-7  # draws, where there is no closed form
    assert probability_best(reward)[0].item() == pytest.approx(win_matrix(reward)[0, 1].item(), abs=tolerance)


def test_bradley_terry_is_plackett_luce():
    value = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    found = probability_best(Point(value, link=Link("logistic", temperature=0.5)))
    torch.testing.assert_close(found, torch.softmax(value / 0.5, 0))


def test_a_calibrated_win_map_counts():
    """Tempering log-odds by 2 is Bradley–Terry at twice the temperature, so Plackett–Luce there."""
    value = torch.tensor([0.3, -1.0, 2.0, 2.0], dtype=torch.float64)
    reward = Point(value, link=Link("logistic", temperature=0.5, win_map=WinMap(temperature=2.0)))
    torch.testing.assert_close(probability_best(reward), torch.softmax(value, 0))
    gaussians = Gaussian(value[:2], torch.ones(2).double(), link=Link(win_map=WinMap(lapse=0.2)))
    assert probability_best(gaussians)[0].item() == pytest.approx(gaussians[0].prob_greater(gaussians[1]).item())
    assert probability_best(reward[:1]).tolist() == [1.0]


def test_large_groups_by_draws_are_the_same_every_time(monkeypatch):
    reward = Gaussian(torch.randn(5), torch.rand(5))
    exact = probability_best(reward)
    monkeypatch.setattr(groups, "EXACT", 0)
    drawn = probability_best(reward)
    assert torch.equal(drawn, probability_best(reward))
    torch.testing.assert_close(drawn, exact, atol=0.03, rtol=0)
    assert not torch.equal(drawn, exact)


@pytest.mark.parametrize(
    ("reward", "asked"),
    [
        (Gaussian(torch.zeros(72), torch.ones(72)), None),  # 72 · 72 · 100 evaluations are below 2¹⁹
        (Gaussian(torch.zeros(73), torch.ones(73)), 4096),
        (Samples(torch.zeros(8, 2048)), None),  # 8 · 2048 · 8 · 4
        (Samples(torch.zeros(8, 2049)), 4096),
        (Gaussian(torch.zeros(73), torch.ones(73).index_fill(0, torch.tensor([0]), 0.0)), 4096),
        (Samples(torch.zeros(300, 9), coupling="paired"), 4096 // 9),  # draws of each of 9 members
        (Samples(torch.zeros(300, 99), coupling="paired"), 256),
    ],
)
def test_draws_replace_quadrature_where_it_would_be_slow(reward, asked, monkeypatch):
    """70 Gaussians are about what 2¹⁹ evaluations allow; never fewer than 256 draws."""
    seen = []

    def record(reward, axis, draws=None, generator=None):
        seen.append(draws)
        return torch.zeros(reward.shape)

    monkeypatch.setattr(groups, "prob_best", record)
    if reward.coupling == "paired":  # certain members need neither
        reward = Mixture(
            torch.zeros(reward.draws.shape), reward.draws, torch.ones(reward.draws.shape), coupling="paired"
        )
    probability_best(reward)
    assert seen == [asked]


def test_shrinkage_leaves_alone_what_all_members_know():
    """Members agree on response 0 and contradict each other on 1 and 2, whose difference is then noise: t² = 0."""
    draws = torch.tensor([[1.0, 1.0], [-9.0, 9.0], [9.0, -9.0]], dtype=torch.float64)
    assert shrinkage(Samples(draws, coupling="paired")).tolist() == pytest.approx([1.0, 1 / 3, 1 / 3])


def test_a_response_without_others():
    alone = Gaussian(torch.tensor([3.0]), torch.tensor([2.0]))
    for spec, worth in (("win_rate", 0.5), ("p_best", 1.0)):
        assert parse_utility(spec)(alone, torch.tensor([4])).tolist() == [worth]


def test_references_of_their_prompts():
    """Bradley–Terry: the mean of Λ(r − reference) over the references of the own prompt."""
    reward = Point(torch.tensor([1.0, 0.0, 2.0]))
    references = Point(torch.tensor([0.0, 1.0, -1.0]))
    everywhere = against_references(references)
    wanted = torch.sigmoid(reward.value[:, None] - references.value).mean(1)
    torch.testing.assert_close(everywhere(reward), wanted)
    own = against_references(references, torch.tensor([7, 7, 4]))
    found = own(reward, torch.tensor([7, 4, 7]))
    assert found.tolist() == pytest.approx(
        [wanted_of(1.0, (0.0, 1.0)), wanted_of(0.0, (-1.0,)), wanted_of(2.0, (0.0, 1.0))]
    )
    assert own.unit == "probability"
    assert own.grouped
    assert not everywhere.grouped


def wanted_of(value: float, references: tuple[float, ...]) -> float:
    return float(np.mean([1 / (1 + np.exp(-(value - r))) for r in references]))


def test_references_of_another_family_and_errors():
    references = Gaussian(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    found = against_references(references)(Samples(torch.tensor([[0.0, 1.0]])))
    assert found.item() == pytest.approx(
        np.mean([stats.norm.cdf(v, m, s) for v in (0, 1) for m, s in ((0, 1), (1, 2))])
    )
    with pytest.raises(ConfigError, match="prompt 3 has no reference answer"):
        against_references(references, torch.tensor([0, 1]))(Point(torch.zeros(1)), torch.tensor([3]))
    with pytest.raises(ConfigError, match="2 references need as many prompt numbers"):
        against_references(references, torch.tensor([0]))
    with pytest.raises(ConfigError, match=r"one batch \[M\]"):
        against_references(references[0])


def won(reward, others, row: int) -> float:
    """P(row beats all ``others``), ties split: E over its reward x and a uniform tie-breaker s of Π (F(x⁻) + s·P(x))."""
    sides = [Integrated.of(reward, other) for other in others]

    def beats(x: float) -> float:
        parts = [(side.cdf(x, left=True), side.cdf(x)) for side in sides]
        nodes, weights = np.polynomial.legendre.leggauss(len(sides) // 2 + 1)
        shares = (nodes + 1) / 2
        return float(weights @ np.prod([low + shares * (high - low) for low, high in parts], axis=0)) / 2

    return Integrated.of(reward, row).expectation(beats, jumps=tuple(m for side in sides for _, m in side.atoms))


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_of_every_family_equal_numerical_integration(family):
    reward = build(family, seed=3).with_link(Link("step"))
    alone = torch.zeros(len(reward), dtype=torch.long)
    best = [won(reward, [j for j in range(3) if j != i], i) for i in range(3)]
    wins = np.array([[won(reward, [j], i) if j != i else np.nan for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(parse_utility("p_best")(reward, alone).numpy(), best, atol=1e-6)
    np.testing.assert_allclose(parse_utility("win_rate")(reward, alone).numpy(), np.nanmean(wins, 1), atol=1e-6)
    np.testing.assert_allclose(against_references(reward[:2])(reward[2:]).item(), wins[2, :2].mean(), atol=1e-6)
