"""Scored once, saved, and measured from the file alone."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from rich.console import Console

from poise.data.records import Message
from poise.distributions import Categorical, Gaussian, Mixture, Point, Quantiles, Samples
from poise.distributions.link import Link
from poise.errors import ConfigError, DataError
from poise.evaluation import harness
from poise.evaluation.belief_table import REWARD
from poise.evaluation.benchmark import Item
from poise.evaluation.bootstrap import PromptBootstrap
from poise.evaluation.compare import compare
from poise.evaluation.items import item_json, item_of, text_json
from poise.evaluation.pairwise import JudgedPairs, evaluate_pairs
from poise.evaluation.predictions import Scored, SetFacts, read
from poise.evaluation.sets import EvaluationSet, Reading, load_set
from poise.evaluation.suite import measure
from poise.output import sole
from poise.training.monitor import Terminal

COUNT = 30
FAMILIES = {
    "point": lambda n: Point(torch.randn(n), Link("logistic")),
    "gaussian": lambda n: Gaussian(torch.randn(n), torch.rand(n) + 0.1),
    "categorical": lambda n: Categorical(torch.arange(1.0, 6.0), torch.randn(n, 5)),
    "quantiles": lambda n: Quantiles(
        torch.randn(n, 3).sort(-1).values, torch.tensor([0.1, 0.5, 0.9]), weighting="cells"
    ),
    "mixture": lambda n: Mixture(torch.randn(n, 4), torch.randn(n, 4), torch.rand(n, 4), members=2, coupling="paired"),
    "samples": lambda n: Samples(torch.randn(n, 6)),
}


class Drawn:
    """Draws beliefs of a family; the seed is what it is given, so that equal blocks get equal beliefs."""

    def __init__(self, family: str = "gaussian", fail_after: int | None = None, name: str = "drawn") -> None:
        self.family, self.fail_after, self.calls = family, fail_after, 0
        self.facts = {"name": name, "scales": {"q": [0.0, 1.0]}}

    def score(self, texts) -> Scored:
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        torch.manual_seed(len(str(texts)) + len(self.facts["name"]))
        zero = [0] * len(texts)
        beliefs = {
            REWARD: FAMILIES[self.family](len(texts)),
            "q": Gaussian(torch.rand(len(texts)), torch.ones(len(texts))),
        }
        return Scored(beliefs, [len(str(t)) for t in texts], zero, zero)


def pairs_set(count: int = COUNT) -> EvaluationSet:
    items = tuple(
        Item(
            f"row {i}",
            (Message("user", f"q {i // 2}"),),
            (f"answer {i}", "no" * (i + 1)),
            ((0, 1),),
            {"p_better": (i % 4) / 3},
        )
        for i in range(count)
    )
    return EvaluationSet(SetFacts("pairs:some.jsonl", 3, ("a note",)), items)


def ratings_set(count: int = COUNT) -> EvaluationSet:
    rng = np.random.default_rng(0)
    items = tuple(
        Item(
            f"row {i}",
            f"p {i}",
            (f"r {i}",),
            (),
            {"ratings": {"q": rng.integers(1, 6, 4).tolist(), "z": [1.0, 2.0]}, "scale": [1, 5]},
        )
        for i in range(count)
    )
    return EvaluationSet(SetFacts("ratings:some.jsonl"), items)


def test_two_evaluations_do_not_share_a_folder(tmp_path):
    with sole(tmp_path / "parts"), pytest.raises(ConfigError, match="another process is writing"):
        harness.score_sets(Drawn(), [pairs_set()], tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_is_what_was_said(tmp_path, family):
    given = pairs_set()
    found = harness.score_sets(Drawn(family), [given], tmp_path)
    (one,) = found.sets
    assert one.items == given.items
    assert one.facts == given.facts
    expected = Drawn(family).score([(i.prompt, r) for i in given.items for r in i.responses])
    for about, belief in expected.beliefs.items():
        again = one.scored.beliefs[about]
        assert again.options() == belief.options()
        for name, value in belief.parameters().items():
            torch.testing.assert_close(again.parameters()[name], value, rtol=0, atol=1e-6)
    assert list(one.scored.tokens) == list(expected.tokens)
    assert read(tmp_path / "predictions.parquet").scorer == Drawn().facts | {"utility": "mean"}


def test_the_pairwise_measures_are_those_of_the_predictions(tmp_path):
    given = pairs_set()
    (found,) = measure(harness.score_sets(Drawn(), [given], tmp_path), resamples=50).sets
    belief = Drawn().score([(i.prompt, r) for i in given.items for r in i.responses]).beliefs[REWARD].to(torch.float64)
    judged = JudgedPairs(
        belief[0::2].prob_greater(belief[1::2]).numpy(),
        np.array([item.meta["p_better"] for item in given.items]),
        belief[0::2].prob_tie(belief[1::2]).numpy(),
        [str(item.prompt) for item in given.items],
        ([len(item.responses[0]) for item in given.items], [len(item.responses[1]) for item in given.items]),
    )
    expected = evaluate_pairs(judged, source="x", resamples=50)
    assert found.pairs.metrics.keys() == expected.metrics.keys()
    for name, interval in expected.metrics.items():
        assert found.pairs.metrics[name].value == pytest.approx(interval.value, abs=1e-6)
    assert found.counts == {"rows left out": 3}
    assert found.notes == ["a note"]


def test_ratings_are_measured_where_there_is_a_belief_and_ordered_where_there_is_none(tmp_path):
    (found,) = measure(harness.score_sets(Drawn(), [ratings_set()], tmp_path), resamples=20).sets
    by_name = {one.attribute: one for one in found.ratings}
    assert {"crps", "w1", "w1_half", "spearman"} <= by_name["q"].metrics.keys()
    assert by_name["q"].known
    assert by_name["q"].floor["split_half"] > 0
    assert not by_name["z"].known
    assert "crps" not in by_name["z"].metrics
    # U(0, 1) + noise on the scale 1 … 5: of the size of the ratings, not of the training scale
    assert 0.3 < by_name["q"].metrics["w1"].value < 3.5


def test_an_attribute_may_be_called_as_the_rewards_are(tmp_path):
    one = ratings_set()
    items = tuple(replace(item, meta={"ratings": {REWARD: item.meta["ratings"]["q"]}}) for item in one.items)
    (found,) = measure(harness.score_sets(Drawn(), [replace(one, items=items)], tmp_path), resamples=20).sets
    assert [(rating.attribute, rating.known) for rating in found.ratings] == [(REWARD, False)]


def test_ratings_on_several_scales_are_refused(tmp_path):
    one = ratings_set()
    other = replace(one.items[-1], meta={**one.items[-1].meta, "scale": [0, 100]})
    with pytest.raises(DataError, match=r"the ratings of 'q' have the scales \[\(0, 100\), \(1, 5\)\]"):
        measure(harness.score_sets(Drawn(), [replace(one, items=(*one.items[:-1], other))], tmp_path))


def test_choosing_by_reward_and_what_rewards_follow(tmp_path):
    """A scorer that counts characters: best-of-n gains where ratings grow with length, and its bias is 1."""

    class Long(Drawn):
        def score(self, texts):
            scored = super().score(texts)
            size = torch.tensor([float(len(r)) for _, r in texts])
            return Scored({REWARD: Point(size, Link("logistic"))}, scored.tokens, scored.cut, scored.cut_response)

    rated = tuple(
        Item(f"{i} {j}", f"p {i}", ("x" * (j + 1),), (), {"ratings": {"q": [float(j)]}, "scale": None})
        for i in range(12)
        for j in range(5)
    )
    sets = [EvaluationSet(SetFacts("ratings:x"), rated), pairs_set()]
    ratings, paired = measure(harness.score_sets(Long(), sets, tmp_path), resamples=20).sets
    gains = ratings.ratings[0].best_of_n
    at = {n: gold.value for n, gold in zip(gains.n, gains.gold, strict=True)}
    assert at[2] == pytest.approx(1 / 2**0.5, abs=1e-6)  # of 0 … 4 the larger of two is 3, the spread √2
    assert at[4] == pytest.approx(1.8 / 2**0.5, abs=1e-6)
    assert gains.summary["final_over_peak"].value == 1
    assert paired.bias["length_spearman"].value == pytest.approx(1)
    assert not paired.ratings


def test_a_killed_evaluation_goes_on_with_the_first_block_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "BLOCK_RESPONSES", 8)
    sets = [pairs_set(), ratings_set()]
    whole = harness.score_sets(Drawn(), sets, tmp_path / "whole")
    killed = Drawn(fail_after=5)
    with pytest.raises(KeyboardInterrupt):
        harness.score_sets(killed, sets, tmp_path / "part")
    assert not (tmp_path / "part" / "predictions.parquet").exists()
    resumed = Drawn()
    found = harness.score_sets(resumed, sets, tmp_path / "part")
    assert resumed.calls == 12 - 5
    assert not (tmp_path / "part" / "parts").exists()
    for one, other in zip(found.sets, whole.sets, strict=True):
        assert one.items == other.items
        assert torch.equal(one.scored.beliefs[REWARD].mean, other.scored.beliefs[REWARD].mean)
    other_scorer = Drawn(name="another")
    harness.score_sets(other_scorer, sets, tmp_path / "part")
    assert other_scorer.calls == 12, "what another scorer said must not be reused"


def test_items_survive_as_json():
    item = Item(
        "x",
        (Message("user", "ü"), Message("assistant", "\n")),
        ("a", (Message("assistant", "b"),)),
        ((0, 1),),
        {"k": [1]},
    )
    assert item_of("x", item_json(item), [text_json(r) for r in item.responses]) == item


def test_a_file_that_is_none_of_ours_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="not predictions of poise evaluate"):
        read(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="cannot be read as predictions"):
        read(tmp_path / "gone")


def test_files_become_items_and_known_prompts_are_left_out(tmp_path):
    rows = [
        {"prompt": f"p {i}", "chosen": "a", "rejected": "b", "votes": {"chosen": 3, "rejected": 1}} for i in range(6)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = load_set(f"pairs:{tmp_path / 'p.jsonl'}")
    assert [item.meta["p_better"] for item in whole.items] == [0.75] * 6
    assert load_set(f"pairs:{tmp_path / 'p.jsonl'}", Reading(labels="hard")).items[0].meta["p_better"] == 1
    from poise.data.splits import prompt_number

    known = {prompt_number("p 1"), prompt_number("p 2")}
    fewer = load_set(f"pairs:{tmp_path / 'p.jsonl'}", Reading(known=known))
    assert len(fewer.items) == 4
    assert "2 of 6 left out" in fewer.facts.notes[0]


def test_the_same_scorer_twice_differs_in_nothing(tmp_path):
    one = harness.score_sets(Drawn(), [pairs_set()], tmp_path / "a")
    found = compare([one, one], resamples=100)
    assert all(d.difference.value == d.difference.low == d.difference.high == 0 for d in found.differences)
    assert all(d.p == 1 for d in found.differences)
    assert found.verdict.startswith(f"None of the {len(found.differences)} differences stands")
    assert {d.mcnemar for d in found.differences if d.figure == "pairs: accuracy"} == {1.0}


def test_a_real_difference_stands_and_its_sign_is_that_of_the_second_scorer(tmp_path):
    class Right(Drawn):
        def score(self, texts):
            scored = super().score(texts)
            right = torch.tensor([[2.0, 0.0]]).expand(len(texts) // 2, 2).flatten()
            return Scored({REWARD: Point(right, Link("logistic"))}, scored.tokens, scored.cut, scored.cut_response)

    items = tuple(Item(f"{i}", f"p {i}", ("a", "b"), ((0, 1),), {}) for i in range(80))
    given = [EvaluationSet(SetFacts("pairs:x"), items)]
    predictions = [
        harness.score_sets(s, given, tmp_path / s.facts["name"]) for s in (Drawn(name="bad"), Right(name="good"))
    ]
    found = {d.figure: d for d in compare(predictions, resamples=500).differences}
    assert found["pairs: accuracy"].difference.value > 0.2
    assert found["pairs: accuracy"].significant
    assert found["pairs: nll"].difference.value < 0
    assert compare(predictions).verdict.endswith("The others are not significant.")


def test_scorers_of_one_name_are_told_apart(tmp_path):
    one = harness.score_sets(Drawn(), [pairs_set()], tmp_path / "a")
    named = {(d.reference, d.scorer) for d in compare([one, one, one], resamples=10).differences}
    assert named == {("drawn", "drawn (2)"), ("drawn", "drawn (3)")}


def test_other_rows_cannot_be_compared(tmp_path):
    one = harness.score_sets(Drawn(), [pairs_set()], tmp_path / "a")
    other = harness.score_sets(Drawn(), [pairs_set(20)], tmp_path / "b")
    with pytest.raises(DataError, match="30 items in one evaluation, 20 in the other"):
        compare([one, other])
    with pytest.raises(DataError, match="share no set"):
        compare([one, harness.score_sets(Drawn(), [ratings_set()], tmp_path / "c")])


def test_the_bootstrap_p_value_is_uniform_under_the_null():
    """Means of centred draws: p-values of many data sets have the right share below .1 and .5."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        x = rng.standard_normal(60)
        bootstrap = PromptBootstrap(range(60), resamples=200, seed=int(rng.integers(1 << 30)))
        ((_, p),) = bootstrap.tested(lambda w, x=x: {"mean": w @ x / w.sum(1)}).values()
        found.append(p)
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(np.array(found) < 0.5) == pytest.approx(0.5, abs=0.09)


