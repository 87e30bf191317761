"""Training through the backbone: transformers' Trainer over named loss terms. It knows no method.

The whole model is one module (``step.py``), so that every launcher can wrap it. Everything random is a function of (seed,
stage, step, slot), never of a running generator: a resumed run draws what the broken one would have drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from poise import processes
from poise.data.batch import Batch
from poise.features import Features
from poise.live import Rows
from poise.output import settle
from poise.training import fsdp
from poise.training.diagnostics import diagnostics
from poise.training.order import EpochOrder, Items, Loader, Slots
from poise.training.step import Collator, RewardModule, assembled, moved

WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"
COMPLETE = "complete"


class RewardTrainer(Trainer):  # type: ignore[misc]
    """Sums the loss terms and logs each; evaluates by a function; checkpoints are whole or not there.

    ``measure`` returns the metrics of all evaluation sets by name; ``draw_seed(step, slot)`` seeds what is sampled.
    """

    loss_is_scaled_for_ga = False  # a term is a mean
    control: Any

    def __init__(
        self,
        module: RewardModule,
        args: TrainingArguments,
        collator: Collator,
        order: EpochOrder,
        *,
        measure: Callable[[], dict[str, float]],
        draw_seed: Callable[[int, int], int],
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model=module,
            args=args,
            train_dataset=Items(len(order)),
            eval_dataset=Items(1),
            data_collator=collator,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)  # the run's own reporter speaks
        self.order, self.measure, self.draw_seed = order, measure, draw_seed
        self.whole = collator.whole
        self.sums: dict[str, float] = {}
        self.watched: dict[str, float] = {}
        self.seen = 0.0
        self.unique_tokens = 0
        self.mark = 0.0, 0

    def get_train_dataloader(self) -> Loader:
        """This process's slots."""
        args = self.args
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        slots = Slots(self.order, per_step, args.gradient_accumulation_steps, args.world_size, args.process_index)
        return Loader(
            Items(len(self.order)),
            batch_sampler=slots,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    @torch.no_grad()
    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of a step. Where the loss is of all of them, their texts are first read without gradient."""
        found: tuple[list[Any], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)
        inputs = [one for one in found[0] if one["part"] is not None]
        if len(inputs) > 1:
            self.model.train()
            parts = [one["part"].values(self._read(one), i * self.args.world_size) for i, one in enumerate(inputs)]
            known = assembled(parts)
            for one in inputs:
                one["part"].known = known
        return found

    def _read(self, inputs: dict[str, Any]) -> Features:
        self._seed_dropout(inputs)
        with self.compute_loss_context_manager():
            features: Features = self.model_wrapped(rows=inputs["rows"], read_only=True).output
        return features

    def _seed_dropout(self, inputs: dict[str, Any]) -> None:
        torch.manual_seed(self.draw_seed(self.state.global_step, inputs["slot"]) ^ 1)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Σ terms times the micro-batch's weight. What the loss samples belongs to the step, dropout to the slot."""
        seed = self.draw_seed(self.state.global_step, 0 if self.whole else inputs["slot"])
        batch = replace(inputs["batch"], generator=torch.Generator(self.args.device).manual_seed(seed))
        self._seed_dropout(inputs)
        found = model(rows=inputs["rows"], batch=batch, part=inputs["part"])
        self._note(found, batch, inputs["rows"], inputs["weight"])
        return torch.stack(list(found["terms"].values())).sum() * inputs["weight"]

    @torch.no_grad()
    def _note(self, found: Mapping[str, Any], batch: Batch, rows: Rows, weight: float) -> None:
        """Add up what the next log line says."""
        last = (self.state.global_step + 1) % max(1, int(self.state.logging_steps)) == 0
        if last and weight:
            said = found["said"]
            watched = diagnostics(self.model.method, said.output, moved(batch, self.args.device), said.features)
            self.watched = watched or self.watched
        for name, term in found["terms"].items():
            self.sums[f"loss/{name}"] = self.sums.get(f"loss/{name}", 0.0) + weight * term.item()
        self.seen += 1
        self.unique_tokens += rows.tokens

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's line with every term's mean since the last one, the diagnostics, and the unique tokens so far.

        Of all processes.
        """
        if "loss" in logs:
            parts = processes.gathered((self.sums, self.seen, self.watched, self.unique_tokens))
            if seen := sum(part[1] for part in parts):
                logs = logs | {name: sum(part[0].get(name, 0.0) for part in parts) / seen for name in self.sums}
                logs |= _means([part[2] for part in parts]) | self._progress(sum(part[3] for part in parts))
            self.sums, self.seen, self.watched = {}, 0.0, {}
        super().log(logs, start_time)

    def _progress(self, tokens: int) -> dict[str, float]:
        """Unique tokens of all processes so far, and how many a second since the last line, evaluation left out."""
        now, (then, before) = perf_counter(), self.mark
        self.mark = now, tokens
        return {"unique_tokens": float(tokens), "unique_tokens_per_s": (tokens - before) / (now - then)}

    def note(self, measure: Callable[[], dict[str, float]]) -> None:
        """Log what ``measure`` finds; the time it takes is left out of the throughput."""
        began, due = perf_counter(), self.control.should_log
        found = measure()
        self.mark = self.mark[0] + perf_counter() - began, self.mark[1]
        self.log(found)
        self.control.should_log = due  # a log line would take away the step's own

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of whole evaluation sets, not means over batches."""
        began = perf_counter()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure().items()}
        self.mark = self.mark[0] + perf_counter() - began, self.mark[1]
        self.log(dict(metrics))
        control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control = control
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights that are divided among the processes are gathered first."""
        if self.is_fsdp_enabled:
            self._save(output_dir, fsdp.gathered(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Only what training changes."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        kept = self.model.kept()
        if state_dict is not None:
            kept = {name: value for name, value in state_dict.items() if name in kept}
        save_file({name: value.detach().contiguous() for name, value in kept.items()}, folder / WEIGHTS)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, going on with the count of tokens too."""
        before = 0
        if resume_from_checkpoint is not None:
            state = json.loads((Path(resume_from_checkpoint) / STATE).read_text(encoding="utf8"))
            before = state["num_input_tokens_seen"]
        self.mark = perf_counter(), before
        self.unique_tokens = before if processes.first() else 0
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        if self.is_fsdp_enabled:
            unexpected = fsdp.load(self.model, state)
        else:
            unexpected = (self.model if model is None else model).load_state_dict(state, strict=False).unexpected_keys
        assert not unexpected, unexpected

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint)).name  # the folder may have been moved since
        self._load_from_checkpoint(str(Path(str(self.args.output_dir)) / best))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A killed process leaves a folder without the mark, which nothing will read."""
        self.state.num_input_tokens_seen = sum(processes.gathered(self.unique_tokens))
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # older ones stay until this one is whole
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        processes.wait()  # each writes the state of its own generators
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            settle(folder)
            (folder / COMPLETE).write_text(str(self.state.global_step), encoding="utf8")
            rotate_checkpoints(str(self.args.output_dir), limit, self.state.best_model_checkpoint, use_mtime=True)


class Periodic(TrainerCallback):  # type: ignore[misc]
    """Does ``work`` after every so many steps; after the last one there is the end of the stage."""

    def __init__(self, every: int, work: Callable[[], None]) -> None:
        self.every, self.work = every, work

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self.work()


class Patience(TrainerCallback):  # type: ignore[misc]
    """Stops after ``epochs`` evaluations without a better one. They are counted in the log, which outlives an interrupt."""

    def __init__(self, epochs: int, metric: str, greater_is_better: bool) -> None:
        self.epochs, self.metric, self.sign = epochs, metric, 1 if greater_is_better else -1
        self.over = False

    def exhausted(self, state: Any) -> bool:
        """Whether the evaluations so far are enough."""
        best, since = -np.inf, 0
        for value in (self.sign * line[self.metric] for line in state.log_history if self.metric in line):
            best, since = (value, 0) if value > best else (best, since + 1)
        return since >= self.epochs

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A run that was killed after its last epoch: the Trainer takes one more step, which leaves no trace."""
        self.over = self.exhausted(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        if self.over:
            control.should_training_stop = True
            control.should_log = control.should_evaluate = control.should_save = False

    on_epoch_end = on_step_end

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        control.should_training_stop |= self.exhausted(state)


def _means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each name over the parts that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: float(np.mean([part[name] for part in parts if name in part])) for name in names}


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage; what is not whole is left for the Trainer to write again."""
    found = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)
