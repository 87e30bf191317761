"""Drift: the test against scipy, its error rate under no drift (clustered rows included), and what it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from poise.errors import ConfigError, DataError
from poise.monitoring import Observed, Reference, compare
from poise.monitoring.reference import RESOLUTION, effective_rows, sketch


def rows(values, prompts=None) -> Observed:
    values = np.asarray(values, dtype=np.float64)
    return Observed(values, list(range(len(values))) if prompts is None else list(prompts))


def reference(**measures: Any) -> Reference:
    return Reference(source="then", head_sha256="x", measures={name: sketch(one) for name, one in measures.items()})


@pytest.mark.parametrize("sizes", [(200, 300), (1000, 50)])
def test_independent_rows_are_tested_as_scipy_does(sizes):
    draw = np.random.default_rng(0)
    then, now = draw.normal(size=sizes[0]), draw.normal(0.3, 1.2, size=sizes[1])
    found = compare(reference(reward=rows(then)), {"reward": rows(now)}, "now").measures[0]
    expected = scipy.stats.ks_2samp(then, now, method="asymp")
    assert found.ks == pytest.approx(expected.statistic, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=0.3)  # the design effect is estimated
    assert found.w1 == pytest.approx(scipy.stats.wasserstein_distance(then, now) / then.std(), rel=1e-4)
    assert found.shift == pytest.approx((now.mean() - then.mean()) / then.std(), rel=1e-4)


def clustered(draw, prompts: int, each: int, shift: float = 0.0) -> Observed:
    """Responses whose prompt explains four fifths of their variance."""
    values = (draw.normal(size=prompts)[:, None] * 2 + draw.normal(size=(prompts, each))).ravel() + shift
    return rows(values, np.repeat(np.arange(prompts), each))


def test_effective_rows_of_clusters_and_of_independent_rows():
    draw = np.random.default_rng(1)
    assert effective_rows(clustered(draw, 2000, 1)) == pytest.approx(2000, rel=0.05)
    # Kish: n / (1 + (m − 1)ρ), where ρ of the indicators lies below that of the values, 0.8
    many = effective_rows(clustered(draw, 1000, 8))
    assert 8000 / (1 + 7 * 0.8) < many < 8000 / (1 + 7 * 0.4)
    assert effective_rows(rows([1.0, 2.0, 3.0], "aaa")) == 1.0


@pytest.mark.parametrize("each", [1, 6])
def test_no_drift_is_found_at_the_nominal_rate(each):
    draw = np.random.default_rng(2)
    false = 0
    for _ in range(200):
        then = reference(reward=clustered(draw, 150, each))
        found = compare(then, {"reward": clustered(draw, 120, each)}, "now", alpha=0.05, least=0.0)
        false += bool(found.drifted)
    assert false <= scipy.stats.binom.ppf(0.999, 200, 0.05)


def test_rows_of_one_prompt_counted_as_independent_would_raise_false_alarms():
    draw, false = np.random.default_rng(2), 0
    for _ in range(50):
        then, now = clustered(draw, 150, 6), clustered(draw, 120, 6)
        alone = [rows(one.values) for one in (then, now)]
        false += bool(compare(reference(reward=alone[0]), {"reward": alone[1]}, "now", alpha=0.05, least=0.0).drifted)
    assert false > 10


def test_a_planted_shift_is_found_and_named():
    draw = np.random.default_rng(3)
    then = reference(**{name: clustered(draw, 300, 4) for name in ("reward", "uncertainty", "length")})
    now = {name: clustered(draw, 300, 4, shift) for name, shift in (("reward", 0), ("uncertainty", 1.2), ("length", 0))}
    found = compare(then, now, "now")
    assert found.drifted == ("uncertainty",)
    assert found.to_dict()["drift"] is True


def test_what_is_significant_but_small_is_no_drift():
    draw = np.random.default_rng(4)
    then, now = rows(draw.normal(size=200_000)), rows(draw.normal(0.05, 1, size=200_000))
    found = compare(reference(reward=then), {"reward": now}, "now")
    assert found.measures[0].p_holm < 1e-6
    assert not found.drifted
    assert compare(reference(reward=then), {"reward": now}, "now", least=0.02).drifted == ("reward",)


def test_a_sketch_is_small_and_close():
    draw = np.random.default_rng(5)
    values = draw.lognormal(size=50_000)
    made = sketch(rows(values))
    assert len(made.values) == RESOLUTION
    grid = np.quantile(values, np.linspace(0.01, 0.99, 99))
    exact, short = (np.searchsorted(np.sort(v), grid, side="right") / len(v) for v in (values, np.array(made.values)))
    assert np.abs(exact - short).max() <= made.blur + 1e-9
    assert sketch(rows([3.0, 1.0, 2.0])).values == [1.0, 2.0, 3.0]


def test_a_measure_that_never_moved_and_one_that_began_to():
    constant, spread = rows(np.ones(200)), rows(np.arange(200.0))
    assert not compare(reference(reward=constant), {"reward": constant}, "now").drifted
    assert compare(reference(reward=constant), {"reward": spread}, "now").drifted == ("reward",)


def test_what_cannot_be_compared():
    then = reference(reward=rows([1.0, 2.0]))
    with pytest.raises(DataError, match="nothing of it can be compared"):
        compare(then, {"confidence": rows([1.0])}, "now")
    with pytest.raises(ConfigError, match="alpha is 0"):
        compare(then, {"reward": rows([1.0])}, "now", alpha=0)
    with pytest.raises(ConfigError, match="least effect is -1"):
        compare(then, {"reward": rows([1.0])}, "now", least=-1)
