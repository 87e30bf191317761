"""Every command on its happy path, on a tiny backbone: what it prints, what it writes, how it goes on after Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from safetensors.torch import load_file

from poise.cli.evaluate import judged
from poise.evaluation.sets import load_set
from poise.training.heads import StageRun
from poise.training.monitor import Terminal
from poise.version import __version__
from tests.cli.place import Outcome, Place, pairs, poise, trained_pairs

FILES = {
    "recipe.yaml",
    "environment.json",
    "result.json",
    "metrics.jsonl",
    "report.html",
    "train_prompts.npy",
    "checkpoint",
}
TWO_STAGES = {
    "method": {"name": "drpo", "samples": 4},
    "stages": [
        {"name": "zero", "share": 0.5, "epochs": 4, "batch_size": 4},
        {"name": "refine", "share": 0.5, "epochs": 4, "batch_size": 4, "method": {"reference": "previous_stage"}},
    ],
}


def test_help_lists_the_commands():
    outcome = poise("--help")
    assert outcome.code == 0
    for command in ("train", "evaluate", "score", "demo", "data"):
        assert f"\n  {command} " in outcome.out


def test_version():
    assert poise("--version").out == f"poise {__version__}\n"


def test_train_writes_the_run_folder(place):
    outcome = poise(*place.train())
    out = place.folder / "out"
    assert outcome.code == 0, outcome.err
    assert "accuracy" in outcome.out
    assert f"report: {out / 'report.html'}" in outcome.out
    assert {path.name for path in out.iterdir()} == FILES
    assert not list(place.folder.rglob("*.partial"))


def test_train_takes_overrides_and_its_folder_from_the_recipe(place):
    recipe = place.recipe()
    outcome = poise("train", recipe, "--set", "stages.0.epochs=1", "--set", "name=mine", "--json")
    result = json.loads(outcome.out)
    assert result["run"] == "runs/mine"
    assert result["result"]["metrics"]["nll"]["value"] >= 0
    resolved = yaml.safe_load((place.folder / "runs" / "mine" / "recipe.yaml").read_text())
    assert resolved["stages"][0]["epochs"] == 1


def test_without_the_report_packages_a_run_has_no_report_and_says_so(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = poise(*place.train()[:2], "--out", "bare")
    assert outcome.code == 0, outcome.err
    assert "no report.html" in outcome.err
    assert "pip install 'poise[report]'" in outcome.err
    assert (place.folder / "bare" / "result.json").exists()
    assert not (place.folder / "bare" / "report.html").exists()


def test_stage_overrides_reach_into_the_default_stages(place):
    from poise.training.recipe import parse_recipe

    given = {"data": {"train": "x"}, "method": "drpo"}
    recipe = parse_recipe(given, ["stages.1.epochs=2"])
    assert [(s.name, s.epochs) for s in recipe.stages] == [("zero", 5), ("refine", 2)]
    assert [s.name for s in parse_recipe(given, ["method=bt", "stages.0.epochs=2"]).stages] == ["train"]


def test_evaluate_leaves_out_what_was_trained_on(place):
    known = len(trained_pairs(place.run))
    data = place.data(*pairs(24), *pairs(6, start=100))
    for folder in (place.run, place.run / "checkpoint"):
        outcome = poise("evaluate", folder, data, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["sets"][0]["pairs"]["data"]["rows"] == 30 - known
        assert f"{known} of 30 left out: their prompts were trained on" in outcome.err
    everything = poise("evaluate", place.run, data, "--include-train-prompts", "--json")
    assert json.loads(everything.out)["sets"][0]["items"] == 30


def test_evaluate_prints_a_table_and_writes_the_result(place):
    data = place.data(*pairs(9, start=100), {"prompt": "p", "chosen": "", "rejected": "b"})
    outcome = poise("evaluate", place.run, data, "--bad-rows", "drop", "--out", "found")
    assert outcome.code == 0, outcome.err
    assert "9 items, 18 responses" in outcome.out
    assert "! 1 rows left out" in outcome.out
    result = json.loads((place.folder / "found" / "result.json").read_text())
    (found,) = result["sets"]
    assert (found["pairs"]["data"]["rows"], found["pairs"]["data"]["rows_dropped"]) == (9, 1)
    assert "P(better" in (place.folder / "found" / "report.html").read_text()
    card = (place.folder / "found" / "report.md").read_text()
    assert "| Accuracy ↑" in card
    assert "- 1 rows left out" in card
    assert json.loads(poise("evaluate", place.run, data, "--bad-rows", "drop", "--json").out) == result


def test_saved_predictions_are_measured_again_without_the_model(place):
    data = place.data(*pairs(9, start=100))
    ratings = place.data(
        *({"prompt": f"p {i}", "response": "x" * (i + 1), "ratings": {"q": [i % 3, 2]}} for i in range(6)),
        name="r.jsonl",
    )
    outcome = poise("evaluate", place.run, "--on", f"pairs:{data},ratings:{ratings}", "--out", "found", "--json")
    assert outcome.code == 0, outcome.err
    for source in ("found", "found/predictions.parquet"):
        again = poise("evaluate", "--from", source, "--json")
        assert json.loads(again.out) == json.loads(outcome.out)
    fewer = json.loads(poise("evaluate", "--from", "found", "--resamples", 50, "--out", "fewer", "--json").out)
    assert fewer["resamples"] == json.loads((place.folder / "fewer" / "result.json").read_text())["resamples"] == 50
    assert [one["name"] for one in fewer["sets"]] == [f"pairs:{data}", f"ratings:{ratings}"]


SCORERS = """
def longer(prompts, responses):
    return [len(r[-1]["content"]) / 10 for r in responses]


