"""Responses with gold scores: read, dealt out, judged by another scorer, measured by order, choice and states."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import torch

from poise.cli import data as data_command
from poise.cli import evaluate as command
from poise.cli.evaluate import Options
from poise.distributions import Gaussian, Point
from poise.distributions.link import Link
from poise.errors import ConfigError, DataError
from poise.evaluation.belief_table import REWARD
from poise.evaluation.best_of_n import fit_gain
from poise.evaluation.compare import compare
from poise.evaluation.gold import gold_of, load_responses
from poise.evaluation.harness import score_sets
from poise.evaluation.predictions import Scored, read
from poise.evaluation.robustness import IN_DOMAIN
from poise.evaluation.sets import check_gold, load_set
from poise.evaluation.suite import measure

KNOWN, NEW = "abcde", "xyz"
PROMPTS = 120
SCORER = """
def quality(prompts, responses):
    return [float(len(response)) for response in responses]
def proxy(prompts, responses):
    return [float(len(response)) + 3.0 * (hash_of(response) % 7) for response in responses]
def hash_of(text):
    return sum(map(ord, text))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Responses of eight models, some longer than others, and scorers that count."""
    place = tmp_path_factory.mktemp("gold")
    draw = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"question {i}",
            "responses": ["x" * int(draw.integers(1, 40)) + f" {m}{i}" for m in KNOWN + NEW],
            "models": [*KNOWN, *NEW],
        }
        for i in range(PROMPTS)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "scoring.py").write_text(SCORER)
    return place


@pytest.fixture(scope="module")
def splits(folder):
    data_command.splits(
        str(folder / "rows.jsonl"),
        folder / "splits",
        NEW,
        f"{folder}/scoring.py:quality",
        {"new_prompts": 0.3, "in_domain": 0.4},
        "cpu",
        as_json=False,
    )
    return folder / "splits"


class Noisy:
    """Knows quality with noise that grows off the training data, and states with it."""

    def __init__(self, spread: float = 0.0) -> None:
        self.facts, self.spread = {"name": f"noisy {spread}"}, spread

    def score(self, texts) -> Scored:
        draw = np.random.default_rng(len(texts))
        gold = np.array([float(len(response)) for _, response in texts])
        new = np.array([response.split(" ")[-1][0] in NEW for _, response in texts])
        mean = gold + np.where(new, 30.0, 3.0) * draw.normal(size=len(texts))
        states = (
            draw.normal(size=(len(texts), 6)).astype(np.float32)
            * np.where(new, draw.random(len(texts)) * 5, 1)[:, None]
        )
        belief = Point(torch.tensor(mean, dtype=torch.float32), Link("logistic"))
        if self.spread:
            belief = Gaussian(belief.mean, self.spread * (1 + torch.arange(len(texts)) % 3).float())
        none = [0] * len(texts)
        return Scored({REWARD: belief}, none, none, none, states.astype(np.float32))


def test_splits_are_written_with_gold_and_read_again(splits):
    items, _ = load_responses(str(splits))
    assert items[0].meta["subset"] == IN_DOMAIN
    assert {item.meta["subset"] for item in items} == {IN_DOMAIN, "prompt_ood", "response_ood", "mutual_ood"}
    for item in items:
        assert item.meta["gold"] == [float(len(response)) for response in item.responses]
        assert all(item.meta["gold"][i] > item.meta["gold"][j] for i, j in item.better)
        assert set(item.meta["models"]) <= set(NEW if item.meta["subset"] in ("response_ood", "mutual_ood") else KNOWN)
    pairs = load_set(f"pairs:{splits / 'train.jsonl'}").items
    assert all(len(pair.responses[0]) > len(pair.responses[1]) for pair in pairs)
    assert not (splits / "gold").exists(), "the gold scores are in the files"


def test_order_gaps_states_and_choice_are_measured_and_compared(splits, tmp_path):
    given = load_set(f"responses:{splits}")
    found = [score_sets(scorer, [given], tmp_path / str(i)) for i, scorer in enumerate((Noisy(), Noisy(1.0)))]
    (one,) = measure(found[0], resamples=50).sets
    rewards = np.split(
        found[0].sets[0].scored.beliefs[REWARD].mean.double().numpy(),
        np.cumsum([len(item.responses) for item in given.items])[:-1],
    )
    taus = [
        scipy.stats.kendalltau(r, item.meta["gold"]).statistic for r, item in zip(rewards, given.items, strict=True)
    ]
    subset = np.array([item.meta["subset"] for item in given.items])
    assert next(iter(one.figures)) == "kendall_tau"
    assert one.figures["kendall_tau"].value == pytest.approx(np.nanmean(taus), abs=1e-6)
    gap = one.figures["gap mutual_ood"]
    expected = np.nanmean(np.array(taus)[subset == "mutual_ood"]) - np.nanmean(np.array(taus)[subset == IN_DOMAIN])
    assert gap.value == pytest.approx(expected, abs=1e-6)
    assert gap.high < 0, "rewards that get noisier on the responses of new models show a gap"
    assert one.baselines["longer wins"]["kendall_tau"] == 1, "gold is the length here"
    states, rows = found[0].sets[0].scored.states, np.repeat(subset, [len(item.responses) for item in given.items])
    norms = np.linalg.norm(states[rows == "mutual_ood"], axis=1)
    assert one.states["dispersion"]["mutual_ood"] == pytest.approx(norms.std() / norms.mean(), rel=1e-5)
    assert one.states["dispersion_ratio"]["mutual_ood"] > 1.3
    assert one.bias["length_spearman"].value > 0
    figures = {d.figure: d for d in compare(found, resamples=50).differences}
    assert {"kendall_tau", "gap mutual_ood", "pairs: accuracy", "pairs: brier"} <= figures.keys()
    assert figures["kendall_tau"].difference.value == 0, "a spread does not change the mean"


def test_a_gold_scorer_judges_what_the_proxy_chooses(folder, tmp_path, capsys):
    """The proxy adds a bonus to quality: gold rises with n, by less than the proxy believes."""
    options = Options("soft", False, "error", "cpu", 50, gold=f"{folder}/scoring.py:quality")
    command.run(f"{folder}/scoring.py:proxy", [f"responses:{folder}/rows.jsonl"], tmp_path / "e", options, as_json=True)
    choice = json.loads(capsys.readouterr().out)["sets"][0]["best_of_n"]
    assert choice["n"] == [1, 2, 4, 8]
    gold, proxy = ([one["value"] for one in choice[side]] for side in ("gold", "proxy"))
    assert gold[0] == proxy[0] == 0
    assert 0 < gold[-1] < proxy[-1]
    d = np.sqrt(choice["kl"])
    assert (choice["summary"]["alpha"]["value"], choice["summary"]["beta"]["value"]) == pytest.approx(
        [float(one) for one in fit_gain(d, gold)], abs=1e-6
    )
    saved = read(tmp_path / "e")
    assert "gold scores by" in saved.sets[0].facts.notes[-1]
    assert saved.sets[0].items[0].meta["gold"] == [float(len(r)) for r in saved.sets[0].items[0].responses]
    assert (tmp_path / "e" / "report.html").read_text().count('role="img"') >= 2


def test_gold_that_is_missing_or_not_asked_for_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="without a gold score; give the column gold, or name a scorer with --gold"):
        check_gold(load_set(f"responses:{folder}/rows.jsonl"))
    options = Options("soft", False, "error", "cpu", 50, gold="scoring.py:quality")
    with pytest.raises(ConfigError, match="there is none; add --on responses:FILE"):
        command.run("scoring.py:proxy", ["pairs:x.jsonl"], None, options, as_json=True)


def test_rows_of_one_response_and_of_completions_are_read(tmp_path):
    rows = [
        {"prompt": "p", "response": "a", "model": "m", "gold": 2},
        {"prompt": "p", "response": "b", "model": "n", "gold": 1.5},
        {"instruction": "q", "completions": [{"model": "m", "response": "c"}, {"model": "n", "response": "d"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = load_responses(str(tmp_path / "rows.jsonl"))[0]
    assert (first.responses, first.meta["gold"], first.better) == (("a", "b"), [2.0, 1.5], ((0, 1),))
    assert second.meta["models"] == ["m", "n"]
    assert gold_of(second) is None
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "p", "responses": ["a", "b"], "gold": [1]}))
    with pytest.raises(DataError, match="'gold' does not have 2 entries"):
        load_responses(str(tmp_path / "bad.jsonl"))


def test_the_worth_of_labelled_responses_is_the_share_of_their_pairs():
    from poise.evaluation.benchmark import Item

    assert gold_of(Item("i", "p", ("a", "b", "c"), ((0, 1), (0, 2)), {})).tolist() == [1, 0, 0]
    assert gold_of(Item("i", "p", ("a", "b", "c"), ((0, 1), (1, 2), (0, 2)), {})).tolist() == [1, 0.5, 0]
    assert gold_of(Item("i", "p", ("a", "b", "c"), ((0, 1),), {})) is None, "nothing is said about the third"


def test_the_utility_decides_what_benchmarks_see_and_is_written_down(splits, tmp_path):
    given = load_set(f"responses:{splits}")
    found = score_sets(Noisy(8.0), [given], tmp_path, utility="lcb:2")
    assert found.scorer["utility"] == "lcb:2"
    by_bound = measure(found, resamples=5)
    assert by_bound.scorer["utility"] == "lcb:2"
    by_mean = measure(found, resamples=5, utility="mean")
    belief = found.sets[0].scored.beliefs[REWARD]
    scores = (belief.mean - 2 * belief.std).double().numpy()
    rows = np.split(scores, np.cumsum([len(item.responses) for item in given.items])[:-1])
    taus = [scipy.stats.kendalltau(r, item.meta["gold"]).statistic for r, item in zip(rows, given.items, strict=True)]
    assert by_bound.sets[0].figures["kendall_tau"].value == pytest.approx(np.nanmean(taus), abs=1e-6)
    assert by_mean.sets[0].figures["kendall_tau"].value > by_bound.sets[0].figures["kendall_tau"].value
    grouped = measure(found, resamples=5, utility="win_rate").sets[0].figures["kendall_tau"].value
    assert grouped == pytest.approx(by_mean.sets[0].figures["kendall_tau"].value, abs=0.05), (
        "within a prompt, nearly the mean's order"
    )
    with pytest.raises(ConfigError, match="unknown utility"):
        measure(found, utility="lbc:2")
