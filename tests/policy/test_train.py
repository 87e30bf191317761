"""``poise policy`` from a recipe to a policy that can be loaded, interrupted on the way; and what a recipe may not say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from poise.data.splits import prompt_key
from poise.errors import ConfigError, DataError
from poise.methods import method_class
from poise.model import RewardModel
from poise.policy import train as stages
from poise.policy.answers import Answers, answer, divergence
from poise.policy.recipe import parse_policy_recipe, read_policy_recipe, required, trl_arguments
from poise.policy.tasks import read_tasks, written
from poise.policy.train import EVALUATION, RECIPE, train_policy
from tests.cli.place import poise
from tests.conftest import TEMPLATE, tiny_decoder, tiny_tokenizer

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "policy").glob("*.yaml"))
quiet = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:trl",
    "ignore::FutureWarning:trl",
    "ignore::FutureWarning:transformers",
    "ignore:.*pin_memory",
)
ON_CPU = {
    "use_cpu": True,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "save_steps": 1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a policy, a reward model and rows."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = tiny_tokenizer(encoder=False, template=TEMPLATE)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **shape, **heads, **ends)).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    backbone = tiny_decoder()
    bt = method_class("bt")
    RewardModel(backbone, bt(bt.Config(), backbone.hidden_size)).save(folder / "reward")
    rows = [{"prompt": f"What is {i} + {i}?", "response": f"hello {i}"} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny(place: Path, **changes):
    rows = str(place / "rows.jsonl")
    return {
        "policy": str(place / "lm"),
        "dtype": "float32",
        "prompts": {"train": rows, "evaluate_fraction": 0.3},
        "rewards": [{"model": str(place / "reward"), "name": "helpful", "empty": -1.0}],
        "gold": {"model": str(place / "reward"), "empty": -1.0},
        "lora": {"rank": 4, "alpha": 8},
        "supervised": {"data": rows, "arguments": ON_CPU},
        "reinforce": {
            "arguments": ON_CPU | {"num_generations": 2, "max_completion_length": 6, "learning_rate": "1e-2"}
        },
        "evaluation": {"prompts": 4},
    } | changes


def test_nothing_that_is_held_out_is_imitated(place):
    rows = [str(place / "rows.jsonl")]
    recipe = parse_policy_recipe(tiny(place))
    tasks = read_tasks(recipe, AutoTokenizer.from_pretrained(place / "lm"))
    found, left = written(rows, tasks.held_out)
    assert (len(found), left) == (len(tasks.train), len(tasks.evaluate))
    assert not [row for row in found if row["prompt"] in tasks.evaluate]
    with pytest.raises(DataError, match=r"every row of .*rows.jsonl has a prompt that is held out"):
        written(rows, {prompt_key(f"What is {i} + {i}?") for i in range(12)})


@quiet
def test_an_interrupted_run_is_resumed_to_a_policy_with_its_figures(place, tmp_path, monkeypatch):
    out = tmp_path / "run"
    whole = stages._reinforce
    monkeypatch.setattr(stages, "_reinforce", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_policy(tiny(place), out)
    assert not (out / EVALUATION).exists()
    with pytest.raises(ConfigError, match="continue it with resume"):
        train_policy(tiny(place), out)
    with pytest.raises(ConfigError, match="differs in seed"):
        train_policy(tiny(place, seed=1), out, resume=True)
    monkeypatch.setattr(stages, "_reinforce", whole)

    finished = train_policy(read_policy_recipe(out / RECIPE), out, resume=True)

    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in logged if "loss" in line]
    assert steps == [("supervised", 1), ("supervised", 2), ("reinforce", 1), ("reinforce", 2)]
    last = [line for line in logged if line["stage"] == "reinforce" and "kl" in line][-1]
    assert last["rewards/helpful/q05"] <= last["rewards/helpful/mean"] <= last["rewards/helpful/q95"]
    policy = finished.evaluation["policy"]
    assert policy["rewards"]["helpful"] == policy["rewards"]["gold"]
    assert policy["kl"]["mean"] > 0
    assert sorted(path.name for path in out.iterdir()) == [EVALUATION, "metrics.jsonl", "policy", RECIPE]
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (place / "lm", finished.policy))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    with pytest.raises(ConfigError, match="nothing to resume"):
        train_policy(read_policy_recipe(out / RECIPE), out, resume=True)


class Killed(BaseException):
    """Nothing catches it, as nothing catches the end of a process."""


def killed_at(stage: str, step: int):
    """A ``Progress`` whose run dies in the middle of that step: its checkpoint is not written yet."""

    class Mortal(stages.Progress):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            if (self.stage, state.global_step) == (stage, step):
                raise Killed

    return Mortal


def three_steps(place):
    arguments = ON_CPU | {"max_steps": 3}
    reinforce = {"arguments": arguments | {"num_generations": 2, "max_completion_length": 6, "learning_rate": 1e-2}}
    return tiny(place, supervised={"data": str(place / "rows.jsonl"), "arguments": arguments}, reinforce=reinforce)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """A run that nothing has interrupted."""
    return train_policy(three_steps(place), tmp_path_factory.mktemp("whole") / "run")


@quiet
@pytest.mark.parametrize("stage", ["supervised", "reinforce"])
def test_a_run_killed_inside_a_stage_goes_on_to_the_same_policy(stage, place, whole, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(stages, "Progress", killed_at(stage, 3))
        with pytest.raises(Killed):
            train_policy(three_steps(place), cut)
    assert [path.name for path in (cut / stage).glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (cut / stage / "model").exists()
    half = cut / stage / "checkpoint-3"
    half.mkdir()
    (half / "trainer_state.json").write_text("{", encoding="utf8")

    resumed = train_policy(three_steps(place), cut, resume=True)

    steps = []
    for run in (whole, resumed):
        log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        steps.append([(line["stage"], line["step"], line["grad_norm"]) for line in log if "loss" in line])
    assert [step[:2] for step in steps[0]] == [(name, i) for name in ("supervised", "reinforce") for i in (1, 2, 3)]
    assert steps[1] == steps[0]
    one, two = (AutoModelForCausalLM.from_pretrained(run.policy) for run in (whole, resumed))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert resumed.evaluation == whole.evaluation


@quiet
def test_grpo_from_the_command_line(place, tmp_path):
    """Two rewards of one model, weighted, without LoRA and without fine-tuning first."""
    reward = {"model": str(place / "reward"), "empty": -1.0}
    given = tiny(
        place,
        lora=None,
        supervised=None,
        rewards=[reward | {"name": "helpful"}, reward | {"name": "sure", "utility": "quantile:0.25", "weight": 0.5}],
        reinforce={
            "algorithm": "grpo",
            "arguments": ON_CPU | {"num_generations": 2, "max_completion_length": 6, "learning_rate": 1e-2},
        },
    )
    (tmp_path / "grpo.yaml").write_text(yaml.safe_dump(given))
    outcome = poise("policy", tmp_path / "grpo.yaml", "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["evaluation"]  # nothing of TRL's is printed between
    assert set(found["policy"]["rewards"]) == {"helpful", "sure", "gold"}
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in logged if "loss" in line]
    assert [(line["stage"], line["step"]) for line in steps] == [("reinforce", 1), ("reinforce", 2)]
    for line in steps:  # a Bradley–Terry reward is one point: its quantile is its mean
        assert line["reward"] == pytest.approx(1.5 * line["rewards/helpful/mean"], abs=1e-5)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (place / "lm", tmp_path / "run/policy"))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_published_recipes_are_sound(path):
    recipe = read_policy_recipe(path)
    assert recipe.reinforce.arguments["num_generations"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reinforce.arguments.lerning_rate=1", "did you mean 'learning_rate'.*RLOOConfig"),
        ("reinforce.arguments.num_generations=1", "reinforce.arguments: TRL's RLOOConfig refuses"),
        ("reinforce.arguments.output_dir=x", "use poise policy --out"),
        ("reinforce.algorithm=ppo", "choose from rloo, grpo"),
        ("rewards.0.utility=cvr:0.1", "did you mean 'cvar'"),
        ("supervised.arguments.max_lenght=5", "did you mean 'max_length'.*SFTConfig"),
        ("promts.train=x", "did you mean 'prompts'"),
        ("reinforce.arguments.beta=high", "beta is 'high'"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        parse_policy_recipe(tiny(tmp_path), [change])


def test_answers_are_drawn_and_end_as_in_training(place):
    """TRL's own sampling, not the model's defaults; an end of turn that only the model knows is an end."""
    tokenizer = AutoTokenizer.from_pretrained(place / "lm")
    model = AutoModelForCausalLM.from_pretrained(place / "lm")
    turn = tokenizer("?").input_ids[-1]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn]
    model.generation_config.repetition_penalty = 1.7
    recipe = parse_policy_recipe(tiny(place))
    arguments = trl_arguments("rloo", {**ON_CPU, "generation_kwargs": {"num_beams": 1}}, "x", place / "never", recipe)
    drawn = {}

    def generate(**given):
        drawn.update(given)
        ends = torch.tensor([[5, turn, tokenizer.pad_token_id]]).expand(len(given["input_ids"]), -1)
        return torch.cat([given["input_ids"], ends], dim=1)

    model.generate = generate
    found = answer(model, tokenizer, ["What is 2 + 2?"], arguments, recipe)
    assert found.tokens == [[5, turn]]
    assert (drawn["repetition_penalty"], drawn["num_beams"]) == (1.0, 1)
    assert drawn["eos_token_id"] == [tokenizer.eos_token_id, turn]


def test_the_divergence_of_two_policies_is_the_sum_of_their_conditionals(place):
    torch.manual_seed(3)
    models = [AutoModelForCausalLM.from_pretrained(place / "lm") for _ in range(2)]
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    ids = AutoTokenizer.from_pretrained(place / "lm")("What is 2 + 2?").input_ids
    head, tail = ids[:3], ids[3:6]
    expected = 0.0
    for i in range(3):
        row = torch.tensor([head + tail[:i]])
        p, q = (model(row).logits[0, -1].softmax(-1).double().detach().numpy() for model in models)
        expected += float(np.sum(p * np.log(p / q)))
    found = divergence(models[0], models[1], Answers(["x"], [head], [tail]))
    assert found == pytest.approx([expected], rel=1e-4)
    assert expected > 0.01


@pytest.mark.parametrize(("wish", "silent"), [("1", True), ("0", False)])
def test_trl_reports_to_nobody_even_where_the_hub_was_imported_first(wish, silent, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", wish)
    required("trl")
    assert constants.HF_HUB_DISABLE_TELEMETRY is silent
