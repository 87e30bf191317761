"""Two peaks: what says so, what only looks like it, and what has no spread at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from poise.distributions import Categorical, Gaussian, Mixture, Point, Quantiles, RewardDistribution, Samples
from poise.distributions.disagreement import bimodality_coefficient, two_peaked
from tests.distributions.families import FAMILIES, build, seeds

law = settings(deadline=None, max_examples=25, derandomize=True)
NINE = torch.arange(1.0, 10.0)
DTYPES = [torch.float32, torch.float64]


def constants(value: float, dtype: torch.dtype) -> list[RewardDistribution]:
    """Beliefs with all their mass at ``value``, in many pieces."""
    levels = (torch.arange(19, dtype=dtype) + 1) / 20
    draws = [torch.full((1, count), value, dtype=dtype) for count in (7, 100, 333)]
    weights = torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    mixture = Mixture(weights, torch.full((1, 5), value, dtype=dtype), torch.zeros(1, 5, dtype=dtype))
    return [Quantiles(torch.full((1, 19), value, dtype=dtype), levels), mixture, *map(Samples, draws)]


@pytest.mark.parametrize("dtype", DTYPES)
@law
@given(st.floats(-1e6, 1e6))
def test_a_constant_has_no_peaks(dtype: torch.dtype, value: float) -> None:
    for belief in constants(value, dtype):
        assert bimodality_coefficient(belief).item() == 0
        ulps = torch.arange(belief.components().means.shape[-1]) % 2  # as a fit to constant labels leaves them
        step = torch.finfo(dtype).eps * abs(value)
        assert bimodality_coefficient(Samples(belief.components().means + step * ulps)).item() == 0


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e10, 1e30])
def test_the_coefficient_has_no_unit(scale: float) -> None:
    assert bimodality_coefficient(Gaussian(torch.zeros(1), scale)).item() == pytest.approx(1 / 3)
    assert bimodality_coefficient(Samples(torch.tensor([[-scale, scale]]))).item() == pytest.approx(1.0)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "point"])
@law
@given(seeds, st.sampled_from([-3.0, 1e-6, 2e4]), st.floats(-5, 5))
def test_the_coefficient_lies_in_the_unit_interval_and_moves_with_nothing(
    family: str, seed: int, scale: float, shift: float
) -> None:
    d = build(family, seed)
    found = bimodality_coefficient(d)
    assert ((found > 0) & (found <= 1 + 1e-12)).all()  # Pearson: kurtosis >= skew² + 1
    torch.testing.assert_close(bimodality_coefficient(d.affine(scale, shift)), found, rtol=1e-5, atol=0)


def test_the_coefficient_against_scipy() -> None:
    draws = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3 + 7
    skew, kurtosis = (f(draws.numpy(), axis=-1) for f in (stats.skew, lambda x, axis: stats.kurtosis(x, axis, False)))
    np.testing.assert_allclose(bimodality_coefficient(Samples(draws)), (skew**2 + 1) / kurtosis)


def test_a_component_without_weight_does_not_count() -> None:
    far = Mixture(torch.tensor([0.0, 0.0, -1e30]), torch.tensor([-1.0, 1.0, 1e20]), torch.tensor([0.0, 0.0, 1e20]))
    assert bimodality_coefficient(far).item() == pytest.approx(1.0)


@law
@given(st.floats(1, 9), st.floats(0.3, 3), st.booleans())
def test_one_peaked_levels_are_never_two_camps(centre: float, spread: float, sharp: bool) -> None:
    distance = (NINE - centre).abs() / spread
    assert not two_peaked(Categorical(NINE, (-distance if sharp else -0.5 * distance**2)[None])).any()


def test_two_camps_among_levels_and_elsewhere() -> None:
    one = torch.zeros(9)
    one[7] = 5.0  # P(8) = .949 and the rest alike: skewed enough for a coefficient of .92
    two = torch.tensor([0.02, 0.4, 0.03, 0.02, 0.01, 0.03, 0.05, 0.41, 0.03]).log()
    levels = Categorical(NINE, torch.stack([one, two]))
    assert bimodality_coefficient(levels)[0] > 0.9
    assert two_peaked(levels).tolist() == [False, True]
    assert two_peaked(Samples(torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))).tolist() == [True, False]
    assert two_peaked(Mixture(torch.zeros(2), torch.tensor([-3.0, 3.0]), torch.ones(2))).item()
    assert not two_peaked(Gaussian(0.0, 1.0)).item()
    assert not two_peaked(Point(3.0)).item()
