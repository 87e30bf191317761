"""All stages of a recipe through the backbone: full or LoRA, resumable to the bit, reference models computed once."""

from __future__ import annotations

import difflib
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from poise import processes
from poise.backbone import Backbone, computes_bf16, quiet
from poise.data.chat import Encoded
from poise.distributions import RewardDistribution
from poise.errors import ConfigError
from poise.features import Features
from poise.live import LiveBackbone, Rows
from poise.methods import Method, method_class
from poise.output import replacing
from poise.pairing import PairTexts
from poise.training import fsdp
from poise.training.benchmarks import PREFIX, BenchmarkTexts, undisturbed
from poise.training.diagnostics import held_out
from poise.training.material import StageMaterial, TextData, stage_material
from poise.training.monitor import MetricsLog, Reporter
from poise.training.order import EpochOrder
from poise.training.recipe import Recipe, Stage
from poise.training.state import deferred_interrupts
from poise.training.step import Collator, RewardModule
from poise.training.trainer import COMPLETE, WEIGHTS, Patience, Periodic, RewardTrainer, last_complete

STAGES = "stages"
OURS = frozenset(
    {"output_dir", "learning_rate", "num_train_epochs", "weight_decay", "lr_scheduler_type", "warmup_steps", "seed"}
    | {"per_device_train_batch_size", "gradient_accumulation_steps", "remove_unused_columns", "label_names"}
)
TEXTS_AT_ONCE = 64
T = TypeVar("T")


@dataclass
class Session:
    """What the stages of one run share."""

    recipe: Recipe
    data: TextData
    live: LiveBackbone
    folder: Path
    reporter: Reporter


def finetune(
    backbone: Backbone,
    recipe: Recipe,
    data: TextData,
    *,
    folder: Path,
    reporter: Reporter,
    token_rows: Tensor | None = None,
) -> Method[Any, Any]:
    """Train backbone and head together; the backbone is changed in place, LoRA already merged. Resumes what it finds."""
    method_type = method_class(recipe.method.name)
    recipe = recipe.for_data(data.rated_attributes)
    backbone.model.requires_grad_(recipe.training.update == "full")
    adapted = with_lora(backbone.model, recipe) if recipe.training.update == "lora" else None
    live = LiveBackbone(backbone, prompt_states=method_type.needs_prompt_state, layout=recipe.training.layout)
    reporter.say(f"layout: {live.layout}" + (f" ({live.why})" if live.why else ""))
    session = Session(recipe, data, live, folder / STAGES, reporter)
    method: Method[Any, Any] | None = None
    with live.attached():
        for number in range(len(recipe.stages)):
            method = _stage(session, number, method, token_rows)
    if adapted is not None:
        backbone.model = adapted.merge_and_unload()
    backbone.model.eval().requires_grad_(False)
    assert method is not None
    method.fold_input_scale()
    return method.eval()


def _stage(
    session: Session, number: int, previous: Method[Any, Any] | None, token_rows: Tensor | None
) -> Method[Any, Any]:
    recipe, data, live = session.recipe, session.data, session.live
    stage = recipe.stages[number]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = method_class(recipe.method.name)(
            recipe.stage_options(stage), live.model.config.get_text_config().hidden_size
        )
    if previous is not None:
        method.load_state_dict(previous.state_dict(), strict=False)
    elif token_rows is not None:
        method.start_from(token_rows)
    module = RewardModule(live, method.to(next(live.model.parameters()).device))
    done = session.folder / f"{number}-{stage.name}.safetensors"
    if processes.once(done.exists):
        module.load_state_dict(load_file(done), strict=False)
        return method
    beliefs = None
    if previous is not None and (method.needs_reference or stage.curate != "no"):
        beliefs = _beliefs(live, previous, data)
    found = stage_material(method, data, recipe, number, beliefs, _seed(recipe.seed, number, 0, 0, purpose=2))
    material = found.material
    features = _features(live, data) if method.fits_features else _blank(live, data)
    figures = method.fit(features, material.whole())
    if figures is None:
        _train(session, number, module, found, beliefs if method.needs_reference else None)
    elif processes.first():
        log = MetricsLog(session.folder.parent / "metrics.jsonl")
        log.cut_after(number, -1)
        log.write(stage=stage.name, stage_number=number, step=0, epoch=stage.epochs, **figures)
    if processes.first():
        _write(done, module.kept())
        shutil.rmtree(session.folder / str(number), ignore_errors=True)
    processes.wait()
    return method


