"""DRPO, Definition 2 and the curation of its second stage."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from poise.data.difficulty import BOUNDARY, EASY, HARD, confidence, curate, kinds_of_pairs
from poise.data.records import Preference
from poise.distributions import Gaussian
from poise.errors import ConfigError
from poise.features import Features
from poise.methods import method_class
from poise.pairing import PairFeatures
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import parse_recipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_confidence_of_gaussians_is_one_minus_two_phi():
    first, second = Gaussian(torch.tensor([0.3, -1.0]), 0.8), Gaussian(torch.tensor([0.0, 0.5]), 1.5)
    z = (first.mean - second.mean) / (first.variance + second.variance).sqrt()
    torch.testing.assert_close(confidence(first.prob_greater(second)), (1 - 2 * torch.special.ndtr(z)).abs())


def test_the_implied_accuracy_is_halfway_between_confidence_and_one():
    """If P is the truth, the share of right decisions is (1 + C)/2 and not C."""
    p = torch.rand(400_000, generator=generator(), dtype=torch.float64)
    first_wins = torch.rand(len(p), generator=generator(1), dtype=torch.float64) < p
    c, right = confidence(p), ((p > 0.5) == first_wins).double()
    for low in (0.0, 0.3, 0.6, 0.9):
        inside = (c >= low) & (c < low + 0.1)
        assert right[inside].mean().item() == pytest.approx((1 + c[inside].mean().item()) / 2, abs=0.01)


def test_kinds_by_confidence_and_correctness():
    p = torch.tensor([0.9, 0.1, 0.55, 0.45, 0.9, 0.61, 0.39, 0.9])
    label = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.25, 1.0, 0.0, 0.5])
    expected = [EASY, HARD, BOUNDARY, BOUNDARY, HARD, EASY, EASY, BOUNDARY]
    assert kinds_of_pairs(p, label).tolist() == expected


def test_a_pair_at_one_half_is_a_boundary_pair_whichever_side_is_labelled():
    p, label = torch.tensor([0.5, 0.5, 0.501, 0.501]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert kinds_of_pairs(p, label, threshold=0.0).tolist() == [BOUNDARY, BOUNDARY, EASY, HARD]


def population(pairs: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """85 % easy, 10 % boundary, 5 % hard."""
    p = torch.tensor([0.9] * 85 + [0.55] * 10 + [0.1] * 5).repeat(pairs // 100)
    return p, torch.ones(len(p))


def test_boundary_and_hard_become_half():
    curated = curate(*population(), generator())
    assert curated.shares == pytest.approx({"easy": 0.85, "boundary": 0.10, "hard": 0.05})
    assert curated.keep_easy == pytest.approx(15 / 85)
    assert curated.keep[curated.kind != EASY].all()
    assert (curated.kind[curated.keep] != EASY).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(curated.label, torch.ones(20_000))


def test_hard_pairs_can_be_dropped_or_flipped():
    dropped = curate(*population(), generator(), drop_hard=True)
    assert not dropped.keep[dropped.kind == HARD].any()
    assert (dropped.kind[dropped.keep] == BOUNDARY).double().mean().item() == pytest.approx(0.5, abs=0.02)
    flipped = curate(*population(), generator(), flip_hard=True)
    assert flipped.keep[flipped.kind == HARD].all()
    assert torch.equal(flipped.label == 0, flipped.kind == HARD)
    with pytest.raises(ConfigError, match="exclude each other"):
        curate(*population(), generator(), drop_hard=True, flip_hard=True)


def test_everything_is_kept_where_easy_pairs_are_the_minority_or_all():
    p = torch.tensor([0.9, 0.5, 0.1, 0.5])
    assert curate(p, torch.ones(4), generator()).keep.all()
    assert curate(torch.full((4,), 0.9), torch.ones(4), generator()).keep.all()


def test_the_generator_decides():
    first, again = (curate(*population(), generator(7)).keep for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, curate(*population(), generator(8)).keep)


# ── a curated second stage


def training_pairs(pairs: int = 600) -> PairFeatures:
    """The first of four features says the reward; one label in ten is turned round."""
    drawn = generator()
    x = torch.randn(pairs, 2, 4, generator=drawn)
    first = (x[:, 0, 0] > x[:, 1, 0]) ^ (torch.rand(pairs, generator=drawn) < 0.1)
    rows = torch.arange(2 * pairs).view(-1, 2)
    rows = torch.where(first[:, None], rows, rows.flip(1))
    records = tuple(Preference(prompt=f"p{i}", chosen="a", rejected="b") for i in range(pairs))
    prompts = tuple(hashlib.sha256(r.prompt.encode()).hexdigest() for r in records)
    return PairFeatures(Features(x.flatten(0, 1)), rows, records, prompts=prompts)


def fit(tmp_path, curate: str):
    stage = {"batch_size": 32, "learning_rate": 0.05}
    stages = [{"name": "zero", "share": 0.3, "epochs": 20, **stage}]
    stages.append({"name": "refine", "share": 0.7, "epochs": 2, "curate": curate, **stage})
    recipe = parse_recipe({"data": {"train": "x"}, "method": "drpo", "stages": stages})
    folder = tmp_path / curate
    folder.mkdir()
    train_heads(method_class("drpo"), recipe, HeadData(training_pairs()), folder=folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == "refine"]


def test_a_stage_can_be_curated_and_logs_the_shares(tmp_path):
    lines = {curate: fit(tmp_path, curate) for curate in ("no", "keep_hard", "drop_hard", "flip_hard")}
    steps = {curate: found[-1]["step"] for curate, found in lines.items()}
    assert steps["drop_hard"] < steps["keep_hard"] < steps["no"]
    assert steps["flip_hard"] == steps["keep_hard"]
    shares = {k: v for k, v in lines["keep_hard"][-1].items() if k.startswith("curation/")}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert 0.05 < shares["curation/hard"] < 0.2
    assert not any(k.startswith("curation/") for k in lines["no"][-1])


def test_the_first_stage_cannot_be_curated():
    stages = [{"name": "zero", "curate": "keep_hard"}]
    with pytest.raises(ConfigError, match="put a stage before it"):
        parse_recipe({"data": {"train": "x"}, "method": "drpo", "stages": stages})
