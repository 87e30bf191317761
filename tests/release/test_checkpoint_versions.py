"""Checkpoints outlive the code that wrote them: every earlier format loads, a later one is refused with the way out.

``checkpoint_v1`` was written by the last poise of format 1 with these predictions; nothing in it was touched since.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from poise import RewardModel, checkpoint
from poise.checkpoint import KEY, SCHEMA_VERSION, UPGRADES
from poise.errors import CheckpointError
from poise.version import __version__

V1 = Path(__file__).parent / "checkpoint_v1"
QUESTION, ANSWERS = "how do I boil an egg ?", ["put it in water for eight minutes .", "no idea ."]
MEAN, STD = [1.3471219539642334, 1.360456109046936], [0.04228580370545387, 0.04402673617005348]


@pytest.fixture
def old(tmp_path) -> Path:
    return Path(shutil.copytree(V1, tmp_path / "old"))


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[KEY] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_format_1_says_what_it_said_when_it_was_written(old, tmp_path):
    written = json.loads((V1 / "config.json").read_text())[KEY]
    assert (written["schema_version"], written["scalar"]) == (1, "mean")
    model = RewardModel.load(old, device="cpu")  # golden scores are checked on the way
    reward = model.predict(QUESTION, ANSWERS)
    torch.testing.assert_close(reward.mean, torch.tensor(MEAN), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reward.std, torch.tensor(STD), rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "new")
    again = json.loads((tmp_path / "new" / "config.json").read_text())[KEY]
    assert again["schema_version"] == SCHEMA_VERSION
    assert "scalar" not in again
    assert torch.equal(RewardModel.load(tmp_path / "new", device="cpu").predict(QUESTION, ANSWERS).mean, reward.mean)


def test_calibrating_an_old_checkpoint_writes_todays_format(old):
    checkpoint.recalibrate(old, None)
    assert json.loads((old / "config.json").read_text())[KEY]["schema_version"] == SCHEMA_VERSION
    RewardModel.load(old, device="cpu")


def test_there_is_a_way_from_every_earlier_format():
    assert sorted(UPGRADES) == list(range(1, SCHEMA_VERSION))


def test_every_format_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "versions.md").read_text(encoding="utf8")
    assert all(f"| {version} |" in page for version in range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, None, "2"])
def test_a_format_of_another_poise_is_one_message(old, version):
    edit(old, schema_version=version, poise_version="9.1")
    with pytest.raises(CheckpointError) as error:
        RewardModel.load(old)
    message = str(error.value)
    assert f"checkpoint format {version}, written by poise 9.1" in message
    assert __version__ in message
    assert "pip install --upgrade poise" in message
    assert "\n" not in message


def test_a_value_that_no_format_has_is_still_refused(old):
    edit(old, scalar="mean", surprise=1)
    with pytest.raises(CheckpointError, match="surprise"):
        RewardModel.load(old)
