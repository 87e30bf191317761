"""The rules: every pair gets one decision, the mix has its shares, flips and soft labels are what training reads."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.curation.decide import GROUPS, KEPT, NOT_JUDGED, Rules, decide, flipped, information, wrong_labels
from poise.curation.judge import Judgement
from poise.curation.repeats import Finding
from poise.data.records import Preference, Votes
from poise.errors import ConfigError


def pair(row: int, **more) -> Preference:
    return Preference(prompt=f"p{row}", chosen="good", rejected="bad", row=row, source="data", **more)


def judgement(p, disputed=None) -> Judgement:
    p = np.asarray(p, dtype=np.float64)
    return Judgement(p, np.zeros(len(p), dtype=bool) if disputed is None else np.asarray(disputed), 0, 0)


def decided(p, rules=Rules(), labels=None, findings=None, disputed=None):  # noqa: B008 - frozen
    labels = [1.0] * len(p) if labels is None else labels
    pairs = [pair(i, p_chosen=label) for i, label in enumerate(labels)]
    return decide(pairs, judgement(p, disputed), findings or [None] * len(p), rules)


probabilities = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=1, max_size=40)
rule_sets = st.builds(
    Rules,
    boundary=st.floats(0, 1),
    mislabels=st.sampled_from(["keep", "drop", "flip", "soft", "review"]),
    doubt=st.floats(0.51, 1),
    disputed=st.sampled_from(["keep", "drop", "review"]),
    mix=st.one_of(st.none(), st.just("drpo"), st.tuples(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))),
)


@given(probabilities, rule_sets, st.data())
def test_no_pair_is_lost_and_none_is_changed_without_saying_so(p, rules, data):
    labels = data.draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=len(p), max_size=len(p)))
    findings = data.draw(
        st.lists(st.one_of(st.none(), st.just(Finding("repeated", "again"))), min_size=len(p), max_size=len(p))
    )
    try:
        found = decided(p, rules, labels, findings)
    except ConfigError:  # of a group that the mix asks for there is none
        assert isinstance(rules.mix, tuple)
        return
    assert [one.pair.row for one in found] == list(range(len(p)))
    for one, finding in zip(found, findings, strict=True):
        assert one.action in (*KEPT, "drop", "review")
        assert one.reason
        assert (one.group == NOT_JUDGED) == np.isnan(one.p)
        assert (one.written is one.pair) == (one.action not in ("flip", "soft"))
        if finding:
            assert (one.action, one.kind, one.reason) == ("drop", "repeated", "again")


def test_groups_follow_definition_two():
    found = decided([0.9, 0.55, 0.1, 0.1], labels=[1.0, 1.0, 1.0, 0.2])
    assert [one.group for one in found] == ["easy", "boundary", "hard", "easy"]
    assert [one.doubt for one in found] == pytest.approx([0.1, 0.45, 0.9, 0.2 * 0.9 + 0.8 * 0.1])


@pytest.mark.parametrize(("mislabels", "action"), [(a, a) for a in ("keep", "drop", "flip", "soft", "review")])
def test_labels_that_look_wrong(mislabels, action):
    low, sure, wrong = decided([0.25, 0.9, 0.1], Rules(mislabels=mislabels, doubt=0.8))
    assert (low.action, sure.action, wrong.action) == ("keep", "keep", action)
    if action == "flip":
        assert (wrong.written.chosen, wrong.written.rejected) == ("bad", "good")
        assert wrong.written.label == 1.0
    if action == "soft":
        assert (wrong.written.chosen, wrong.written.label) == ("good", pytest.approx(0.1))


def test_a_flip_is_the_opposite_statement():
    given = pair(
        1,
        votes=Votes(4, 1),
        strength=2.0,
        margin=1.0,
        attributes={"help": (5.0, 1.0)},
        quality=("good", "bad"),
        annotator="a",
    )
    turned = flipped(given)
    assert (turned.chosen, turned.rejected, turned.label) == ("bad", "good", given.label)
    assert turned.attributes == {"help": (1.0, 5.0)}
    assert turned.quality == ("bad", "good")
    assert turned.strength is turned.margin is None
    assert turned.annotator == "a"


@pytest.mark.parametrize(
    ("mix", "stay"),
    [((0.3, 0.6, 0.1), (18, 36, 6)), ((0, 1, 0), (0, 36, 0)), ((2, 1, 0), (72, 36, 0)), ("drpo", (46, 36, 10))],
)
def test_the_mix_keeps_as_much_as_its_shares_allow(mix, stay):
    p = [0.9] * 100 + [0.5] * 36 + [0.1] * 10
    if mix != "drpo":
        total = sum(mix)
        mix = tuple(share / total for share in mix)
    found = decided(p, Rules(mix=mix))
    kept = Counter(one.group for one in found if one.kept)
    assert tuple(kept[group] for group in GROUPS) == stay
    out = [one for one in found if not one.kept]
    assert {one.kind for one in out} == {"mix"}
    assert found == decided(p, Rules(mix=mix))
    if 0 < stay[0] < 100:
        assert found != decided(p, Rules(mix=mix, seed=1))


def test_a_mix_of_a_group_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="asks for hard pairs, but none is there"):
        decided([0.9, 0.5], Rules(mix=(0.5, 0.4, 0.1)))


def test_shares_of_a_mix_need_not_add_up_to_one():
    p = [0.9] * 100 + [0.5] * 36 + [0.1] * 10
    one, other = (decided(p, Rules(mix=mix)) for mix in ((3, 6, 1), (0.3, 0.6, 0.1)))
    assert [a.kept for a in one] == [b.kept for b in other]


def test_two_camps_are_left_out_only_where_asked():
    found = decided([0.9, 0.9], Rules(disputed="review"), disputed=[False, True])
    assert [one.action for one in found] == ["keep", "review"]
    assert [one.disputed for one in decided([0.9, 0.9], disputed=[False, True])] == [False, True]


@settings(deadline=None, max_examples=20)
@given(st.floats(0.02, 0.35), st.integers(0, 5))
def test_confident_learning_estimates_the_share_of_wrong_labels_of_a_good_judge(noise, seed):
    draw = np.random.default_rng(seed)
    margin = draw.normal(size=20_000) * 6
    p = 1 / (1 + np.exp(-margin))  # of the truth: a judge who was not misled
    label = (draw.random(20_000) < p) ^ (draw.random(20_000) < noise)
    assert wrong_labels(p, label.astype(float)) == pytest.approx(noise, abs=0.05)


def test_information_is_most_where_the_label_is_as_likely_wrong_as_right():
    doubt = np.linspace(0.001, 0.999, 999)
    bits = information(doubt, 0.2)
    assert bits.max() == pytest.approx(1.0, abs=1e-3)
    assert doubt[bits.argmax()] == pytest.approx(0.8, abs=2e-3)  # prior odds 1 : 4 against odds 4 : 1
    assert bits[0] < 0.02 > bits[-1] - 0.02
    assert information(np.array([np.nan, 0.0, 1.0]), 0.2).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"boundary": 1.2}, "between 0 and 1"),
        ({"doubt": 0.5}, "the likelier one"),
        ({"mix": (0.0, 0.0, 0.0)}, "three shares"),
        ({"mix": (0.5, -0.1, 0.6)}, "three shares"),
    ],
)
def test_rules_that_cannot_be_meant(options, says):
    with pytest.raises(ConfigError, match=says):
        Rules(**options)