def asked(prompts, responses):
    return [float(len(p if isinstance(p, str) else p[-1]["content"])) for p in prompts]
"""


def test_what_was_measured_again_can_be_compared_and_hides_no_other_evaluation(place):
    data = place.data(*pairs(40, start=100))
    place.write("scorers.py", SCORERS)
    for name in ("longer", "asked"):
        assert poise("evaluate", f"scorers.py:{name}", data, "--out", name).code == 0
    outcome = poise("evaluate", "--from", "longer", "--utility", "lcb:1", "--out", "careful", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(poise("evaluate", "--from", "careful", "--json").out) == json.loads(outcome.out)
    assert poise("compare", "longer", "careful").code == 0
    assert poise("evaluate", "--from", "longer", "--utility", "lcb:1", "--out", "careful").code == 0, "once more"
    before = (place.folder / "asked" / "predictions.parquet").read_bytes()
    outcome = poise("evaluate", "--from", "longer", "--out", "asked")
    assert outcome.code == 2
    assert "asked holds another evaluation" in outcome.err
    assert (place.folder / "asked" / "predictions.parquet").read_bytes() == before


def test_gold_scores_of_an_earlier_call_are_used_for_the_same_texts_only(place):
    place.write("scorers.py", SCORERS)
    for name, prompt in (("r", "short"), ("r", "much longer"), ("other", "short")):
        rows = [{"prompt": f"{prompt} {i}", "response": f"r{j}", "model": f"m{j}"} for i in range(3) for j in range(2)]
        file = place.data(*rows, name=f"{name}.jsonl")
        sets = [load_set(f"responses:{file}")]
        (one,) = judged(sets, "scorers.py:asked", place.folder / "kept", "cpu", Terminal())
        assert {gold for item in one.items for gold in item.meta["gold"]} == {len(prompt) + 2}


def test_a_mistyped_model_is_refused_before_gold_scores_are_asked_for(place):
    place.write("scorers.py", SCORERS)
    rows = [{"prompt": f"p{i}", "response": f"r{j}", "model": f"m{j}"} for i in range(9) for j in range(4)]
    file = place.data(*rows)
    outcome = poise("data", "splits", file, "--gold", "scorers.py:asked", "--new-models", "typo", "--out", "split")
    assert outcome.code == 2
    assert "typo" in outcome.err
    outcome = poise(
        "evaluate", "gone.py:f", "--on", f"responses:{file}", "--gold", "scorers.py:asked", "--out", "split"
    )
    assert outcome.code == 2
    assert not (place.folder / "split").exists()


def test_scorers_are_compared_on_the_same_rows(place):
    data = place.data(*pairs(40, start=100))
    place.write(
        "longer.py", "def longer(prompts, responses):\n    return [len(r[-1]['content']) / 10 for r in responses]\n"
    )
    poise("evaluate", place.run, data, "--out", "mine")
    poise("evaluate", "longer.py:longer", data, "--out", "theirs")
    outcome = poise("compare", "mine", "theirs", "--out", "compared.html")
    assert outcome.code == 0, outcome.err
    assert "minus " in outcome.out
    assert "after Holm's correction" in outcome.out
    assert "Paired differences" in (place.folder / "compared.html").read_text()
    found = json.loads(poise("compare", "mine", "theirs", "--json").out)["differences"]
    assert {one["figure"] for one in found} >= {
        "pairs: accuracy",
        "pairs: nll",
        "pairs: ece",
        "pairs: aurc",
        "pairs: brier",
    }
    assert [one["figure"] for one in found if one["mcnemar"] is not None] == ["pairs: accuracy"]
    assert all(one["p"] <= one["p_holm"] for one in found)


def test_score_writes_a_row_per_response(place):
    data = place.data({"prompt": "Hi", "response": "Hello!"}, {"prompt": "Hi", "responses": ["Yes.", "No."]}, *pairs(1))
    outcome = poise("score", place.run, data, "--out", "scores.parquet")
    assert outcome.code == 0, outcome.err
    table = pyarrow.parquet.read_table(place.folder / "scores.parquet")
    assert table["part"].to_pylist() == ["response", "responses[0]", "responses[1]", "chosen", "rejected"]
    assert {"row", "mean", "std", "q05", "q50", "q95", "tokens", "cut_tokens"} <= set(table.column_names)
    again = poise("score", place.run, place.data({"prompt": "Hi", "response": "Yes."}), "--out", "one.parquet")
    assert again.code == 0
    assert pyarrow.parquet.read_table(place.folder / "one.parquet")["mean"][0] == table["mean"][1]


def test_score_leaves_out_bad_rows_where_asked(place):
    data = place.data(
        {"prompt": "Hi", "response": "Hello!"},
        {"prompt": "", "response": "Hello!"},
        {"prompt": "Hi", "responses": ["Ho " * 500, "Yes."]},
    )
    refused = poise("score", place.run, data, "--out", "scores.parquet")
    assert refused.code == 2
    assert "row 2: 'prompt' is empty; " in refused.err
    outcome = poise("score", place.run, data, "--out", "scores.parquet", "--bad-rows", "drop")
    assert outcome.code == 0, outcome.err
    assert "2 left out; the first: " in outcome.err
    table = pyarrow.parquet.read_table(place.folder / "scores.parquet")
    assert list(zip(table["row"].to_pylist(), table["part"].to_pylist(), strict=True)) == [
        (1, "response"),
        (3, "responses[1]"),
    ]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_model_is_read_with_the_cache_of_its_run(place, monkeypatch, checkpoint):
    mine, default = place.folder / "mine", place.folder / "default"
    monkeypatch.setenv("POISE_CACHE", str(default))
    assert poise(*place.train({"cache": str(mine)})).code == 0
    model = place.folder / "out" / "checkpoint" if checkpoint else place.folder / "out"
    before = len(list(mine.rglob("*.safetensors")))
    assert poise("evaluate", model, place.data(*pairs(5, start=100))).code == 0
    assert poise("score", model, place.data(*pairs(5, start=200)), "--out", "s.parquet").code == 0
    assert len(list(mine.rglob("*.safetensors"))) == before + 2
    assert not default.exists()


@pytest.mark.parametrize("recipe", [None, "not: a recipe", "cache: /nowhere/at/all"])
def test_a_model_whose_runs_cache_is_not_here_is_read_with_the_default_one(place, monkeypatch, recipe):
    default, run = place.folder / "default", place.copied_run()
    monkeypatch.setenv("POISE_CACHE", str(default))
    written = yaml.safe_load((run / "recipe.yaml").read_text())
    if recipe is None:
        (run / "recipe.yaml").unlink()
    elif "cache" in recipe:
        (run / "recipe.yaml").write_text(yaml.safe_dump(written | {"cache": "/nowhere/at/all"}))
    else:
        (run / "recipe.yaml").write_text(recipe)
    outcome = poise("score", run, place.data(*pairs(3, start=100)), "--out", "s.parquet")
    assert outcome.code == 0, outcome.err
    assert list(default.rglob("*.safetensors"))
    assert not Path("/nowhere").exists()


def test_scores_of_a_categorical_model_carry_their_levels(place):
    outcome = poise(*place.train({"method": "oprm"}))
    assert outcome.code == 0, outcome.err
    outcome = poise("score", place.folder / "out", place.data(*pairs(12)), "--out", "levels.parquet")
    assert outcome.code == 0, outcome.err
    table = pyarrow.parquet.read_table(place.folder / "levels.parquet")
    assert len(table["logits"][0]) == 9
    assert json.loads(table.schema.metadata[b"poise.beliefs"])["reward"]["shared_parameters"]["support"] == list(
        range(1, 10)
    )


def test_data_check_reports(place):
    data, other = place.data(), place.data(*pairs(9, start=20), name="other.jsonl")
    outcome = poise("data", "check", data, "--against", other, "--backbone", place.backbone, "--max-length", 64)
    assert outcome.code == 0, outcome.err
    for expected in ("24 rows, 24 usable pairs, 24 prompts", "24 with votes", "longer wins", "4 prompts and", "fit 64"):
        assert expected in outcome.out
    report = json.loads(poise("data", "check", data, "--against", other, "--json").out)
    assert (report["rows"], report["overlap_prompts"], report["bad"]) == (24, 4, [])


def test_data_simulate_writes_what_data_check_accepts(place):
    world = place.folder / "world"
    outcome = poise("data", "simulate", "--out", world, "--train-pairs", 40, "--eval-pairs", 10)
    assert outcome.code == 0, outcome.err
    assert str(world / "train.jsonl") in outcome.out.splitlines()
    report = json.loads(
        poise("data", "check", world / "train.jsonl", "--against", world / "in_domain.jsonl", "--json").out
    )
    assert (report["rows"], report["usable"], report["overlap_prompts"]) == (40, 40, 0)


def interrupt(place: Place, monkeypatch, at: int) -> None:
    """Ctrl-C, as the terminal sends it, during step ``at`` (from 0, all stages counted)."""
    original, steps = StageRun._step, []

    def step(self, *arguments):
        steps.append(self)
        if len(steps) == at + 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StageRun, "_step", step)
        outcome = poise(*place.train(TWO_STAGES))
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert f"continue with: poise train --resume {place.folder / 'out'}" in outcome.err
    assert (place.folder / "out" / "state.safetensors").exists()
    assert not (place.folder / "out" / "checkpoint").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, saved_backbone) -> tuple[Outcome, Path]:
    """The run that nobody interrupted."""
    place = Place(tmp_path_factory.mktemp("whole"), saved_backbone, Path())
    outcome = poise(*place.train(TWO_STAGES))
    assert outcome.code == 0, outcome.err
    return outcome, place.folder / "out"


def logged(run: Path) -> list[dict]:
    """The logged steps."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("at", [3, 12])
def test_interrupted_run_resumes_to_the_same_weights(place, whole, monkeypatch, at):
    outcome, uninterrupted = whole
    interrupt(place, monkeypatch, at)
    resumed = poise("train", "--resume", place.folder / "out")
    assert resumed.code == 0, resumed.err
    run = place.folder / "out"
    a, b = (load_file(folder / "checkpoint" / "head.safetensors") for folder in (run, uninterrupted))
    assert a.keys() == b.keys()
    assert all((a[name] == b[name]).all() for name in a)
    assert {path.name for path in run.iterdir()} == FILES
    assert logged(run) == logged(uninterrupted)
    assert resumed.out.splitlines()[:-1] == outcome.out.splitlines()[:-1]


def test_interrupt_before_training_leaves_no_run(place, monkeypatch):
    def load(config, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr("poise.backbone.Backbone.load", load)
    outcome = poise(*place.train())
    assert outcome.code == 130
    assert "interrupted; training had not begun" in outcome.err
    assert not (place.folder / "out").exists()
