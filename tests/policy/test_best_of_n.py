"""Choosing among responses to one prompt, and when to stop drawing more of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from poise.distributions import Gaussian, Mixture, Point, RewardDistribution, Samples
from poise.ensemble import Ensemble
from poise.errors import ConfigError, DataError, UnsupportedOperation
from poise.methods import method_class
from poise.model import RewardModel
from poise.policy.best_of_n import BestOfN, Stopping, best_of_n, choose, expected_gain, p_final, replay
from poise.utility import parse_utility
from tests.conftest import tiny_encoder


class Known:
    """Predicts the number that a response is."""

    def __init__(self, std: float = 0.1) -> None:
        self.std, self.asked = std, []

    def predict(self, prompts: str, responses: list[str]) -> RewardDistribution:
        self.asked += responses
        return Gaussian(torch.tensor([float(r) for r in responses]), self.std)


def test_the_mean_and_a_cautious_utility_choose_differently():
    reward = Gaussian(torch.tensor([1.0, 1.2, -1.0]), torch.tensor([0.1, 2.0, 0.5]))
    assert choose(reward).index == 1
    careful = choose(reward, "cvar:0.1")
    assert careful.index == 0
    p = stats.norm.cdf((1.0 - 1.2) / np.hypot(0.1, 2.0))
    assert careful.wins[0, 1].item() == pytest.approx(p, abs=1e-6)
    assert careful.wins.diagonal().tolist() == [0.5] * 3
    assert careful.p_best.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(careful.utilities, parse_utility("cvar:0.1")(reward))


def test_the_first_of_equals_is_chosen():
    choice = choose(Point(torch.tensor([0.0, 2.0, 2.0])))
    assert choice.index == 1
    assert choice.p_best[1] == choice.p_best[2]


def test_abstention_goes_by_the_probability_of_the_choice():
    reward = Gaussian(torch.tensor([0.0, 0.2]), 1.0)
    certain = stats.norm.cdf(0.2 / np.sqrt(2))
    assert not choose(reward, min_p_best=certain - 1e-4).abstained
    assert choose(reward, min_p_best=certain + 1e-4).abstained


def test_an_ensemble_that_disagrees_abstains_though_every_member_is_sure():
    draws = torch.tensor([[1.0, 9.0], [2.0, 8.5]])
    assert choose(Samples(draws, coupling="paired")).p_best.tolist() == [0.5, 0.5]


def test_what_cannot_be_chosen():
    with pytest.raises(DataError, match=r"rewards \[n\] of one prompt, got the shape \[2, 3\]"):
        choose(Point(torch.zeros(2, 3)))
    with pytest.raises(DataError, match="shape \\[0\\]"):
        choose(Point(torch.zeros(0)))
    with pytest.raises(ConfigError, match=r"min_p_best is 1\.5"):
        choose(Point(torch.zeros(2)), min_p_best=1.5)
    with pytest.raises(UnsupportedOperation, match="does not say what the model does not know"):
        choose(Point(torch.zeros(2)), "shrinkage")


@pytest.mark.parametrize("name", ["bt", "drpo", "oprm", "qrm", "vrm", "ensemble"])
def test_every_method_can_choose(name):
    backbone = tiny_encoder()
    kind = method_class(name)
    options = {"attributes": ("a", "b")} if name == "qrm" else {}
    model = RewardModel(backbone, kind(kind.Config(**options), backbone.hidden_size))
    responses = ["In water.", "No idea.", "Ask the fox by the sea."]
    for utility in ("mean", "entropic:1", "cvar:0.3"):
        choice = best_of_n(model, "How do I boil an egg?", responses, utility)
        assert choice.index == choice.utilities.argmax()
        assert choice.p_best.sum().item() == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(choice.wins + choice.wins.T, torch.ones(3, 3), rtol=0, atol=1e-5)


def test_several_models_choose_together():
    backbone, kind = tiny_encoder(), method_class("bt")
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        method = kind(kind.Config(), backbone.hidden_size)
        torch.nn.init.normal_(method.score.weight)
        models.append(RewardModel(backbone, method))
    choice = best_of_n(Ensemble(models), "How?", ["So.", "No.", "In the sea."], "shrinkage")
    per_member = torch.stack([torch.softmax(m.predict("How?", ["So.", "No.", "In the sea."]).mean, 0) for m in models])
    torch.testing.assert_close(choice.p_best, per_member.mean(0), rtol=1e-4, atol=1e-5)


# ── when to stop ──


def test_a_search_scores_each_response_once_and_keeps_the_best():
    model = Known()
    search = BestOfN(model, "How much?", Stopping(n=64, at=0.9), utility="lcb:1")
    assert not search.done
    drawn = ["0.1", "-0.2", "0.0", "0.3", "9.0", "0.2"]
    for start in range(0, 6, 2):
        choice = search.update(drawn[start : start + 2])
        assert not search.done, "58 are to come, and an outlier makes others likely"
    assert search.responses[choice.index] == "9.0"
    assert search.responses == model.asked == drawn


def test_a_search_ends_when_all_are_there_or_all_are_alike():
    search = BestOfN(Known(), "How much?", Stopping(n=4))
    search.update(["1", "2", "3"])
    assert not search.done
    assert search.update(["2.5"]).index == 2
    assert search.done
    alike = BestOfN(Known(), "How much?", Stopping(n=100, at=0.99))
    alike.update(["1", "1"])
    assert not alike.done, "two say nothing"
    alike.update(["1"])
    assert alike.done


@pytest.mark.parametrize(("k", "n"), [(2, 4), (3, 8), (8, 16), (12, 16)])
def test_p_final_is_calibrated(k, n):
    """Of exchangeable draws the best is among the first k with probability k/n; where it is said to be likelier, it is."""
    draws = np.random.default_rng(k).normal(3, 5, size=(1500, n))
    said = np.array([p_final(row[:k], n) for row in draws])
    final = draws[:, :k].max(1) > draws[:, k:].max(1)
    assert said.mean() == pytest.approx(k / n, abs=0.01)
    high = said >= np.median(said)
    if k > 2:  # two draws always look alike
        assert final[high].mean() - final[~high].mean() > 0.5 * (said[high].mean() - said[~high].mean()) > 0


def test_p_final_by_simulation():
    """Against 400,000 draws of (σ, μ) from the posterior."""
    values, n = np.array([0.0, 1.0, 0.5, 3.0, 0.2]), 9
    rng = np.random.default_rng(0)
    sigma = values.std(ddof=1) * np.sqrt(4 / rng.chisquare(4, 400_000))
    mu = values.mean() + sigma * rng.normal(size=400_000) / np.sqrt(5)
    wanted = np.mean(stats.norm.cdf((3.0 - mu) / sigma) ** 4)
    assert p_final(values, n) == pytest.approx(wanted, abs=0.004)
    assert p_final(values, 5) == 1.0
    assert p_final([1.0], 4) == 0.25


def test_the_expected_gain_by_integration():
    values = np.array([0.0, 1.0, 0.5, 3.0, 0.2])
    new = stats.t(4, values.mean(), values.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert expected_gain(values) == pytest.approx(new.expect(lambda x: x - 3, lb=3), rel=1e-6)
    assert expected_gain([1.0, 2.0]) == np.inf
    assert expected_gain([1.0, 1.0, 1.0]) == 0


def test_a_dear_response_ends_the_search_sooner():
    rng = np.random.default_rng(1)
    counts = {}
    for cost in (0.02, 0.1, 0.5):
        rewards = [Point(torch.from_numpy(rng.normal(size=64))) for _ in range(40)]
        counts[cost] = np.mean([replay(r, parse_utility("mean"), Stopping(64, cost=cost)).count for r in rewards])
    assert 64 > counts[0.02] > counts[0.1] > counts[0.5] >= 3


def test_a_replay_ends_where_the_search_would():
    values = [0.3, -0.4, 0.1, 1.4, 0.2, -0.3, 0.5, 0.1]
    for utility in ("mean", "win_rate"):
        model, stopping = Known(), Stopping(n=8, at=0.6)
        search = BestOfN(model, "How much?", stopping, utility=utility)
        while not search.done:
            choice = search.update([str(values[len(search.responses)])])
        found = replay(Known().predict("", values), parse_utility(utility), stopping)
        assert (found.count, found.index) == (len(search.responses), choice.index)
        assert 3 <= found.count < 8


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 4, "at": 0.0}, {"n": 4, "at": 1.5}, {"n": 4, "cost": -1.0}])
def test_rules_that_cannot_be_meant(options):
    with pytest.raises(ConfigError):
        Stopping(**options)


def test_equal_utilities_are_decided_by_the_mean():
    """Members that agree on no difference shrink every response to the group's mean."""
    means = torch.tensor([[0.0, 1.0, 0.4], [1.0, 0.0, 0.7]])
    reward = Mixture.from_members([Point(m) for m in means], coupling="paired")
    choice = choose(reward, "shrinkage")
    assert choice.utilities.unique().numel() == 1
    assert choice.index == 2 == replay(reward, parse_utility("shrinkage"), Stopping(3)).index
