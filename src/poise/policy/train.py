"""``poise policy``: supervised fine-tuning, then RLOO or GRPO, through TRL, rewarded by what poise's models believe.

recipe.yaml      resolved, defaults included       supervised/   TRL's checkpoints while fine-tuning, then ``model``
metrics.jsonl    one line per logged step          reinforce/    TRL's checkpoints; both folders go when the run is finished
evaluation.json  policy and reference, held out    policy/       the policy: an ordinary Hugging Face folder
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from poise import checkpoint, processes
from poise.backbone import explained
from poise.errors import ConfigError, DataError
from poise.output import check_new_folder, check_writable, replacing, sole
from poise.policy.answers import Answers, answer, divergence
from poise.policy.recipe import (
    PolicyRecipe,
    RewardConfig,
    parse_policy_recipe,
    read_policy_recipe,
    required,
    trl_arguments,
)
from poise.policy.reward_function import RewardFunction, as_reward_function
from poise.policy.sources import opened
from poise.policy.tasks import Tasks, read_tasks, written
from poise.training.monitor import MetricsLog, Reporter, Silent
from poise.training.trainer import COMPLETE, last_complete

RECIPE, METRICS, EVALUATION = "recipe.yaml", "metrics.jsonl", "evaluation.json"
POLICY, SUPERVISED, REINFORCE, MODEL = "policy", "supervised", "reinforce", "model"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class PolicyRun:
    """A finished run: its folder, and the evaluation as it is in ``evaluation.json``."""

    folder: Path
    evaluation: dict[str, Any]

    @property
    def policy(self) -> Path:
        """The trained policy, for ``from_pretrained``."""
        return self.folder / POLICY


@dataclass(frozen=True)
class _Begun:
    folder: Path
    recipe: PolicyRecipe
    tasks: Tasks
    reporter: Reporter


def train_policy(
    recipe: PolicyRecipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> PolicyRun:
    """Fine-tune, reinforce, evaluate. ``recipe`` is a YAML path, a mapping or a ``PolicyRecipe``; ``out`` is the run folder.

    Nothing is written before recipe, data and reward models have been read. ``resume=True`` continues an interrupted run
    from TRL's last checkpoint. Under a launcher all processes call this; the first writes and evaluates.
    """
    if not isinstance(recipe, PolicyRecipe):
        recipe = read_policy_recipe(recipe) if isinstance(recipe, (str, Path)) else parse_policy_recipe(recipe)
    folder, told = Path(out), (reporter or Silent()) if processes.first() else Silent()
    with processes.connection(), ExitStack() as claim:
        processes.agreed(lambda: _check_folder(folder, recipe, resume))
        with explained(recipe.policy, recipe.policy):
            tokenizer = AutoTokenizer.from_pretrained(recipe.policy)
        tasks = read_tasks(recipe, tokenizer)
        for note in tasks.notes:
            told.say(note)
        rewards = _functions(*recipe.rewards, *([recipe.gold] if recipe.gold else []))
        gold = rewards.pop() if recipe.gold else None
        run = _Begun(folder, recipe, tasks, told)
        processes.once(lambda: claim.enter_context(sole(folder)))
        processes.once(lambda: _write(folder / RECIPE, yaml.safe_dump(recipe.to_dict(), sort_keys=False)))
        start = _supervised(run)
        _reinforce(run, start, rewards)
        evaluation = processes.once(lambda: _evaluate(run, start, rewards, gold))
        processes.once(lambda: _clear(folder))
        return PolicyRun(folder, evaluation)


def _check_folder(folder: Path, recipe: PolicyRecipe, resume: bool) -> None:
    path = folder / RECIPE
    if not resume:
        if path.exists():
            raise ConfigError(f"{folder} exists already; continue it with resume, or choose another folder")
        check_new_folder(folder)
        return
    if not path.exists():
        raise ConfigError(f"{folder} holds no run to resume (no {RECIPE}); start it without resume")
    if (folder / EVALUATION).exists():
        raise ConfigError(f"{folder} holds a finished run; there is nothing to resume")
    check_writable(folder)
    before, now = yaml.safe_load(path.read_text(encoding="utf8")), json.loads(json.dumps(recipe.to_dict()))
    if changed := sorted(key for key in now if before.get(key) != now[key]):
        raise ConfigError(f"{folder}: the recipe differs in {', '.join(changed)}; a resumed run must not change")


def _functions(*configs: RewardConfig) -> list[RewardFunction]:
    """One for each; a model that several of them name is loaded once, and reads a batch once for all."""
    models = {config.model: opened(config.model) for config in configs}
    return [
        as_reward_function(models[c.model], c.utility, too_long=c.too_long, empty=c.empty, name=c.name) for c in configs
    ]


def _supervised(run: _Begun) -> str:
    """The policy that reinforcement learning starts from and is held to."""
    given = run.recipe.supervised
    if given is None:
        return run.recipe.policy
    trl, datasets = required("trl"), required("datasets")
    folder = run.folder / SUPERVISED
    if not (folder / MODEL).exists():
        arguments = trl_arguments("sft", given.arguments, "supervised.arguments", folder, run.recipe)
        rows, left = written(given.data, run.tasks.held_out)
        if left:
            run.reporter.say(f"supervised: {left:,} rows have a prompt that is held out and are left out")
        given_rows = {"train_dataset": datasets.Dataset.from_list(rows)}
        _fit(run, SUPERVISED, trl.SFTTrainer, run.recipe.policy, arguments, given_rows)
    return str(folder / MODEL)


def _reinforce(run: _Begun, start: str, rewards: Sequence[RewardFunction]) -> None:
    if (run.folder / REINFORCE / MODEL).exists():
        return
    trl, datasets = required("trl"), required("datasets")
    kind = run.recipe.reinforce.algorithm
    arguments = trl_arguments(
        kind, run.recipe.reinforce.arguments, "reinforce.arguments", run.folder / REINFORCE, run.recipe
    )
    trainer = trl.RLOOTrainer if kind == "rloo" else trl.GRPOTrainer
    given = {
        "train_dataset": datasets.Dataset.from_list([{"prompt": prompt} for prompt in run.tasks.train]),
        "reward_funcs": [with_quantiles(function) for function in rewards],
    }
    _fit(run, REINFORCE, trainer, start, arguments, given)


def _fit(run: _Begun, stage: str, trainer: Any, start: str, arguments: Any, given: Mapping[str, Any]) -> None:
    """Train one stage (from its last checkpoint, where there is one) and write the merged model."""
    peft = required("peft")
    lora = run.recipe.lora
    adapters = lora and peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules[0] if len(lora.target_modules) == 1 else list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.padding_side = "left"
    log = MetricsLog(run.folder / METRICS)
    with explained(run.recipe.policy, start):
        model = AutoModelForCausalLM.from_pretrained(start, dtype=run.recipe.dtype)
    try:
        learner = trainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            peft_config=adapters,
            callbacks=[Progress(stage, log, run.reporter)],
            **given,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{stage}: TRL refuses to start ({str(error).splitlines()[0]}); change its arguments"
        ) from None
    learner.remove_callback(PrinterCallback)  # standard output is the command's own
    last = processes.once(lambda: last_complete(Path(arguments.output_dir)))
    learner.train(resume_from_checkpoint=last and str(last))
    trained = learner.accelerator.unwrap_model(learner.model)
    merged = trained.merge_and_unload() if isinstance(trained, peft.PeftModel) else trained
    processes.once(lambda: _save(merged, tokenizer, Path(arguments.output_dir) / MODEL))


class Progress(TrainerCallback):  # type: ignore[misc]
    """TRL's logs → ``metrics.jsonl`` and the bar."""

    def __init__(self, stage: str, log: MetricsLog, reporter: Reporter) -> None:
        self.stage, self.log, self.reporter = stage, log, reporter

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.reporter.begin(self.stage, state.max_steps)
        number = (SUPERVISED, REINFORCE).index(self.stage)
        if state.is_world_process_zero:
            self.log.cut_after(number, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.reporter.advance(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        if state.is_world_process_zero:  # a checkpoint without the mark was cut short
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: D102
        if state.is_world_process_zero:
            number = (SUPERVISED, REINFORCE).index(self.stage)
            self.log.write(stage=self.stage, stage_number=number, step=state.global_step, **(logs or {}))


def with_quantiles(function: RewardFunction) -> Callable[..., Any]:
    """The same rewards; quantiles over the batch are logged beside TRL's mean and deviation."""

    def rewarded(*, log_metric: Any = None, **given: Any) -> Any:
        rewards = function(log_metric=log_metric, **given)
        known = [reward for reward in rewards if reward is not None]
        if log_metric is not None and known:
            for level, value in zip(LEVELS, np.quantile(known, LEVELS), strict=True):
                log_metric(f"rewards/{function.__name__}/q{100 * level:02.0f}", float(value))
        return rewards

    rewarded.__name__ = function.__name__
    return rewarded


def _evaluate(
    run: _Begun, start: str, rewards: Sequence[RewardFunction], gold: RewardFunction | None
) -> dict[str, Any]:
    """What policy and reference answer to held-out prompts is worth, and how far apart they are; then the final folder."""
    asked = run.tasks.evaluate[: run.recipe.evaluation.prompts]
    arguments = trl_arguments(
        run.recipe.reinforce.algorithm, run.recipe.reinforce.arguments, "", run.folder / REINFORCE, run.recipe
    )
    trained = run.folder / REINFORCE / MODEL
    judges = {function.__name__: function for function in rewards} | ({"gold": gold} if gold else {})
    models: dict[str, Any] = {}
    found: dict[str, Any] = {"prompts": len(asked)}
    drawn: dict[str, Answers] = {}
    for name, place in (("reference", start), ("policy", str(trained))):
        run.reporter.say(f"evaluating the {name} on {len(asked):,} held-out prompts")
        models[name] = AutoModelForCausalLM.from_pretrained(place, dtype=run.recipe.dtype).eval().to(arguments.device)
        tokenizer = AutoTokenizer.from_pretrained(place)
        drawn[name] = answer(models[name], tokenizer, asked, arguments, run.recipe)
        scores = {
            judge: _summary(function(prompts=asked, completions=drawn[name].texts))
            for judge, function in judges.items()
        }
        found[name] = {"rewards": scores, "tokens": float(np.mean(drawn[name].lengths))}
    kl = divergence(models["policy"], models["reference"], drawn["policy"])
    found["policy"]["kl"] = {"mean": float(kl.mean()), "standard_error": float(kl.std() / len(kl) ** 0.5)}
    if (run.folder / POLICY).exists():
        shutil.rmtree(run.folder / POLICY)
    trained.rename(run.folder / POLICY)
    _write(run.folder / EVALUATION, json.dumps(found, indent=2) + "\n")
    return found


def _summary(rewards: Sequence[float | None]) -> dict[str, Any]:
    known = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    if not len(known):
        raise DataError("no answer to a held-out prompt could be scored; look at too_long and empty of the reward")
    quantiles = {f"q{100 * level:02.0f}": float(q) for level, q in zip(LEVELS, np.quantile(known, LEVELS), strict=True)}
    return {"mean": float(known.mean()), "std": float(known.std()), **quantiles, "unscored": len(rewards) - len(known)}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf8")


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    with checkpoint.replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _clear(folder: Path) -> None:
    """Remove what only resuming needed."""
    for stage in (SUPERVISED, REINFORCE):
        shutil.rmtree(folder / stage, ignore_errors=True)
