"""Defects found in other reward-model trainers, each held against ours by one short test; more stands beside the code."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from tokenizers import normalizers
from transformers import TrainingArguments

from poise import run as runs
from poise.data.batch import Batch, Targets
from poise.data.check import check
from poise.data.named import find
from poise.data.records import Message, Preference
from poise.distributions import Link, Point
from poise.errors import ConfigError
from poise.extraction import extract
from poise.live import LiveBackbone
from poise.methods import METHODS
from poise.methods.bradley_terry import BradleyTerry, BradleyTerryConfig, BradleyTerryOutput, Loss
from poise.model import RewardModel
from poise.pairing import encode_pairs
from poise.training.finetune import OURS
from poise.training.prepare import margin_note
from poise.training.recipe import parse_recipe, read_recipe
from poise.training.trainer import RewardModule
from tests.conftest import tiny_decoder, tiny_encoder

USER = Message("user", "How do I boil an egg?")


def rewards(*values: float) -> BradleyTerryOutput:
    return BradleyTerryOutput(Point(torch.tensor(values), Link("logistic")))


def flat(pairs: int, **columns) -> Batch:
    return Batch(torch.arange(2 * pairs).view(-1, 2), replace(Targets.certain(pairs), **columns))


def said(text: str) -> tuple[Message]:
    return (Message("assistant", text),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny decoder on disk and 32 pairs."""
    place, backbone = tmp_path_factory.mktemp("peers"), tiny_decoder()
    backbone.model.save_pretrained(place / "decoder")
    backbone.tokenizer.save_pretrained(place / "decoder")
    rows = [{"prompt": f"How long, {i}?", "chosen": f"yes, {i} minutes", "rejected": f"no, {i}"} for i in range(32)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def recipe(folder, *, epochs: int = 1, method="bt", **training):
    return parse_recipe(
        {
            "data": {"train": str(folder / "pairs.jsonl"), "evaluate_fraction": 0.25},
            "backbone": {"name": str(folder / "decoder"), "dtype": "float32", "device": "cpu"},
            "method": method,
            "stages": [{"epochs": epochs, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0.0}],
            "training": training,
            "cache": str(folder / "cache"),
        }
    )


# ── losses


@pytest.mark.parametrize("row", [0, 1, 2])
def test_margins_broadcast_to_a_matrix(row):
    """ms-swift subtracts margins (B,) from differences (B, 1), a (B, B) loss, and drops the rows that have no margin."""
    margin, difference = [0.5, float("nan"), 2.0], np.array([1.0, -0.3, 0.7])
    weight = torch.eye(3)[row]  # so that the mean is that row's own loss
    output = rewards(1.0, 0.0, -0.3, 0.0, 0.7, 0.0)
    found = BradleyTerry(BradleyTerryConfig(), 2).loss(output, flat(3, margin=torch.tensor(margin), weight=weight))
    expected = np.log1p(np.exp(np.nan_to_num(margin[row]) - difference[row]))
    assert found["bt"].shape == ()
    assert found["bt"].item() == pytest.approx(expected, rel=1e-6)


def test_centring_penalises_the_difference():
    """TRL's first centring term squared the difference of the rewards, the very thing to be learnt, in place of their sum."""
    method = BradleyTerry(BradleyTerryConfig(regulariser="center", coefficient=0.1), 2)
    opposite, shifted = rewards(4.0, -4.0, 1.0, -1.0), rewards(5.0, -3.0, 3.0, 1.0)
    assert method.loss(opposite, flat(2))["center"].item() == 0.0
    assert method.loss(shifted, flat(2))["center"].item() == pytest.approx(0.1 * ((5 - 3) ** 2 + (3 + 1) ** 2) / 2)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_loss_ignores_the_margin(loss):
    """OpenRLHF's LogExp loss takes no notice of the margins that its trainer hands over."""
    method = BradleyTerry(BradleyTerryConfig(loss=loss), 2)
    plain = flat(2, strength=torch.ones(2))
    given = replace(plain, targets=replace(plain.targets, margin=torch.full((2,), 0.4)))
    output = rewards(0.3, 0.1, -0.2, 0.5)
    if loss in ("norm", "rao_kupper", "davidson", "ordinal"):
        with pytest.raises(ConfigError, match="has no margin, but the rows have"):
            method.check_targets(given.targets)
    else:
        method.check_targets(given.targets)
        assert method.loss(output, given)[loss] != method.loss(output, plain)[loss]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_method_ignores_the_margin_and_says_nothing(method):
    """As above, for methods without a margin: the reader of the run must learn that theirs are not used."""
    made = method(method.for_data(method.Config(), ("rated",)), 2)
    with_margins = replace(Targets.certain(3), margin=torch.tensor([0.5, float("nan"), 0.2]))
    note = margin_note(made, with_margins)
    assert note == (
        () if method.name == "bt" else (f"2 pairs have a margin, which method {method.name!r} does not read",)
    )
    assert margin_note(made, Targets.certain(3)) == ()


def test_the_cast_to_float32_comes_after_a_bfloat16_head():
    """OpenRLHF casts the scores to float32 when the head has already rounded them to bfloat16."""
    torch.manual_seed(0)
    backbone = tiny_decoder()
    encoded = backbone.encode([((USER,), said("yes")), ((USER,), said("no, says the fox"))])
    module = RewardModule(LiveBackbone(backbone), BradleyTerry(BradleyTerryConfig(), 32))
    rows = module.live.collate(encoded, [0, 0])
    with module.live.attached(), torch.autocast("cpu", torch.bfloat16):
        terms, features = module(rows, flat(1))["terms"], module.live(rows)
        rounded = module.method.score(features.response).float()[:, 0]
    exact = module.method(features)
    assert features.response.dtype == exact.reward.value.dtype == torch.float32
    assert torch.equal(terms["bt"], module.method.loss(exact, flat(1))["bt"])
    assert not torch.equal(rounded, exact.reward.value)


# ── which state is read


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "layout"),
    [(tiny_decoder, "tree"), (tiny_decoder, "packed"), (tiny_decoder, "padded"), (tiny_encoder, "packed")],
)
def test_the_tokens_of_one_text_move_the_score_of_another(kind, layout, attention):
    """LLaMA-Factory passes segment ids as an attention mask, so that the chosen tokens move the rejected score."""
    backbone = kind()
    backbone.model.set_attn_implementation(attention)
    live = LiveBackbone(backbone, layout=layout)
    chosen, rejected = backbone.encode([((USER,), said("yes, in water")), ((USER,), said("no"))])
    changed = replace(chosen, ids=(*chosen.ids[:-2], chosen.ids[-2] + 1, chosen.ids[-1]))
    with torch.no_grad(), live.attached():
        states = [live(live.collate([one, rejected], [0, 0])).response for one in (chosen, changed)]
        alone = live(live.collate([rejected], [0])).response
    assert torch.equal(states[0][1], states[1][1])
    assert not torch.equal(states[0][0], states[1][0])
    torch.testing.assert_close(states[0][1:], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("together", [1, 8])
def test_the_last_token_is_taken_for_padding_where_both_share_an_id(side, together):
    """TRL and open-instruct look for the first pad id; where it is also the end of text, they read the state before it."""
    backbone = tiny_decoder(pad_is_eos=True)
    backbone.tokenizer.padding_side = side
    texts = [((USER,), said("yes" + " minutes" * size)) for size in range(together)]
    encoded = backbone.encode(texts)
    assert all(text.ids[-1] == backbone.tokenizer.pad_token_id for text in encoded)
    live = LiveBackbone(backbone, layout="padded")
    with torch.no_grad(), live.attached():
        trained = live(live.collate(encoded, [0] * together)).response
        expected = [backbone.model(input_ids=torch.tensor([text.ids])).last_hidden_state[0, -1] for text in encoded]
    for found in (trained, extract(backbone, encoded).response):
        torch.testing.assert_close(found, torch.stack(expected), atol=2e-5, rtol=1e-4)


# ── data


@pytest.mark.parametrize(
    "roles", [("system", "user"), ("system", "user", "assistant", "user"), ("user", "assistant", "tool", "user")]
)
def test_roles_follow_from_the_parity_of_the_turn(roles):
    """RewardBench renders turns as user, assistant, user … by their number, whatever their roles are."""
    backbone = tiny_decoder()
    prompt = tuple(Message(role, f"turn {number}") for number, role in enumerate(roles))
    ids = backbone.encode([(prompt, said("yes"))])[0].ids
    assert re.findall(r"<\|(\w+)\|>", backbone.tokenizer.decode(list(ids))) == [*roles, "assistant"]


def test_evaluation_rows_are_training_rows(tmp_path):
    """RLHFlow evaluates on 500 rows that it also trains on, and nothing says so."""
    rows = [{"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(4)]
    other = [rows[1], rows[2] | {"chosen": "no", "rejected": "yes"}, rows[3] | {"chosen": "maybe"}]
    for name, part in (("train", rows), ("eval", other)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    report = check(str(tmp_path / "eval.jsonl"), against=str(tmp_path / "train.jsonl"))
    assert (report.overlap_prompts, report.overlap_pairs) == (3, 2)


def test_a_tie_becomes_a_pair_of_equal_texts():
    """NeMo-RL makes chosen and rejected the same text where HelpSteer3 has a tie."""
    row = {
        "context": [{"role": "user", "content": "Why?"}],
        "response1": "one",
        "response2": "two",
        "overall_preference": 0,
    }
    (pair,) = find("helpsteer3").records(row)
    assert pair.label == 0.5
    assert pair.chosen != pair.rejected


def test_pairs_that_encoding_makes_equal_are_trained_on():
    """OpenRLHF keeps pairs whose two texts are the same once encoded, and trains on their label."""
    backbone = tiny_encoder()
    backbone.tokenizer._tokenizer.normalizer = normalizers.Lowercase()
    texts = [("an egg", "a fox"), ("an egg", "An EGG"), ("a fox", "an egg")]
    pairs = [Preference(prompt="Why?", chosen=a, rejected=b, row=7 + i) for i, (a, b) in enumerate(texts)]
    found = encode_pairs(backbone, pairs)
    assert [pair.row for pair in found.preferences] == [7, 9]
    assert [(bad.row, "identical once encoded" in bad.problem) for bad in found.dropped] == [(8, True)]
    assert len(found.pairs) == 2


# ── runs


def test_the_head_stays_random_and_frozen_under_lora(folder, tmp_path):
    """TRL without ``modules_to_save`` trains adapters under a random head that is frozen, without a warning."""
    given = recipe(folder, update="lora", method={"name": "bt", "initial": "zero"}, epochs=2)
    done = runs.train(given, tmp_path / "run")
    loaded = RewardModel.load(tmp_path / "run", device="cpu")
    assert done.model.method.score.weight.abs().min() > 0
    assert torch.equal(loaded.method.score.weight, done.model.method.score.weight)
    answers = [said("yes, 4 minutes"), said("no")]
    assert torch.equal(loaded.predict((USER,), answers).mean, done.model.predict((USER,), answers).mean)


@pytest.mark.parametrize("update", ["head", "full"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_learning_rate_never_reaches_its_end(folder, tmp_path, epochs, update):
    """open-instruct multiplies the steps by the epochs twice, so that the schedule stops short of its end."""
    arguments = {"arguments": {"logging_steps": 1}} if update == "full" else {}
    runs.train(recipe(folder, epochs=epochs, update=update, **arguments), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    fall = np.linspace(1, 0, len(rates) + (update == "full"))[: len(rates)]  # the last step of transformers' ends at 0
    assert len(rates) == max(line["step"] for line in lines) > 2
    assert rates == pytest.approx((1e-3 * fall).tolist())


GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "training.md"


@pytest.mark.parametrize("block", re.findall(r"```(yaml|sh)\n(.*?)```", GUIDE.read_text(), re.DOTALL))
def test_the_documentation_names_a_key_that_does_not_exist(block, monkeypatch):
    """axolotl's documentation says ``rl: reward_trainer``; the key is another one."""
    monkeypatch.chdir(GUIDE.parents[2])
    language, text = block
    if language == "yaml":
        given = parse_recipe({"data": {"train": "preferences.jsonl"}, "method": "bt"} | yaml.safe_load(text))
        assert set(given.training.arguments) <= {field.name for field in fields(TrainingArguments)} - OURS
        return
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["poise", "train"] and words[2].startswith("recipes/"):
            overrides = [after for word, after in pairwise(words) if word == "--set"]
            assert read_recipe(words[2], overrides)
