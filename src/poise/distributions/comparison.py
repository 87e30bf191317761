"""Which of two rewards, or of n, is larger.

Three couplings: ``independent`` (aleatoric noise, every component against every other), ``paired`` (member against
member: ensembles, posterior draws) and ``comonotone`` (quantile against quantile, Gaussians with ρ = 1). A comparison
names one, or takes the one that both sides carry. Ties count half in every probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from poise.distributions.link import STEP, Link
from poise.distributions.numerics import (
    LN2,
    LOG_ZERO,
    broadcast_shapes,
    legendre,
    log_sum,
    safe_hypot,
    safe_log,
    wide_dtype,
)
from poise.errors import ConfigError, UnsupportedOperation, unknown_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise.distributions.base import Coupling, RewardDistribution

Quantity = Literal["prob", "tie", "log_prob"]
SORT_ABOVE = 16  # component pairs from which sorting beats the pairwise kernel
SORT_LOG_ABOVE = 4096  # the same for logarithms, where the kernel is the more accurate one
CHUNK = 2**22  # elements of one block of component pairs


def common_link(first: Link, second: Link) -> Link:
    """The link of a comparison: the one both sides carry; a step if one side is bare; two different ones are an error.

    So two Bradley–Terry points are compared by the logistic of their margin, and a point against a Gaussian is a number
    against a distribution.
    """
    if first == second:
        return first
    if STEP in (first, second):
        return STEP
    raise ConfigError(f"the two sides carry different links, {first} and {second}; pass link=")


def compare(
    first: RewardDistribution,
    second: RewardDistribution,
    coupling: Coupling | None,
    link: Link | None,
    quantity: Quantity,
) -> Tensor:
    """P(first ≻ second) + ½ P(tie), P(tie), or the logarithm of the former, over the broadcast batch shape.

    The probability and that of the reverse sum to 1 and equal beliefs have ½, both to the bit: no decision is rounding's.
    """
    link = common_link(first.link, second.link) if link is None else link

    def one_way(a: RewardDistribution, b: RewardDistribution, kind: Quantity) -> Tensor:
        return _one_way(a, b, coupling, link, kind)

    if quantity == "prob":
        return _win_probability(one_way(first, second, "prob"), one_way(second, first, "prob"), link)
    found, win_map = one_way(first, second, quantity), link.win_map
    if win_map is None:
        return found
    if quantity == "log_prob":
        return win_map.log_prob(found, one_way(second, first, "log_prob"))
    forward, backward = one_way(first, second, "prob"), one_way(second, first, "prob")
    return win_map.tie(found, _shared(forward, backward), _shared(backward, forward))


def _one_way(
    first: RewardDistribution, second: RewardDistribution, coupling: Coupling | None, link: Link, quantity: Quantity
) -> Tensor:
    """As ``compare``, up to rounding and without the link's map."""
    if coupling is None:
        coupling = first.coupling if first.coupling == second.coupling else "independent"
    couplings = {"independent": _independent, "paired": _paired, "comonotone": _comonotone}
    if coupling not in couplings:
        raise ConfigError(unknown_choice("coupling", coupling, couplings))
    found = couplings[coupling](first, second, link, quantity)
    if quantity == "prob":
        return found  # its sum with the reverse is made 1
    # weights that sum to 1 only up to rounding must not make a probability above 1
    return found.clamp(max=0.0) if quantity == "log_prob" else found.clamp(0.0, 1.0)


def _win_probability(forward: Tensor, backward: Tensor, link: Link) -> Tensor:
    """P(a ≻ b) with the link's map, from P(a ≻ b) and P(b ≻ a) as sums that rounded apart."""
    p = _shared(forward, backward)
    return p if link.win_map is None else link.win_map.prob(p, _shared(backward, forward))


def _shared(forward: Tensor, backward: Tensor) -> Tensor:
    """``forward`` so that it and its reverse sum to exactly 1: the smaller keeps its digits, the larger is what it leaves."""
    total = forward + backward
    return torch.where(forward > backward, 1 - backward / total, forward / total)


def _independent(first: RewardDistribution, second: RewardDistribution, link: Link, quantity: Quantity) -> Tensor:
    if link.is_bare:
        grid = first._grid_log_probs(second)
        if grid is not None:
            return _compare_on_grid(*grid, quantity)
    pairs = first.components().means.shape[-1] * second.components().means.shape[-1]
    sort_above = SORT_LOG_ABOVE if quantity == "log_prob" else SORT_ABOVE
    if link.kind == "step" and pairs > sort_above and first._is_atomic() and second._is_atomic():
        return _compare_sorted(first, second, link, quantity)
    if quantity == "log_prob":
        return log_expectation_over_pairs(first, second, link.log_prob)
    return expectation_over_pairs(first, second, _kernel(link, quantity))


