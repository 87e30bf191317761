"""Calibrate → save → load → predict, evaluate and score agree; raw gives the old bits; a broken calibration is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch

from poise import RewardModel, checkpoint
from poise.calibration import Calibration, PairCalibration, RatingCalibration
from poise.calibration_run import Wishes, calibrate
from poise.data.load import load_preferences
from poise.ensemble import Ensemble
from poise.errors import CheckpointError, ConfigError, DataError
from poise.evaluation.belief_table import beliefs_of
from poise.evaluation.sets import load_set
from poise.methods import method_class
from tests.cli.place import jsonl, pairs, poise
from tests.conftest import tiny_encoder
from tests.test_model import ANSWERS, PROMPT, equal, make_model

SHARP = Calibration(pairs=PairCalibration(method="temperature", temperature=3.0))
BENT = Calibration(
    pairs=PairCalibration(method="isotonic", temperature=2.0, lapse=0.01, knots=((0.6, 0.55), (1.0, 0.9)))
)


def wins(model: RewardModel) -> torch.Tensor:
    reward = model.predict(PROMPT, ANSWERS)
    return reward[0].prob_greater(reward[1:])


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with a Gaussian head, and pairs that its P(win) is wrong about."""
    model = make_model(tiny_encoder())
    model.save(tmp_path / "run" / "checkpoint")
    draw = np.random.default_rng(0)
    rows = pairs(120)
    for row in rows:
        ahead = int(draw.binomial(5, 0.6))
        row["votes"] = {"chosen": ahead, "rejected": 5 - ahead}
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*rows))
    return tmp_path


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("calibration", [SHARP, BENT])
@pytest.mark.parametrize("method", ["drpo", "bt", "oprm", "ensemble"])
def test_a_calibration_survives_saving_and_raw_leaves_it_out(tmp_path, calibration, method):
    model = make_model(tiny_encoder(), method)
    calibrated = model.calibrated(calibration)
    calibrated.save(tmp_path / "m")
    loaded = RewardModel.load(tmp_path / "m", device="cpu")
    assert loaded.calibration == calibration
    assert torch.equal(wins(loaded), wins(calibrated))
    assert not torch.allclose(wins(loaded), wins(model))
    assert torch.equal(wins(loaded) > 0.5, wins(model) > 0.5)
    for raw in (loaded.raw(), RewardModel.load(tmp_path / "m", device="cpu", raw=True)):
        assert raw.calibration is None
        assert equal(raw.predict(PROMPT, ANSWERS), model.predict(PROMPT, ANSWERS))
    assert loaded.raw().backbone is loaded.backbone
    model.save(tmp_path / "plain")
    same = (tmp_path / "m" / "golden.jsonl").read_bytes(), (tmp_path / "plain" / "golden.jsonl").read_bytes()
    assert same[0] == same[1], "golden scores stay raw"
    assert loaded.facts() != loaded.raw().facts(), "a part scored before calibration is not taken for one after it"


