"""What one linear layer can say of a model, for every method, against the model itself."""

from __future__ import annotations

import pytest
import torch

from poise.calibration import Calibration, PairCalibration
from poise.distributions import RewardDistribution
from poise.errors import CheckpointError
from poise.methods import METHODS, method_class
from poise.model import RewardModel
from poise.publication.forms import params_form, scalar_form
from tests.conftest import tiny_decoder
from tests.test_model import ANSWERS, PROMPT, make_model

RATED = ("help", "verbosity")
OPTIONS = {
    "attributes": {"attributes": RATED},
    "qrm": {"attributes": RATED},
}


def model_of(method: str, **options) -> RewardModel:
    kind = method_class(method)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = kind(kind.Config(**OPTIONS.get(method, {}) | options), 32)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return RewardModel(tiny_decoder(), head)


def states(model: RewardModel) -> torch.Tensor:
    return model.features(model._encode(PROMPT, ANSWERS)).response


def alike(a: RewardDistribution, b: RewardDistribution) -> bool:
    return all(
        x.shape == y.shape and torch.allclose(x, y, atol=1e-5)
        for x, y in zip(a.components(), b.components(), strict=True)
    )


FIXED = {"weights": (0.7, 0.3)}
LINEAR = [
    ("bt", {}),
    ("bt", {"loss": "davidson"}),
    ("drpo", {}),
    ("drpo_exact", {}),
    ("likelihood", {"std": "softplus"}),
    ("ensemble", {"belief": "gaussian"}),
    ("ensemble", {}),
    ("qrm", FIXED),
    ("attributes", FIXED),
    ("attributes", FIXED | {"loss": "mse", "aggregate": "mixture"}),
]


@pytest.mark.parametrize(("method", "options"), LINEAR)
def test_a_linear_mean_is_one_output(method, options):
    model = model_of(method, **options)
    form = scalar_form(model)
    assert form.weight.shape == (1, 32)
    assert form.names == ("reward",)
    found = form.outputs(states(model))[:, 0] + form.offset
    assert (found - model.predict(PROMPT, ANSWERS).mean).abs().max() < 1e-5
    assert (form.offset != 0) == (options.get("loss") == "mse")


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("oprm", {}, "no linear function of the text's state"),
        ("drpo", {"head": "categorical"}, "no linear function of the text's state"),
        ("vrm", {}, "weighs its outputs by the prompt's state"),
        ("qrm", {}, "weighs its outputs by the prompt's state"),
        ("attributes", {}, "weighs its outputs by the prompt's state"),
    ],
)
def test_another_mean_is_refused_with_the_reason(method, options, why):
    with pytest.raises(CheckpointError, match=why) as refusal:
        scalar_form(model_of(method, **options))
    assert "--form poise" in str(refusal.value)


@pytest.mark.parametrize("form", [scalar_form, params_form])
@pytest.mark.parametrize("method", [m.name for m in METHODS])
def test_every_method_has_a_form_or_a_reason(method, form):
    try:
        found = form(model_of(method))
    except CheckpointError as refusal:
        said = str(refusal)
    else:
        said = "--form poise" if len(found.names) == len(set(found.names)) == len(found.weight) else "other names"
    assert "--form poise" in said


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [
        ("bt", {}, ("reward",)),
        ("drpo", {}, ("reward", "mean", "raw_std", "reward_last")),
        ("likelihood", {"std": "softplus"}, ("reward", "mean", "raw_std", "reward_last")),
        ("drpo", {"head": "categorical", "bins": 3}, ("logit_0", "logit_1", "logit_2")),
        ("likelihood", {"head": "categorical", "bins": 2}, ("logit_0", "logit_1")),
        ("ensemble", {"members": 2}, ("reward", "mean_0", "mean_1", "reward_last")),
        (
            "ensemble",
            {"members": 2, "belief": "gaussian"},
            ("reward", "mean_0", "mean_1", "raw_std_0", "raw_std_1", "reward_last"),
        ),
        ("oprm", {"levels": 6}, tuple(f"logit_{i}" for i in range(6))),
    ],
)
def test_parameters_are_read_as_the_models_own_belief(method, options, names):
    model = model_of(method, **options)
    form = params_form(model)
    assert form.names == names
    outputs = form.outputs(states(model))
    reward = model.predict(PROMPT, ANSWERS)
    assert form.reads is not None
    assert alike(form.reads.belief(outputs), reward)
    if "reward" in names:  # readers of the first and of the last output both get the mean
        for column in (0, -1):
            assert (outputs[:, column] - reward.mean).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["vrm", "qrm", "attributes"])
def test_a_head_that_is_more_than_one_layer_has_no_parameters(method):
    with pytest.raises(CheckpointError, match="not one linear layer without bias"):
        params_form(model_of(method))


def calibrated(method: str, temperature: float, **options) -> RewardModel:
    pairs = PairCalibration(method="temperature", temperature=temperature, **options)
    return make_model(method=method).calibrated(Calibration(pairs=pairs))


def test_a_temperature_is_divided_out_where_the_logistic_of_a_difference_is_then_calibrated():
    model = calibrated("bt", 2.5)
    form = scalar_form(model)
    assert (form.temperature, form.logistic) == (2.5, True)
    values, reward = form.outputs(states(model))[:, 0], model.predict(PROMPT, ANSWERS)
    found = torch.sigmoid(values[:, None] - values[None])
    assert (found - reward[:, None].prob_greater(reward[None])).abs().max() < 1e-5
    raw = model.raw().predict(PROMPT, ANSWERS)
    assert (found - raw[:, None].prob_greater(raw[None])).abs().max() > 0.01


def test_a_map_of_probabilities_is_not_claimed_to_be_in_the_logits():
    assert not scalar_form(calibrated("bt", 2.0, knots=((0.6, 0.55), (1.0, 0.8)))).logistic


def test_the_spread_of_a_gaussian_is_the_calibrated_one():
    model = calibrated("drpo", 3.0)
    form = params_form(model)
    assert form.reads is not None
    assert form.reads.std_factor == pytest.approx(3.0)
    assert alike(form.reads.belief(form.outputs(states(model))), model.predict(PROMPT, ANSWERS))


def test_reading_off_a_model_leaves_it_as_it_was():
    model = model_of("qrm", **FIXED)
    before = model.predict(PROMPT, ANSWERS).mean
    scalar_form(model)
    assert model.method.input_scale.dtype == torch.float32
    assert torch.equal(model.predict(PROMPT, ANSWERS).mean, before)