def _compare_on_grid(log_p: Tensor, log_q: Tensor, quantity: Quantity) -> Tensor:
    """Two sets of log masses [..., K] on one sorted support: compared by index, never by float equality."""
    if quantity == "tie":
        return (log_p + log_q).exp().sum(-1)
    if quantity == "prob":
        q = log_q.exp()
        return (log_p.exp() * q.cumsum(-1).sub(q, alpha=0.5)).sum(-1)
    below = pad(log_q.logcumsumexp(-1)[..., :-1], (1, 0), value=LOG_ZERO)
    return log_sum(log_p + log_sum(torch.stack([below, log_q - LN2]), 0), -1)


def _compare_sorted(first: RewardDistribution, second: RewardDistribution, link: Link, quantity: Quantity) -> Tensor:
    """Atoms against atoms under a step: Σ ω of the cumulative weights of ``second`` at the insertion ranks of ``first``."""
    atoms, against = first._atoms(), second._atoms()
    wins = against.cdf(atoms.values - link.tie_threshold, left=True)
    loses_not = against.cdf(atoms.values + link.tie_threshold, left=False)
    if quantity == "tie":
        return (atoms.weights * (loses_not - wins)).sum(-1)
    if quantity == "prob":
        return (atoms.weights * 0.5 * (wins + loses_not)).sum(-1)
    return log_sum(safe_log(atoms.weights) + safe_log(0.5 * (wins + loses_not)), -1)


