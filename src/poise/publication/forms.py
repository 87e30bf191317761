"""What of a reward model one linear layer on a state can say, found out by asking the model, whatever its method."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from poise.distributions import Categorical, Gaussian, Mixture, Point, RewardDistribution, std_from_raw
from poise.errors import CheckpointError
from poise.features import Features
from poise.methods import Method
from poise.model import RewardModel

PROBES = 64
SPREADS = (0.1, 1.0, 10.0, 100.0)
LINEAR = 1e-6  # how far, relative to the largest value, a linear reading may be off
Std = Literal["exp", "softplus", "none"]


@dataclass(frozen=True)
class PlainForm:
    """Outputs ``weight`` [K, H] · state, by name. ``offset`` is what the reward has beyond its output.

    ``reads``: how the outputs become a belief; None for the scalar form. ``temperature`` has been divided out of the
    reward; where ``logistic`` is set, the logistic of a difference is the (calibrated) P(win).
    """

    kind: Literal["scalar", "params"]
    weight: Tensor
    names: tuple[str, ...]
    offset: float = 0.0
    temperature: float = 1.0
    logistic: bool = False
    reads: ReadOut | None = None

    def outputs(self, states: Tensor) -> Tensor:
        """[B, K] of states [B, H]."""
        return (states.double() @ self.weight.double().T).float()


@dataclass(frozen=True)
class ReadOut:
    """From the K raw outputs of a head to a belief; ``first`` is the number of the head's first output.

    ``std``: the map of the raw spread, times ``std_factor`` (a Gaussian's calibrated temperature). ``support`` and
    ``log_masses`` are a categorical belief's levels and the constants that are added to its logits.
    """

    family: Literal["point", "gaussian", "categorical", "mixture"]
    first: int
    count: int
    std: Std = "none"
    std_factor: float = 1.0
    support: tuple[float, ...] = ()
    log_masses: tuple[float, ...] = ()

    def belief(self, outputs: Tensor) -> RewardDistribution:
        """The belief [B] that outputs [B, K'] of the plain model stand for, without link and calibration."""
        raw = outputs[:, self.first : self.first + self.count]
        if self.family == "point":
            return Point(raw[:, 0])
        if self.family == "gaussian":
            return Gaussian(raw[:, 0], self._std(raw[:, 1]))
        if self.family == "categorical":
            return Categorical(torch.tensor(self.support).to(raw), raw + torch.tensor(self.log_masses).to(raw))
        members = self.count // (1 if self.std == "none" else 2)
        means = raw[:, :members]
        stds = torch.zeros_like(means) if self.std == "none" else self._std(raw[:, members:])
        return Mixture(torch.zeros_like(means), means, stds)

    def _std(self, raw: Tensor) -> Tensor:
        return self.std_factor * std_from_raw(raw, "softplus" if self.std == "softplus" else "exp")


def scalar_form(model: RewardModel) -> PlainForm:
    """The reward's mean as one output. Raises ``CheckpointError`` where it is no linear function of one state."""
    twin = copy.deepcopy(model.method).cpu().double()
    width = model.method.hidden_size

    def mean(response: Tensor, prompt: Tensor) -> RewardDistribution:
        with torch.inference_mode():
            reward = twin(Features(response, prompt)).reward
            return reward if model.calibration is None else model.calibration.apply(reward)

    drawn = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, width, generator=drawn, dtype=torch.float64)
    probes = probes * torch.tensor(SPREADS, dtype=torch.float64).repeat(PROBES // len(SPREADS))[:, None]
    prompts = torch.randn(PROBES, width, generator=drawn, dtype=torch.float64)
    basis, none = torch.eye(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    offset = mean(none[:1], none[:1]).mean[0]
    row = mean(basis, none).mean - offset
    found = mean(probes, prompts)
    expected = probes @ row + offset
    error = (found.mean - expected).abs().max()
    if error > LINEAR * expected.abs().max().clamp(min=1e-12):
        raise CheckpointError(_why_not_scalar(model, mean, probes, prompts))
    link = found.link
    plain = not link.tie_threshold and link.win_map is None
    logistic = link.kind == "logistic" and plain and isinstance(found, Point)
    temperature = link.temperature if logistic else 1.0
    weight = (row / temperature).float()[None]
    return PlainForm("scalar", weight, ("reward",), (offset / temperature).item(), temperature, logistic)


def _why_not_scalar(model: RewardModel, mean: Any, probes: Tensor, prompts: Tensor) -> str:
    other = mean(probes, prompts.flip(0)).mean
    reads_prompt = not torch.equal(other, mean(probes, prompts).mean)
    why = "weighs its outputs by the prompt's state" if reads_prompt else "is no linear function of the text's state"
    return (
        f"the mean reward of this {model.method.name} model {why}, so no plain classifier with one output can give it; "
        "use --form params where the head is linear, or --form poise for a folder that poise loads and serves"
    )


def params_form(model: RewardModel) -> PlainForm:
    """The raw outputs of a linear head, with the reward first and last where it is linear itself (readers disagree on which they take).

    Raises ``CheckpointError`` where the head is more than one linear map, or its outputs cannot be read as its belief.
    """
    head = model.method.linear_head()
    if head is None or head.bias is not None:
        raise CheckpointError(
            f"the head of this {model.method.name} model is not one linear layer without bias, so it has no raw parameters "
            "that a plain classifier can give; use --form poise for a folder that poise loads and serves"
        )
    rows = head.weight.detach().double().cpu() * model.method.input_scale.item()
    if rows.shape[0] == 1:
        return PlainForm("params", rows.float(), ("reward",), reads=_checked(model.method, ReadOut("point", 0, 1)))
    try:
        scalar = scalar_form(model)
    except CheckpointError:
        reads = _read_out(model.method, first=0, count=len(rows))
        return PlainForm("params", rows.float(), _names(reads), reads=reads)
    reads = _softened(model, _read_out(model.method, first=1, count=len(rows)))
    row = scalar.weight.double()
    names = ("reward", *_names(reads), "reward_last")
    return PlainForm(
        "params", torch.cat([row, rows, row]).float(), names, scalar.offset, scalar.temperature, reads=reads
    )


def _softened(model: RewardModel, reads: ReadOut) -> ReadOut:
    """With what calibration does to the spread of a Gaussian; nothing of it shows in the parameters of other families."""
    if model.calibration is None or reads.family != "gaussian":
        return reads
    return replace(reads, std_factor=model.calibration.apply(Gaussian(0.0, 1.0)).std.item())


def _names(reads: ReadOut) -> tuple[str, ...]:
    if reads.family == "gaussian":
        return ("mean", "raw_std")
    if reads.family == "categorical":
        return tuple(f"logit_{i}" for i in range(reads.count))
    members = reads.count // (1 if reads.std == "none" else 2)
    kinds = ("mean",) if reads.std == "none" else ("mean", "raw_std")
    return tuple(f"{kind}_{i}" for kind in kinds for i in range(members))


def _read_out(method: Method[Any, Any], first: int, count: int) -> ReadOut:
    """Which reading of the outputs gives what the method itself says."""
    with torch.inference_mode():
        blank = method(_states(method, 1, 0.0)).reward
    if isinstance(blank, Categorical):
        masses = log_softmax(blank.logits[0].double(), -1).tolist()
        return _checked(
            method,
            ReadOut("categorical", first, count, support=tuple(blank.support.tolist()), log_masses=tuple(masses)),
        )
    if not isinstance(blank, (Gaussian, Mixture)):
        raise CheckpointError(f"the outputs of a {blank.family} head have no documented reading; use --form poise")
    kinds: tuple[Std, ...] = ("exp", "softplus", "none")
    for kind in kinds:
        try:
            if isinstance(blank, Gaussian):
                return _checked(method, ReadOut("gaussian", first, count, kind))
            return _checked(method, ReadOut("mixture", first, count, kind))
        except CheckpointError as error:
            refusal = error
    raise refusal


def _states(method: Method[Any, Any], count: int, spread: float) -> Features:
    drawn = torch.randn(count, method.hidden_size, generator=torch.Generator().manual_seed(1)) * spread
    return Features(drawn.to(method.input_scale), drawn.to(method.input_scale))


@torch.inference_mode()
def _checked(method: Method[Any, Any], reads: ReadOut) -> ReadOut:
    """``reads``, if it says the same as the method on probes of any size; else ``CheckpointError``."""
    head = method.linear_head()
    assert head is not None
    for spread in SPREADS:
        features = _states(method, PROBES, spread)
        raw = head(features.response * method.input_scale)
        found = reads.belief(torch.nn.functional.pad(raw, (reads.first, 0)))
        known = method(features).reward
        alike = found.family == known.family and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)
            for a, b in zip(found.components(), known.components(), strict=True)
        )
        if not alike:
            raise CheckpointError(
                f"the outputs of this {method.name} head are no {reads.family} reading that plain engines can be told; "
                "use --form poise for a folder that poise loads and serves"
            )
    return reads
