"""The fast path: train a method on features that are already there, and resume it to the bit.

Everything random is a function of (seed, stage, epoch) or lives in one generator whose state is saved, so a run that
was interrupted ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.data.batch import Batch
from poise.distributions import RewardDistribution
from poise.errors import ConfigError
from poise.features import Features, unit_scale
from poise.methods import Method
from poise.training.benchmarks import PREFIX, undisturbed
from poise.training.diagnostics import diagnostics, held_out
from poise.training.material import HeadData, stage_material
from poise.training.monitor import MetricsLog, Reporter, Silent
from poise.training.recipe import Recipe, Stage
from poise.training.state import (
    TrainState,
    deferred_interrupts,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    write_state,
)

SAVE_SECONDS = 15.0
LOGS_PER_STAGE = 60
CURATION = 2**32  # an epoch that no stage reaches: its seed decides which easy pairs stay


def train_heads(
    method_class: Callable[[Any, int], Method[Any, Any]],
    recipe: Recipe,
    data: HeadData,
    *,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> Method[Any, Any]:
    """Run all stages of a recipe on features; with ``folder``, log to it and resume from the state found in it."""
    reporter = reporter or Silent()
    saved = None if folder is None else read_state(folder / "state.safetensors")
    log = None if folder is None else MetricsLog(folder / "metrics.jsonl")
    if log is not None:
        log.cut_after(saved.stage if saved else -1, saved.step if saved else -1)
    recipe = recipe.for_data(data.rated_attributes)
    scale, method = unit_scale(data.features), None
    for number, stage in enumerate(recipe.stages):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            new = method_class(recipe.stage_options(stage), data.features.width)
        new.input_scale.fill_(scale)
        if method is not None:
            new.load_state_dict(method.state_dict(), strict=False)
        elif new.rating_tokens:
            if data.token_rows is None:
                raise ConfigError(f"method {new.name!r} starts from the weights of tokens; give HeadData.token_rows")
            new.start_from(data.token_rows)
        if saved is not None and number == saved.stage - 1:
            new.load_state_dict(saved.part("previous"))
        if saved is None or number >= saved.stage:
            mine = saved if saved is not None and number == saved.stage else None
            run = StageRun(new, method, recipe, number, data)
            run.train(mine, log, reporter, None if folder is None else folder / "state.safetensors")
        method = new
    assert method is not None
    method.fold_input_scale()
    return method.eval()


class StageRun:
    """One stage: its batches, optimizer and schedule."""

    def __init__(
        self,
        method: Method[Any, Any],
        previous: Method[Any, Any] | None,
        recipe: Recipe,
        number: int,
        data: HeadData,
    ) -> None:
        self.method, self.stage, self.number, self.seed = method, recipe.stages[number], number, recipe.seed
        self.previous = previous
        self.features = data.features if method.needs_prompt_state else Features(data.features.response)
        self.benchmarks = data.benchmarks
        self.beliefs = self._beliefs()
        drawn = _seed(self.seed, number, CURATION)
        self.material, self.curation = stage_material(method, data, recipe, number, self.beliefs, drawn)
        self.watched = {
            name: (part, part.targets(recipe.data.labels).label)
            for name, part in (("eval", data.evaluate), ("validation", data.validate), *data.watched.items())
            if part is not None
        }
        self.per_epoch = math.ceil(len(self.material) / self.stage.batch_size)
        self.steps = self.stage.steps(len(self.material))
        parameters = [p for name, p in method.named_parameters() if method.trainable(name)]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.stage.learning_rate, weight_decay=self.stage.weight_decay
        )
        self.generator = torch.Generator().manual_seed(_seed(self.seed, number, -1))
        self.order, self.epoch = torch.arange(0), -1
        self.best: dict[str, Tensor] | None = None
        self.best_score, self.since_best = math.inf, 0

    def train(self, saved: TrainState | None, log: MetricsLog | None, reporter: Reporter, path: Path | None) -> None:
        """All steps, from the saved one on; none where the objective has a solver of its own."""
        step = self._restore(saved)
        if step == 0 and self._solved(log):
            step = self.steps
        reference = self.beliefs if self.method.needs_reference else None
        reporter.begin(f"stage {self.stage.name}", self.steps)
        written, every = time.monotonic(), max(1, self.steps // LOGS_PER_STAGE)
        with deferred_interrupts() as interrupted:
            while step < self.steps and not self._exhausted():
                batch, features = self._batch(step, reference)
                terms, output = self._step(step, batch, features)
                step += 1
                ended = step % self.per_epoch == 0 or step == self.steps
                evaluated = self._evaluate() if ended else {}
                if log is not None and (step % every == 0 or ended):
                    log.write(**self._line(step, terms, output, batch, evaluated))
                if path is not None and time.monotonic() - written > SAVE_SECONDS:
                    write_state(path, self._state(step))
                    written = time.monotonic()
                reporter.advance(step)
                if interrupted():
                    if path is not None:
                        write_state(path, self._state(step))
                    raise KeyboardInterrupt
        if self.best is not None:
            self.method.load_state_dict(self.best)
        if log is not None:
            self._benchmark(log, reporter)
        if path is not None:
            write_state(path, self._state(self.steps))

    def _batch(self, step: int, reference: RewardDistribution | None) -> tuple[Batch, Features]:
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            shuffle = torch.Generator().manual_seed(_seed(self.seed, self.number, epoch))
            self.order, self.epoch = torch.randperm(len(self.material), generator=shuffle), epoch
        chosen = self.order[position * self.stage.batch_size : (position + 1) * self.stage.batch_size]
        batch, rows = self.material.batch(chosen, reference, self.generator)
        return batch, self.features[rows]

    def _solved(self, log: MetricsLog | None) -> bool:
        """Whether the objective solved itself on the whole data."""
        figures = self.method.fit(self.features, self.material.whole())
        if figures is not None and log is not None:
            place = {"stage": self.stage.name, "stage_number": self.number, "step": self.steps}
            log.write(**place, epoch=self.stage.epochs, **figures, **self._evaluate())
        return figures is not None

    def _step(self, step: int, batch: Batch, features: Features) -> tuple[dict[str, Tensor], Any]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * schedule(self.stage, step, self.steps)
        self.method.train()
        output = self.method(features)
        terms = self.method.loss(output, batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        self.optimizer.step()
        return terms, output

    @torch.no_grad()
    def _beliefs(self) -> RewardDistribution | None:
        """What the frozen previous stage says about every response, where this one curates by it or is pulled to it."""
        if self.previous is None or not (self.method.needs_reference or self.stage.curate != "no"):
            return None
        reward: RewardDistribution = self.previous.eval()(self.features).reward
        return reward.detach()

    def _line(
        self, step: int, terms: dict[str, Tensor], output: Any, batch: Batch, evaluated: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "stage_number": self.number,
            "step": step,
            "epoch": step / self.per_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": sum(t.item() for t in terms.values()),
            **{f"loss/{name}": term.item() for name, term in terms.items()},
            **self.curation,
            **diagnostics(self.method, output, batch),
            **evaluated,
        }

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Held-out metrics at the end of an epoch; keeps the best weights where the stage selects by one."""
        self.method.eval()
        found = {
            f"{name}/{metric}": value
            for name, (part, label) in self.watched.items()
            for metric, value in held_out(self.method(part.features).reward, part.pairs, label).items()
        }
        if self.stage.select != "none":
            metric = f"{'validation' if 'validation' in self.watched else 'eval'}/{self.stage.select}"
            self._keep_best(-found[metric] if self.stage.select == "accuracy" else found[metric])
        return found

    def _benchmark(self, log: MetricsLog, reporter: Reporter) -> None:
        """The headline of the recipe's benchmarks, once, with the weights that the stage ends with."""
        if not self.benchmarks or log.holds(self.number, self.steps, PREFIX):
            return
        figures: dict[str, float] = {}
        reporter.begin(f"stage {self.stage.name}: benchmarks", len(self.benchmarks))
        with undisturbed(self.method):
            for done, one in enumerate(self.benchmarks, start=1):
                assert one.features is not None
                figures |= one.figures(self.method(one.features).reward)
                reporter.advance(done)
        place = {"stage": self.stage.name, "stage_number": self.number, "step": self.steps}
        log.write(**place, epoch=self.stage.epochs, **figures)

    def _keep_best(self, score: float) -> None:
        self.since_best += 1
        if score < self.best_score:
            self.best_score, self.since_best = score, 0
            self.best = {k: v.clone() for k, v in self.method.state_dict().items()}

    def _exhausted(self) -> bool:
        return self.stage.patience is not None and self.since_best >= self.stage.patience

    def _state(self, step: int) -> TrainState:
        state = TrainState(self.number, step, facts={"best_score": self.best_score, "since_best": self.since_best})
        state.put("method", self.method.state_dict())
        state.put("optimizer", optimizer_tensors(self.optimizer))
        state.put("best", self.best or {})
        state.put("previous", {} if self.previous is None else self.previous.state_dict())
        state.put("generator", {"state": self.generator.get_state()})
        return state

    def _restore(self, saved: TrainState | None) -> int:
        if saved is None:
            return 0
        self.method.load_state_dict(saved.part("method"))
        restore_optimizer(self.optimizer, saved.part("optimizer"))
        self.generator.set_state(saved.part("generator")["state"])
        self.best = saved.part("best") or None
        self.best_score, self.since_best = saved.facts["best_score"], saved.facts["since_best"]
        return saved.step


def schedule(stage: Stage, step: int, steps: int) -> float:
    """The factor on the learning rate before step ``step`` (from 0): linear warm-up, then down to its end at the last."""
    warm = round(stage.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if stage.schedule == "constant":
        return 1.0
    left = 1 - (step - warm) / max(1, steps - 1 - warm)
    return left if stage.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - left)))


def _seed(seed: int, stage: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, stage, epoch + 1]).generate_state(1, np.uint64)[0] >> 1)


__all__ = ["HeadData", "schedule", "train_heads"]