def _train(
    session: Session, number: int, module: RewardModule, found: StageMaterial, reference: RewardDistribution | None
) -> None:
    material, curation = found
    recipe, data, stage = session.recipe, session.data, session.recipe.stages[number]
    folder = session.folder / str(number)
    log = MetricsLog(session.folder.parent / "metrics.jsonl")
    resume = processes.once(lambda: _resumable(folder, log, number))
    sets = (("eval", data.evaluate), ("validation", data.validate), *data.watched.items())
    watched = {name: part for name, part in sets if part is not None}
    arguments = training_arguments(recipe, stage, folder, bool(watched))
    whole = recipe.training.loss_over == "step"
    with quiet(), deferred_interrupts() as interrupted, _trainable(module, arguments) as trained:
        watch = Watch(session.reporter, log, {"stage": stage.name, "stage_number": number}, curation, interrupted)
        trainer = RewardTrainer(
            trained,
            arguments,
            Collator(session.live, material, data.texts, data.keys, reference, whole=whole),
            EpochOrder(len(material), lambda epoch: _seed(recipe.seed, number, epoch, 0, purpose=0)),
            measure=lambda: _measure(trained, watched, recipe.data.labels),
            draw_seed=lambda step, slot: _seed(recipe.seed, number, step, slot, purpose=1),
            callbacks=[watch, *_patience(stage)],
        )
        benchmarks, every = data.benchmarks, recipe.training.benchmark_every
        if benchmarks and every is not None:
            trainer.add_callback(Periodic(every, lambda: trainer.note(lambda: _benchmarks(trained, benchmarks))))
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        if watch.stopped:
            raise KeyboardInterrupt
        step = trainer.state.global_step
        if benchmarks and not processes.once(lambda: log.holds(number, step, PREFIX)):
            trainer.note(lambda: _benchmarks(trained, benchmarks))


def _patience(stage: Stage) -> list[TrainerCallback]:
    if stage.patience is None:
        return []
    return [Patience(stage.patience, f"eval_validation/{stage.select}", stage.select == "accuracy")]


def _resumable(folder: Path, log: MetricsLog, number: int) -> Path | None:
    """The checkpoint to go on from; what a killed run left beyond it is removed."""
    newest = last_complete(folder)
    for partial in folder.glob("checkpoint-*") if folder.exists() else ():
        if newest is None or not (partial / COMPLETE).exists():
            shutil.rmtree(partial)
    log.cut_after(number, -1 if newest is None else int(newest.name.rpartition("-")[2]))
    return newest