def expectation_over_pairs(
    first: RewardDistribution, second: RewardDistribution, kernel: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """ΣΣ ω_i ω_j kernel(μ_i − μ_j, √(σ_i² + σ_j²)), in blocks of the components of ``first``."""
    weights, means, stds = (part.unsqueeze(-1) for part in first.components())
    others, other_means, other_stds = (part.unsqueeze(-2) for part in second.components())
    total = torch.zeros((), dtype=means.dtype, device=means.device)
    for block in _blocks(means, other_means):
        values = kernel(means[..., block, :] - other_means, safe_hypot(stds[..., block, :], other_stds))
        total = total + (weights[..., block, :] * (others * values).sum(-1, keepdim=True)).sum((-2, -1))
    return total


def log_expectation_over_pairs(
    first: RewardDistribution, second: RewardDistribution, log_kernel: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Log ΣΣ ω_i ω_j exp(log_kernel(…)), arguments as in ``expectation_over_pairs``."""
    _, means, stds = (part.unsqueeze(-1) for part in first.components())
    _, other_means, other_stds = (part.unsqueeze(-2) for part in second.components())
    log_weights, other_log_weights = first._log_weights().unsqueeze(-1), second._log_weights().unsqueeze(-2)
    blocks = []
    for block in _blocks(means, other_means):
        values = log_kernel(means[..., block, :] - other_means, safe_hypot(stds[..., block, :], other_stds))
        blocks.append(log_sum((log_weights[..., block, :] + other_log_weights + values).flatten(-2), -1))
    return log_sum(torch.stack(blocks), 0)


def _blocks(column: Tensor, row: Tensor) -> list[slice]:
    """Slices of the C axis of ``column`` [..., C, 1] that keep a block against ``row`` [..., 1, D] below ``CHUNK``."""
    batch = broadcast_shapes(column.shape[:-2], row.shape[:-2]).numel()
    step = max(1, CHUNK // max(1, batch * row.shape[-1]))
    return [slice(start, start + step) for start in range(0, column.shape[-2], step)]


def _paired(first: RewardDistribution, second: RewardDistribution, link: Link, quantity: Quantity) -> Tensor:
    a, b = first._members(), second._members()
    if a.weights.shape[-1] != b.weights.shape[-1]:
        sizes = f"{a.weights.shape[-1]} and {b.weights.shape[-1]}"
        raise UnsupportedOperation(
            f"paired needs the same members on both sides, got {sizes} ({first.family}, {second.family})"
        )
    if not torch.allclose(a.weights, b.weights, atol=1e-5):
        raise UnsupportedOperation("paired needs the same member weights on both sides; use coupling='independent'")
    return _average(a.weights, _independent(a.distributions, b.distributions, link, quantity), quantity)


def _comonotone(first: RewardDistribution, second: RewardDistribution, link: Link, quantity: Quantity) -> Tensor:
    a, b = first.components(), second.components()
    if a.means.shape[-1] == b.means.shape[-1] == 1:
        return _kernel(link, quantity)(a.means - b.means, (a.stds - b.stds).abs()).squeeze(-1)
    levels, other_levels = first._sorted_levels(), second._sorted_levels()
    if levels is None or other_levels is None or not _close(levels[0], other_levels[0]):
        raise UnsupportedOperation(
            "comonotone is defined for two Gaussians and for two sets of quantiles or samples with the same levels, "
            f"not for {first.family} against {second.family}"
        )
    difference = levels[1] - other_levels[1]
    return _average(levels[0], _kernel(link, quantity)(difference, torch.zeros_like(difference)), quantity)


def _kernel(link: Link, quantity: Quantity) -> Callable[[Tensor, Tensor], Tensor]:
    return {"prob": link.prob, "tie": link.tie, "log_prob": link.log_prob}[quantity]


def _average(weights: Tensor, values: Tensor, quantity: Quantity) -> Tensor:
    if quantity == "log_prob":
        return log_sum(safe_log(weights) + values, -1)
    return (weights * values).sum(-1)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-6)


# ── more than two ──


def win_matrix(
    distributions: RewardDistribution,
    others: RewardDistribution | None = None,
    coupling: Coupling | None = None,
    link: Link | None = None,
) -> Tensor:
    """P(row ≻ column) + ½ P(tie) [..., n, m] of batch axis n against axis m; against themselves by default."""
    rows, columns = distributions[..., :, None], (distributions if others is None else others)[..., None, :]
    if others is not None:
        return rows.prob_greater(columns, coupling, link)
    link = distributions.link if link is None else link
    forward = _one_way(rows, columns, coupling, link, "prob")
    return _win_probability(forward, forward.mT, link)  # the reverse of every comparison is in the matrix already


def prob_best(
    distributions: RewardDistribution,
    axis: int = -1,
    draws: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """P(this one is the best of the n along ``axis``), batch shape; bare rewards, ties split equally.

    Rewards that are coupled in pairs are compared member by member, others independently. By quadrature with about 100 nodes per Gaussian component, within 1e-10, and exactly for atoms. It holds a few arrays
    of n × 100·n·C numbers per row; for large n ``draws`` asks for that many Monte Carlo draws instead.
    """
    axis = range(len(distributions.shape))[axis]
    if distributions.coupling == "paired":
        weights, members = distributions._members()
        return (weights * prob_best(members, axis, draws, generator)).sum(-1)
    if draws is not None:
        values = distributions.sample(draws, generator)
        best = (values == values.amax(axis + 1, keepdim=True)).to(values.dtype)
        return (best / best.sum(axis + 1, keepdim=True)).mean(0)
    order = [i for i in range(len(distributions.shape)) if i != axis]
    rows = distributions._permute(*order, axis).to(wide_dtype(distributions.components().means))
    best = _best_in_the_continuum(rows) + _best_of_atoms(rows)
    return (best / best.sum(-1, keepdim=True)).movedim(-1, axis).to(distributions.dtype)


def _best_in_the_continuum(rows: RewardDistribution) -> Tensor:
    """∫ f_i Π_{j≠i} F_j by Gauss–Legendre between the knots μ + kσ of all components, where every factor is smooth."""
    _, means, stds = rows.components()
    if not stds.any():
        return torch.zeros_like(means[..., 0])
    grid = means.unsqueeze(-1) + stds.unsqueeze(-1) * torch.arange(-8.0, 9.0).to(means)
    knots = grid.flatten(-3).sort(dim=-1).values
    nodes, node_weights = legendre(6, means)
    widths = knots.diff(dim=-1).unsqueeze(-1)
    points = (knots[..., :-1].unsqueeze(-1) + widths * nodes).flatten(-2).unsqueeze(-2)  # [..., 1, N]
    logs = safe_log(rows._cdf_grid(points, left=False))
    others = (logs.sum(-2, keepdim=True) - logs).exp()
    return (rows._density_grid(points) * others * (widths * node_weights).flatten(-2).unsqueeze(-2)).sum(-1)


def _best_of_atoms(rows: RewardDistribution) -> Tensor:
    """Σ over own atoms v of ω ∫₀¹ Π_{j≠i} (F_j(v−) + t·mass_j(v)) dt, which splits ties equally.

    The integrand is a polynomial of degree n − 1 in t, so ⌈n/2⌉ Gauss–Legendre nodes are exact.
    """
    weights, means, stds = rows.components()
    best = torch.zeros_like(means[..., 0])
    if stds.all():
        return best
    n = rows.shape[-1]
    everywhere = means.flatten(-2).unsqueeze(-2)  # [..., 1, n·C]
    below = rows._cdf_grid(everywhere, left=True).reshape(*rows.shape, *means.shape[-2:])  # [..., j, i, C]
    mass = rows._cdf_grid(everywhere, left=False).reshape(below.shape) - below
    itself = torch.eye(n, dtype=torch.bool, device=means.device).unsqueeze(-1)
    for t, weight in zip(*legendre((n + 1) // 2, means), strict=True):
        others = safe_log(below + t * mass).masked_fill(itself, 0.0).sum(-3).exp()
        best = best + weight * (weights * others * (stds == 0)).sum(-1)
    return best