def test_the_command_line_agrees_with_predict_and_raw_gives_the_old_bits(saved, monkeypatch):
    monkeypatch.chdir(saved)
    assert poise("score", "run", "pairs.jsonl", "--out", "before.parquet").code == 0
    before = poise("evaluate", "run", "pairs.jsonl", "--json", "--resamples", 20).out
    untouched = files(saved / "run" / "checkpoint")

    done = poise("calibrate", "run", "pairs.jsonl", "--method", "isotonic", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["pairs"]["changed"] == 0
    assert report["pairs"]["rows"] == 120
    now = files(saved / "run" / "checkpoint")
    assert {name for name in now if now[name] != untouched[name]} == {"config.json"}
    assert json.loads(now["config.json"])["reward_distribution"]["calibration"] == report["calibration"]

    model = RewardModel.load(saved / "run", device="cpu")
    table = scored(saved, "after.parquet")
    texts = [(p.prompt, text) for p in load_preferences("pairs.jsonl").records for text in (p.chosen, p.rejected)]
    reward = model.predict(*map(list, zip(*texts, strict=True)))
    p = reward[::2].prob_greater(reward[1::2])
    torch.testing.assert_close(table[::2].prob_greater(table[1::2]), p, rtol=0, atol=1e-6)
    assert table.link.win_map == reward.link.win_map
    found = json.loads(poise("evaluate", "run", "pairs.jsonl", "--json", "--resamples", 20).out)
    y = load_set("pairs:pairs.jsonl").items
    share = torch.tensor([item.meta["p_better"] for item in y], dtype=torch.float64)
    wide = reward.to(torch.float64)
    p = wide[::2].prob_greater(wide[1::2])
    nll = -(share * p.log() + (1 - share) * (1 - p).log()).mean().item()
    assert found["sets"][0]["pairs"]["metrics"]["nll"]["value"] == pytest.approx(nll, abs=1e-6)
    old = json.loads(before)["sets"][0]["pairs"]["metrics"]
    assert found["sets"][0]["pairs"]["metrics"]["nll"]["value"] < old["nll"]["value"]
    assert found["sets"][0]["pairs"]["metrics"]["accuracy"] == old["accuracy"]

    assert poise("score", "run", "pairs.jsonl", "--out", "raw.parquet", "--raw").code == 0
    assert (saved / "raw.parquet").read_bytes() == (saved / "before.parquet").read_bytes()
    assert poise("evaluate", "run", "pairs.jsonl", "--json", "--resamples", 20, "--raw").out == before

    assert poise("calibrate", "run", "--remove").code == 0
    assert files(saved / "run" / "checkpoint") == untouched


def scored(folder, name: str):
    """The beliefs that ``poise score`` wrote."""
    assert poise("score", "run", "pairs.jsonl", "--out", name).code == 0
    table = pyarrow.parquet.read_table(folder / name)
    return beliefs_of(table, table.schema.metadata[b"poise.beliefs"].decode())["reward"]


def test_a_copy_is_calibrated_and_the_original_is_not(saved, monkeypatch):
    monkeypatch.chdir(saved)
    np.save(saved / "run" / "train_prompts.npy", np.array([1, 2]))
    before = files(saved / "run" / "checkpoint")
    done = poise("calibrate", "run", "pairs.jsonl", "--out", "copy", "--abstain-error", "0.45", "--on", "pairs.jsonl")
    assert done.code == 0, done.err
    assert "pairs: " in done.out
    assert "decisions changed" in done.out
    assert "abstention: " in done.out
    assert "pairs:pairs.jsonl: nll" in done.out
    assert files(saved / "run" / "checkpoint") == before
    stored = RewardModel.load(saved / "copy", device="cpu").calibration
    assert (stored.pairs.source.rows, stored.abstention.source.rows) == (60, 60)
    assert stored.pairs.source.sha256 != stored.abstention.source.sha256
    assert (saved / "copy" / "train_prompts.npy").exists(), "the copy knows what it was trained on"


def test_ratings_are_calibrated_on_the_scale_of_training():
    model = make_model(tiny_encoder(), "drpo").calibrated(
        Calibration(ratings={"overall": RatingCalibration(method="affine", shift=1.0, spread=2.0)})
    )
    belief = model.raw().predict(PROMPT, ANSWERS)
    found = model.calibration.apply_ratings({"overall": belief, "other": belief})
    torch.testing.assert_close(found["overall"].mean, belief.mean + 1)
    torch.testing.assert_close(found["overall"].std, belief.std * 2)
    assert found["other"] is belief


def test_an_ensemble_is_made_of_raw_members(tmp_path):
    first = make_model(tiny_encoder(), "bt")
    second = first.calibrated(SHARP)
    assert equal(Ensemble([first, second]).predict(PROMPT, ANSWERS), Ensemble([first, first]).predict(PROMPT, ANSWERS))


def test_weights_that_steer_a_reward_are_not_calibrated():
    model = make_model(tiny_encoder(), "drpo").calibrated(SHARP)
    with pytest.raises(ConfigError, match="no attributes"):
        model.predict(PROMPT, ANSWERS, weights={"helpful": 1.0})


def test_the_same_data_gives_the_same_calibration(saved, monkeypatch):
    monkeypatch.chdir(saved)
    model, one = RewardModel.load("run", device="cpu"), load_set("pairs:pairs.jsonl")
    found = [calibrate(model, [one]).report.calibration for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].sha256 == found[1].sha256
    assert Calibration.model_validate_json(found[0].model_dump_json()) == found[0]
    again = calibrate(model.calibrated(SHARP), [one]).report.calibration
    assert again == found[0], "a calibration is fitted to the raw model, whatever it had before"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"pairs": {"method": "temperature", "temperature": -1}}, "calibration.pairs.temperature"),
        ({"pairs": {"method": "magic"}}, "calibration.pairs.method"),
        ({"wishes": 1}, "calibration.wishes"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path, damage, says):
    make_model(tiny_encoder()).save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["reward_distribution"]["calibration"] = damage
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says):
        checkpoint.read_metadata(tmp_path / "m")