def _trainable(module: RewardModule, arguments: TrainingArguments) -> AbstractContextManager[RewardModule]:
    """The module, or a copy of it where FSDP is going to divide its weights."""
    plugin = arguments.deepspeed_plugin
    if plugin is not None and plugin.hf_ds_config.is_zero3():
        raise ConfigError("DeepSpeed ZeRO-3 divides the weights; use stage 1 or 2, or FSDP (training.arguments.fsdp)")
    return fsdp.divisible(module, module.live.model._no_split_modules) if fsdp.asked(arguments) else nullcontext(module)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Shows progress, writes the run's own log, and turns an interrupt into a checkpoint."""

    def __init__(
        self,
        reporter: Reporter,
        log: MetricsLog,
        place: dict[str, Any],
        curation: dict[str, float],
        interrupted: Callable[[], bool],
    ) -> None:
        self.reporter, self.metrics, self.place, self.curation = reporter, log, place, curation
        self.interrupted, self.stopped = interrupted, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reporter.begin(f"stage {self.place['stage']}", state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reporter.advance(state.global_step)
        if processes.any_of(self.interrupted()):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An interrupt within an epoch ends it early for the Trainer: no evaluation, which an unbroken run never makes."""
        if self.stopped and state.global_step < state.max_steps and state.epoch != round(state.epoch):
            control.should_evaluate = control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if state.is_world_process_zero and "train_runtime" not in logs:
            figures = {name.replace("eval_", "", 1): value for name, value in logs.items()}
            figures |= self.curation if "loss" in logs else {}
            self.metrics.write(**self.place, step=state.global_step, **figures)


def training_arguments(
    recipe: Recipe, stage: Stage, folder: Path, evaluates: bool, devices: int | None = None
) -> TrainingArguments:
    """The Trainer's own arguments: from the stage, then whatever ``training.arguments`` of the recipe adds.

    ``devices`` is how many processes it is meant for, where that is not how many there are.
    """
    config = recipe.training
    known = {field.name for field in fields(TrainingArguments)}
    for name in config.arguments:
        if name not in known or name in OURS:
            near = difflib.get_close_matches(name, known - OURS, n=1, cutoff=0.5)
            why = "is set by the stage" if name in OURS else "is no field of TrainingArguments"
            raise ConfigError(f"training.arguments.{name} {why}" + (f"; did you mean {near[0]!r}?" if near else ""))
    per_step = config.accumulation * (devices or processes.count())
    if stage.batch_size % per_step:
        raise ConfigError(
            f"batch_size is {stage.batch_size}; it must be a multiple of accumulation × processes, {per_step}"
        )
    chosen: dict[str, Any] = {
        "logging_steps": 10,
        "save_steps": 200,
        "save_total_limit": 2,
        "eval_strategy": "epoch" if evaluates else "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": computes_bf16(recipe.backbone),
        "dataloader_pin_memory": False,
    }
    if stage.select != "none":
        chosen |= {
            "metric_for_best_model": f"validation/{stage.select}",
            "greater_is_better": stage.select == "accuracy",
        }
        chosen |= {"load_best_model_at_end": True, "save_strategy": "epoch"}
    try:
        made = TrainingArguments(
            output_dir=str(folder),
            learning_rate=stage.learning_rate,
            num_train_epochs=stage.epochs,
            weight_decay=stage.weight_decay,
            lr_scheduler_type="constant_with_warmup" if stage.schedule == "constant" else stage.schedule,
            warmup_steps=stage.warmup,
            seed=recipe.seed % 2**32,
            per_device_train_batch_size=stage.batch_size // per_step,
            gradient_accumulation_steps=config.accumulation,
            remove_unused_columns=False,
            label_names=[],
            **(chosen | dict(config.arguments)),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training.arguments: {str(error).splitlines()[0]}") from None
    missing = sorted({*made.report_to} - {*get_available_reporting_integrations()})
    if missing:
        raise ConfigError(f"training.arguments.report_to: {missing[0]} is not installed; install it, or leave it out")
    return made


@torch.no_grad()
def _features(live: LiveBackbone, data: TextData) -> Features:
    """Of all training texts, without dropout: the stage before has left the backbone in training mode."""
    live.eval()
    parts = _by_blocks(live, data.texts, data.keys, lambda rows: live(rows).to("cpu"))
    prompts = [p.prompt for p in parts if p.prompt is not None]
    return Features(torch.cat([p.response for p in parts]), torch.cat(prompts) if prompts else None)


def _blank(live: LiveBackbone, data: TextData) -> Features:
    """In the place of features that nobody reads."""
    zeros = torch.zeros(1, live.model.config.get_text_config().hidden_size).expand(len(data.texts), -1)
    return Features(zeros, zeros if live.prompt_states else None)


def _by_blocks(
    live: LiveBackbone, texts: Sequence[Encoded], keys: Sequence[object], read: Callable[[Rows], T]
) -> list[T]:
    """What ``read`` makes of the texts, block by block; each process reads some of the blocks, and all get everything."""
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    own, together = [], processes.count()
    for block in range(processes.number(), -(-len(starts) // together) * together, together):
        start = starts[min(block, len(starts) - 1)]  # one without a block of its own must take part in every pass
        part = slice(start, start + TEXTS_AT_ONCE)
        own.append(read(live.collate(texts[part], keys[part])))
    found = processes.gathered(own)
    return [found[block % together][block // together] for block in range(len(starts))]


@torch.no_grad()
def _beliefs(live: LiveBackbone, method: Method[Any, Any], data: TextData) -> RewardDistribution:
    """What a frozen method says about every training response: computed once, carried in the data."""
    device = next(method.parameters()).device
    reward: RewardDistribution = method.eval()(_features(live, data).to(device)).reward
    return reward.detach().to("cpu")


def _measure(module: RewardModule, watched: dict[str, PairTexts], labels: str) -> dict[str, float]:
    """Held-out metrics on whole arrays."""
    found: dict[str, float] = {}
    with undisturbed(module):
        for name, part in watched.items():
            figures = held_out(_rewards(module, part), part.pairs, part.targets(labels).label)
            found |= {f"{name}/{metric}": value for metric, value in figures.items()}
    return found


def _rewards(module: RewardModule, part: PairTexts | BenchmarkTexts) -> RewardDistribution:
    """What is said about every text; the processes read them together."""
    said = _by_blocks(module.live, part.texts, part.keys, lambda rows: module(rows).output.reward.to("cpu"))
    reward: RewardDistribution = RewardDistribution.concatenate(said)
    return reward


def _benchmarks(module: RewardModule, sets: Sequence[BenchmarkTexts]) -> dict[str, float]:
    """The headlines of benchmarks."""
    found: dict[str, float] = {}
    with undisturbed(module):
        for one in sets:
            found |= one.figures(_rewards(module, one))
    return found


def with_lora(model: Any, recipe: Recipe) -> Any:
    """Adapters in the model's linear layers; the head is outside of PEFT and so always trained and saved."""
    try:
        import peft
    except ImportError:
        raise ConfigError("training.update=lora needs the package peft; pip install 'poise[train]'") from None
    options = recipe.training.lora
    targets = options.target_modules[0] if len(options.target_modules) == 1 else list(options.target_modules)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by names that are going out
        torch.manual_seed(recipe.seed)
        adapters = peft.LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets
        )
        try:
            return peft.get_peft_model(model, adapters)
        except ValueError as error:  # a layer that is not there, or of a kind that takes none
            raise ConfigError(f"training.lora: {str(error).splitlines()[0]}") from None


def _write(path: Path, state: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary)


def _seed(seed: int, stage: int, major: int, minor: int, *, purpose: int) -> int:
    return int(np.random.SeedSequence([seed, stage, major, minor, purpose]).generate_state(1, np.uint64)[0] >> 1)


__all__ = ["WEIGHTS", "finetune", "training_arguments", "with_lora"]