def test_progress_counts_every_response_also_of_what_is_there_already_and_ends_at_the_total(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "BLOCK_RESPONSES", 8)
    seen: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        harness.score_sets(Drawn(fail_after=3), [pairs_set()], tmp_path, lambda *said: seen.append(said))
    assert seen == [(8, 60), (16, 60), (24, 60)]
    seen.clear()
    harness.score_sets(Drawn(), [pairs_set()], tmp_path, lambda *said: seen.append(said))
    assert seen[0] == (8, 60)
    assert seen[-1] == (60, 60)


def test_a_terminal_shows_how_long_it_still_takes():
    out = io.StringIO()
    terminal = Terminal(Console(file=out, force_terminal=True, width=100))
    terminal.begin("scoring", 100)
    terminal.advance(40)
    terminal.close()
    assert "scoring" in out.getvalue()
    assert "40/100" in out.getvalue()
    assert re.search(r"\d:\d\d:\d\d|-:--:--", out.getvalue()), "an estimate of the time left"


def test_the_same_predictions_make_the_same_result_to_the_byte(tmp_path):
    found = harness.score_sets(Drawn(), [pairs_set(), ratings_set()], tmp_path)
    one, two = (measure(read(tmp_path), resamples=20) for _ in range(2))
    assert one.to_json() == two.to_json() == measure(found, resamples=20).to_json()