def test_a_rewrite_that_fails_leaves_the_checkpoint_as_it_was(tmp_path, monkeypatch):
    make_model(tiny_encoder()).save(tmp_path / "m")
    before = files(tmp_path / "m")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", fails)
    with pytest.raises(ConfigError, match="No space left"):
        checkpoint.recalibrate(tmp_path / "m", SHARP)
    monkeypatch.undo()
    assert files(tmp_path / "m") == before


def test_too_few_prompts_are_refused(saved, monkeypatch):
    monkeypatch.chdir(saved)
    (saved / "few.jsonl").write_bytes(jsonl(*pairs(4)))
    with pytest.raises(DataError, match=r"at least 5 different prompts.*got 4; give more data"):
        calibrate(RewardModel.load("run", device="cpu"), [load_set("pairs:few.jsonl")])
    with pytest.raises(ConfigError, match=r"abstain-error is 1\.5; it must lie between 0 and 1"):
        Wishes(abstain_error=1.5)


@pytest.mark.parametrize(
    ("given", "method", "says"),
    [
        ("pairs", "conformal", "conformal is for ratings, .* choose from auto, none, temperature, isotonic"),
        ("pairs", "affine", "affine is for ratings"),
        ("ratings", "isotonic", "isotonic is for pairs, .* choose from auto, none, affine, conformal"),
        ("ratings", "temperature", "temperature is for pairs"),
    ],
)
def test_a_method_with_nothing_to_be_fitted_to_is_refused(tmp_path, given, method, says):
    rows = {
        "pairs": pairs(20),
        "ratings": [{"prompt": f"Hi {i}", "response": "Ho", "ratings": {"a": i % 3}} for i in range(20)],
    }
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*rows[given]))
    model = make_model(tiny_encoder(), scales={"a": (0, 2)})
    with pytest.raises(ConfigError, match=says):
        calibrate(model, [load_set(f"{given}:{tmp_path / 'rows.jsonl'}")], Wishes(method))


def test_ratings_of_nothing_that_the_model_predicts_are_refused(tmp_path):
    rows = [{"prompt": f"Hi {i}", "response": "Ho", "ratings": {"b": i % 3, "c": 1}} for i in range(20)]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*rows))
    backbone, kind = tiny_encoder(), method_class("attributes")
    model = RewardModel(backbone, kind(kind.for_data(kind.Config(), ["a"]), backbone.hidden_size), scales={"a": (0, 2)})
    with pytest.raises(DataError, match="ratings are of b, c, and this model predicts a; rename"):
        calibrate(model, [load_set(f"ratings:{tmp_path / 'rows.jsonl'}")])
