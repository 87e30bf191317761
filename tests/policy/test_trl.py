"""The reward function inside TRL's own trainers, every method at once, and what it does with difficult completions."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest
import torch
from datasets import Dataset
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import poise.model
from poise import as_reward_function
from poise.calibration import Calibration, PairCalibration
from poise.ensemble import Ensemble
from poise.errors import ConfigError, DataError, PoiseError, UnsupportedOperation
from poise.methods import METHODS, method_class
from poise.model import RewardModel
from poise.utility import Utility, parse_utility
from tests.conftest import TEMPLATE, tiny_decoder, tiny_encoder, tiny_tokenizer

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
ATTRIBUTES = ("clarity", "safety")
PROMPTS = ["What is 2 + 2?", "How do I boil an egg?"]
quiet = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:trl", "ignore::FutureWarning:trl", "ignore::FutureWarning:transformers"
)


def reward_model(name: str, backbone=None, seed: int = 0, **options) -> RewardModel:
    """Random weights, away from a zero start."""
    torch.manual_seed(seed)
    backbone = backbone or tiny_decoder()
    kind = method_class(name)
    method = kind(kind.for_data(kind.Config(), ATTRIBUTES), backbone.hidden_size)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    return RewardModel(backbone, method, **options)


@pytest.fixture(scope="module")
def models() -> dict[str, RewardModel]:
    backbone = tiny_decoder()
    return {method.name: reward_model(method.name, backbone) for method in METHODS}


@pytest.fixture(scope="module")
def bt(models) -> RewardModel:
    return models["bt"]


def policy() -> Qwen3ForCausalLM:
    tokenizer = tiny_tokenizer(encoder=False, template=TEMPLATE)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **shape, **heads, **ends))


def train(kind: str, folder, functions, rows, **options):
    """Two steps of four completions each."""
    trainer, config = TRAINERS[kind]
    given = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 6,
        "max_steps": 2,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "seed": 0,
        "disable_tqdm": True,
        "beta": 0.0,  # with a penalty TRL would look for the reference policy by its name
    }
    made = trainer(
        model=policy(),
        reward_funcs=functions,
        args=config(**given | options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(encoder=False, template=TEMPLATE),
    )
    before = [p.detach().clone() for p in made.model.parameters()]
    made.train()
    moved = any(not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))
    return made, moved


@quiet
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", TRAINERS)
def test_every_method_trains_a_policy(kind, asynchronous, models, tmp_path):
    """One run with all methods as reward functions; standard prompts when sync, conversational ones when async."""
    functions = [as_reward_function(m, empty=-1.0, asynchronous=asynchronous) for m in models.values()]
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    rows = [{"prompt": p, "topic": "any"} for p in (conversations if asynchronous else PROMPTS)]
    trainer, moved = train(kind, tmp_path, functions, rows)
    assert moved
    logs = [line for line in trainer.state.log_history if "reward" in line]
    assert len(logs) == 2
    for name in (f"{method}_mean" for method in models):
        assert all(math.isfinite(line[f"rewards/{name}/mean"]) for line in logs)
        assert all(line[f"{name}/q05"] <= line[f"{name}/q50"] <= line[f"{name}/q95"] for line in logs)
        assert all(line[f"{name}/std"] >= 0 and line[f"{name}/unscored"] == 0 for line in logs)
        assert len(trainer._logs["extra"][f"{name}/std"]) == len(trainer._logs["prompt"])


@quiet
def test_the_trainer_uses_what_the_model_predicts(models, tmp_path):
    trainer, _ = train(
        "grpo", tmp_path, as_reward_function(models["drpo"], "lcb:1", empty=-9.0), [{"prompt": p} for p in PROMPTS]
    )
    logs = trainer._logs
    said = [i for i, text in enumerate(logs["completion"]) if text.strip()]
    reward = models["drpo"].predict([logs["prompt"][i] for i in said], [logs["completion"][i] for i in said])
    expected = reward.mean - reward.std
    found = torch.tensor(list(logs["rewards"]["drpo_lcb:1"]))[said]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@quiet
def test_advantages_are_weighted_by_what_an_ensemble_does_not_know(tmp_path):
    ensemble = Ensemble([reward_model("bt", seed=seed) for seed in range(3)])
    function = as_reward_function(ensemble, "shrinkage", empty=0.0)
    options = {"scale_rewards": "none", "num_generations": 4, "max_steps": 1, "seed": 3}
    trainer, _ = train("grpo", tmp_path, function, [{"prompt": PROMPTS[1]}], **options)
    assert all(text.strip() for text in trainer._logs["completion"])
    members = (
        ensemble.predict(list(trainer._logs["prompt"]), list(trainer._logs["completion"]))._members()[1].mean.double()
    )
    mean = members.mean(1)  # [4], of three members
    center = mean.mean()
    unknown = ((members - members.mean(0)) - (mean - center)[:, None]).square().mean(1) * 4 / 3
    spread = max(mean.var().item() - unknown.mean().item(), 0.0)
    shrunk = center + spread / (spread + unknown) * (mean - center)
    found = torch.tensor(list(trainer._logs["advantages"]), dtype=torch.float64)
    torch.testing.assert_close(found, shrunk - shrunk.mean(), atol=1e-5, rtol=1e-4)


# ── without a trainer ──


def test_says_what_predict_says_in_both_forms(bt):
    function = as_reward_function(bt, "mean")
    assert function.__name__ == "bt_mean"
    answers = ["4", "It is 5."]
    plain = function(prompts=PROMPTS, completions=answers, completion_ids=[[1], [2]], topic=["a", "b"])
    asked = [[{"role": "user", "content": p}] for p in PROMPTS]
    said = [[{"role": "assistant", "content": a}] for a in answers]
    assert plain == function(prompts=asked, completions=said)
    assert plain == bt.predict(PROMPTS, answers).mean.tolist()


def test_texts_are_read_once(bt, monkeypatch):
    seen = []
    monkeypatch.setattr("poise.extraction.read", lambda backbone, rows: seen.extend(rows) or iter(()))
    with pytest.raises(KeyError):  # nothing was read, so nothing can be gathered
        as_reward_function(bt)(prompts=PROMPTS[:1] * 4, completions=["4", "5", "4", "4"])
    assert len(seen) == 2


def test_functions_over_one_backbone_read_a_batch_once(models, monkeypatch):
    """Of one model or of several heads; a changed weight of the backbone, and other texts, are read anew."""
    model = reward_model("bt")
    other = RewardModel(model.backbone, models["bt"].method)
    given = {"prompts": PROMPTS, "completions": ["4", "Boil it."]}
    expected = [m.predict(PROMPTS, given["completions"]).mean.tolist() for m in (model, other)]
    batches, extract = [], poise.model.extract
    monkeypatch.setattr(poise.model, "extract", lambda *a, **k: batches.append(len(a[1])) or extract(*a, **k))
    functions = [as_reward_function(model), as_reward_function(model, "lcb:1"), as_reward_function(other)]
    found = [function(**given) for function in functions]
    assert batches == [2]
    assert [found[0], found[2]] == expected
    functions[0](prompts=PROMPTS, completions=["5", "Boil it."])
    assert batches == [2, 2]
    with torch.no_grad():
        next(model.backbone.model.parameters()).mul_(1.5)
    changed = functions[0](prompts=PROMPTS, completions=["5", "Boil it."])
    assert changed == model.predict(PROMPTS, ["5", "Boil it."]).mean.tolist()


def test_groups_are_those_of_the_prompts(models):
    function = as_reward_function(models["ensemble"], "win_rate")
    prompts, completions = [PROMPTS[0], PROMPTS[1]] * 2, ["4", "Boil it.", "5", "Fry it."]
    reward = models["ensemble"].predict(prompts, completions)
    expected = parse_utility("win_rate")(reward, torch.tensor([0, 1, 0, 1]))
    assert function(prompts=prompts, completions=completions) == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("empty", ["", "  \n", [{"role": "assistant", "content": ""}]])
def test_empty_completions(bt, empty):
    given = {"prompts": PROMPTS, "completions": [empty, "4"]}
    with pytest.raises(DataError, match=r"completion 0 is empty; choose empty="):
        as_reward_function(bt)(**given)
    alone = bt.predict(PROMPTS[1], "4").mean.item()
    assert as_reward_function(bt, empty=-3)(**given) == [-3.0, alone]
    assert as_reward_function(bt, empty="none")(**given) == [None, alone]
    assert as_reward_function(bt, empty="none")(prompts=PROMPTS[:1], completions=[empty]) == [None]


def test_completions_that_are_too_long():
    model = reward_model("drpo", tiny_decoder(max_length=64))
    long_prompt, short = "hello " * 80, "4"
    given = {"prompts": [long_prompt, PROMPTS[0], PROMPTS[0]], "completions": [short, short, "say " * 90]}
    with pytest.raises(DataError, match=r"completion 0: .* longer than max_length 64; .* too_long='none'"):
        as_reward_function(model)(**given)
    rewards = as_reward_function(model, too_long="none")(**given)
    assert rewards[0] is None is rewards[2]
    assert rewards[1] == model.predict(PROMPTS[0], short).mean.item()
    cut = as_reward_function(model, too_long="truncate-prompt")
    assert cut(prompts=[long_prompt], completions=[short]) == model.predict(long_prompt, short).mean.tolist()
    with pytest.raises(DataError, match="completion 2: the response alone takes"):
        cut(**given)
    spoken = {"prompts": [PROMPTS[0], long_prompt], "completions": ["", short]}
    with pytest.raises(DataError, match="completion 1: "):  # counted with the empty one before it
        as_reward_function(model, empty=0.0)(**spoken)


def test_what_has_no_number_raises_instead_of_becoming_none(bt):
    model = reward_model("bt")
    function = as_reward_function(model)
    with torch.no_grad():
        model.method.score.weight.fill_(3e38)
    given = {"prompts": PROMPTS[:1], "completions": ["4"]}
    with pytest.raises(PoiseError, match="must be finite"):
        function(**given)
    endless = Utility("endless", "utility", False, lambda reward: reward.mean / 0)
    with pytest.raises(DataError, match="completion 0 has no finite endless"):
        as_reward_function(bt, endless)(**given)


def test_weights_steer_each_call_and_each_row(models):
    model = models["qrm"]
    clear, safe = {"clarity": 1.0}, {"clarity": 0.2, "safety": 0.8}
    expected = [model.predict(p, "4", weights=w).mean.item() for p, w in zip(PROMPTS, (clear, safe), strict=True)]
    given = {"prompts": PROMPTS, "completions": ["4", "4"]}
    assert as_reward_function(model, weights=clear)(**given)[0] == expected[0]
    column = [clear | {"safety": None}, safe]  # as a table holds mappings with different keys
    assert as_reward_function(model, weights="style")(**given, style=column) == expected
    with pytest.raises(ConfigError, match="no column 'style'"):
        as_reward_function(model, weights="style")(**given)
    with pytest.raises(ConfigError, match="did you mean 'clarity'"):
        as_reward_function(model, weights={"clarty": 1.0})


@pytest.mark.parametrize("calibrated", [False, True])
def test_rows_without_weights_are_not_steered(models, calibrated):
    model = models["qrm"]
    if calibrated:  # only the unsteered reward is, so the two of a batch are of different kinds
        model = model.calibrated(Calibration(pairs=PairCalibration(method="temperature", temperature=3.0)))
    table = Dataset.from_list([{"style": {"safety": 1.0}}, {"style": {}}, {"style": None}])["style"][:]
    function = as_reward_function(model, weights="style")
    found = function(prompts=[PROMPTS[0]] * 3, completions=["4"] * 3, style=table)
    steered, free = model.predict(PROMPTS[0], "4", weights={"safety": 1.0}), model.predict(PROMPTS[0], "4")
    assert found == [steered.mean.item(), free.mean.item(), free.mean.item()]
    assert found[0] != found[1]
    with pytest.raises(DataError, match="completion 1: column 'style' holds 'clear'; give a mapping"):
        function(prompts=PROMPTS, completions=["4", "4"], style=[None, "clear"])
    with pytest.raises(ConfigError, match="add up to 0"):
        function.scorer.score(PROMPTS, ["4", "4"], [None, {}])


def test_responses_are_compared_with_those_of_equal_weights(models):
    model, safe = models["qrm"], {"safety": 1.0}
    texts, style = ["4", "5", "6", "7"], [safe, None, safe, None]
    found = as_reward_function(model, "win_rate", weights="style")(
        prompts=[PROMPTS[0]] * 4, completions=texts, style=style
    )
    steered, free = model.predict(PROMPTS[0], texts[::2], weights=safe), model.predict(PROMPTS[0], texts[1::2])
    wins = [reward[0].prob_greater(reward[1]).item() for reward in (steered, free)]
    assert found == pytest.approx([wins[0], wins[1], 1 - wins[0], 1 - wins[1]], abs=1e-6)


def test_what_cannot_be_meant_is_refused_at_once(bt):
    with pytest.raises(ConfigError, match="did you mean 'cvar'"):
        as_reward_function(bt, "cvr:0.1")
    with pytest.raises(UnsupportedOperation, match="use an ensemble"):
        as_reward_function(bt, "shrinkage")
    with pytest.raises(ConfigError, match="unknown too_long 'truncate'"):
        as_reward_function(bt, too_long="truncate")
    with pytest.raises(ConfigError, match="empty is 'zero'"):
        as_reward_function(bt, empty="zero")
    with pytest.raises(DataError, match="2 prompts for 1 completions"):
        as_reward_function(bt)(prompts=PROMPTS, completions=["4"])


def test_an_ensemble_of_different_backbones():
    ensemble = Ensemble([reward_model("bt"), reward_model("bt", tiny_encoder(), seed=1)])
    function = as_reward_function(ensemble, "lcb_epistemic:1", name="cautious")
    assert function.__name__ == "cautious"
    expected = parse_utility("lcb_epistemic:1")(ensemble.predict(PROMPTS, ["4", "5"]))
    assert function(prompts=PROMPTS, completions=["4", "5"]) == pytest.approx(expected.tolist(), abs=1e-6)


def test_an_asynchronous_function_leaves_the_loop_free(bt, monkeypatch):
    function = as_reward_function(bt, asynchronous=True)
    scored, threads = function.scorer.score, []

    def slowly(*given):
        threads.append(threading.current_thread())
        time.sleep(0.2)
        return scored(*given)

    monkeypatch.setattr(function.scorer, "score", slowly)

    async def both():
        task = asyncio.ensure_future(function(prompts=PROMPTS, completions=["4", "5"]))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await task, ticks

    rewards, ticks = asyncio.run(both())
    assert rewards == bt.predict(PROMPTS, ["4", "5"]).mean.tolist()
    assert ticks > 3
    assert threads != [threading.main_thread()]
