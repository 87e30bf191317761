"""What every reward distribution is: a batched mixture of Gaussians whose components may have no spread.

Every operation has one general implementation through ``components()``; a family overrides it for speed, accuracy or
gradients. The comparisons, divergences and scores themselves stand in ``comparison.py`` and ``scores.py``.

Shapes: a distribution has a batch shape, normally [B]; ``other`` broadcasts against it, so that ``d[:, None]`` against
``d[None, :]`` is a [B, B] matrix of comparisons. Computation is in float32 or float64; other inputs are cast to float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from poise.distributions import comparison, scores
from poise.distributions.atoms import Atoms, sorted_atoms
from poise.distributions.link import Link, step_normal
from poise.distributions.numerics import log_sum, normal_density, safe_log, safe_sqrt, saturated, z_score
from poise.errors import ConfigError, UnsupportedOperation

Coupling: TypeAlias = Literal["independent", "paired", "comonotone"]
DistributionT = TypeVar("DistributionT", bound="RewardDistribution")


class Components(NamedTuple):
    """A mixture of Gaussians: ``weights`` sum to 1 over the last axis, ``stds`` >= 0; each [..., C]."""

    weights: Tensor
    means: Tensor
    stds: Tensor


class Members(NamedTuple):
    """What ``paired`` compares one to one: ``weights`` [..., M] and the members as a distribution of batch shape [..., M]."""

    weights: Tensor
    distributions: RewardDistribution


class RewardDistribution(ABC):
    """A batch of reward distributions; immutable.

    A family names its batched parameters in ``_batched``, with the number of axes after the batch shape; its other
    parameters are shared by the batch. ``link`` says how differences of these rewards become preferences
    (``comparison.common_link`` has the rule).
    """

    family: ClassVar[str]
    _batched: ClassVar[dict[str, int]]
    _tensors: dict[str, Tensor]
    _settings: dict[str, Any]

    def _hold(self, tensors: dict[str, Tensor], **settings: Any) -> None:
        """Set parameters and settings, once, at construction."""
        self.__dict__.update(_tensors=tensors, _settings=settings)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {self.family} distribution is immutable; build another one instead of setting {name}")

    @property
    def link(self) -> Link:
        """How a difference of these rewards becomes a preference."""
        link: Link = self._settings["link"]
        return link

    @property
    def coupling(self) -> Coupling:
        """How this reward is compared with others of its kind, unless a comparison says otherwise."""
        coupling: Coupling = self._settings.get("coupling", "independent")
        return coupling

    @abstractmethod
    def components(self) -> Components:
        """The mixture of Gaussians that this distribution is."""

    # ── a batch ──

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        name, axes = next(iter(self._batched.items()))
        shape = self._tensors[name].shape
        return shape[: len(shape) - axes]

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self._tensors.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return next(iter(self._tensors.values())).dtype

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.family} distribution without a batch axis has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __getitem__(self, index: Any) -> Self:
        """Index the batch axes as a tensor of that shape: integers, slices, None, masks, index tensors."""
        proxy = torch.empty((), device=self.device).expand(self.shape)
        proxy[index]  # refuses an index that would reach into the parameter axes
        parts = index if isinstance(index, tuple) else (index,)
        ellipsis = any(part is Ellipsis for part in parts)
        tail = {name: (slice(None),) * axes if ellipsis else (Ellipsis,) for name, axes in self._batched.items()}
        return self._replace({name: self._tensors[name][(*parts, *tail[name])] for name in self._batched})

    def expand(self, *shape: int) -> Self:
        """Broadcast the batch shape to ``shape`` without copying."""
        batch = len(self.shape)
        tensors = {name: self._tensors[name] for name in self._batched}
        return self._replace({name: tensor.expand(*shape, *tensor.shape[batch:]) for name, tensor in tensors.items()})

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """On another device, or in float32 or float64; ConfigError for any other dtype."""
        if isinstance(target, torch.dtype) and target not in (torch.float32, torch.float64):
            raise ConfigError(f"a reward distribution is float32 or float64, not {target}")
        return self._replace({name: tensor.to(target) for name, tensor in self._tensors.items()})

    def detach(self) -> Self:
        """The same distribution without gradients."""
        return self._replace({name: tensor.detach() for name, tensor in self._tensors.items()})

    def parameters(self) -> dict[str, Tensor]:
        """Name → tensor; with ``family`` and ``options()`` it restores the distribution (``distributions.restore``)."""
        return dict(self._tensors)

    def row_parameters(self) -> dict[str, Tensor]:
        """The parameters of which every response has its own, [B, ...]; supports and levels are shared and not among them."""
        return {name: self._tensors[name] for name in self._batched}

    def options(self) -> dict[str, Any]:
        """What is not a tensor, ready for JSON."""
        return self._settings | {"link": self.link.options()}

    def with_link(self, link: Link) -> Self:
        """The same rewards, whose differences become preferences by another link."""
        return self._replace({}, link=link)

    @staticmethod
    def concatenate(distributions: Sequence[DistributionT]) -> DistributionT:
        """Along the first batch axis; all of one family, with the same shared parameters and options, or ConfigError."""
        if not distributions:
            raise ConfigError("concatenate needs at least one distribution")
        first = distributions[0]
        for other in distributions[1:]:
            first._require_alike(other)
        return first._replace({name: torch.cat([d._tensors[name] for d in distributions]) for name in first._batched})

    def _require_alike(self, other: RewardDistribution) -> None:
        if other.family != self.family:
            raise ConfigError(
                f"cannot concatenate {self.family} with {other.family}; convert both with Mixture.of first"
            )
        if self._settings != other._settings:
            raise ConfigError(f"cannot concatenate {self.options()} with {other.options()}: the options differ")
        for name, mine in self._tensors.items():
            theirs = other._tensors[name]
            if name not in self._batched and not same_tensor(mine, theirs):
                raise ConfigError(f"cannot concatenate {self.family} distributions that differ in {name}")
            if name in self._batched and mine.shape[1:] != theirs.shape[1:]:
                shapes = f"{list(mine.shape)} and {list(theirs.shape)}"
                raise ConfigError(f"cannot concatenate {self.family} distributions with {name} {shapes}")

    def _permute(self, *order: int) -> Self:
        """Reorder the batch axes."""
        tensors = {name: self._tensors[name] for name in self._batched}
        return self._replace(
            {name: tensor.permute(*order, *range(len(order), tensor.ndim)) for name, tensor in tensors.items()}
        )

    def _replace(self, tensors: dict[str, Tensor], **settings: Any) -> Self:
        """A copy with other tensors or settings, without validation."""
        copy = object.__new__(type(self))
        copy._hold(self._tensors | tensors, **(self._settings | settings))
        return copy

    # ── read-outs ──

    @property
    def mean(self) -> Tensor:
        """E X."""
        weights, means, _ = self.components()
        return (weights * means).sum(-1)

    @property
    def variance(self) -> Tensor:
        """E(X − mean)²; saturates instead of overflowing."""
        weights, deviations, stds = self._centred(2)
        return (weights * (stds**2 + deviations**2)).sum(-1)

    @property
    def std(self) -> Tensor:
        """√variance, with a zero gradient at 0 and no overflow."""
        weights, means, stds = self.components()
        deviations = means - self.mean.unsqueeze(-1)
        scale = torch.maximum(deviations.abs(), stds).amax(-1, keepdim=True).detach()
        scale = torch.where(scale > 0, scale, 1.0)
        return scale.squeeze(-1) * safe_sqrt((weights * ((stds / scale) ** 2 + (deviations / scale) ** 2)).sum(-1))

    @property
    def third_central_moment(self) -> Tensor:
        """E(X − mean)³; saturates."""
        weights, d, stds = self._centred(3)
        return (weights * (d**3 + 3 * d * stds**2)).sum(-1)

    @property
    def fourth_central_moment(self) -> Tensor:
        """E(X − mean)⁴; saturates."""
        weights, d, stds = self._centred(4)
        return (weights * (d**4 + 6 * d**2 * stds**2 + 3 * stds**4)).sum(-1)

    def cdf(self, value: Tensor | float) -> Tensor:
        """P(X <= value); ``value`` broadcasts with the batch shape (a grid for every row: ``d[:, None].cdf(grid)``)."""
        return self._cdf_grid(self._points(value), left=False).squeeze(-1)

    def cdf_left(self, value: Tensor | float) -> Tensor:
        """P(X < value)."""
        return self._cdf_grid(self._points(value), left=True).squeeze(-1)

    def quantile(self, level: float | Tensor) -> Tensor:
        """inf{x : P(X <= x) >= level}, 0 < level < 1: a number gives the batch shape, a tensor [L] gives [..., L]."""
        given = level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64)
        if given.ndim > 1 or not ((given > 0) & (given < 1)).all():
            raise ConfigError(f"quantile levels must be a number or a tensor [L] strictly between 0 and 1, got {level}")
        precision = torch.finfo(self.dtype)  # float32 rounds levels above 1 − 3e-8 to 1
        levels = given.clamp(precision.tiny, 1 - precision.eps / 2).to(self.device, self.dtype)
        quantiles = self._quantiles(levels.reshape(-1))
        return quantiles if levels.ndim else quantiles.squeeze(-1)

    def log_prob(self, value: Tensor | float) -> Tensor:
        """Log density of a continuous family, log mass of a Categorical."""
        return self._log_density(self._points(value), "log_prob").squeeze(-1)

    def entropy(self) -> Tensor:
        """Nats; differential for a continuous family, Shannon for atoms. Not comparable: a batch with both kinds is refused."""
        return scores.entropy(self)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, ...] draws without gradient; ``generator`` decides them."""
        with torch.no_grad():
            return self.rsample(n, generator)

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, ...] draws; gradients flow to the means and stds of the drawn components, never to the weights."""
        weights, means, stds = self.components()
        cumulative = weights.cumsum(-1)
        uniform = torch.rand((*self.shape, n), generator=generator, dtype=self.dtype, device=self.device)
        chosen = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
        chosen = chosen.clamp(max=weights.shape[-1] - 1)
        noise = torch.randn((*self.shape, n), generator=generator, dtype=self.dtype, device=self.device)
        draws = means.gather(-1, chosen) + stds.gather(-1, chosen) * noise
        return draws.movedim(-1, 0)

    # ── two distributions ──

    def prob_greater(
        self, other: RewardDistribution, coupling: Coupling | None = None, link: Link | None = None
    ) -> Tensor:
        """P(self ≻ other) + ½ P(tie), under ``link`` and ``coupling`` or else those that both sides carry."""
        return comparison.compare(self, other, coupling, link, "prob")

    def prob_tie(self, other: RewardDistribution, coupling: Coupling | None = None, link: Link | None = None) -> Tensor:
        """P(tie)."""
        return comparison.compare(self, other, coupling, link, "tie")

    def log_prob_greater(
        self, other: RewardDistribution, coupling: Coupling | None = None, link: Link | None = None
    ) -> Tensor:
        """Log of ``prob_greater``, accurate where that underflows: its negative is a training loss."""
        return comparison.compare(self, other, coupling, link, "log_prob")

    def kl(self, other: RewardDistribution) -> Tensor:
        """KL(self ‖ other) in nats; UnsupportedOperation where no common reference measure exists."""
        return scores.kl_between_densities(self, other)

    def wasserstein(self, other: RewardDistribution) -> Tensor:
        """W1 = ∫|F − G|, in reward units."""
        return scores.wasserstein(self, other)

    def cramer(self, other: RewardDistribution) -> Tensor:
        """Cramér distance ∫(F − G)², in reward units."""
        return scores.cramer(self, other)

    def crps(self, value: Tensor | float, fair: bool = False) -> Tensor:
        """∫(F − 1[value <= x])² dx, in reward units; ``fair`` removes the finite-sample bias and is for Samples alone."""
        observed = torch.as_tensor(value, dtype=self.dtype, device=self.device)
        return self._fair_crps(observed) if fair else self._crps(observed)

    @abstractmethod
    def affine(self, scale: Tensor | float, shift: Tensor | float = 0.0) -> Self:
        """The distribution of scale·X + shift; the link stays, so probabilities change as under a temperature 1/scale."""

    # ── what a family may override ──

    def _crps(self, value: Tensor) -> Tensor:
        return scores.crps(self, value)

    def _fair_crps(self, value: Tensor) -> Tensor:
        raise self._unsupported("crps(fair=True)", "only Samples are a finite draw of something else")

    def _log_weights(self) -> Tensor:
        return safe_log(self.components().weights)

    def _is_atomic(self) -> bool:
        """Whether all components are atoms."""
        return False

    def _atoms(self) -> Atoms:
        """The components of an atomic distribution in ascending order."""
        weights, values, _ = self.components()
        return sorted_atoms(weights, values)

    def _cdf_grid(self, points: Tensor, left: bool) -> Tensor:
        """F(points) or, with ``left``, F(points −) for points [..., N]."""
        return self._atoms().cdf(points, left) if self._is_atomic() else self._mixed_cdf(points, left)

    def _mixed_cdf(self, points: Tensor, left: bool) -> Tensor:
        weights, means, stds = (part.unsqueeze(-2) for part in self.components())
        return (weights * step_normal(points.unsqueeze(-1) - means, stds, at_zero=0.0 if left else 1.0)).sum(-1)

    def _quantiles(self, levels: Tensor) -> Tensor:
        """[..., L] for levels [L] or [..., L]; with spread by bisection and gradients by ∂Q/∂ϑ = −(∂F/∂ϑ)/f(Q)."""
        if self._is_atomic():
            return self._atoms().quantiles(levels)
        with torch.no_grad():
            _, means, stds = self.components()
            low, high = (means - 12 * stds).amin(-1, keepdim=True) - 1, (means + 12 * stds).amax(-1, keepdim=True) + 1
            for _ in range(60):
                middle = low / 2 + high / 2
                reached = self._mixed_cdf(middle, left=False) >= levels
                low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
            density = self._density_grid(high)
        cdf = self._mixed_cdf(high, left=False)
        quantiles = high - (cdf - cdf.detach()) / torch.where(density > 0, density, torch.inf)
        snapped, atoms = self._snapped(quantiles, low, high), (stds == 0).all(-1, keepdim=True)
        # a row of atoms is read as one, whatever its neighbours
        return torch.where(atoms, self._atoms().quantiles(levels), snapped) if atoms.any() else snapped

    def _snapped(self, quantiles: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The atom in (low, high], where the bisection closed in on one."""
        _, means, stds = (part.unsqueeze(-2) for part in self.components())
        inside = (stds == 0) & (means > low.unsqueeze(-1)) & (means <= high.unsqueeze(-1))
        atom = means.expand(inside.shape).gather(-1, inside.to(torch.uint8).argmax(-1, keepdim=True)).squeeze(-1)
        return torch.where(inside.any(-1), atom, quantiles)

    def _density_grid(self, points: Tensor) -> Tensor:
        """Density of the Gaussian part at points [..., N]."""
        weights, means, stds = (part.unsqueeze(-2) for part in self.components())
        spread = torch.where(stds > 0, stds, torch.inf)
        return (weights * normal_density(z_score(points.unsqueeze(-1) - means, spread)) / spread).sum(-1)

    def _log_density(self, points: Tensor, operation: str) -> Tensor:
        """Log density at points [..., N]; UnsupportedOperation with an atom."""
        _, means, stds = (part.unsqueeze(-2) for part in self.components())
        if (stds == 0).any():
            raise self._unsupported(operation, "it has atoms (std 0) and so no density")
        z = z_score(points.unsqueeze(-1) - means, stds)
        log_densities = -0.5 * z * z - stds.log() - 0.5 * math.log(2 * math.pi)
        return log_sum(self._log_weights().unsqueeze(-2) + log_densities, -1)

    def _grid_log_probs(self, other: RewardDistribution) -> tuple[Tensor, Tensor] | None:
        """Log masses of both sides on one common sorted support, where they have one."""
        return None

    def _members(self) -> Members:
        """What the ``paired`` coupling matches."""
        raise self._unsupported("the paired coupling", "its components are not common draws")

    def _sorted_levels(self) -> tuple[Tensor, Tensor] | None:
        """(weights [K], values [..., K] ascending) of a quantile function with K fixed cells, where it is one."""
        return None

    # ── small print ──

    def _centred(self, order: int) -> Components:
        """Components around the mean, clamped so that the moment of this order stays finite."""
        weights, means, stds = self.components()
        deviations = means - self.mean.unsqueeze(-1)
        return Components(weights, saturated(deviations, order), saturated(stds, order))

    def _points(self, value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device).unsqueeze(-1)

    def _unsupported(self, operation: str, why: str) -> UnsupportedOperation:
        return UnsupportedOperation(f"{self.family} does not define {operation}: {why}")


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Identity first, because shared parameters usually are one object."""
    return a is b or (a.shape == b.shape and torch.equal(a, b))
