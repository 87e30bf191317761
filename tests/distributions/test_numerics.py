"""The delicate spots one by one: tails in single precision, corners at zero, overflow, quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from poise.distributions import Gaussian, Link, std_from_raw
from poise.distributions.numerics import (
    as_floats,
    expected_abs,
    hermite,
    legendre,
    log_ndtr,
    log_sum,
    normal_cdf,
    normal_density,
    require_finite,
    require_increasing,
    require_nonnegative,
    safe_hypot,
    safe_log,
    safe_sqrt,
    saturated,
    z_score,
)
from poise.errors import ConfigError

Z = torch.linspace(-12, 9, 2101)


def test_normal_cdf_keeps_its_lower_tail_in_single_precision() -> None:
    exact = torch.from_numpy(stats.norm.cdf(Z.double().numpy()))
    torch.testing.assert_close(normal_cdf(Z).double(), exact, rtol=2e-5, atol=0)  # z²·eps: the rounding of z itself
    torch.testing.assert_close(normal_cdf(Z.double()), exact, rtol=1e-12, atol=0)
    assert normal_cdf(torch.tensor(0.0)).item() == 0.5


def test_its_slope_is_the_density() -> None:
    z = Z.clone().requires_grad_()
    normal_cdf(z).sum().backward()
    torch.testing.assert_close(z.grad, normal_density(Z), rtol=2e-5, atol=0)
    far = torch.tensor([-1e9, 1e9], requires_grad=True)
    normal_cdf(far).sum().backward()
    assert far.grad is not None
    assert far.grad.tolist() == [0, 0]


def test_comparisons_read_that_tail() -> None:
    a, b = Gaussian(torch.tensor([-8.0]), torch.tensor([0.6])), Gaussian(torch.zeros(1), torch.tensor([0.8]))
    assert abs(a.prob_greater(b).item() / stats.norm.cdf(-8) - 1) < 2e-5
    probit = a.prob_greater(b, link=Link("probit", 0.5)).item()
    assert abs(probit / stats.norm.cdf(-8 / 1.25**0.5) - 1) < 2e-5


def test_the_slope_of_the_log_cdf_far_below() -> None:
    """φ/Φ = √(2/π)/erfcx(−z/√2), also in single precision."""
    z = torch.tensor([-50_000.0, -5000.0, -1000.0, -3.0, 0.0, 4.0], requires_grad=True)
    value = log_ndtr(z)
    value.sum().backward()
    wide = z.detach().double().numpy()
    np.testing.assert_allclose(value.detach(), special.log_ndtr(wide), rtol=2e-6)
    assert z.grad is not None
    np.testing.assert_allclose(z.grad, math.sqrt(2 / math.pi) / special.erfcx(-wide / math.sqrt(2)), rtol=2e-6)
    unsummed = torch.autograd.grad(log_ndtr(z) @ torch.arange(6.0), z)[0]
    torch.testing.assert_close(unsummed, torch.arange(6.0) * z.grad)


def test_densities_and_mean_distances_against_scipy() -> None:
    x = torch.linspace(-4, 4, 17, dtype=torch.float64)
    np.testing.assert_allclose(normal_density(x), stats.norm.pdf(x.numpy()), rtol=1e-12)
    for mean in (-1.5, 0.0, 0.7):
        for std in (0.3, 2.0):
            folded = stats.foldnorm.mean(abs(mean) / std, scale=std)
            found = expected_abs(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
            assert found.item() == pytest.approx(folded, rel=1e-12)
        assert expected_abs(torch.tensor(mean), torch.tensor(0.0)).item() == pytest.approx(abs(mean))


def test_nodes_integrate_polynomials_exactly() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    nodes, weights = hermite(5, like)
    moments = [(weights * nodes**k).sum().item() for k in range(9)]
    assert moments == pytest.approx([1, 0, 1, 0, 3, 0, 15, 0, 105], abs=1e-10)
    nodes, weights = legendre(4, like)
    assert [(weights * nodes**k).sum().item() for k in range(8)] == pytest.approx([1 / (k + 1) for k in range(8)])
    assert hermite(3, like.float())[0].dtype == legendre(3, like.float())[1].dtype == torch.float32


def test_functions_with_a_corner_at_zero_have_no_slope_there() -> None:
    x = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    for f, values, slopes in (
        (safe_log, [-1e30, math.log(4)], [0, 0.25]),
        (safe_sqrt, [0, 2], [0, 0.25]),
        (lambda x: safe_hypot(x, 0.75 * x), [0, 5], [0, 1.25]),
    ):
        found = f(x)
        assert found.tolist() == pytest.approx(values)
        assert torch.autograd.grad(found.sum(), x)[0].tolist() == pytest.approx(slopes)
    sides = torch.tensor([3.0, 0.0, 1e30]), torch.tensor([0.0, 4.0, 1e30])
    assert safe_hypot(*sides).tolist() == pytest.approx([3.0, 4.0, 2**0.5 * 1e30])


def test_ratios_are_bounded() -> None:
    difference = torch.tensor([3.0, -1e30, 1e30, 2e9])
    assert z_score(difference, torch.tensor([2.0, 1e-3, 1e-3, 1.0])).tolist() == pytest.approx([1.5, -1e9, 1e9, 1e9])
    assert torch.isfinite(z_score(difference, torch.zeros(4))).all()


def test_powers_stay_finite() -> None:
    largest = torch.finfo(torch.float32).max
    huge = torch.tensor([largest, -largest, 7.0])
    for order in (2, 3, 4):
        limit = (largest / 64) ** (1 / order)
        assert saturated(huge, order).tolist() == pytest.approx([limit, -limit, 7.0])
        assert torch.isfinite((saturated(huge[:1], order) ** order * 63).sum())


def test_the_log_of_a_sum_of_huge_numbers() -> None:
    x = torch.tensor([[1e30, 1e30], [-1e30, 0.0]], requires_grad=True)
    found = log_sum(x, -1)
    np.testing.assert_allclose(found.detach(), [1e30, 0.0])
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    y = torch.randn(3, 4, dtype=torch.float64)
    np.testing.assert_allclose(log_sum(y, 0), special.logsumexp(y.numpy(), 0))


def test_quantiles_at_the_ends_of_single_precision() -> None:
    """A level that float32 rounds to 1 is the largest number below it, one that it rounds to 0 the smallest above."""
    d = Gaussian(torch.zeros(1), torch.ones(1))
    assert d.quantile(1 - 1e-12).item() == pytest.approx(stats.norm.ppf(1 - 2.0**-24), rel=1e-5)
    assert d.quantile(1e-60).item() == pytest.approx(stats.norm.ppf(2.0**-126), rel=1e-5)


def test_parameters_are_floats_of_one_width_and_errors_say_where() -> None:
    assert [x.dtype for x in as_floats(torch.zeros(1).half(), torch.tensor(1), 2.0)] == [torch.float32] * 3
    assert [x.dtype for x in as_floats(torch.zeros(1), torch.zeros(1).double(), 2.0)] == [torch.float64] * 3
    table = torch.tensor([[0.0, 1.0], [math.inf, 2.0]])
    with pytest.raises(ConfigError, match=r"x must be finite, got inf at \[1, 0\]"):
        require_finite("A", x=table)
    with pytest.raises(ConfigError, match="x must be >= 0, got -3"):
        require_nonnegative("A", "x", torch.tensor([1.0, -3.0, -1.0]))
    with pytest.raises(ConfigError, match="strictly increasing"):
        require_increasing("A", "x", torch.tensor([1.0, 2.0, 2.0]))
    require_nonnegative("A", "x", torch.zeros(2))
    require_increasing("A", "x", torch.tensor([1.0, 2.0]))


def test_spreads_of_a_head_within_other_bounds() -> None:
    raw = torch.tensor([-9.0, 0.0, 9.0], dtype=torch.float64)
    assert std_from_raw(raw, floor=0.5, ceiling=2.0).tolist() == pytest.approx([0.5, 1.0, 2.0])
    shift = math.log(math.exp(0.5) - 1)
    expected = 0.5 + np.logaddexp(0, raw.numpy() + shift)
    np.testing.assert_allclose(std_from_raw(raw, "softplus", floor=0.5), expected)
    assert expected[1] == pytest.approx(1.0)
